"""The speed-run: every trick does what it says, on a handful of stand-in images."""

import math
from dataclasses import replace

import pytest
import torch

from course_lib import data, experiments, speedrun
from course_lib.speedrun import Recipe

TINY = Recipe(epochs=2, batch_size=26, widths=(8, 8, 8))


@pytest.fixture(scope="module")
def dataset():
    return data.load_standin(52, 20)


@pytest.fixture(scope="module")
def images():
    return torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_first_layer_whitens_patches(images):
    mixed = torch.einsum("oc,nchw->nohw", torch.tensor([[1.0, 0, 0], [2, 1, 0], [0, 3, 1]]), images)
    filters = speedrun.whitening_filters(mixed, eps=0.0)
    outputs = torch.nn.functional.conv2d(mixed, filters).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(
        outputs @ outputs.T / outputs.shape[1], torch.eye(12), rtol=0, atol=1e-3
    )
    assert not speedrun.build(TINY, images)[0].weight.requires_grad


def test_a_convolution_starts_as_a_copy(images):
    inputs = images[:, :3]
    same = speedrun.Conv(3, 5, identity=True)(inputs)
    torch.testing.assert_close(same[:, :3], inputs)
    assert not torch.allclose(speedrun.Conv(3, 5, identity=False)(inputs)[:, :3], inputs)


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("width", [64, 128])
def test_it_starts_by_guessing_and_its_last_layer_learns(images, width, muon):
    torch.manual_seed(0)
    recipe = Recipe(widths=(8, 8, width), muon=muon)
    model = speedrun.build(recipe, images)
    targets = torch.arange(40) % 10
    loss = torch.nn.functional.cross_entropy(model(images), targets)
    assert abs(loss.item() - math.log(10)) < 0.1
    before = model[-1].weight.detach().clone()
    loss.backward()
    speedrun.optimizers(recipe, model)[0].step()
    assert (model[-1].weight - before).norm() > 0.3 * before.norm()


def test_muon_keeps_its_filters_at_one_size(images):
    model = speedrun.build(TINY, images)
    muon = speedrun.optimizers(TINY, model)[1]
    muon.param_groups[0]["lr"] = 0.0
    for weight in muon.param_groups[0]["params"]:
        weight.grad = torch.ones_like(weight)
        weight.data.mul_(7)
    muon.step()
    for weight in muon.param_groups[0]["params"]:
        assert weight.square().sum(dim=1).mean().item() == pytest.approx(1)


def test_every_other_epoch_mirrors_the_other_images(images):
    start = torch.arange(40) % 2 == 0
    still = replace(TINY, shift=0)
    even, odd = (speedrun.augment(images, still, epoch, start) for epoch in (0, 1))
    torch.testing.assert_close(even[start], images[start].flip(3))
    torch.testing.assert_close(even[~start], images[~start])
    torch.testing.assert_close(odd, even.flip(3))


def test_shifts_reach_as_far_as_they_may(images):
    torch.manual_seed(0)
    plain = torch.zeros(40, dtype=torch.bool)
    moved = speedrun.augment(images, replace(TINY, shift=2), 0, plain)
    inner = moved[:, :, 2:-2, 2:-2]
    places = {
        (down, right)
        for n in range(40)
        for down in range(5)
        for right in range(5)
        if torch.equal(inner[n], images[n, :, down : down + 28, right : right + 28])
    }
    assert len(places) > 15 and {down for down, _ in places} == set(range(5))


def test_the_rate_rises_and_falls_to_nothing():
    rates = [speedrun.rate(step, 100) for step in range(101)]
    assert rates[0] == 0.2 and max(rates) == rates[20] == 1 and rates[100] == 0
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_every_parameter_is_trained_once(images):
    for recipe in (TINY, replace(TINY, muon=False, whiten=False, fast_shifts=False)):
        model = speedrun.build(recipe, images)
        trained = [
            parameter
            for tool in speedrun.optimizers(recipe, model)
            for group in tool.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]
        assert len({id(p) for p in trained}) == len(trained)
        assert {id(p) for p in trained} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "switch", ["whiten", "identity", "muon", "fast_shifts", "alternate", "cycle", "views"]
)
def test_every_trick_can_be_switched_off(dataset, switch):
    with_it, without = (
        speedrun.train(replace(TINY, **{switch: on}), 0, dataset) for on in (True, False)
    )
    if switch == "views":  # seen at the end alone
        assert with_it["losses"] == without["losses"]
    else:
        assert with_it["losses"] != without["losses"]


def test_the_same_seed_gives_the_same_bits(dataset):
    runs = [speedrun.train(TINY, seed, dataset) for seed in (0, 0, 1)]
    assert runs[0]["losses"] == runs[1]["losses"] != runs[2]["losses"]
    assert len(runs[0]["losses"]) == 4 and runs[0]["losses"][-1] < runs[0]["losses"][0]
    assert runs[0]["minutes"] > 0


def test_validation_images_judge_where_there_are_some(dataset, monkeypatch):
    monkeypatch.setattr(experiments.tasks, "default_base", lambda: dataset)
    held = experiments.run(replace(TINY, num_train=32, num_val=20), 0)
    assert set(held["metrics"]) == {"val_accuracy", "minutes"}
    assert held["config"]["speedrun"]["num_val"] == 20
    assert "test_accuracy" in experiments.run(replace(TINY, epochs=1), 0)["metrics"]


def test_only_another_task_than_the_usual_one_is_written_down():
    usual, other = Recipe().plain(), Recipe(task="images_jpeg50").plain()
    assert other["speedrun"] == {**usual["speedrun"], "task": "images_jpeg50"}
    assert "task" not in usual["speedrun"]


def test_floats_are_refused(dataset):
    floats = data.Split(torch.rand(4, 3, 32, 32), dataset.train.targets[:4])
    with pytest.raises(ValueError, match="use uint8"):
        speedrun.train(TINY, 0, replace(dataset, train=floats))


def test_the_precision_is_that_of_training(dataset):
    with pytest.raises(ValueError, match="precision is 'int8'"):
        speedrun.train(TINY, 0, dataset, precision="int8")
