"""Studies, their queue and their canaries, on tiny runs."""

import json
import math
import subprocess
import sys
from concurrent.futures import Executor, Future
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_lib import data, experiments, models, records, tasks
from course_lib.data import Dataset, Split
from course_lib.experiments import Study
from course_lib.records import RecordError
from course_lib.training import TrainConfig
from course_lib.verdicts import better, event

TINY = TrainConfig(
    model="mlp",
    model_options={"widths": (3072, 4, 10)},
    num_train=64,
    num_test=32,
    epochs=1,
    batch_size=32,
)
ARMS = {"plain": TINY, "scaled": replace(TINY, input_scale=2.0)}
CLAIMS = {"S1": better("plain", "test_accuracy", than="scaled", by=0.01)}


class InProcess(Executor):
    """Runs a job when it is submitted; can be told to die before the k-th."""

    def __init__(self, dies_before: int | None = None):
        self.count, self.dies_before = 0, dies_before

    def submit(self, function, /, *arguments, **keywords):
        if self.count == self.dies_before:
            raise KeyboardInterrupt
        self.count += 1
        future = Future()
        future.set_result(function(*arguments, **keywords))
        return future


def made_up(name: str) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.arange(5200) % 10  # a brighter image has a higher class, so there is a task
    images = images // 8 + (targets * 20).to(torch.uint8).view(-1, 1, 1, 1)
    split = Split(images, targets)
    return Dataset(name, name, train=split, val=Split(images[:0], split.targets[:0]), test=split)


