"""Every fault shows its own symptom, a healthy net does not; the plan of the zoo is whole."""

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib import data, diagnostics, experiments, faults, models, pages, records, tasks, zoo
from course_lib.data import Dataset, Split
from course_lib.experiments import Study
from course_lib.faults import FAULTS, Setup
from course_lib.zoo import Case

CELLS = [(name, net) for name, fault in FAULTS.items() for net in fault.nets]
PROBES = {}  # by fault: whether a setup has its symptom, given also a healthy one


def made_up() -> Dataset:
    """Noise whose brightness gives the class away."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 64, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 10, (256,), generator=generator)
    split = Split(images + (targets * 20).to(torch.uint8).view(-1, 1, 1, 1), targets)
    return Dataset("made up", "0" * 16, split, Split(images[:0], targets[:0]), split)


BASE = made_up()


def build(net: str, fault: str = "", seed: int = 0, **changes) -> Setup:
    config = replace(zoo.NETS[net], num_train=192, num_val=64)
    return zoo.build_from(config, fault, seed, BASE, **changes)


def probe(function):
    PROBES[function.__name__] = function
    return function


# --- what a probe reads -----------------------------------------------------------------------


def batch(setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    return setup.prepare(setup.inputs[:64]), setup.targets[:64]


def outputs(setup: Setup, factor: float = 1.0) -> torch.Tensor:
    return setup.model.eval()(factor * setup.prepare(setup.inputs))


def step(setup: Setup) -> list[bool]:
    """Do one step; which parameters have moved, first layer first?"""
    parameters = list(setup.model.parameters())
    before = [p.detach().clone() for p in parameters]
    setup.step(setup, *batch(setup))
    return [not torch.equal(p, q) for p, q in zip(parameters, before, strict=True)]


def lr(setup: Setup) -> float:
    return setup.optimizer.param_groups[0]["lr"]


def pairs(setup: Setup) -> Counter:
    """How often each pair of an input and a target is there."""
    rows = zip(setup.inputs, setup.targets, strict=True)
    return Counter((x.numpy().tobytes(), y.numpy().tobytes()) for x, y in rows)


def same_targets(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.flatten().sort().values, other.flatten().sort().values)


def weights(setup: Setup) -> torch.Tensor:
    return torch.cat([layer.weight.flatten() for layer in models.weight_layers(setup.model)])


def norms(setup: Setup) -> list[nn.Module]:
    return [m for m in setup.model.modules() if isinstance(m, nn.BatchNorm2d)]


def modes(setup: Setup) -> list[bool]:
    """Whether the net is in training mode, at each of twelve steps."""
    seen, do_step = [], setup.step

    def watched(setup: Setup, *pair: torch.Tensor) -> torch.Tensor:
        seen.append(setup.model.training)
        return do_step(setup, *pair)

    setup.step, setup.epochs, setup.max_steps = watched, 4, 12
    zoo.train(setup)
    return seen


# --- the loop ---------------------------------------------------------------------------------


@probe
def no_zero_grad(setup, healthy):
    zoo.CHANGES["lr"](setup, 0.0)  # so that both steps have the same gradient
    setup.step(setup, *batch(setup))
    once = diagnostics.grad_norm(setup.model)
    setup.step(setup, *batch(setup))
    return diagnostics.grad_norm(setup.model) == pytest.approx(2 * once, rel=1e-3)


@probe
def zero_grad_too_late(setup, healthy):
    return not any(step(setup)) and all(p.grad is None for p in setup.model.parameters())


@probe
def stale_optimizer(setup, healthy):
    return not any(step(setup)) and diagnostics.grad_norm(setup.model) > 0


@probe
def lr_times_100(setup, healthy):
    return lr(setup) == pytest.approx(100 * lr(healthy))


@probe
def lr_over_1000(setup, healthy):
    return lr(setup) == pytest.approx(lr(healthy) / 1000)


@probe
def sorted_unshuffled(setup, healthy):
    assert pairs(setup) == pairs(healthy)
    read = zoo.batches(setup)
    passes = [torch.cat([next(read)[1] for _ in range(3)]) for _ in range(2)]
    return torch.equal(*passes) and bool((passes[0].diff(dim=0) >= 0).all())


@probe
def debug_slice(setup, healthy):
    return len(setup.inputs) == len(setup.targets) == setup.batch_size


@probe
def eval_stays(setup, healthy):
    seen = modes(setup)
    assert seen[:2] == [True, True]  # the first validation comes after the second step
    return not any(seen[2:])


@probe
def no_eval(setup, healthy):
    before = norms(setup)[0].running_mean.clone()
    zoo.validate(setup)
    return not torch.equal(norms(setup)[0].running_mean, before)


# --- the loss ---------------------------------------------------------------------------------


@probe
def softmax_twice(setup, healthy):
    sure = setup.model[-1](1e3 * torch.eye(10)) if len(setup.model) > len(healthy.model) else None
    sure = 1e3 * torch.eye(10) if sure is None else sure
    return setup.loss(sure, torch.arange(10)).item() == pytest.approx(1.4612, abs=1e-4)


@probe
def softmax_over_batch(setup, healthy):
    return setup.loss(torch.randn(1, 10), torch.tensor([3])).item() == 0.0


@probe
def loss_summed(setup, healthy):
    logits, targets = torch.randn(64, 10), torch.arange(64) % 10
    mean = healthy.loss(logits, targets).item()
    return setup.loss(logits, targets).item() == pytest.approx(64 * mean)


@probe
def relu_on_head(setup, healthy):
    return bool((outputs(setup) >= 0).all())


@probe
def broadcast(setup, healthy):
    perfect = setup.loss(healthy.targets, setup.targets)
    return perfect.item() == pytest.approx(2 * healthy.targets.var(correction=0).item(), rel=1e-4)


# --- the data ---------------------------------------------------------------------------------


@probe
def labels_shuffled(setup, healthy):
    assert torch.equal(setup.inputs, healthy.inputs)
    assert same_targets(setup.targets, healthy.targets)
    return (setup.targets == healthy.targets).double().mean().item() < 0.2


@probe
def labels_off_by_one(setup, healthy):
    assert torch.equal(setup.val_targets, setup.truth)
    return set(((setup.targets - healthy.targets) % 10).tolist()) == {1}


@probe
def labels_20_percent_wrong(setup, healthy):
    assert set(setup.targets.tolist()) == set(range(10))
    return (setup.targets != healthy.targets).sum().item() == 192 // 5


@probe
def targets_5_percent_outliers(setup, healthy):
    moved = (setup.targets - healthy.targets).round()
    return Counter(moved.flatten().tolist()) == {0.0: 183, 50.0: 9}


@probe
def constant_target(setup, healthy):
    assert torch.equal(setup.val_targets, setup.truth)
    return len(setup.targets.unique()) == 1


@probe
def nan_in_one_sample(setup, healthy):
    missing = setup.inputs.isnan().sum().item()
    setup.epochs, setup.max_steps = 1, 3
    found = zoo.train(setup)
    net = "regression" if healthy.targets.is_floating_point() else "mlp"
    lost = found.diverged_step is not None and found.performance < zoo.guessing(net) + 0.1
    return missing == 1 and lost


@probe
def one_huge_sample(setup, healthy):
    changed = (setup.inputs != healthy.inputs).flatten(1).any(dim=1)
    torch.testing.assert_close(setup.inputs[1:], healthy.inputs[1:])
    return changed[0].item() and bool((setup.inputs[0] == 1e4 * healthy.inputs[0]).all())


@probe
def inputs_0_to_255(setup, healthy):
    images = setup.prepare(setup.inputs)
    assert torch.equal(setup.val_prepare(setup.val_inputs), setup.prepare(setup.val_inputs))
    return images.max() > 100 and torch.allclose(images, images.round(), atol=1e-3)


@probe
def validation_unprepared(setup, healthy):
    assert abs(setup.prepare(setup.inputs).mean()) < 1e-3
    return torch.equal(setup.val_prepare(setup.val_inputs), setup.val_inputs)


@probe
def validation_own_statistics(setup, healthy):
    dims = [d for d in range(setup.inputs.ndim) if d != 1]
    assert abs(setup.prepare(setup.inputs).mean(dims)).max() < 1e-3
    return abs(setup.val_prepare(setup.val_inputs).mean(dims)).max() < 1e-3


@probe
def pixels_reshaped(setup, healthy):
    rows = (setup.inputs.flatten(1), healthy.inputs.flatten(1))
    assert torch.equal(*(x.sort(dim=1).values for x in rows))
    return torch.equal(setup.inputs[:, 0, 0, :3], healthy.inputs[:, :, 0, 0])  # a pixel's colours


@probe
def examples_reshaped(setup, healthy):
    first = healthy.inputs.flatten(1)[:, 0]  # one feature of every example
    return torch.equal(setup.inputs.flatten()[: len(first)], first)


# --- the net ----------------------------------------------------------------------------------


@probe
def init_zero(setup, healthy):
    return bool((weights(setup) == 0).all())


@probe
def init_times_10(setup, healthy):
    return torch.allclose(weights(setup), 10 * weights(healthy))


@probe
def init_over_100(setup, healthy):
    return torch.allclose(weights(setup), weights(healthy) / 100)


@probe
def dead_relus(setup, healthy):
    return diagnostics.dead_share(setup.model, setup.prepare(setup.inputs)) == 1.0


@probe
def no_activations(setup, healthy):
    curved = (outputs(setup, 2.0) + outputs(setup, 0.0) - 2 * outputs(setup)).abs().max()
    return curved.item() < 1e-4


@probe
def first_layer_frozen(setup, healthy):
    first, *later = models.weight_layers(setup.model)
    before = [first.weight.clone(), later[-1].weight.clone()]
    step(setup)
    assert not torch.equal(later[-1].weight, before[1])
    return torch.equal(first.weight, before[0])


@probe
def features_detached(setup, healthy):
    setup.step(setup, *batch(setup))
    parameters = list(setup.model.parameters())
    assert parameters[-1].grad is not None
    return all(p.grad is None for p in parameters[:-2])


@probe
def dropout_90_percent(setup, healthy):
    seen = []
    setup.model[-1].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    setup.model.eval()(batch(setup)[0])
    setup.model.train()(batch(setup)[0])
    eval_zeros, train_zeros = ((x == 0).double().mean().item() for x in seen)
    return train_zeros > 0.88 and eval_zeros < 0.8


@probe
def norm_of_one_example(setup, healthy):
    assert norms(setup)
    return len(next(zoo.batches(setup))[0]) == 1


@probe
def norm_statistics_lag(setup, healthy):
    norm = norms(setup)[0]
    seen = []
    norm.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    setup.model.train()(batch(setup)[0])
    mean = seen[0].mean(dim=(0, 2, 3))
    return torch.allclose(norm.running_mean, 0.001 * mean, atol=1e-6)


@pytest.mark.parametrize(("fault", "net"), CELLS, ids=[" ".join(cell) for cell in CELLS])
def test_a_fault_shows_what_its_name_says_and_a_healthy_net_does_not(fault, net):
    assert PROBES[fault](build(net, fault), build(net))
    assert not PROBES[fault](build(net), build(net))


def test_every_fault_has_a_probe_and_a_net():
    assert PROBES.keys() == FAULTS.keys()
    assert all(fault.nets and set(fault.nets) <= set(zoo.NETS) for fault in FAULTS.values())
    assert all(fault.part in ("loop", "loss", "data", "net") for fault in FAULTS.values())
    assert all(fault.plant.__doc__ for fault in FAULTS.values())
    assert tuple(zoo.NETS) == faults.ALL


def test_a_feature_that_never_varies_becomes_0_and_a_lost_value_stays_lost():
    inputs = torch.randn(20, 3, 4, 4)
    inputs[:, 1] = 0.1
    prepared = faults.standardise(inputs)(inputs)
    assert torch.equal(prepared[:, 1], torch.zeros(20, 4, 4)) and prepared.isfinite().all()
    inputs[3, 2] = torch.nan
    assert faults.standardise(inputs)(inputs)[:, 2].isnan().all()


def test_no_fault_touches_the_truth_or_the_data_of_others():
    for fault in FAULTS:
        if "mlp" in FAULTS[fault].nets:
            build("mlp", fault)
    healthy = build("mlp")
    fresh = tasks.images_16(BASE.subset(192, 64, 0))
    assert torch.equal(healthy.targets, fresh.train.targets)
    assert torch.equal(healthy.truth, fresh.val.targets)
    assert torch.equal(healthy.inputs, fresh.train.inputs / 255)


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("net", zoo.NETS)
def test_a_healthy_net_learns_and_the_same_seed_gives_the_same_bits(net):
    options = {"epochs": 8, "max_steps": 24}
    one, other = (zoo.train(build(net, seed=3, **options)) for _ in range(2))
    assert one == other and one.diverged_step is None
    assert one.losses[-1] < one.losses[0] and one.performance > zoo.guessing(net) + 0.1
    assert one.performance == one.history["val_score"][-1]
    assert zoo.train(build(net, seed=4, max_steps=1)).losses != one.losses[:1]


def test_dropout_and_shuffled_labels_are_drawn_from_the_seed():
    for fault in ("dropout_90_percent", "labels_shuffled"):
        torch.rand(1)  # the state of the global generator does not matter
        one, other = (zoo.train(build("regression", fault, max_steps=6)) for _ in range(2))
        assert one == other


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    zoo.train(build("mlp", "labels_shuffled", max_steps=2))
    assert torch.equal(torch.rand(3), expected)


def test_what_the_author_sees_is_not_the_truth():
    """Labels (N,): the author's loss is that of a constant, the net is judged by the truth."""
    setup = build("regression", "broadcast", max_steps=30, epochs=30)
    found = zoo.train(setup)
    assert found.performance < 0.2
    assert setup.truth.shape == (64, 1) and setup.val_targets.shape == (64,)


