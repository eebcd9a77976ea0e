"""What is measured once training is over, against counts by hand."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import TINY, compute

from course_lib import data, experiments, measures, models, tasks
from course_lib.data import Dataset, Split
from course_lib.experiments import Study
from course_lib.training import TrainConfig


def test_outputs_are_clipped_to_the_range_of_the_training_targets(base):
    config = replace(TINY, task="teacher_clipped", loss="mse", measures=("test_loss_clipped",))
    dataset = experiments.load_task(config)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 1))
    torch.nn.init.constant_(model[1].bias, 7.0)  # every output is above 1, the highest target
    clipped = measures.MEASURES["test_loss_clipped"](config, model, dataset)
    assert clipped == pytest.approx(((1 - dataset.test.targets) ** 2).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="needs a task with float targets"):
        measures.MEASURES["test_loss_clipped"](TINY, model, experiments.load_task(TINY))


def test_errors_of_a_regression_are_those_of_its_outputs_on_clean_targets(base):
    config = replace(TINY, task="teacher_skewed", loss="huber", measures=("test_errors",))
    dataset = experiments.load_task(config)
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(20, 1))
    found = measures.MEASURES["test_errors"](config, model, dataset)
    with torch.no_grad():
        errors = (model[1](dataset.test.inputs) - dataset.test.targets).double()
    expected = errors.square().mean().sqrt(), errors.abs().mean(), errors.mean()
    assert list(found) == ["test_rms_error", "test_mean_abs_error", "test_mean_error"]
    assert list(found.values()) == pytest.approx([e.item() for e in expected], rel=1e-4)
    with pytest.raises(ValueError, match="'test_errors'; it needs a task with float targets"):
        measures.MEASURES["test_errors"](TINY, model, experiments.load_task(TINY))


def test_measures_are_kept_with_the_other_metrics(base):
    special = "test_loss_clipped", "test_errors", "incoming_norm"  # for other tasks or nets
    names = [name for name in measures.MEASURES if name not in special]
    config = replace(TINY, preprocess="standardise", measures=tuple(names))
    metrics = compute(Study("tiny", {"plain": config}, seeds=1))["runs"].popitem()[1]["metrics"]
    kept = {"test_accuracy_own_statistics", *measures.WAYS_TO_MOVE}
    assert kept <= {name.removesuffix("_same_share") for name in metrics}
    assert len({metrics[n] for n in ("test_accuracy", "test_accuracy_unprepared")}) == 2
    compute(Study("double", {"plain": replace(config, precision="fp64")}, seeds=1))


def test_an_unknown_measure_is_named_before_the_training(base):
    with pytest.raises(ValueError, match="a measure is 'charm'; known: test_accuracy_unprep"):
        experiments.run(replace(TINY, measures=("charm",), model="unknown"), 0)


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
    assert measures.loss_at_accuracy(HISTORY, split, accuracy) == pytest.approx(loss)


def test_loss_at_equal_accuracy_is_a_mean_over_three(base):
    found = measures.loss_at_equal_accuracy(HISTORY)
    assert found["equal_accuracy_train_loss"] == pytest.approx((1.8 + 1.65 + 1.5) / 3)
    part = {"train_accuracy": [0.45], "train_loss": [1.4], "val_accuracy": [0.5], "val_loss": [1.4]}
    assert math.isnan(measures.loss_at_equal_accuracy(part)["equal_accuracy_train_loss"])
    config = replace(TINY, num_val=20, measures=("loss_at_equal_accuracy",))
    metrics = experiments.run(config, 0)["metrics"]
    assert {"equal_accuracy_train_loss", "equal_accuracy_val_loss"} <= metrics.keys()


def test_epochs_to_an_accuracy_lie_on_the_line_between_two_epochs(base):
    column = "scored_train_accuracy"
    history = {"epoch": [1, 2, 3], column: [0.2, 0.4, 0.35]}
    expected = {0.1: 0.0, 0.15: 0.5, 0.3: 1.5, 0.4: 2.0}
    for accuracy, epochs in expected.items():
        assert measures.epochs_to(history, column, accuracy) == pytest.approx(epochs)
    assert math.isnan(measures.epochs_to(history, column, 0.41))
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
    assert measures.MEASURES["incoming_norm"](TrainConfig(), net, None) == 5.0


def test_the_price_of_a_goal():
    history = {"epoch": [1, 2, 3, 4], "val_accuracy": [0.2, 0.3, 0.25, 0.5]}
    price = measures.price_of_accuracy(history, {"speed": 2.0, "steps_per_epoch": 7})
    epochs = measures.epochs_to(history, "val_accuracy", measures.GOAL)
    assert price["epochs_to_goal"] == epochs and price["steps_to_goal"] == 7 * epochs
    assert price["time_to_goal"] == pytest.approx(epochs / 2)
    with pytest.raises(ValueError, match="put 'speed' in front of it"):
        measures.price_of_accuracy(history, {})


def test_the_speed_of_a_batch_is_in_units_of_the_usual_one(base, monkeypatch):
    clock = [0.0]
    busy = iter([3.0] * 3 + [1.0] * 10**4)  # what another program slows down must not count

    class Slow(torch.nn.ReLU):  # two seconds a step, and a hundredth an example
        def forward(self, inputs):
            clock[0] += (2.0 + len(inputs) / 100) * next(busy)
            return super().forward(inputs)

    monkeypatch.setattr(measures.models, "ACTIVATIONS", {"relu": Slow})
    monkeypatch.setattr(measures.training, "clock", lambda device: clock[0])
    config = replace(TINY, num_train=1024, batch_size=256)
    model, dataset = torch.nn.Linear(1, 1), experiments.load_task(config)
    found = measures.MEASURES["speed"](config, model, dataset)
    assert found["speed"] == pytest.approx((16 * 2 + 10.24) / (4 * 2 + 10.24))
    assert found["epoch_time"] * found["speed"] == pytest.approx(1.0)
    assert found["steps_per_epoch"] == 4
    usual = replace(config, batch_size=measures.USUAL_BATCH)
    assert measures.MEASURES["speed"](usual, model, dataset)["speed"] == 1.0


def test_epochs_to_an_accuracy_are_counted_on_a_straight_line():
    history = {"epoch": [1, 2, 3], **HISTORY}
    found = measures.epochs_to_printed(history)
    assert found["epochs_to_train"] == pytest.approx(2.0)
    assert found["epochs_to_val"] == pytest.approx(0.3 / 0.4)  # guessing, 0.1, at epoch 0
    assert found["epochs_to_best"] == pytest.approx(3 - 0.01 / 0.25)  # 0.69, on the way to 0.7
    low = {"epoch": [1], "train_accuracy": [0.1], "val_accuracy": [0.1]}  # learns nothing
    found = measures.epochs_to_printed(low)
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
        return measures.parting_epoch(history)["parting_epoch"]

    assert parting([0.4, 0.6, 0.6, 0.6]) == 2
    assert parting([0.6, 0.505, 0.52, 0.6]) == 3  # half a point is no parting, and starts it anew
    assert parting([0.6] * 4) == 1
    assert math.isnan(parting([0.6, 0.6, 0.6, 0.5]))


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
    found = measures.MEASURES["accuracy_by_fifth"](TrainConfig(), Reader(), broken)
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

    monkeypatch.setattr(measures.models, "ACTIVATIONS", {"relu": Quick, "tanh": Slow})
    monkeypatch.setattr(measures.training, "clock", lambda device: clock[0])
    measure, dataset = measures.MEASURES["speed_over_relu"], experiments.load_task(TINY)
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
    found = measures.MEASURES["shifted"](TrainConfig(), StripeReader(), stripes)
    assert found["unmoved_accuracy"] == 1.0
    # Up and down: nothing changes. Left and right by 1: all read as 0. By 3: as their neighbours.
    shares = {1: (2 + 2 * 0.1) / 4, 2: (2 + 2 * 0.1) / 4, 3: (2 + 0.1) / 4, 4: (2 + 2 * 0.1) / 4}
    for what in ("same_share", "accuracy"):
        assert {k: found[f"shifted_{k}_{what}"] for k in shares} == pytest.approx(shares)
        assert found[f"shifted_{what}"] == pytest.approx(sum(shares.values()) / 4)
    wrong = replace(stripes, test=Split(images, (targets + 1) % 10))
    found = measures.MEASURES["shifted"](TrainConfig(), StripeReader(), wrong)
    assert found["unmoved_accuracy"] == 0.0 and found["shifted_1_same_share"] == 0.55
    assert found["shifted_3_accuracy"] == 0.25  # pushed right, all are read as the next


def test_losses_of_steps_become_quantiles_and_decades():
    found = measures.loss_by_steps([100.0, *(k / 1000 for k in range(1, 102))])
    assert found["first_loss"] == 100.0
    assert found["last_loss"] == found["median_loss"] == pytest.approx(0.051)
    assert found["loss_swing"] == pytest.approx(96 / 6)
    assert found["log_loss"] == pytest.approx(math.log10(0.051))
    assert found["loss_fall"] == pytest.approx(2 - math.log10(0.051))
    lost = measures.loss_by_steps([math.inf, math.nan])
    assert (lost["log_loss"], lost["loss_fall"]) == (38.0, 0.0)
    assert measures.loss_by_steps([1.0, 0.0, 0.0])["loss_fall"] == 4.0
