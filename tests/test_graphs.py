"""Recorded steps, rehearsed on the CPU: the same training, through the same buffers."""

from dataclasses import replace

import pytest
import torch

from course_lib import graphs, tasks, training
from course_lib.training import TrainConfig

SMALL = TrainConfig(
    model="mlp", model_options={"widths": (3072, 8, 10)}, num_train=70, num_test=20,
    batch_size=20, epochs=3, lr=2.0**-6,  # a power of two: the same as float32 and float64
)  # fmt: skip


@pytest.fixture
def rehearsed(monkeypatch):
    monkeypatch.setattr(training, "RECORDINGS", {"cpu": graphs.rehearse})


def trained(config: TrainConfig) -> training.Result:
    return training.train(config, 0, tasks.load("images", num_train=70, num_test=20))


def weights(result: training.Result) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in result.model.parameters()])


@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": "linear"}, {"lr_scale": (0.5, 1.0)}, {"model_options": {
        "widths": (3072, 8, 10), "batch_norm": True, "dropout": 0.5}}],
)  # fmt: skip
def test_a_replayed_step_trains_like_the_step_itself(changes, monkeypatch):
    config = replace(SMALL, **changes)
    plain = trained(config)
    monkeypatch.setattr(training, "RECORDINGS", {"cpu": graphs.rehearse})
    replayed = trained(config)
    assert replayed.history["train_accuracy"] == plain.history["train_accuracy"]
    assert torch.allclose(weights(replayed), weights(plain), rtol=1e-5, atol=1e-7)


def test_without_a_schedule_it_is_equal_to_the_bit(rehearsed, monkeypatch):
    replayed = weights(trained(SMALL))
    monkeypatch.setattr(training, "RECORDINGS", {})
    assert torch.equal(replayed, weights(trained(SMALL)))


def test_a_recording_is_made_once_and_another_shape_goes_by_it():
    made, stepped = [], []

    def step(inputs, targets):
        stepped.append(len(inputs))
        return inputs.sum(), targets.sum()

    def record(step, inputs, targets):
        made.append(inputs)
        return graphs.rehearse(step, inputs, targets)

    graphed = graphs.Graphed(step, record)
    for size in (4, 4, 4, 2, 4, 4, 2):
        loss, count = graphed(torch.full((size,), 1.5), torch.ones(size, dtype=torch.int64))
        assert (loss.item(), count.item()) == (1.5 * size, size)
    assert len(made) == 1 and stepped == [4, 4, 4, 2, 4, 4, 2]


def test_doses_and_a_lost_state_are_not_recorded(rehearsed):
    base = tasks.load("images", num_train=70, num_test=20)
    for changes in ({"lr_doses": ((0, 0.5),)}, {"forget_at": 1}):
        run = training._Run(replace(SMALL, **changes), 0, base, torch.device("cpu"))
        assert not isinstance(run.step, graphs.Graphed)


def test_a_checkpoint_is_taken_up_by_a_recorded_run(rehearsed, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    base, path = tasks.load("images", num_train=70, num_test=20), tmp_path / "run.pt"
    whole = training.train(SMALL, 0, base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        run = training._Run(SMALL, 0, base, torch.device("cpu"))
        run.train_epoch(0)
        run.save(path)
    resumed = training.train(SMALL, 0, base, checkpoint=path)
    assert torch.equal(weights(resumed), weights(whole))