def test_readings_and_steps():
    found = zoo.train(build("mlp", epochs=2))
    assert len(found.losses) == 6 and found.history["step"] == [1, 2, 3, 4, 5, 6]
    found = zoo.train(build("mlp", epochs=20, batch_size=1, max_steps=24))
    assert len(found.losses) == 24 and found.history["step"] == [4, 8, 12, 16, 20, 24]
    assert found.history["train_loss"][1] == pytest.approx(sum(found.losses[4:8]) / 4)
    assert len(zoo.train(build("mlp", num_train=1, epochs=3)).losses) == 3


# --- changes ----------------------------------------------------------------------------------


def test_a_change_is_made_to_the_script_that_has_the_bug():
    assert lr(build("mlp", "lr_times_100", lr_factor=0.1)) == pytest.approx(10 * lr(build("mlp")))
    assert lr(build("mlp", "lr_times_100", lr=0.5)) == 0.5
    few = build("cnn", "labels_off_by_one", num_train=2)
    assert len(few.inputs) == 2
    assert torch.equal(few.targets, (build("cnn").targets[:2] + 1) % 10)
    assert build("cnn", "norm_of_one_example", batch_size=32).batch_size == 32


@pytest.mark.parametrize("net", faults.WITH_NORM)
def test_a_net_without_its_norms_still_trains(net):
    setup = build(net, batch_norm=False, max_steps=3)
    assert not norms(setup) and all(step(setup)[:1])
    assert norms(build(net, batch_norm=True))