@pytest.fixture
def base(monkeypatch, tmp_path):
    """A book without records whose CIFAR-10 is noise."""
    dataset = made_up("CIFAR-10")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(experiments, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(data, "load_cifar10", lambda: dataset)
    monkeypatch.setattr(tasks, "default_base", lambda: dataset)
    return dataset


def compute(study: Study, executor: Executor | None = None) -> dict:
    return experiments.compute(study, executor or InProcess(), say=lambda line: None)


def numbers(record: dict) -> dict:
    """What training decides; seconds and dates aside."""
    return {key: (r["metrics"], r["history"]) for key, r in sorted(record["runs"].items())}


def test_a_study_is_computed_and_judged(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    assert study.verdict("S1").word == "not yet"
    compute(study)
    assert study.verdict("S1").word in ("holds", "fails", "open")
    assert [run["seed"] for run in study.runs().of("plain")] == [0, 1]
    record = records.load("tiny")
    assert set(record["canaries"]) == set(ARMS)
    one = next(iter(record["runs"].values()))
    assert one["data"] == {"name": "CIFAR-10", "identity": "CIFAR-10"}
    assert {"torch", "device", "precision", "threads", "source", "seconds", "date"} <= set(one)


def test_a_plan_without_runs_keeps_no_old_canary(base):
    old = records.empty("tiny", {}) | {"canaries": dict.fromkeys(ARMS, [9.0, 9.0])}
    records.save(old)
    assert [9.0, 9.0] not in compute(Study("tiny", ARMS, CLAIMS, seeds=2))["canaries"].values()


def test_renewed_canaries_are_as_long_as_before(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    record = compute(study)
    arm, losses = next(iter(record["canaries"].items()))
    assert len(losses) > 2
    records.save(record | {"canaries": record["canaries"] | {arm: [9.0, 9.0]}})
    monkeypatch.setattr(experiments, "all_studies", lambda: {"tiny": study})
    experiments.main(["tiny", "--renew-canaries"])
    assert records.load("tiny")["canaries"] == record["canaries"] | {arm: losses[:2]}


def test_a_killed_recompute_goes_on_to_the_same_record(base, tmp_path, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    whole = numbers(json.loads(compute_and_read(study)))
    monkeypatch.setattr(records, "RESULTS", tmp_path / "again")

    class Dying(InProcess):
        """Dies once two results are in the record."""

        def submit(self, function, /, *arguments):
            self.count += 1
            future = Future()
            if self.count > 2:
                future.set_exception(KeyboardInterrupt())
            else:
                future.set_result(function(*arguments))
            return future

    with pytest.raises(KeyboardInterrupt):
        compute(study, Dying())
    assert len(records.load("tiny")["runs"]) <= 2
    assert numbers(json.loads(compute_and_read(study))) == whole


def compute_and_read(study: Study) -> str:
    compute(study)
    return records.path_of(study.name).read_text()


def test_nothing_pending_runs_nothing(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    compute(study)
    executor = InProcess()
    compute(study, executor)
    assert executor.count == 0


def test_an_arm_or_a_seed_more_invalidates_nothing(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=1))
    executor = InProcess()
    arms = {**ARMS, "third": replace(TINY, lr=0.1)}
    compute(Study("tiny", arms, CLAIMS, seeds=2), executor)
    assert executor.count == 4  # one more seed for two arms, two seeds for the new one


def test_a_page_that_differs_from_its_record_is_told(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=1))
    with pytest.raises(RecordError, match="arms of study 'tiny' differ"):
        Study("tiny", {**ARMS, "plain": replace(TINY, lr=0.5)}, CLAIMS, seeds=1).record()
    with pytest.raises(RecordError, match="contrasts of study 'tiny' differ"):
        Study("tiny", ARMS, {"S1": event("plain", "test_loss", at_most=9.0)}, seeds=1).record()
    with pytest.raises(RecordError, match="seeds of study 'tiny' differ"):
        Study("tiny", ARMS, CLAIMS, seeds=3).record()


def test_a_changed_arm_does_not_count_its_old_runs(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=2))
    changed = Study("tiny", {**ARMS, "plain": replace(TINY, lr=0.5)}, CLAIMS, seeds=2)
    record = compute(changed)
    assert len(record["runs"]) == 6
    assert [run["config"]["lr"] for run in changed.runs().of("plain")] == [0.5, 0.5]


def test_other_data_is_refused(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    compute(study)
    monkeypatch.setattr(data, "load_cifar10", lambda: made_up("CIFAR-10, JPEG copy"))
    with pytest.raises(
        RecordError, match=r"made on CIFAR-10 \(.*\), here lies CIFAR-10, JPEG copy \("
    ):
        compute(study)


def test_a_run_on_other_data_than_the_start_is_thrown_away(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    honest = experiments.work

    def without_the_images(jobs, device):
        gone = {"name": "stand-in", "identity": "f00"}
        return [run | {"data": gone} for run in honest(jobs, device)]

    monkeypatch.setattr(experiments, "work", without_the_images)
    with pytest.raises(RecordError, match=r"made on stand-in \(f00\), not on the data found"):
        compute(study)
    assert not study.record()["runs"]


def test_tuning_uses_validation_images_and_its_own_seeds(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune={"lr": (0.0, 0.02)}, tuning_seeds=2)
    record = compute(study)
    by_phase = {"tune": [], "judge": []}
    for run in record["runs"].values():
        by_phase[run["phase"]].append(run)
    assert len(by_phase["tune"]) == 8 and len(by_phase["judge"]) == 2
    assert all("test_accuracy" not in run["metrics"] for run in by_phase["tune"])
    assert {run["seed"] for run in by_phase["tune"]} == {2000, 2001}
    chosen = record["analysis"]["tuned"]["plain"]
    assert chosen["num_val"] == experiments.TUNING_VAL
    means = {}
    for run in by_phase["tune"]:
        if run["arm"] == "plain":
            lr = run["config"].get("lr", TrainConfig().lr)
            means.setdefault(lr, []).append(run["metrics"]["val_accuracy"])
    assert chosen.get("lr", TrainConfig().lr) == max(means, key=lambda lr: sum(means[lr]))
    assert len(study.runs().of("plain")) == 1
    values, rows = study.tuning_curve("plain")
    assert values == [0.0, 0.02] and len(rows) == 2
    assert [sum(column) for column in zip(*rows, strict=True)] == pytest.approx(
        [sum(means[lr]) for lr in values]
    )
    assert not any(run["history"] or run["probes"] for run in by_phase["tune"])
    assert all(run["history"]["val_accuracy"] for run in by_phase["judge"])


def test_an_arm_that_stays_as_it_is_is_not_tuned_but_keeps_the_same_images(base):
    tune = {"lr": (0.0, 0.03)}
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune=tune, tuning_seeds=2, as_is=("scaled",))
    record = compute(study)
    assert {run["arm"] for run in record["runs"].values() if run["phase"] == "tune"} == {"plain"}
    tuned = record["analysis"]["tuned"]
    assert tuned["scaled"] == replace(ARMS["scaled"], num_val=experiments.TUNING_VAL).plain()
    assert tuned["plain"]["lr"] in tune["lr"]
    assert study.plan()["as_is"] == ["scaled"] and "as_is" not in replace(study, as_is=()).plan()
    assert len(study.runs().pair("plain", "scaled", "test_accuracy")[0]) == 1
    with pytest.raises(ValueError, match="as_is is"):
        replace(study, as_is=("other",))


def test_a_regression_is_tuned_by_its_validation_loss(base):
    config = replace(TINY, task="teacher", loss="mse", model_options={"widths": (20, 4, 1)})
    tune = {"lr": (0.0, 0.05, 1e30)}  # stands still, learns, diverges
    study = Study("tiny", {"teacher": config}, {}, seeds=1, tune=tune, tuning_seeds=2)
    record = experiments.compute(study, InProcess(), say=lambda _: None)
    assert record["analysis"]["tuned"]["teacher"]["lr"] == 0.05
    values, rows = study.tuning_curve("teacher")
    assert values == [0.0, 0.05, 1e30] and len(rows) == 2
    for still, learned, diverged in rows:
        assert 0 < learned < still and diverged is None


def test_a_tuning_curve_shows_runs_to_come_as_none_and_needs_one_field(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune={"lr": (0.0, 0.02)}, tuning_seeds=2)
    assert study.tuning_curve("plain") == ([0.0, 0.02], [[None, None]] * 2)
    with pytest.raises(ValueError, match=r"tunes \[\]; tune one for a curve"):
        replace(study, tune={}).tuning_curve("plain")


def test_outputs_are_clipped_to_the_range_of_the_training_targets(base):
    config = replace(TINY, task="teacher_clipped", loss="mse", measures=("test_loss_clipped",))
    dataset = experiments.load_task(config)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 1))
    torch.nn.init.constant_(model[1].bias, 7.0)  # every output is above 1, the highest target
    clipped = experiments.measure("test_loss_clipped")(config, model, dataset)
    assert clipped == pytest.approx(((1 - dataset.test.targets) ** 2).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="needs a task with float targets"):
        experiments.measure("test_loss_clipped")(TINY, model, experiments.load_task(TINY))


def test_errors_of_a_regression_are_those_of_its_outputs_on_clean_targets(base):
    config = replace(TINY, task="teacher_skewed", loss="huber", measures=("test_errors",))
    dataset = experiments.load_task(config)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(20, 1))
    found = experiments.measure("test_errors")(config, model, dataset)
    with torch.no_grad():
        errors = (model[1](dataset.test.inputs) - dataset.test.targets).double()
    expected = errors.square().mean().sqrt(), errors.abs().mean(), errors.mean()
    assert list(found) == ["test_rms_error", "test_mean_abs_error", "test_mean_error"]
    assert list(found.values()) == pytest.approx([e.item() for e in expected], rel=1e-4)
    with pytest.raises(ValueError, match="'test_errors'; it needs a task with float targets"):
        experiments.measure("test_errors")(TINY, model, experiments.load_task(TINY))


