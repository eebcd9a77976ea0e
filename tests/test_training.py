"""The training loop against a loop written by hand, and its promises one by one."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from course_lib import models, training
from course_lib.data import Dataset, Split
from course_lib.training import TrainConfig

SMALL = TrainConfig(
    model="mlp",
    model_options={"widths": (48, 16, 10), "bias": False},
    lr=0.05,
    epochs=2,
    batch_size=32,
)


def make_split(count: int, *, seed: int, dimensions: int = 48) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, dimensions, generator=generator)
    return Split(inputs, inputs[:, :10].argmax(dim=1))


def make_dataset(num_train: int = 200, num_val: int = 0) -> Dataset:
    splits = {
        "train": make_split(num_train, seed=1),
        "val": make_split(num_val, seed=2),
        "test": make_split(50, seed=3),
    }
    return Dataset("made up", "0" * 16, **splits)


def make_images(count: int = 64) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 10)
    empty = Split(images[:0], split.targets[:0])
    return Dataset("made up", "1" * 16, train=split, val=empty, test=split)


def weights(result) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def train(config: TrainConfig = SMALL, seed: int = 0, dataset: Dataset | None = None, **rest):
    return training.train(config, seed, dataset or make_dataset(), **rest)


def test_the_loop_equals_one_written_by_hand():
    dataset, config = make_dataset(), replace(SMALL, weight_decay=0.01)
    torch.manual_seed(7)
    model = models.build("mlp", widths=(48, 16, 10), bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    order = torch.Generator().manual_seed(7)
    for _ in range(2):
        permutation = torch.randperm(200, generator=order)
        for chosen in permutation.split(32):
            logits = model(dataset.train.inputs[chosen])
            loss = F.cross_entropy(logits, dataset.train.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    by_hand = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights(train(config, 7, dataset)), by_hand, rtol=1e-5, atol=1e-7)


def test_same_seed_same_bits_and_another_seed_other_bits():
    assert torch.equal(weights(train(seed=3)), weights(train(seed=3)))
    assert not torch.equal(weights(train(seed=3)), weights(train(seed=4)))


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": "centre"},
        {"preprocess": "standardise"},
        {"input_scale": 2.0},
        {"optimizer": "adam"},
        {"optimizer": "adamw"},
        {"optimizer": "adadelta"},
        {"lr": 0.02},
        {"momentum": 0.5},
        {"dampening": 0.5},
        {"nesterov": True},
        {"weight_decay": 0.1},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"epochs": 3},
        {"batch_size": 16},
        {"init_scale": (2.0, 1.0)},
        {"lr_scale": (1.0, 0.5)},
        {"weight_decay_scale": (50.0, 1.0)},
        {"precision": "bf16"},
    ],
)
def test_every_field_changes_the_run(change):
    assert not torch.equal(weights(train()), weights(train(replace(SMALL, **change))))


@pytest.mark.parametrize("change", [{"betas": (0.5, 0.9)}, {"eps": 0.1}, {"eps_scale": (1e6, 1.0)}])
def test_adam_fields_change_an_adam_run(change):
    adam = replace(SMALL, optimizer="adam", lr=0.001)
    assert not torch.equal(weights(train(adam)), weights(train(replace(adam, **change))))


@pytest.mark.parametrize("change", [{"rho": 0.5}, {"eps": 0.1}])
def test_adadelta_fields_change_an_adadelta_run(change):
    adadelta = replace(SMALL, optimizer="adadelta", lr=1.0)
    assert not torch.equal(weights(train(adadelta)), weights(train(replace(adadelta, **change))))


def test_adadeltas_first_steps_are_those_of_its_paper():
    config = replace(SMALL, optimizer="adadelta", lr=0.5, rho=0.9, eps=1e-3, weight_decay=0.0)
    weight = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.zeros_(weight.weight)
    optimizer = training.make_optimizer(config, weight)
    expected, squares, steps = 0.0, 0.0, 0.0
    for grad in (2.0, -3.0):
        weight.weight.grad = torch.full((1, 1), grad, dtype=torch.float64)
        optimizer.step()
        squares = 0.9 * squares + 0.1 * grad**2
        step = -(((steps + 1e-3) / (squares + 1e-3)) ** 0.5) * grad
        steps = 0.9 * steps + 0.1 * step**2
        expected += 0.5 * step  # the factor is Keras' and PyTorch's: the paper has none
        assert weight.weight.item() == pytest.approx(expected, rel=1e-12)


def test_a_layer_with_lr_factor_0_stays_and_its_bias_still_learns():
    biased = replace(SMALL, model_options={"widths": (48, 16, 10)})
    config = replace(biased, lr_scale=(0.0, 1.0), weight_decay=0.0)
    start = train(replace(config, epochs=0)).model.state_dict()
    end = train(config).model.state_dict()
    first_weight, first_bias = list(start)[:2]
    assert torch.equal(start[first_weight], end[first_weight])
    assert not torch.equal(start[first_bias], end[first_bias])


def test_weight_decay_factor_acts_on_its_layer_alone():
    config = replace(SMALL, lr=0.1, momentum=0.0, weight_decay=0.1, weight_decay_scale=(2.0, 0.0))
    dataset = make_dataset(32)
    step = replace(config, epochs=1)
    start = weights(train(replace(config, epochs=0), 0, dataset))
    bare = weights(train(replace(step, weight_decay=0.0), 0, dataset))
    decayed = weights(train(step, 0, dataset))
    expected = bare.clone()
    expected[: 48 * 16] -= 0.1 * 0.1 * 2.0 * start[: 48 * 16]
    torch.testing.assert_close(decayed, expected)


def test_arms_share_initial_weights_and_order():
    dataset = make_dataset(32)
    one_step = replace(SMALL, epochs=1, momentum=0.0, weight_decay=0.0)
    start = weights(train(replace(one_step, epochs=0), 0, dataset))
    small, large = (weights(train(replace(one_step, lr=lr), 0, dataset)) for lr in (0.01, 0.02))
    torch.testing.assert_close(large - start, 2 * (small - start), rtol=1e-3, atol=1e-7)


def test_schedules_begin_at_1_and_the_falling_ones_reach_0():
    falling = {name: f for name, f in training.SCHEDULES.items() if name != "one_cycle"}
    assert {f(0, 10) for f in falling.values()} == {1.0}
    assert training.linear(10, 10) == 0.0
    assert training.cosine(10, 10) == pytest.approx(0.0, abs=1e-12)
    assert training.cosine(5, 10) == pytest.approx(0.5)


def test_epoch_means_weigh_examples_not_batches():
    config = replace(SMALL, lr=0.0, epochs=1, batch_size=150, weight_decay=0.0)
    dataset = make_dataset(200)  # batches of 150 and 50
    result = train(config, 0, dataset)
    logits = result.model(dataset.train.inputs)
    loss = F.cross_entropy(logits, dataset.train.targets).item()
    share = (logits.argmax(1) == dataset.train.targets).float().mean().item()
    assert result.history["train_loss"] == [pytest.approx(loss, rel=1e-5)]
    assert result.history["train_accuracy"] == [pytest.approx(share)]


def test_evaluate_matches_a_direct_computation_over_short_batches(monkeypatch):
    monkeypatch.setattr(training, "EVAL_BATCH", 60)
    dataset = make_dataset(200)
    model = train(replace(SMALL, epochs=0), 0, dataset).model.train()
    prepare = training.make_prepare(SMALL, dataset)
    metrics = training.evaluate(model, dataset.train, prepare)
    logits = model(dataset.train.inputs)
    loss = F.cross_entropy(logits, dataset.train.targets).item()
    assert metrics.loss == pytest.approx(loss, rel=1e-5)
    assert metrics.max_abs_logit == pytest.approx(logits.abs().max().item())
    assert model.training
    with torch.no_grad():
        model[1].weight[0] = math.nan
    assert math.isnan(training.evaluate(model, dataset.train, prepare).max_abs_logit)
    with pytest.raises(ValueError, match="at least one"):
        training.evaluate(model, dataset.val, prepare)


def test_the_penalty_shows_in_the_history_and_changes_nothing():
    plain = replace(SMALL, weight_decay=0.1, epochs=1, batch_size=1000)  # one step
    runs = (replace(plain, show_penalty=s) for s in (False, True))
    hidden, shown = (train(config, dataset=make_dataset(num_val=50)) for config in runs)
    assert torch.equal(weights(hidden), weights(shown))
    torch.manual_seed(0)
    first = models.build(SMALL.model, **SMALL.model_options)
    for split, model in (("train", first), ("val", shown.model)):  # training: before the step
        penalty = 0.05 * sum(p.double().square().sum().item() for p in model.parameters())
        losses = [result.history[f"{split}_loss"][0] for result in (hidden, shown)]
        assert losses[1] - losses[0] == pytest.approx(penalty, rel=1e-4)


def test_validation_is_read_each_epoch():
    result = train(SMALL, 0, make_dataset(num_val=40))
    assert len(result.history["val_accuracy"]) == len(result.history["val_loss"]) == 2


def test_validation_can_be_left_out_of_the_history_and_changes_nothing():
    with_it, without = (
        train(replace(SMALL, val_history=told), 0, make_dataset(num_val=40))
        for told in (True, False)
    )
    assert set(with_it.history) - set(without.history) == {"val_loss", "val_accuracy"}
    assert torch.equal(weights(with_it), weights(without))


def test_training_images_are_scored_with_dropout_off_and_that_changes_nothing():
    options = {"widths": (48, 16, 10), "dropout": 0.5}
    config = replace(SMALL, model="mlp", model_options=options, measures=())
    with_it, without = (
        train(replace(config, score_training=told), 0, make_dataset()) for told in (True, False)
    )
    assert set(with_it.history) - set(without.history) == {"scored_train_accuracy"}
    assert torch.equal(weights(with_it), weights(without))
    dataset = make_dataset()
    prepare = training.make_prepare(config, dataset)
    at_the_end = training.evaluate(with_it.model, dataset.train, prepare).accuracy
    assert with_it.history["scored_train_accuracy"][-1] == at_the_end


def test_standardising_uses_the_training_split():
    dataset = make_dataset()
    config = replace(SMALL, preprocess="standardise", precision="fp64")
    prepare = training.make_prepare(config, dataset)
    train_inputs = prepare(dataset.train.inputs)
    torch.testing.assert_close(train_inputs.mean(0), torch.zeros(48, dtype=torch.float64))
    torch.testing.assert_close(train_inputs.std(0), torch.ones(48, dtype=torch.float64))
    expected = (dataset.test.inputs - dataset.train.inputs.mean(0)) / dataset.train.inputs.std(0)
    torch.testing.assert_close(prepare(dataset.test.inputs).float(), expected, rtol=1e-4, atol=1e-5)


def test_what_never_changes_is_only_centred():
    dataset = make_dataset()
    inputs = dataset.train.inputs.clone()
    inputs[:, 3] = 7.0
    dataset = replace(dataset, train=Split(inputs, dataset.train.targets))
    prepare = training.make_prepare(replace(SMALL, preprocess="standardise"), dataset)
    assert torch.equal(prepare(inputs)[:, 3], torch.zeros(len(inputs)))


def test_images_are_taken_to_0_1_then_scaled():
    dataset = make_images()
    prepare = training.make_prepare(TrainConfig(input_scale=256.0), dataset)
    assert torch.equal(prepare(dataset.train.inputs), dataset.train.inputs.float() / 255 * 256)


def test_images_standardised_have_mean_0_and_std_1_per_channel():
    dataset = make_images()
    prepare = training.make_prepare(TrainConfig(preprocess="standardise"), dataset)
    x = prepare(dataset.train.inputs)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_whitened_inputs_have_the_identity_as_covariance_and_stay_close_to_what_they_were():
    dataset = make_dataset(2000)
    mixed = Split(dataset.train.inputs @ torch.randn(48, 48), dataset.train.targets)
    dataset = replace(dataset, train=mixed)
    config = replace(SMALL, preprocess="whiten", whiten_eps=0.0, precision="fp64")
    x = training.make_prepare(config, dataset)(mixed.inputs)
    torch.testing.assert_close(x.T @ x / 2000, torch.eye(48).double(), rtol=0, atol=1e-6)
    centred = mixed.inputs.double() - mixed.inputs.double().mean(0)
    mixing = torch.linalg.lstsq(centred, x).solution
    torch.testing.assert_close(mixing, mixing.T, rtol=0, atol=1e-6)  # ZCA: symmetric, no rotation
    assert torch.linalg.eigvalsh(mixing).min() > 0
    images = make_images()
    for one in (images.train.inputs, images.test.inputs[:3]):
        prepare = training.make_prepare(TrainConfig(preprocess="whiten"), images)
        assert prepare(one).shape == one.shape


def test_statistics_of_all_leak_the_test_inputs():
    dataset = make_dataset()
    config = replace(SMALL, preprocess="centre", statistics_of="all", precision="fp64")
    prepare = training.make_prepare(config, dataset)
    everything = torch.cat([dataset.train.inputs, dataset.test.inputs]).double()
    torch.testing.assert_close(prepare(everything).mean(0), torch.zeros(48).double())


@pytest.mark.parametrize(
    "name, by_hand",
    [
        ("tanh", lambda x: x.tanh()),
        ("log", lambda x: (1 + x).log()),
        ("asinh", lambda x: (x + (x * x + 1).sqrt()).log()),
        ("clip", lambda x: x.clamp(-1, 1)),
    ],
)
def test_a_transform_squashes_scaled_inputs_before_the_statistics(name, by_hand):
    dataset = make_dataset()
    positive = Split(dataset.train.inputs.abs() * 1e8, dataset.train.targets)
    dataset = replace(dataset, train=positive)
    config = replace(
        SMALL, transform=name, transform_scale=1e7, preprocess="centre", precision="fp64"
    )
    x = training.make_prepare(config, dataset)(positive.inputs)
    expected = by_hand(positive.inputs.double() / 1e7)
    torch.testing.assert_close(x, expected - expected.mean(0), rtol=1e-9, atol=1e-9)


def test_a_transform_refuses_stored_images():
    with pytest.raises(ValueError, match="transform is 'tanh'; it needs a task with float inputs"):
        train(TrainConfig(transform="tanh", epochs=1), 0, make_images())


@pytest.mark.parametrize(
    "loss, of_error", [("one_hot_l2", torch.square), ("one_hot_l1", torch.abs)]
)
def test_classes_can_be_fitted_as_one_hot_rows(loss, of_error):
    config = replace(SMALL, loss=loss, epochs=3)
    dataset = make_dataset(200)
    result = train(config, 0, dataset)
    assert result.history["train_loss"][-1] < result.history["train_loss"][0]
    assert "train_accuracy" in result.history
    prepare = training.make_prepare(config, dataset)
    found = training.evaluate(result.model, dataset.test, prepare, loss_fn=training.LOSSES[loss])
    outputs, classes = result.model(dataset.test.inputs), dataset.test.targets
    rows = torch.eye(outputs.shape[1])[classes]
    assert found.loss == pytest.approx(of_error(outputs - rows).sum(dim=1).mean().item(), rel=1e-5)
    mean = training.LOSSES[loss](outputs, classes).item()
    assert mean == pytest.approx(found.loss, rel=1e-5) and found.accuracy is not None


def make_regression(num_train: int = 200) -> Dataset:
    dataset = make_dataset(num_train)
    splits = {
        name: Split(split.inputs, split.inputs[:, :2] * 3)
        for name, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    }
    return replace(dataset, **splits)


@pytest.mark.parametrize(
    "loss, of_error",
    [
        ("mse", lambda e: e.square().mean()),
        ("l1", lambda e: e.abs().mean()),
        ("huber", lambda e: torch.where(e.abs() < 1, e.square() / 2, e.abs() - 0.5).mean()),
    ],
)
def test_a_regression_has_its_loss_and_no_accuracy(loss, of_error):
    options = {"widths": (48, 16, 2)}
    config = replace(SMALL, model_options=options, loss=loss, lr=0.02, epochs=30, probe_until=9)
    dataset = make_regression()
    result = train(config, 0, dataset)
    assert result.history["train_loss"][-1] < 0.5 * result.history["train_loss"][0]
    assert set(result.history) == {"epoch", "train_loss"} and "accuracy" not in result.probes
    prepare = training.make_prepare(config, dataset)
    found = training.evaluate(result.model, dataset.test, prepare, loss_fn=training.LOSSES[loss])
    errors = result.model(dataset.test.inputs) - dataset.test.targets
    assert found.loss == pytest.approx(of_error(errors).item(), rel=1e-5)
    assert found.accuracy is None


def test_a_regression_refuses_flat_targets():
    dataset = make_regression()
    flat = Split(dataset.train.inputs, dataset.train.targets[:, 0])
    with pytest.raises(ValueError, match=r"targets has shape \(200,\); a regression needs"):
        train(replace(SMALL, loss="mse"), 0, replace(dataset, train=flat))


def test_a_forgotten_state_is_that_of_a_new_optimiser():
    config = replace(SMALL, optimizer="adam", lr=0.01, epochs=2, forget_at=1)
    kept, lost = train(replace(config, forget_at=0)), train(config)
    assert not torch.equal(weights(kept), weights(lost))
    first = train(replace(config, epochs=1, forget_at=0))
    assert torch.equal(weights(train(replace(config, epochs=1))), weights(first))
    dataset, order = make_dataset(), torch.Generator().manual_seed(0)
    torch.randperm(200, generator=order)  # the first epoch's
    optimizer = training.make_optimizer(config, first.model)
    for chosen in torch.randperm(200, generator=order).split(32):
        loss = F.cross_entropy(
            first.model(dataset.train.inputs[chosen]), dataset.train.targets[chosen]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(weights(lost), weights(first))


@pytest.mark.parametrize("num_steps", [5, 10, 630])
def test_one_cycle_has_the_learning_rates_of_pytorch(num_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=num_steps, cycle_momentum=False
    )
    expected = []
    for _ in range(num_steps):
        expected += cycle.get_last_lr()
        optimizer.step()
        if len(expected) < num_steps:
            cycle.step()
    found = [training.one_cycle(step, num_steps) for step in range(num_steps)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_seed_draws_its_own_values_and_always_the_same():
    drawn = {"lr": (0.01, 0.03, 0.1), "batch_size": (16, 32), "schedule": ("constant", "linear")}
    config = replace(SMALL, drawn=drawn)
    found = [training.settled(config, seed) for seed in range(60)]
    assert found == [training.settled(config, seed) for seed in range(60)]
    for name, choices in drawn.items():
        assert {getattr(one, name) for one in found} == set(choices)
    assert {one.drawn == {} and one.momentum == SMALL.momentum for one in found} == {True}
    assert found[3] != found[4] and training.settled(SMALL, 3) == SMALL
    assert config.plain()["drawn"]["batch_size"] == [16, 32] and "drawn" not in SMALL.plain()


def test_a_drawn_run_is_the_run_of_what_was_drawn():
    config = replace(SMALL, drawn={"lr": (0.01, 0.03, 0.1), "batch_size": (16, 32)})
    assert torch.equal(weights(train(config, 3)), weights(train(training.settled(config, 3), 3)))


@pytest.mark.parametrize("drawn", [{"model": ("mlp", "small_cnn")}, {"lr": ()}])
def test_what_cannot_be_drawn_is_refused(drawn):
    with pytest.raises(ValueError, match="give choices of"):
        train(replace(SMALL, drawn=drawn))


@pytest.mark.parametrize(
    "name, factors", [("early_drop", [1] * 2 + [0.1] * 8), ("late_drop", [1] * 9 + [0.1])]
)
def test_a_drop_comes_once_and_stays(name, factors):
    assert [training.SCHEDULES[name](step, 10) for step in range(10)] == factors


def test_drops_and_decay_count_steps_whatever_the_length_of_the_run():
    early = training.SCHEDULES["drops_300_3000"]
    assert [early(step, 10**6) for step in (299, 300, 2999)] == [1.0, 0.1, 0.1]
    assert early(3000, 5) == pytest.approx(0.01)
    assert training.SCHEDULES["drops_2000_5000"](1999, 10) == 1.0
    assert training.SCHEDULES["decay_0.9995"](2000, 10) == pytest.approx(math.exp(-1), rel=1e-3)
    assert training.SCHEDULES["decay_0.999995"](2000, 10) == pytest.approx(0.99, rel=1e-3)


def test_the_losses_of_the_first_step_and_of_the_last_ones_are_kept():
    config = replace(SMALL, epochs=3, batch_size=20, last_losses=4)  # ten steps an epoch
    assert train(replace(config, last_losses=0)).step_losses == []
    every = train(replace(config, last_losses=29))
    assert len(every.step_losses) == 30
    assert train(config).step_losses == [every.step_losses[0], *every.step_losses[-4:]]
    for epoch, mean in enumerate(every.history["train_loss"]):
        assert sum(every.step_losses[10 * epoch :][:10]) / 10 == pytest.approx(mean)


def test_augmentation_changes_the_run_and_only_where_it_is_on():
    config = TrainConfig(epochs=1, batch_size=32)
    ways = False, True, "flip", "crop_2_and_flip"
    ends = [weights(train(replace(config, augment=way), 0, make_images())) for way in ways]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(ends, 2))
    with pytest.raises(ValueError, match="augment is 'mixup'; known: True, flip, "):
        train(replace(config, augment="mixup"), 0, make_images())


def test_divergence_is_a_result():
    result = train(replace(SMALL, lr=1e20, epochs=5))
    assert result.diverged_step is not None
    assert result.diverged_step < 7 * len(result.history["epoch"])
    assert len(result.history["epoch"]) < 5
    assert train().diverged_step is None


def test_probes_read_and_do_not_touch():
    probed = train(replace(SMALL, probe_until=5))
    assert probed.probes["step"] == [0, 1, 2, 3, 4, 5]
    assert torch.equal(weights(probed), weights(train()))
    assert probed.probes["loss"][0] == pytest.approx(math.log(10), abs=0.3)
    assert probed.probes["grad_norm"][0] > 0
    assert train().probes == {}


def test_max_norm_holds_after_training():
    config = TrainConfig(model="stuck_cnn", optimizer="adam", lr=0.1, epochs=1, batch_size=32)
    model = train(config, 0, make_images()).model
    limited = [module for module in model.modules() if hasattr(module, "max_norm")]
    assert len(limited) == 2
    for module in limited:
        assert module.weight.norm(dim=1).max().item() <= module.max_norm * (1 + 1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    config = TrainConfig(
        model="stuck_cnn", optimizer=optimizer, lr=0.001, epochs=3, batch_size=16,
        augment=True, schedule="cosine", num_val=0, probe_until=5, last_losses=3,
    )  # fmt: skip
    dataset, path = make_images(32), tmp_path / "run.pt"
    whole = train(config, 1, dataset)

    original = training._Run.train_epoch

    def stop_in_second(self, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        original(self, epoch)

    monkeypatch.setattr(training._Run, "train_epoch", stop_in_second)
    with pytest.raises(KeyboardInterrupt):
        train(config, 1, dataset, checkpoint=path)
    monkeypatch.setattr(training._Run, "train_epoch", original)
    assert path.exists()
    resumed = train(config, 1, dataset, checkpoint=path)
    assert torch.equal(weights(resumed), weights(whole))
    assert (resumed.history, resumed.probes) == (whole.history, whole.probes)
    assert not path.exists()


def test_precisions():
    assert weights(train(replace(SMALL, precision="fp64"))).dtype == torch.float64
    assert weights(train(replace(SMALL, precision="bf16"))).dtype == torch.float32


@pytest.mark.parametrize(
    "has, chosen",
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_f": True}, "fp32"),
        (None, "fp32"),
    ],
)
def test_auto_precision_is_bf16_where_the_processor_has_it(monkeypatch, has, chosen):
    if has is None:  # an older torch cannot say
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert training.precision_on(torch.device("cpu"), "auto") == chosen
    assert training.precision_on(torch.device("cpu"), "fp64") == "fp64"
    by_name = train(replace(SMALL, precision=chosen))
    assert torch.equal(weights(train(replace(SMALL, precision="auto"))), weights(by_name))


def test_plain_holds_the_difference_from_the_defaults():
    assert TrainConfig().plain() == {}
    assert replace(TrainConfig(), lr=0.1, init_scale=(1.0, 2.0)).plain() == {
        "lr": 0.1,
        "init_scale": [1.0, 2.0],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; known: 'sgd'"),
        ({"schedule": "step"}, "schedule is 'step'; known: constant"),
        ({"preprocess": "zca"}, "preprocess is 'zca'; known: none, centre"),
        ({"statistics_of": "test"}, "statistics_of is 'test'; known: train, all"),
        ({"transform": "sqrt"}, "transform is 'sqrt'; known: tanh"),
        ({"loss": "hinge"}, "loss is 'hinge'; known: cross_entropy"),
        ({"loss": "mse"}, "loss is 'mse', but the task's targets are torch.int64"),
        ({"precision": "fp8"}, "precision is 'fp8'; use 'fp32', 'bf16', 'fp64' or"),
        ({"lr_scale": (1.0,)}, "lr_scale has 1 factors, but the net has 2 weight layers"),
        ({"model": "resnet"}, "resnet"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        train(replace(SMALL, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="no CUDA device; use 'cpu'"):
        train(device="cuda")
    with pytest.raises(ValueError, match="device is 'cuda:1'; .* variable CUDA_VISIBLE_DEVICES"):
        train(device="cuda:1")


def test_probe_steps_begin_at_0_and_end_at_last():
    steps = training.probe_steps(4000)
    assert steps[:3] == (0, 1, 2) and steps[-1] == 4000 and len(steps) <= 60


# --- doses ------------------------------------------------------------------------------------

DOSED = replace(SMALL, epochs=3, lr_doses=((0, 0.1), (2, 0.5)))


def test_a_dose_is_a_multiple_of_the_stability_limit():
    run = training._Run(DOSED, 0, make_dataset(), torch.device("cpu"))
    for epoch, dose in ((0, 0.1), (1, 0.1), (2, 0.5)):
        run.train_epoch(epoch)
        lr = run.optimizer.param_groups[0]["lr"]
        assert lr == pytest.approx(dose * 2 * 1.9 / run.sharpness[-1])
    assert len(run.sharpness) == 2 and run.sharpness[0] != run.sharpness[1]


def test_a_run_resumes_across_a_dose(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    torch.manual_seed(0)
    run = training._Run(DOSED, 0, make_dataset(), torch.device("cpu"))
    run.train_epoch(0)
    run.save(tmp_path / "state.pt")
    whole = train(DOSED)
    again = train(DOSED, checkpoint=tmp_path / "state.pt")
    assert again.sharpness == whole.sharpness and again.history == whole.history


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": "adam"},
        {"nesterov": True},
        {"dampening": 0.1},
        {"lr_scale": (1.0, 0.5)},
        {"schedule": "cosine"},
    ],
)
def test_doses_are_refused_where_the_limit_is_another(other):
    with pytest.raises(ValueError, match="doses need SGD with a constant lr"):
        train(replace(DOSED, **other))