@pytest.mark.parametrize("net", ["mlp", "regression"])
def test_l1_and_l2(net):
    one, two = (build(net, loss=name).loss for name in ("l1", "l2"))
    targets = build(net).targets[:4]
    right = targets if targets.is_floating_point() else torch.eye(10)[targets]
    assert one(right + 2, targets).item() == pytest.approx(2)
    assert two(right + 2, targets).item() == pytest.approx(4)
    assert two(right + 2, targets, reduction="sum").item() == pytest.approx(4 * right.numel())


# --- the plan ---------------------------------------------------------------------------------


def test_the_split_is_a_partition_and_each_half_has_every_part():
    everything, parts = zoo.cases(), [zoo.cases(split) for split in ("calibrate", "judge")]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == everything
    assert len(everything) == 4 * zoo.NUM_CONTROLS + len(CELLS)
    for half in parts:
        healthy = [case for case in half.values() if not case.fault]
        assert Counter(case.net for case in healthy) == dict.fromkeys(zoo.NETS, 10)
        assert len({case.fault for case in half.values()} - {""}) == len(FAULTS) // 2
        assert {FAULTS[case.fault].part for case in half.values() if case.fault} == {
            "loop", "loss", "data", "net",
        }  # fmt: skip
        for case in half.values():  # a fault is planted in a control of its own half
            assert zoo.control_split(case.control) == case.split