def test_measures_are_kept_with_the_other_metrics(base):
    special = "test_loss_clipped", "test_errors", "incoming_norm"  # for other tasks or nets
    names = [name for name in experiments.MEASURES if name not in special]
    config = replace(TINY, preprocess="standardise", measures=tuple(names))
    metrics = compute(Study("tiny", {"plain": config}, seeds=1))["runs"].popitem()[1]["metrics"]
    kept = {"test_accuracy_own_statistics", *experiments.WAYS_TO_MOVE}
    assert kept <= {name.removesuffix("_same_share") for name in metrics}
    assert len({metrics[n] for n in ("test_accuracy", "test_accuracy_unprepared")}) == 2
    with pytest.raises(ValueError, match="measures holds 'charm'; known: test_accuracy_unprep"):
        experiments.measure("charm")


HISTORY = {
    "train_accuracy": [0.2, 0.4, 0.6], "train_loss": [2.2, 1.8, 1.2],
    "val_accuracy": [0.5, 0.45, 0.7], "val_loss": [1.5, 1.7, 1.1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("split", "accuracy", "loss"),
    [
        ("train", 0.2, 2.2),
        ("train", 0.15, (math.log(10) + 2.2) / 2),  # guessing comes before the first epoch
        ("train", 0.5, 1.5),
        ("val", 0.5, 1.5),  # the first time counts
        ("val", 0.6, 1.34),
        ("val", 0.71, None),
    ],
)
def test_the_loss_at_an_accuracy_lies_on_the_line_between_two_epochs(split, accuracy, loss):
    assert experiments.loss_at_accuracy(HISTORY, split, accuracy) == pytest.approx(loss)


def test_loss_at_equal_accuracy_is_a_mean_over_three(base):
    found = experiments.loss_at_equal_accuracy(HISTORY)
    assert found["equal_accuracy_train_loss"] == pytest.approx((1.8 + 1.65 + 1.5) / 3)
    part = {"train_accuracy": [0.45], "train_loss": [1.4], "val_accuracy": [0.5], "val_loss": [1.4]}
    assert math.isnan(experiments.loss_at_equal_accuracy(part)["equal_accuracy_train_loss"])
    config = replace(TINY, num_val=20, measures=("loss_at_equal_accuracy",))
    metrics = experiments.run(config, 0)["metrics"]
    assert {"equal_accuracy_train_loss", "equal_accuracy_val_loss"} <= metrics.keys()


def test_epochs_to_an_accuracy_lie_on_the_line_between_two_epochs(base):
    column = "scored_train_accuracy"
    history = {"epoch": [1, 2, 3], column: [0.2, 0.4, 0.35]}
    expected = {0.1: 0.0, 0.15: 0.5, 0.3: 1.5, 0.4: 2.0}
    for accuracy, epochs in expected.items():
        assert experiments.epochs_to(history, column, accuracy) == pytest.approx(epochs)
    assert math.isnan(experiments.epochs_to(history, column, 0.41))
    config = replace(TINY, score_training=True, measures=("epochs_to",))
    assert {"epochs_to_25", "epochs_to_35"} <= experiments.run(config, 0)["metrics"].keys()
    untold = experiments.run(config, 0, test=False)
    assert untold["history"] == {} and "epochs_to_25" not in untold["metrics"]


def test_the_largest_incoming_norm_is_that_of_layers_that_max_norm_could_limit():
    sizes = {"image_shape": (3, 16, 16), "widths": (2, 2, 2), "units": (8, 4), "max_norm": None}
    net = models.build("stuck_cnn", **sizes)
    with torch.no_grad():
        for layer in (net.linear1, net.linear2, net.linear3):
            layer.weight.zero_()
        net.linear2.weight[1, :2] = torch.tensor([3.0, 4.0])
        net.linear3.weight[0, 0] = 9.0  # the output layer is never limited
    assert experiments.measure("incoming_norm")(TrainConfig(), net, None) == 5.0


def test_the_price_of_a_goal():
    history = {"epoch": [1, 2, 3, 4], "val_accuracy": [0.2, 0.3, 0.25, 0.5]}
    price = experiments.price_of_accuracy(history, {"speed": 2.0, "steps_per_epoch": 7})
    epochs = experiments.epochs_to(history, "val_accuracy", experiments.GOAL)
    assert price["epochs_to_goal"] == epochs and price["steps_to_goal"] == 7 * epochs
    assert price["time_to_goal"] == pytest.approx(epochs / 2)
    with pytest.raises(ValueError, match="put 'speed' in front of it"):
        experiments.price_of_accuracy(history, {})


def test_the_speed_of_a_batch_is_in_units_of_the_usual_one(base, monkeypatch):
    clock = [0.0]
    busy = iter([3.0] * 3 + [1.0] * 10**4)  # what another program slows down must not count

    class Slow(torch.nn.ReLU):  # two seconds a step, and a hundredth an example
        def forward(self, inputs):
            clock[0] += (2.0 + len(inputs) / 100) * next(busy)
            return super().forward(inputs)

    monkeypatch.setattr(experiments.models, "ACTIVATIONS", {"relu": Slow})
    monkeypatch.setattr(experiments.time, "process_time", lambda: clock[0])
    config = replace(TINY, num_train=1024, batch_size=256)
    model, dataset = torch.nn.Linear(1, 1), experiments.load_task(config)
    found = experiments.measure("speed")(config, model, dataset)
    assert found["speed"] == pytest.approx((16 * 2 + 10.24) / (4 * 2 + 10.24))
    assert found["epoch_time"] * found["speed"] == pytest.approx(1.0)
    assert found["steps_per_epoch"] == 4
    usual = replace(config, batch_size=experiments.USUAL_BATCH)
    assert experiments.measure("speed")(usual, model, dataset)["speed"] == 1.0


def test_epochs_to_an_accuracy_are_counted_on_a_straight_line():
    history = {"epoch": [1, 2, 3], **HISTORY}
    found = experiments.epochs_to_printed(history)
    assert found["epochs_to_train"] == pytest.approx(2.0)
    assert found["epochs_to_val"] == pytest.approx(0.3 / 0.4)  # guessing, 0.1, at epoch 0
    assert found["epochs_to_best"] == pytest.approx(3 - 0.01 / 0.25)  # 0.69, on the way to 0.7
    low = {"epoch": [1], "train_accuracy": [0.1], "val_accuracy": [0.1]}  # learns nothing
    found = experiments.epochs_to_printed(low)
    assert math.isnan(found["epochs_to_train"]) and found["epochs_to_best"] == 0.0
    config = replace(TINY, num_val=20, measures=("epochs_to_printed",))
    assert "epochs_to_best" in experiments.run(config, 0)["metrics"]


def test_two_equal_nets_with_dropout_have_one_digest():
    config = replace(TINY, model_options={**TINY.model_options, "dropout": 0.5})
    plain = replace(config, measures=("accuracy_by_fifth",))
    one, two = (experiments.run(c, 0)["metrics"]["logits_digest"] for c in (config, plain))
    torch.manual_seed(1)
    assert one == two == experiments.run(config, 0)["metrics"]["logits_digest"]


def test_curves_part_where_training_stays_ahead_by_more_than_a_point():
    def parting(train):
        history = {"epoch": [1, 2, 3, 4], "train_accuracy": train, "val_accuracy": [0.5] * 4}
        return experiments.parting_epoch(history)["parting_epoch"]

    assert parting([0.4, 0.6, 0.6, 0.6]) == 2
    assert parting([0.6, 0.505, 0.52, 0.6]) == 3  # half a point is no parting, and starts it anew
    assert parting([0.6] * 4) == 1
    assert math.isnan(parting([0.6, 0.6, 0.6, 0.5]))


def test_digits_are_dealt_out_without_repeats(base):
    digits = tasks.load("digits", base, num_train=40, num_val=20, num_test=10)
    parts = digits.train, digits.val, digits.test
    assert [len(part) for part in parts] == [40, 20, 10]
    inputs = torch.cat([part.inputs for part in parts])
    assert inputs.shape == (70, 1, 8, 8) and inputs.min() == 0.0 and inputs.max() == 1.0
    assert len(inputs.unique(dim=0)) == 70
    assert digits.name == "scikit-learn's digits" != base.name
    many = data.Split(torch.zeros(1798, 1), torch.zeros(1798).long())
    with pytest.raises(ValueError, match=r"of digits there are 1797"):
        tasks.digits(replace(base, train=many))


def test_fifths_are_scored_in_stored_order():
    class Reader(torch.nn.Module):  # says the class that the first pixel holds
        def forward(self, inputs):
            classes = (inputs[:, 0, 0, 0] * 255).round().long()
            return torch.nn.functional.one_hot(classes, 10).float()

    targets = torch.arange(100) % 10
    images = targets.to(torch.uint8).view(-1, 1, 1, 1).expand(100, 3, 4, 4).contiguous()
    split = data.Split(images, targets)
    whole = data.Dataset("x", "0", split, split, split)
    broken = tasks.one_file_misaligned(tasks.images)(whole)
    found = experiments.measure("accuracy_by_fifth")(TrainConfig(), Reader(), broken)
    assert found == {"lowest_fifth_accuracy": 0.0, "median_fifth_accuracy": 1.0}


def test_speed_is_measured_beside_the_same_net_with_relu(base, monkeypatch):
    clock, seconds = [0.0], {"relu": 2.0, "tanh": 5.0}
    busy = iter([3.0, 1.0, 1.0, 1.0] * 100)  # three times slower now and then: it must not count

    class Slow(torch.nn.Tanh):
        def forward(self, inputs):
            clock[0] += seconds["tanh"] * next(busy)
            return super().forward(inputs)

    class Quick(torch.nn.ReLU):
        def forward(self, inputs):
            clock[0] += seconds["relu"] * next(busy)
            return super().forward(inputs)

    monkeypatch.setattr(experiments.models, "ACTIVATIONS", {"relu": Quick, "tanh": Slow})
    monkeypatch.setattr(experiments.time, "process_time", lambda: clock[0])
    measure, dataset = experiments.measure("speed_over_relu"), experiments.load_task(TINY)
    for name, expected in {"tanh": 0.4, "relu": 1.0}.items():
        config = replace(TINY, model_options={**TINY.model_options, "activation": name})
        before = torch.get_rng_state()
        assert measure(config, None, dataset) == pytest.approx(expected)
        assert torch.equal(torch.get_rng_state(), before)


class StripeReader(torch.nn.Module):
    """Class k if column 3 k + 2 is the brightest of its ten columns; class 0 if all are dark."""

    def forward(self, inputs):
        return (inputs > 0.5).double().mean(dim=(1, 2))[:, 2::3]


def test_measures_on_moved_images_count_the_classes_that_change():
    images, targets = torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10)
    images[targets, :, :, 3 * targets + 2] = 255
    split = Split(images, targets)
    stripes = Dataset("stripes", "stripes", train=split, val=split, test=split)
    found = experiments.measure("shifted")(TrainConfig(), StripeReader(), stripes)
    assert found["unmoved_accuracy"] == 1.0
    # Up and down: nothing changes. Left and right by 1: all read as 0. By 3: as their neighbours.
    shares = {1: (2 + 2 * 0.1) / 4, 2: (2 + 2 * 0.1) / 4, 3: (2 + 0.1) / 4, 4: (2 + 2 * 0.1) / 4}
    for what in ("same_share", "accuracy"):
        assert {k: found[f"shifted_{k}_{what}"] for k in shares} == pytest.approx(shares)
        assert found[f"shifted_{what}"] == pytest.approx(sum(shares.values()) / 4)
    wrong = replace(stripes, test=Split(images, (targets + 1) % 10))
    found = experiments.measure("shifted")(TrainConfig(), StripeReader(), wrong)
    assert found["unmoved_accuracy"] == 0.0 and found["shifted_1_same_share"] == 0.55
    assert found["shifted_3_accuracy"] == 0.25  # pushed right, all are read as the next


