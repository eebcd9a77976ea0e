"""The scaling theorem: other inputs, other settings, the same function, to the bit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import models, training
from course_lib.data import Dataset, Split
from course_lib.training import TrainConfig, at_input_scale

NET = TrainConfig(model="mlp", model_options={"widths": (48, 32, 10), "bias": False}, batch_size=32)
OPTIMISERS = {
    "SGD": replace(NET, momentum=0.0),
    "momentum": replace(NET, momentum=0.9),
    "dampening": replace(NET, momentum=0.9, dampening=0.5),
    "Nesterov": replace(NET, momentum=0.9, nesterov=True),
    "weight decay": replace(NET, weight_decay=0.01),
    "Adam": replace(NET, optimizer="adam", lr=1e-3, weight_decay=0.01),
    "AdamW": replace(NET, optimizer="adamw", lr=1e-3, weight_decay=0.01),
    "biases": replace(NET, model_options={"widths": (48, 32, 10)}),
    "batch norm": replace(NET, model_options={"widths": (48, 32, 10), "batch_norm": True}),
    "preprocessed": replace(NET, preprocess="standardise"),
}


def make_dataset(num_train: int = 1600) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(num_train, 48, generator=generator)
    split = Split(inputs, (inputs[:, :10] + 0.1 * inputs[:, 10:20]).argmax(dim=1))
    empty = Split(inputs[:0], split.targets[:0])
    return Dataset("made up", "0" * 16, train=split, val=empty, test=split)


DATASET = make_dataset()  # 50 steps an epoch


def final_weights(config: TrainConfig) -> list[torch.Tensor]:
    """All parameters, the first weight multiplied back by the factor on the inputs."""
    model = training.train(config, 0, DATASET).model
    first = models.weight_layers(model)[0].weight
    return [p.detach() * (config.input_scale if p is first else 1.0) for p in model.parameters()]


def assert_close(config: TrainConfig, other: TrainConfig) -> None:
    for a, b in zip(final_weights(config), final_weights(other), strict=True):
        assert (a - b).norm() <= 1e-9 * a.norm()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_powers_of_two_are_equal_to_the_bit(name):
    config = replace(OPTIMISERS[name], epochs=20)  # 1,000 steps
    ours = final_weights(config)
    for factor in (2.0**-8, 2.0**8):
        scaled = final_weights(at_input_scale(config, factor))
        assert all(torch.equal(a, b) for a, b in zip(ours, scaled, strict=True)), factor


@pytest.mark.parametrize("name", OPTIMISERS)
def test_255_is_equal_to_rounding_in_float64(name):
    config = replace(OPTIMISERS[name], epochs=4, precision="fp64")
    assert_close(config, at_input_scale(config, 255.0))


@settings(max_examples=20, deadline=None)
@given(
    factor=st.floats(1e-3, 1e3),
    optimizer=st.sampled_from(["sgd", "adam", "adamw"]),
    momentum=st.floats(0.0, 0.95),
    weight_decay=st.floats(0.0, 0.1),
)
def test_any_factor_and_setting(factor, optimizer, momentum, weight_decay):
    config = replace(
        NET, optimizer=optimizer, lr=1e-3, momentum=momentum, weight_decay=weight_decay,
        epochs=1, precision="fp64",
    )  # fmt: skip
    assert_close(config, at_input_scale(config, factor))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_scale": (1 / 256, 1.0)},  # lr / s where SGD needs lr / s²
        {"weight_decay_scale": (1.0, 1.0)},  # weight decay left alone
        {"init_scale": (1.0, 1.0)},  # initial weights left alone
    ],
)
def test_a_wrong_power_is_not_equal(wrong):
    config = replace(NET, epochs=2, weight_decay=0.01)
    ours = final_weights(config)
    scaled = final_weights(replace(at_input_scale(config, 256.0), **wrong))
    assert not all(torch.equal(a, b) for a, b in zip(ours, scaled, strict=True))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Adam", {"lr_scale": (1 / 256**2, 1.0)}),  # SGD's power
        ("Adam", {"weight_decay_scale": (256.0, 1.0)}),  # AdamW's power
        ("AdamW", {"weight_decay_scale": (256.0**2, 1.0)}),  # Adam's power
    ],
)
def test_a_power_of_another_optimiser_is_far_off(name, wrong):
    config = replace(OPTIMISERS[name], epochs=4, precision="fp64")
    ours = final_weights(config)
    scaled = final_weights(replace(at_input_scale(config, 256.0), **wrong))
    assert max(((a - b).norm() / a.norm()).item() for a, b in zip(ours, scaled, strict=True)) > 1e-3


@pytest.mark.parametrize("depth", [2, 3])
def test_the_factor_can_be_shared_by_all_layers_of_a_relu_net(depth):
    widths = (48, *[32] * (depth - 1), 10)
    config = replace(NET, epochs=20, model_options={"widths": widths, "bias": False})
    c = 2.0**4  # each layer's share of s = c ** depth
    shared = replace(
        config, input_scale=c**depth, init_scale=(1 / c,) * depth, lr=config.lr / c**2,
        weight_decay=config.weight_decay * c**2,
    )  # fmt: skip
    ours = training.train(config, 0, DATASET).model.parameters()
    theirs = training.train(shared, 0, DATASET).model.parameters()
    assert all(torch.equal(a, b * c) for a, b in zip(ours, theirs, strict=True))


def test_the_map_composes():
    config = replace(NET, weight_decay=0.01)
    assert at_input_scale(at_input_scale(config, 2.0), 4.0) == at_input_scale(config, 8.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: at_input_scale(replace(NET, optimizer="adadelta"), 2.0), "is 'adadelta'"),
        (lambda: at_input_scale(NET, 0.0), "factor is 0.0; give a number above 0"),
    ],
)
def test_what_has_no_map_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