def test_controls_differ_in_lr_width_and_initialisation():
    for net in zoo.NETS:
        controls = [zoo.control(net, number) for number in range(zoo.NUM_CONTROLS)]
        assert len({config.lr for config in controls}) > 15
        assert len({config.model_options["widths"] for config in controls}) > 2
        assert len({config.model_options["init"] for config in controls}) > 4
        reference = zoo.NETS[net]
        assert all(1 / 3 <= c.lr / reference.lr <= 3.01 for c in controls)
        for config in controls:
            changed = {k for k, v in config.plain().items() if v != reference.plain().get(k)}
            assert changed <= {"lr", "model_options"}


def test_rejected_draws_are_passed_over(monkeypatch):
    monkeypatch.setitem(zoo.REJECTED, "mlp", (0, 2))
    assert [zoo.control("mlp", k) for k in range(3)] == [zoo.draw("mlp", k) for k in (1, 3, 4)]


def test_screening_rejects_draws_until_twenty_are_healthy(monkeypatch):
    performances = iter([0.0, 1.0, 0.0] + [1.0] * 19)
    monkeypatch.setattr(zoo, "build_from", lambda *case: None)
    monkeypatch.setattr(zoo, "train", lambda _: SimpleNamespace(performance=next(performances)))
    assert zoo.screen("mlp") == (0, 2)