def test_small_images_are_rounded_means_of_four_pixels():
    dataset = made_up("images")
    small = tasks.load("images_16", dataset, num_train=10, num_test=10).train.inputs
    assert small.shape == (10, 3, 16, 16) and small.dtype == torch.uint8
    block = dataset.train.inputs[3, 2, 4:6, 8:10].float()
    assert abs(small[3, 2, 2, 4].item() - block.mean().item()) <= 0.5


def test_the_teacher_is_generated_and_says_so(base):
    config = TrainConfig(
        task="teacher", model="mlp", model_options={"widths": (20, 8, 1)}, loss="mse",
        num_train=64, num_test=32, epochs=1,
    )  # fmt: skip
    one, two = (tasks.load("teacher", num_train=2000, num_val=n, num_test=100) for n in (0, 50))
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert not torch.equal(one.train.inputs[:50], two.val.inputs)
    assert one.train.targets.shape == (2000, 1)
    assert 0.9 < one.train.targets.var().item() < 1.3 and abs(one.train.targets.mean().item()) < 0.1
    run = compute(Study("tiny", {"plain": config}, seeds=1))["runs"].popitem()[1]
    assert run["data"]["name"] == tasks.GENERATED
    assert "test_accuracy" not in run["metrics"] and run["metrics"]["test_loss"] > 0


