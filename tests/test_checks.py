"""The tips as checks: each number means what it says, on healthy scripts and on planted faults."""

import math
from dataclasses import replace

import pytest
import torch

from course_lib import checks, data, experiments, models, tasks, zoo
from course_lib.zoo import Case

BASE = data.load_standin(256, 20)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Nets that train on 192 examples for a few steps."""
    monkeypatch.setattr(tasks, "default_base", lambda: BASE)
    for net, config in zoo.NETS.items():
        monkeypatch.setitem(zoo.NETS, net, replace(config, num_train=192, num_val=64, epochs=2))
    monkeypatch.setattr(checks, "FIT_STEPS", 40)
    monkeypatch.setattr(checks, "FEW_STEPS", 10)
    monkeypatch.setattr(checks, "ONE_PASS", 20)
    monkeypatch.setattr(zoo, "MAX_STEPS", 20)


def read(check: str, net: str, fault: str = "") -> dict:
    return checks.run(Case(net, fault, control=2, check=check), 1)


def test_skill_is_0_for_guessing_1_for_the_reference_and_finite():
    assert checks.skill("mlp", 0.1) == 0.0 and checks.skill("mlp", 0.05) == 0.0
    assert checks.skill("mlp", zoo.REFERENCE["mlp"]) == 1.0
    assert checks.skill("regression", zoo.REFERENCE["regression"] / 2) == pytest.approx(0.5)
    assert checks.skill("regression", -math.inf) == checks.skill("regression", math.nan) == 0.0


def test_a_look_finds_what_lies_open():
    healthy = read("look", "cnn")
    assert healthy["roughness"] < 0.4 and healthy["largest"] < 6 and healthy["first_loss"] < 0.5
    assert healthy["one_sidedness"] < 0.4 and healthy["shift"] < 0.5
    assert read("look", "cnn", "pixels_reshaped")["roughness"] > 0.5
    assert read("look", "cnn", "inputs_0_to_255")["largest"] > 200
    assert read("look", "cnn", "validation_unprepared")["shift"] > 1
    assert read("look", "cnn", "sorted_unshuffled")["one_sidedness"] > 0.2 + 0.1
    assert read("look", "cnn", "constant_target")["one_sidedness"] == 1.0
    assert math.isnan(read("look", "cnn", "nan_in_one_sample")["largest"])


def test_a_look_at_numbers_has_no_neighbours():
    healthy = read("look", "regression")
    assert healthy["roughness"] == 0.0 and healthy["one_sidedness"] < 0.5
    same = read("look", "regression", "constant_target")
    assert same["one_sidedness"] == pytest.approx(1.0)


def test_first_loss_is_the_distance_from_guessing():
    assert read("look", "mlp", "init_zero")["first_loss"] == pytest.approx(0.0, abs=1e-6)
    assert read("look", "mlp", "init_times_10")["first_loss"] > 1


@pytest.mark.parametrize("net", ["mlp", "regression"])
def test_a_healthy_script_overfits_and_one_that_does_not_learn_does_not(net):
    healthy, broken = read("overfit", net), read("overfit", net, "zero_grad_too_late")
    assert healthy["one_loss"] < 0.1 and healthy["two_loss"] < 0.1
    assert all(broken[name] > 5 * healthy[name] for name in ("two_loss", "two_eval_loss"))


def test_a_few_examples_are_drawn_at_random_and_two_have_different_targets():
    targets = torch.tensor([3, 3, 3, 1, 3])
    for seed in range(5):
        drawn = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        assert checks._few_examples(targets, 1, seed).tolist() == drawn[:1].tolist()
        first, second = checks._few_examples(targets, 2, seed).tolist()
        assert first == drawn[0] and {targets[first].item(), targets[second].item()} == {1, 3}
    assert checks._few_examples(targets[:3], 2, 0).unique().numel() == 2
    assert checks._few_examples(targets[:2], 4, 0).bincount().tolist() in ([1, 3], [3, 1])


def test_a_fault_in_validation_alone_shows_in_the_validation_of_one_example():
    broken = read("overfit", "cnn", "validation_unprepared")
    assert broken["two_loss"] < 0.1 and broken["two_eval_loss"] > 10 * broken["two_loss"]


def test_a_lower_rate_mends_one_that_is_too_high():
    found = read("lower_lr", "mlp", "lr_times_100")
    assert found["hundredth_skill"] > found["before_skill"] + 0.1
    assert found["after_skill"] == max(found["tenth_skill"], found["hundredth_skill"])
    assert found["gain"] == pytest.approx(found["after_skill"] - found["before_seen"])


def test_a_higher_rate_mends_one_that_is_too_low():
    assert read("raise_lr", "mlp", "lr_over_1000")["gain"] > 0.02


def test_what_the_author_sees_may_differ_from_the_truth():
    found = read("simplify_loss", "mlp", "labels_off_by_one")
    healthy = read("simplify_loss", "mlp")
    assert found["before_skill"] == 0.0 and healthy["before_skill"] == healthy["before_seen"] > 0.0


def test_a_larger_batch_takes_as_many_steps_only_if_asked():
    seen = []

    def train(setup):
        seen.append((setup.batch_size, setup.epochs))
        score = 0.1 + setup.epochs / 100  # what the author reads; the truth is lower
        return zoo.Outcome([1.0], {"val_score": [score]}, score - 0.01, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "train", train)
        found = read("enlarge_batch", "mlp")
    assert seen == [(64, 2), (256, 2), (256, 8)]
    assert (
        found["after_skill"]
        == found["same_steps_skill"]
        == pytest.approx(checks.skill("mlp", 0.17))
    )
    assert found["gain"] == pytest.approx(checks.skill("mlp", 0.18) - checks.skill("mlp", 0.12))


def test_one_huge_example_stands_out_of_batches_of_one(monkeypatch):
    monkeypatch.setattr(checks, "ONE_PASS", 192)  # all come by
    found = [
        read("shrink_batch", "regression", fault)["spread"] for fault in ("one_huge_sample", "")
    ]
    assert math.isnan(found[0]) or found[0] > found[1] + 1


def test_the_spread_of_squared_errors_is_that_of_errors():
    case = Case("regression", control=2, check="shrink_batch")
    losses = torch.tensor(
        checks._outcome(case, 1, batch_size=1, lr_factor=1 / 64, max_steps=20).losses
    )
    spread = (losses.max() / losses.median()).log10().item() / 2
    assert checks.run(case, 1)["spread"] == pytest.approx(spread)


def test_without_any_loss_the_spread_is_not_finite():
    assert read("shrink_batch", "mlp", "softmax_over_batch")["spread"] == -math.inf


def test_large_losses_find_outliers_in_batches_of_one_and_of_64():
    found = read("rank_losses", "regression", "targets_5_percent_outliers")
    assert set(found) == {"one_auc", "one_and_lr_auc", "batch_auc", "longer_auc"}
    assert min(found["one_and_lr_auc"], found["batch_auc"], found["longer_auc"]) > 0.95


def testlosses_in_training_are_those_of_the_script():
    setup, again = (zoo.build(Case("mlp", control=2), 1) for _ in range(2))
    losses = checks.losses_in_training(setup, 1)
    again.epochs = 1
    assert losses.mean().item() == pytest.approx(torch.tensor(zoo.train(again).losses).mean())
    assert all(map(torch.equal, setup.model.parameters(), again.model.parameters()))


def test_early_scores_are_those_of_shorter_runs(monkeypatch):
    monkeypatch.setattr(checks, "EARLY_STEPS", 4)
    case = Case("mlp", control=2, check="early_scores")
    found = checks.run(case, 1)
    whole = checks._outcome(case, 1)
    short = checks._outcome(case, 1, lr_factor=10.0, max_steps=4)
    assert len(short.losses) == 4 < len(whole.losses)
    assert found["end_skill"] == checks.skill("mlp", whole.performance)
    assert found["tenfold_early"] == checks.skill("mlp", short.history["val_score"][-1])
    assert set(found) == {"end_skill", "tenth_early", "same_early", "tenfold_early"}


def test_without_its_norms_a_bad_start_shows():
    for factor in (0.01, 100.0):
        case = Case("cnn", control=2, check="remove_norm", changes={"init_scale": factor})
        found = checks.run(case, 1)
        assert found["gradient"] <= 1 < 3 <= found["bare_gradient"]


def test_a_gradient_is_off_by_whole_powers_of_ten():
    setup = zoo.build(Case("cnn", control=2, changes={"batch_norm": False}), 1)
    mean = setup.loss
    readings = []
    for factor in (1.0, 1e3, 1e6):  # the loss, and with it each layer's gradient
        setup.loss = lambda outputs, targets, factor=factor: factor * mean(outputs, targets)
        readings.append(checks._decades_off(setup, 3))
    assert readings[1] + 3 == readings[2] and readings[0] < 3
    models.weight_layers(setup.model)[0].requires_grad_(False)
    assert math.isnan(checks._decades_off(setup, 3))


@pytest.mark.parametrize("check", checks.CHECKS)
def test_the_same_seed_gives_the_same_numbers(check):
    net = "cnn" if check == "remove_norm" else "regression"
    fault = "targets_5_percent_outliers" if check == "rank_losses" else ""
    assert read(check, net, fault) == read(check, net, fault)


def test_a_check_goes_through_the_runner_and_into_the_key():
    case = Case("mlp", "init_zero", 3, check="look")
    assert case.plain()["check"] == "look" and Case(**case.plain()) == case
    kept = experiments.run(case, 0)
    assert kept["config"]["check"] == "look" and kept["metrics"]["first_loss"] < 1e-6


def test_a_change_is_added_to_those_that_are_there():
    case = checks.changed(Case("mlp", changes={"lr": 0.1, "epochs": 3}), lr=0.2)
    assert case.changes == {"lr": 0.2, "epochs": 3}


def test_an_unknown_check_is_named_with_those_that_are_known():
    with pytest.raises(ValueError, match="check is 'glance'; known: look, overfit"):
        checks.run(Case("mlp", check="glance"), 0)