def test_healthy_is_four_fifths_of_what_the_reference_learned(monkeypatch):
    monkeypatch.setitem(zoo.REFERENCE, "mlp", 0.5)
    assert zoo.is_healthy("mlp", 0.421) and not zoo.is_healthy("mlp", 0.419)


def test_the_zoo_is_frozen():
    """Checks were written after it: whoever changes an animal starts all of them anew."""
    plan = {name: (case.plain(), case.split) for name, case in zoo.cases().items()}
    controls = {net: [zoo.control(net, k).plain() for k in range(20)] for net in zoo.NETS}
    text = json.dumps([plan, controls], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "c14340ad3495"


# --- in a study -------------------------------------------------------------------------------


def test_a_case_says_itself_in_plain_data_without_defaults():
    assert Case("mlp").plain() == {"net": "mlp", "control": 0}
    case = Case("mlp", "lr_over_1000", 3, {"lr_factor": 10.0})
    assert case.plain() == {
        "net": "mlp", "control": 3, "fault": "lr_over_1000", "changes": {"lr_factor": 10.0},
    }  # fmt: skip
    assert Case(**case.plain()) == case


def test_a_study_of_cases_has_runs_and_canaries(monkeypatch):
    study = Study("zoo", {name: zoo.cases()[name] for name in ("mlp 00", "cnn no_zero_grad")})
    jobs = experiments.planned(study, study.record(), "data")
    assert len(jobs) == 20 and all(len(group) == 1 for group in experiments.bundles(jobs))
    monkeypatch.setattr(experiments, "_workers", lambda: 2)
    assert experiments._estimate(jobs, "cpu") == "13 s on 2 cores"  # ten of 1.0 s, ten of 1.6 s
    canaries = experiments.canaries(study)
    assert canaries == experiments.canaries(study) and len(canaries["mlp 00"]) == 5
    assert canaries["mlp 00"] != experiments.canary(Case("mlp", "stale_optimizer"))


def test_a_run_of_a_case_is_kept_like_any_other(monkeypatch):
    small = replace(zoo.NETS["mlp"], num_train=192, num_val=64)
    monkeypatch.setitem(zoo.NETS, "mlp", small)
    monkeypatch.setattr(tasks, "default_base", lambda: BASE)
    kept = experiments.run(Case("mlp", "lr_over_1000", changes={"epochs": 2}), 1)
    assert kept["config"]["fault"] == "lr_over_1000" and kept["data"]["name"] == "made up"
    assert {"performance", "val_loss", "val_score", "train_loss", "diverged_step"} <= set(
        kept["metrics"]
    )
    assert kept["history"] == {} and kept["device"] == "cpu"  # 200 cases have to fit a record
    with pytest.raises(ValueError, match="device is 'cuda'"):
        experiments.run(Case("mlp"), 0, device="cuda")


def test_cases_go_through_the_queue_into_a_record(monkeypatch, tmp_path):
    small = replace(zoo.NETS["regression"], num_train=192, num_val=64, epochs=20)
    monkeypatch.setitem(zoo.NETS, "regression", small)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(data, "load_cifar10", lambda: BASE)
    monkeypatch.setattr(tasks, "default_base", lambda: BASE)
    arms = {"fault": Case("regression", "init_zero"), "other": Case("regression", control=1)}
    study = Study("zoo", {"healthy": Case("regression"), **arms}, seeds=2)
    with ThreadPoolExecutor(1) as pool:
        experiments.compute(study, pool, say=lambda line: None)
    healthy, faulty, paired = study.runs().pair("healthy", "fault", "performance")
    assert paired and len(healthy) == 2 and min(healthy) > max(faulty)
    assert not study.runs().pair("healthy", "other", "performance")[2]  # other initial weights
    assert not experiments.pending(study, study.record(), BASE.identity)
    assert records.path_of("zoo").stat().st_size < 6 * 600 + 1500  # 200 cases fit, twice


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Case("mpl"), "net is 'mpl'; known: mlp, cnn, resnet, regression"),
        (lambda: Case("mlp", "gremlin"), "fault is 'gremlin'; known: no_zero_grad"),
        (lambda: Case("mlp", "broadcast"), "net is 'mlp'; broadcast can be planted in: regression"),
        (lambda: Case("mlp", control=20), "control is 20; use 0 to 19"),
        (lambda: Case("mlp", changes={"lrr": 1}), "a change is 'lrr'; known: lr, lr_factor"),
        (lambda: zoo.cases("test"), "split is 'test'; use 'calibrate', 'judge' or None"),
        (lambda: build("mlp", loss="l3"), "loss is 'l3'; known: cross_entropy"),
        (lambda: zoo.fault_split("gremlin"), "fault is 'gremlin'; known"),
    ],
)
def test_errors_name_argument_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arms_of_contrasts_over_faults_are_cases_of_one_split():
    for split in ("calibrate", "judge"):
        cases = zoo.cases(split)
        by_fault, healthy = zoo.arms_by_fault(split), zoo.healthy_arms(split)
        faulty = [arm for arms in by_fault.values() for arm in arms]
        assert {*faulty, *zoo.control_arms(split)} == set(cases)
        assert all(cases[arm].fault == fault for fault, arms in by_fault.items() for arm in arms)
        assert healthy.keys() == set(faulty)
        for arm, twin in healthy.items():
            assert replace(cases[arm], fault="") == cases[twin]