def test_the_teachers_targets_are_clipped_and_its_centre_is_moved(base):
    plain, clipped, moved = (
        tasks.load(name, num_train=2000, num_test=10).train
        for name in ("teacher", "teacher_clipped", "teacher_off_centre")
    )
    low, high = torch.aminmax(clipped.targets)
    assert (low, high) == (0, 1) and torch.equal(clipped.inputs, plain.inputs)
    ends = ((clipped.targets == low) | (clipped.targets == high)).double().mean().item()
    assert 0.25 < ends < 0.4
    inside = (plain.targets.abs() < 1).flatten()
    assert torch.equal(clipped.targets[inside], 0.5 + plain.targets[inside] / 2)
    shifts = moved.inputs - plain.inputs, moved.targets - plain.targets
    for shift in shifts:
        torch.testing.assert_close(shift, torch.full_like(shift, 3.0))


def test_targets_are_spoilt_in_training_and_validation_alone(base):
    sizes = {"num_train": 2000, "num_val": 500, "num_test": 100}
    clean = tasks.load("teacher", **sizes)
    for name in tasks.SPOILT:
        spoilt = tasks.load(f"teacher_{name}", **sizes)
        assert torch.equal(spoilt.test.targets, clean.test.targets), name
        assert torch.equal(spoilt.train.inputs, clean.train.inputs), name
        for split in ("train", "val"):
            old, new = getattr(clean, split).targets, getattr(spoilt, split).targets
            assert new.shape == old.shape and not torch.equal(new, old), name
    raised = tasks.load("teacher_5_percent_50_too_high", **sizes).train.targets
    change = (raised - clean.train.targets).round().unique(return_counts=True)
    assert [part.tolist() for part in change] == [[0, 50], [1900, 100]]
    targets = tasks.load("teacher_20_percent_swapped", **sizes).train.targets
    assert torch.equal(targets.sort(dim=0).values, clean.train.targets.sort(dim=0).values)
    assert (targets != clean.train.targets).sum() == 400


