"""Replicas end where each run would end alone."""

from dataclasses import replace

import pytest
import torch

from course_lib import graphs, models, training
from course_lib.data import Dataset, Split
from course_lib.replicas import can_share, train_replicas
from course_lib.training import TrainConfig

NET = TrainConfig(
    model="mlp", model_options={"widths": (48, 32, 10), "bias": False}, batch_size=32, epochs=4
)
VARIANTS = {
    "as it is": NET,
    "lr": replace(NET, lr=0.1),
    "no momentum": replace(NET, momentum=0.0),
    "dampening": replace(NET, momentum=0.5, dampening=0.5),
    "weight decay": replace(NET, weight_decay=0.01, weight_decay_scale=(2.0, 1.0)),
    "scaled": training.at_input_scale(NET, 3.0),
    "start": replace(NET, init_scale=(0.5, 2.0), lr_scale=(1.0, 0.1)),
    "diverges": replace(NET, lr=1e4, input_scale=1e3),
}


def make_dataset(count: int = 330) -> Dataset:  # the last batch is short
    inputs = torch.rand(count, 48, generator=torch.Generator().manual_seed(0))
    split = Split(inputs, (inputs[:, :10] + 0.1 * inputs[:, 10:20]).argmax(dim=1))
    return Dataset(
        "made up", "0" * 16, train=split, val=Split(inputs[:0], split.targets[:0]), test=split
    )


DATASET = make_dataset()


@pytest.fixture(scope="module")
def together():
    return dict(zip(VARIANTS, train_replicas(list(VARIANTS.values()), 5, DATASET), strict=True))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "diverges"])
def test_a_replica_ends_where_it_would_alone(together, name):
    ours, alone = together[name], training.train(VARIANTS[name], 5, DATASET)
    assert ours.history["epoch"] == alone.history["epoch"]
    assert ours.history["train_loss"] == pytest.approx(alone.history["train_loss"], rel=1e-5)
    one = 1.5 / len(DATASET.train)  # an example on the edge may fall to either side
    assert ours.history["train_accuracy"] == pytest.approx(alone.history["train_accuracy"], abs=one)
    for a, b in zip(ours.model.parameters(), alone.model.parameters(), strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_one_that_diverges_is_cut_off_and_harms_no_other(together):
    alone = training.train(VARIANTS["diverges"], 5, DATASET)
    assert alone.diverged_step is not None
    assert together["diverges"].history["epoch"] == alone.history["epoch"]
    assert together["diverges"].diverged_step == alone.diverged_step
    pairs = zip(together["diverges"].model.parameters(), alone.model.parameters(), strict=True)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)
    assert all(together[name].diverged_step is None for name in VARIANTS if name != "diverges")


def test_a_recorded_step_trains_them_as_well(together, monkeypatch):
    scheduled = replace(NET, schedule="cosine")
    (plain,) = train_replicas([scheduled], 5, DATASET)
    monkeypatch.setattr(training, "RECORDINGS", {"cpu": graphs.rehearse})
    configs = [config for name, config in VARIANTS.items() if name != "diverges"]
    for name, ours in zip(VARIANTS, train_replicas(configs, 5, DATASET), strict=False):
        assert ours.history == together[name].history
    assert train_replicas([scheduled], 5, DATASET)[0].history == plain.history


def test_a_schedule_and_preprocessing_are_kept():
    config = replace(NET, schedule="cosine", preprocess="standardise")
    (ours,), alone = train_replicas([config], 1, DATASET), training.train(config, 1, DATASET)
    assert ours.history["train_loss"] == pytest.approx(alone.history["train_loss"], rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        replace(NET, optimizer="adam"),
        replace(NET, nesterov=True),
        replace(NET, probe_until=10),
        replace(NET, precision="fp64"),
        replace(NET, model_options={"widths": (48, 32, 10)}),
        replace(NET, model_options={"widths": (48, 32, 16, 10), "bias": False}),
        replace(NET, model="small_cnn", model_options={}),
    ],
)
def test_what_cannot_be_a_replica_is_refused(other):
    assert not can_share(other)
    with pytest.raises(ValueError, match="configs holds .*, which cannot be a replica"):
        train_replicas([NET, other], 0, DATASET)


def test_nets_of_two_shapes_are_refused():
    wider = replace(NET, model_options={"widths": (48, 64, 10), "bias": False})
    with pytest.raises(ValueError, match="differ in more than .*; train them apart"):
        train_replicas([NET, wider], 0, DATASET)


def test_global_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train_replicas([replace(NET, epochs=1)], 0, DATASET)
    assert torch.rand(1) == expected


def test_the_puzzles_net_can_be_a_replica():
    assert can_share(TrainConfig(input_scale=255.0))
    assert models.build("scaling_mlp")[1].weight.shape == (300, 3072)