def test_the_two_questions_to_a_tip_name_arms_of_its_study_and_no_calibrating_fault():
    nets = ("cnn", "resnet")
    contrasts = {"T15": experiments.finds("gain", nets), "T15 @ bug zoo": experiments.mends(nets)}
    study = Study("zoo", zoo.cases(check="remove_norm", nets=nets), contrasts)
    for contrast in study.claims.values():
        assert all(zoo.fault_split(fault) == "judge" for fault in contrast.faults)
    assert not {*contrasts["T15"].controls} & {*contrasts["T15"].calibrate}


@pytest.fixture
def tip(monkeypatch):
    """A study of a tip with made-up runs: all works, but for `init_zero` and `dead_relus`."""
    claims = {"T12": experiments.finds("gain"), "T12 @ bug zoo": experiments.mends()}
    study = Study("zoo", zoo.cases(check="lower_lr"), claims, seeds=1)
    gains = {"mlp init_zero": 0.5, "cnn init_zero": 0.5, "cnn dead_relus": 1.0}
    runs = {}
    for arm, case in study.arms.items():
        metrics = {"gain": gains.get(arm, 0.0), "before_skill": 1.0, "after_skill": 0.0}
        if case.fault == "init_zero":
            metrics |= {"before_skill": 0.2, "after_skill": 0.7 if case.net == "mlp" else 0.2}
        run = {"arm": arm, "seed": 0, "phase": "judge", "config": case.plain(), "metrics": metrics}
        runs[arm] = run
    record = {"runs": runs, "analysis": study.plan() | {"tuned": {}}}
    monkeypatch.setattr(Study, "record", lambda self: record)
    return study