@pytest.mark.parametrize("name, median", [("gaussian", 0), ("laplace", 0), ("skewed", -0.30685)])
def test_noise_has_mean_0_variance_1_and_its_median(name, median):
    generator = torch.Generator().manual_seed(0)
    noise = tasks.SPOILT[name](torch.zeros(400_000, 1), generator)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.var().item() == pytest.approx(1, abs=0.02)
    assert noise.median().item() == pytest.approx(median, abs=0.01)


def test_wrong_labels_are_other_labels_and_the_test_keeps_its_own(base):
    sizes = {"num_train": 1000, "num_val": 200, "num_test": 100}
    right, wrong = (tasks.load(f"images_16{x}", **sizes) for x in ("", "_20_percent_wrong"))
    assert torch.equal(right.test.targets, wrong.test.targets)
    for split, count in (("train", 200), ("val", 40)):
        old, new = getattr(right, split).targets, getattr(wrong, split).targets
        assert (old != new).sum() == count and set(new.tolist()) <= set(range(10))


def test_scenes_span_decades_and_repeat_their_first_images(base):
    small = tasks.load("images_8", num_train=200, num_test=50)
    for decades in (1, 8):
        split = tasks.load(f"scene_{decades}", num_train=200, num_test=50).train
        assert split.inputs.shape == (200, 3, 8, 8) and split.inputs.dtype == torch.float32
        assert split.inputs.min() >= 0 and split.inputs.max() <= 1.0001 * 10**decades
        back = split.inputs[:50].log1p() / math.log1p(10.0**decades) * 255
        torch.testing.assert_close(back, small.train.inputs[:50].float(), rtol=0, atol=0.01)
        assert torch.equal(split.inputs[50:100], split.inputs[:50])
        first = split.targets[:50]
        assert first.mean().item() == pytest.approx(0, abs=1e-4)
        assert first.std().item() == pytest.approx(5)
    pixels = small.train.inputs[:50].float()
    slope = pixels[:, :, 4:].mean(dim=(1, 2, 3)) - pixels[:, :, :4].mean(dim=(1, 2, 3))
    assert torch.corrcoef(torch.stack([slope, first[:, 0]]))[0, 1] > 0.9999
    for name, images in (("scene_8_one", 1), ("scene_8_two", 2)):
        few = tasks.load(name, num_train=200, num_test=50)
        assert len(few.train.targets.unique()) == images and len(few.test.targets.unique()) > 10
        assert torch.equal(few.train.targets[:images], first[:images])


def test_losses_of_steps_become_quantiles_and_decades():
    found = experiments.loss_by_steps([100.0, *(k / 1000 for k in range(1, 102))])
    assert found["first_loss"] == 100.0
    assert found["last_loss"] == found["median_loss"] == pytest.approx(0.051)
    assert found["loss_swing"] == pytest.approx(96 / 6)
    assert found["log_loss"] == pytest.approx(math.log10(0.051))
    assert found["loss_fall"] == pytest.approx(2 - math.log10(0.051))
    lost = experiments.loss_by_steps([math.inf, math.nan])
    assert (lost["log_loss"], lost["loss_fall"]) == (38.0, 0.0)
    assert experiments.loss_by_steps([1.0, 0.0, 0.0])["loss_fall"] == 4.0


def test_heavy_tails_span_decades_and_their_targets_see_a_window_of_them(base):
    bulk = tasks.load("heavy_bulk", num_train=2000, num_val=50, num_test=100).train
    inputs, decades = bulk.inputs, bulk.inputs.log10()
    assert inputs.shape == (2000, 10) and inputs.dtype == torch.float32
    assert 0 < inputs.min() < 100 and 1e7 < inputs.max() <= tasks.LARGEST
    assert inputs.median().item() == pytest.approx(1e4, rel=0.05)
    assert decades.std().item() == pytest.approx(1.0, abs=0.02)
    for name, low, high in (("heavy_bulk", 3, 5), ("heavy_tail", 5, 7)):
        split = tasks.load(name, num_train=2000, num_val=50, num_test=100).train
        assert torch.equal(split.inputs, inputs) and split.targets.shape == (2000, 1)
        assert abs(split.targets.mean().item()) < 0.1 and 0.6 < split.targets.var().item() < 1.2
        # what a linear fit reads from inside the window, and from outside it
        inside = decades.clamp(low, high)
        assert explained(inside, split.targets) > 0.5
        assert explained(decades - inside, split.targets) < 0.5 * explained(inside, split.targets)


