"""The tasks that nets are trained on, and the ways in which they are spoilt."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import compute, made_up

from course_lib import data, tasks
from course_lib.experiments import Study
from course_lib.training import TrainConfig


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