def test_shares_by_half_go_from_halves_to_faults_to_nets(tip):
    alarms, repaired = (experiments.shares_by_half(tip, claim) for claim in tip.claims)
    assert list(alarms) == ["judging", "calibrating"]
    assert alarms["judging"]["init_zero"] == {
        "mlp": 1.0, "cnn": 1.0, "resnet": 0.0, "regression": 0.0,
    }  # fmt: skip
    assert alarms["calibrating"]["dead_relus"]["cnn"] == 1.0
    assert repaired == {
        "judging": {"init_zero": {"mlp": 1.0, "cnn": 0.0, "resnet": 0.0, "regression": 0.0}}
    }


def test_a_reading_of_the_zoo_counts_faults_and_names_them(tip):
    expected = dict.fromkeys(zoo.arms_by_fault("judge"), "neither")
    expected |= {"loss_summed": "found, repaired"}
    said = pages.zoo_reading(tip, *tip.claims, expected).data
    assert "reveals **1 of 18** judging faults (`init_zero`)" in said
    assert "false alarms in 0 of 40 healthy scripts" in said
    assert "Of 1 faults that cost something it repairs **0** (none)" in said
    assert "Foretold as revealed: `loss_summed`; as repaired: `loss_summed`." in said
    tip.record()["runs"].popitem()
    assert "still to come" in pages.zoo_reading(tip, *tip.claims, expected).data


def test_cases_of_some_nets_alone():
    nets = ("cnn", "resnet")
    assert {case.net for case in zoo.cases(nets=nets, check="look").values()} == set(nets)
    assert set(zoo.control_arms("judge", nets)) < set(zoo.control_arms("judge"))