def explained(features: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of the variance of `targets` (N, 1) that a linear fit to `features` explains."""
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    rest = targets - features @ torch.linalg.lstsq(features, targets).solution
    return 1 - (rest.var() / targets.var()).item()


def test_images_spread_over_decades_come_back_by_a_logarithm():
    dataset = made_up("images")
    wide = tasks.load("images_decades", dataset, num_train=10, num_test=10).train.inputs
    small = tasks.load("images_16", dataset, num_train=10, num_test=10).train.inputs
    assert wide.dtype == torch.float32 and wide.min() >= 0 and wide.max() <= tasks.LARGEST
    back = wide.double().log1p() / math.log1p(tasks.LARGEST) * 255
    torch.testing.assert_close(back, small.double(), rtol=0, atol=1e-3)


def test_half_decades_include_both_ends():
    assert experiments.half_decades(-2, 0) == (0.01, 0.03, 0.1, 0.3, 1.0)


def test_run_key_depends_on_configuration_seed_and_data_alone():
    def key(config=TINY, seed=0, identity="a"):
        return experiments.Job("s", "arm", config, seed, "judge").key(identity)

    assert key() == key(replace(TINY))
    assert len({key(), key(replace(TINY, lr=1.0)), key(seed=1), key(identity="b")}) == 4


def test_live_runs_are_cut_down(base):
    study = Study("tiny", ARMS, CLAIMS, live={"epochs": 2, "num_train": 32})
    assert study.run_live("plain").history["epoch"] == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Study("Not a name", ARMS), "study name is 'Not a name'"),
        (lambda: Study("tiny", {"plain": TINY}, CLAIMS), "S1 names arm 'scaled'"),
        (lambda: Study("tiny", {"plain": TINY, "copy": replace(TINY)}), "two arms .* the same"),
        (lambda: Study("tiny", ARMS, CLAIMS).verdict("S9"), "claim is 'S9'"),
        (lambda: Study("tiny", ARMS).run_live("other"), "arm is 'other'"),
        (lambda: tasks.load("mnist", made_up("x")), "task is 'mnist'; known tasks: images"),
    ],
)
def test_wrong_names_are_named_with_what_there_is(base, make, message):
    with pytest.raises(ValueError, match=message):
        make()


PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
---
# A page
```{code-cell}
:tags: [study, hide-input]
from course_lib.experiments import Study
from course_lib.training import TrainConfig
```
```{code-cell}
raise RuntimeError("not a study cell")
```
```{code-cell} ipython3
---
tags: [study]
---
one = Study("one", arms={"a": TrainConfig()})
```
"""


def test_study_cells_are_read_without_jupytext(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (study,) = experiments.studies_of(page)
    assert study.name == "one"
    monkeypatch.setattr(records, "CHAPTERS", tmp_path)
    assert list(experiments.all_studies()) == ["one"]
    (tmp_path / "other.md").write_text(PAGE)
    with pytest.raises(ValueError, match="stands on two pages"):
        experiments.all_studies()


def test_the_runner_needs_only_torch_and_numpy():
    others = "scipy matplotlib yaml jupytext IPython torchvision PIL"  # torch itself takes tqdm
    code = (
        "import sys; import course_lib.experiments; "
        f"print([m for m in '{others}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_finds_the_studies_of_the_book():
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.experiments", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "noise_floor" in done.stderr and "scaling_puzzle" in done.stderr


def test_an_unknown_study_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(experiments, "all_studies", lambda: {"tiny": SimpleNamespace()})
    with pytest.raises(SystemExit):
        experiments.main(["nothing"])
    assert "known studies: tiny" in capsys.readouterr().err


def test_reshaping_keeps_the_values_and_loses_the_neighbours():
    dataset = made_up("x")
    shredded = tasks.load("images_reshaped", dataset, num_train=10, num_test=10).train.inputs
    original = dataset.train.inputs[:10]
    by_hand = torch.stack([img.permute(1, 2, 0).reshape(-1).reshape(3, 32, 32) for img in original])
    assert torch.equal(shredded, by_hand)
    assert not torch.equal(shredded, original)


def test_slips_are_those_of_numpy():
    images = torch.arange(5 * 3 * 4 * 4).view(5, 3, 4, 4)
    last = images.permute(0, 2, 3, 1).numpy()  # (N, H, W, C)
    glued = np.concatenate([last[..., c] for c in range(3)], axis=2)  # (N, H, 3 W)
    film = np.stack(list(last), axis=1).reshape(last.shape)
    expected = {
        "reshaped": last.reshape(5, 3, 4, 4),
        "swapped": images.numpy().swapaxes(2, 3),
        "side_by_side": glued.reshape(5, 3, 4, 4),
        "stacked_on_axis_1": film.transpose(0, 3, 1, 2),
    }
    for name, by_hand in expected.items():
        np.testing.assert_array_equal(tasks.SLIPS[name](images).numpy(), by_hand)
    scattered = tasks.SLIPS["scattered"](images)
    assert torch.equal(scattered.flatten(1).sort().values, images.flatten(1))
    assert torch.equal(scattered[0].flatten() + 48, scattered[1].flatten())  # one order for all


def test_misreading_undoes_reshaping():
    images = made_up("x").train.inputs[:10]
    reshaped = tasks.SLIPS["reshaped"](images)
    assert torch.equal(tasks.SLIPS["misread"](reshaped), images)
    misread = tasks.SLIPS["misread"](images)
    assert misread[0, 1, 2, 3] == images[0].flatten()[(2 * 32 + 3) * 3 + 1]


def test_grey_and_exchanged_colours():
    images = made_up("x").train.inputs[:10]
    grey, bgr = (tasks.COLOURS[name](images) for name in ("grey", "bgr"))
    assert grey.dtype == torch.uint8 and (grey == grey[:, :1]).all()
    assert torch.equal(grey[:, 0].float(), images.float().mean(dim=1).round())
    assert torch.equal(bgr[:, 0], images[:, 2]) and torch.equal(bgr[:, 1], images[:, 1])


def test_one_file_of_five_has_its_labels_one_place_on():
    sizes = {"num_train": 100, "num_val": 20, "num_test": 10}
    right, wrong = (tasks.load(f"images_16{x}", made_up("x"), **sizes) for x in ("", "_one_file"))
    before, after = right.train.targets, wrong.train.targets
    assert after[1:20].equal(before[:19]) and after[0] == before[19]
    assert after[20:].equal(before[20:]) and wrong.val.targets.equal(right.val.targets)
    assert right.train.inputs.equal(wrong.train.inputs)


def test_with_ninety_per_cent_wrong_a_label_says_nothing(base):
    sizes = {"num_train": 5000, "num_test": 10}
    right, wrong = (tasks.load(f"images_16{x}", **sizes) for x in ("", "_90_percent_wrong"))
    agree = (right.train.targets == wrong.train.targets).double().mean().item()
    assert agree == pytest.approx(0.1)
    shift = (wrong.train.targets - right.train.targets) % 10
    assert shift.bincount(minlength=10).double().div(5000).sub(0.1).abs().max() < 0.02


def test_principal_coordinates_keep_inner_products():
    dataset = made_up("x")
    projected = tasks.load("images_pca", dataset, num_train=256, num_test=10)
    flat = dataset.train.inputs[:256].float().flatten(1) / 255
    assert projected.train.inputs.shape == (256, 256)
    torch.testing.assert_close(  # 256 images span at most 256 directions: nothing is lost
        projected.train.inputs @ projected.train.inputs.T, flat @ flat.T, rtol=1e-3, atol=1e-2
    )


SMALL = TrainConfig(
    task="images_pca", num_train=300, num_test=100, model="mlp", batch_size=100, epochs=2,
    model_options={"widths": (256, 12, 10), "bias": False},
)  # fmt: skip


def test_small_nets_of_one_seed_are_done_together(base):
    arms = {f"lr {k}": replace(SMALL, lr=0.01 * k) for k in range(1, 11)}
    study = Study("tiny", arms, seeds=2)
    groups = experiments.bundles(experiments.planned(study, compute(study), base.identity))
    assert sorted(len(group) for group in groups) == [2, 2, 8, 8]
    assert all(len({job.seed for job in group}) == 1 for group in groups)
    runs = records.load("tiny")["runs"].values()
    assert sorted({run["replicas"] for run in runs}) == [2, 8]
    alone = experiments.run(arms["lr 3"], 1)
    ours = next(run for run in runs if (run["arm"], run["seed"]) == ("lr 3", 1))
    assert ours["metrics"]["train_loss"] == pytest.approx(alone["metrics"]["train_loss"], rel=1e-4)
    assert ours["config"] == json.loads(json.dumps(alone["config"]))


def test_a_gpu_takes_every_job_alone_and_its_runs_into_a_record_of_its_own(base, monkeypatch):
    arms = {f"lr {k}": replace(SMALL, lr=0.01 * k) for k in range(1, 4)}
    study = Study("tiny", arms, seeds=1)
    compute(study)
    groups = experiments.bundles(experiments.planned(study, study.record(), base.identity), "cuda")
    assert [len(group) for group in groups] == [1, 1, 1]
    monkeypatch.setattr(experiments, "_device_name", lambda device: "a GPU")
    record = experiments._open_record(study, base, "cuda")
    experiments._adopt(study, record, base.identity, "cuda")
    assert record["study"] == "tiny.gpu" and not record["runs"]  # none of the CPU's runs


def test_a_device_that_is_not_there_is_named(base, capsys):
    with pytest.raises(ValueError, match="device is 'cuda', but this machine has no CUDA device"):
        experiments.main(["--device", "cuda"])


def test_a_run_keeps_its_company_when_the_queue_is_taken_up_again(base):
    arms = {f"lr {k}": replace(SMALL, lr=0.01 * k) for k in range(1, 4)}
    study = Study("tiny", arms, seeds=1)
    whole = compute(study)
    part = json.loads(records.path_of("tiny").read_text())
    part["runs"].pop(next(iter(part["runs"])))
    records.path_of("tiny").write_text(json.dumps(part))
    again = compute(study)
    assert {run["replicas"] for run in again["runs"].values()} == {3}
    metrics = [{run["arm"]: run["metrics"] for run in r["runs"].values()} for r in (whole, again)]
    assert records.rounded(metrics[0]) == records.rounded(metrics[1])


def test_a_run_that_another_record_has_is_taken_over(base, monkeypatch):
    compute(Study("tiny", ARMS, CLAIMS, seeds=2))
    monkeypatch.setattr(experiments, "run", None)  # no run may be made
    arm, config = next(iter(ARMS.items()))
    other = compute(Study("other", {f"again {arm}": config}, seeds=2))
    assert {run["arm"] for run in other["runs"].values()} == {f"again {arm}"}
    assert len(other["runs"]) == 2
