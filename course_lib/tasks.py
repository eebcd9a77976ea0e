"""What a net is asked to learn, by name.

An arm of a study names its task, so that a record can say what was learned in one word. Image tasks
start from a base dataset: CIFAR-10 where it is present, the stand-in where it is not.
"""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib import data
from course_lib.data import Dataset, Split, known

PCA_DIMENSIONS = 256
LARGEST = 140_000_000.0  # the range of inputs that the article on tips speaks of


def images(base: Dataset) -> Dataset:
    """The images as they come: uint8 (N, 3, 32, 32)."""
    return base


def _reshaped(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).reshape(images.shape)


def _side_by_side(images: Tensor) -> Tensor:
    return images.transpose(1, 2).reshape(images.shape)


def _scattered(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))
    return flat[:, order].view(images.shape)


def _misread(images: Tensor) -> Tensor:
    num, channels, height, width = images.shape
    return images.reshape(num, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _grey(images: Tensor) -> Tensor:
    mean = images.float().mean(dim=1, keepdim=True).round().to(images.dtype)
    return mean.expand(images.shape).contiguous()


def _stacked_on_axis_1(images: Tensor) -> Tensor:
    num, channels, height, width = images.shape
    film = images.permute(2, 0, 3, 1)  # (H, N, W, C)
    return film.reshape(num, height, width, channels).permute(0, 3, 1, 2).contiguous()


# Slips with the axes of images (N, C, H, W), by name. All but the last move every number of an
# image to one fixed other place; the last fills each image with rows of others.
SLIPS: dict[str, Callable[[Tensor], Tensor]] = {
    "reshaped": _reshaped,  # (N, H, W, C) reshaped, not transposed, to (N, C, H, W)
    "swapped": lambda images: images.transpose(2, 3).contiguous(),  # height and width
    "side_by_side": _side_by_side,  # channels glued to (N, H, C × W), reshaped to (N, C, H, W)
    "misread": _misread,  # (N, C, H, W) taken for (N, H, W, C) by a reshape, then transposed
    "scattered": _scattered,  # in a random order, the same for all images
    "stacked_on_axis_1": _stacked_on_axis_1,  # (H, N, W, C) reshaped to (N, H, W, C)
}

COLOURS: dict[str, Callable[[Tensor], Tensor]] = {  # places stay
    "grey": _grey,  # each channel the mean of all three
    "bgr": lambda images: images.flip(1),  # red and blue exchanged
}


def slipped(slip: str, prepare: Callable[[Dataset], Dataset]) -> Callable[[Dataset], Dataset]:
    """A task: the images of the task `prepare`, all splits, after one of `SLIPS` or `COLOURS`."""
    change = (SLIPS | COLOURS)[slip]

    return lambda base: _map_inputs(prepare(base), change)


def recompressed(quality: int) -> Callable[[Dataset], Dataset]:
    """A task: the images, all splits, saved once more as JPEG of `quality` (1 to 95), by pillow."""
    return lambda base: _map_inputs(base, lambda images: _as_jpeg(images, quality))


def _as_jpeg(images: Tensor, quality: int) -> Tensor:
    import numpy as np
    from PIL import Image

    decoded = np.empty((len(images), 32, 32, 3), dtype=np.uint8)
    for index, pixels in enumerate(images.permute(0, 2, 3, 1).numpy()):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        decoded[index] = np.asarray(Image.open(file))
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous()


def images_pca(base: Dataset) -> Dataset:
    """The first 256 uncentred principal coordinates of the images in [0, 1]: float32 (N, 256).

    A bias-free first layer with isotropic Gaussian weights is, in law, the same net in rotated
    coordinates under SGD, so little is lost but the directions that are dropped, and a run of the
    scaling puzzle's net takes seconds. The axes come from the training images alone.
    """
    flat = data.to_float(base.train.inputs).flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the randomised SVD draws test vectors
        _, _, axes = torch.svd_lowrank(flat, q=PCA_DIMENSIONS, niter=4)
    axes = axes * axes.sum(dim=0).sign()  # an axis's sign is arbitrary: fix it
    return _map_inputs(base, lambda images: data.to_float(images).flatten(1) @ axes)


def images_16(base: Dataset) -> Dataset:
    """The images at half the size: means of 2×2 pixels, rounded, uint8 (N, 3, 16, 16)."""
    return _map_inputs(
        base, lambda images: F.avg_pool2d(images.float(), 2).round_().to(torch.uint8)
    )


def images_8(base: Dataset) -> Dataset:
    """`images_16` at half the size once more: uint8 (N, 3, 8, 8)."""
    return images_16(images_16(base))


def digits(base: Dataset) -> Dataset:
    """Handwritten digits from scikit-learn, 8 × 8 pixels in 17 greys: float32 (N, 1, 8, 8), 0 to 1.

    There are 1,797, shuffled once and dealt out to training, validation and test in turn. Of `base`
    only the sizes count. Raises ValueError where they ask for more, ImportError without
    scikit-learn.
    """
    from sklearn.datasets import load_digits  # only here: it takes most of a second to import

    pixels, labels = load_digits(return_X_y=True)
    sizes = [len(split) for split in (base.train, base.val, base.test)]
    if sum(sizes) > len(labels):
        raise ValueError(
            f"num_train, num_val and num_test are {sizes}, of digits there are {len(labels)}; ask"
            " for fewer"
        )
    inputs = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = order[: sum(sizes)].split(sizes)
    train, val, test = (Split(inputs[part], torch.from_numpy(labels)[part]) for part in parts)
    return replace(base, name="scikit-learn's digits", train=train, val=val, test=test)


def teacher(base: Dataset) -> Dataset:
    """A regression without images: a fixed random net's outputs, with a little noise.

    Inputs float32 (N, 20), standard normal; targets float32 (N, 1) of a 20-64-1 tanh net, mean 0
    and variance about 1, plus noise of standard deviation 0.1. Of `base` only the sizes count.
    """

    def draw(split: Split, seed: int) -> Split:
        inputs = _normal((len(split), 20), seed=seed)
        return Split(inputs, _taught(inputs, seed=seed + 1))

    return _draw_splits(base, draw)


def _taught(inputs: Tensor, *, seed: int) -> Tensor:
    """What a fixed random net of 64 tanh units makes of `inputs` (N, D), noise added: (N, 1)."""
    width = inputs.shape[1]
    first, second = (_normal(shape, seed=k) for k, shape in enumerate([(width, 64), (64, 1)]))
    clean = (inputs @ first / width**0.5).tanh() @ second / 64**0.5 / 0.63
    return clean + 0.1 * _normal((len(inputs), 1), seed=seed)


def heavy_tailed(low: int, high: int) -> Callable[[Dataset], Dataset]:
    """A task: a regression on inputs that span decades, whose targets see those from `low` to
    `high`.

    Inputs float32 (N, 10): 10 to the power of 4 + a standard normal number, so that half of them
    are below 10,000, and none above `LARGEST`. Their logarithms (base 10), cut off below `low` and
    above `high`, are all that the targets depend on: float32 (N, 1) of a fixed random 10-64-1 tanh
    net, mean near 0 and variance near 1, plus noise of standard deviation 0.1. Of `base` only the
    sizes count.
    """
    typical = (4.0 + _normal((100_000,), seed=2)).clamp(low, high)  # the window's mean and spread

    def draw(split: Split, seed: int) -> Split:
        decades = 4.0 + _normal((len(split), 10), seed=seed)
        seen = (decades.clamp(low, high) - typical.mean()) / typical.std()
        return Split((10**decades).clamp(max=LARGEST), _taught(seen, seed=seed + 1))

    return lambda base: _draw_splits(base, draw)


def images_decades(base: Dataset) -> Dataset:
    """`images_16` as raw intensities: a pixel of 0 to 1 becomes 0 to `LARGEST`, evenly in decades.

    float32 (N, 3, 16, 16). log(1 + x) turns them into the images again, up to a factor.
    """
    return _map_inputs(images_16(base), lambda images: _in_decades(images, LARGEST))


def _in_decades(images: Tensor, largest: float) -> Tensor:
    return (data.to_float(images) * math.log1p(largest)).expm1()


SCENE_IMAGES = 50  # distinct training images of `scene`; over them its targets are standardised
SCENE_DECADES = range(9)  # 0: pixels as they are, nearly: 0 to 1
SCENE_SPREAD = 5.0  # their standard deviation: a constant guess costs 25


def scene(decades: int, images: int = SCENE_IMAGES) -> Callable[[Dataset], Dataset]:
    """A task: a regression on images of 8 × 8 pixels whose values span `decades` powers of ten.

    Inputs float32 (N, 3, 8, 8): a pixel of 0 to 1 becomes 0 to 10**`decades`, evenly in decades.
    Targets float32 (N, 1): by how much the lower half of an image was brighter than the upper half
    before that, standardised and times 5. The training split holds its first `images` images again
    and again, so that an epoch on one of them has many steps.
    """

    def task(base: Dataset) -> Dataset:
        small = images_8(base)
        slopes = _slope(small.train)[:SCENE_IMAGES]

        def spread(split: Split) -> Split:
            targets = (_slope(split) - slopes.mean()) / slopes.std() * SCENE_SPREAD
            return Split(_in_decades(split.inputs, 10.0**decades), targets)

        made = _map_splits(small, spread)
        again = torch.arange(len(made.train)) % images
        return replace(made, train=Split(made.train.inputs[again], made.train.targets[again]))

    return task


def _slope(split: Split) -> Tensor:
    """Mean brightness of the lower half minus that of the upper half, of 1: (N, 1)."""
    rows = data.to_float(split.inputs).mean(dim=(1, 3))  # (N, height)
    upper, lower = rows.chunk(2, dim=1)
    return (lower.mean(dim=1) - upper.mean(dim=1))[:, None]


def _draw_splits(base: Dataset, draw: Callable[[Split, int], Split]) -> Dataset:
    """Splits of the sizes of `base`, each drawn from a seed of its own."""
    splits = {"train": base.train, "val": base.val, "test": base.test}
    made = {name: draw(split, 10 * k) for k, (name, split) in enumerate(splits.items(), start=1)}
    return replace(base, name=GENERATED, **made)


def teacher_clipped(base: Dataset) -> Dataset:
    """As `teacher`, its targets halved, raised by 0.5 and cut off at 0 and 1.

    So pixels and saturated sensors come; about a third of the targets are exactly 0 or 1.
    """

    def clip(split: Split) -> Split:
        return replace(split, targets=(0.5 + split.targets / 2).clamp(0.0, 1.0))

    return _map_splits(teacher(base), clip)


OFF_CENTRE = 3.0  # by how much `teacher_off_centre` moves inputs and targets


def teacher_off_centre(base: Dataset) -> Dataset:
    """As `teacher`, each input and each target raised by 3, about three standard deviations."""

    def move(split: Split) -> Split:
        return Split(split.inputs + OFF_CENTRE, split.targets + OFF_CENTRE)

    return _map_splits(teacher(base), move)


def spoilt(
    prepare: Callable[[Dataset], Dataset], spoil: Callable[[Tensor, torch.Generator], Tensor]
) -> Callable[[Dataset], Dataset]:
    """A task: that of `prepare`, its training and validation targets passed through `spoil`, with a
    generator.

    Who has bad targets has them in both. Test targets stay as they are: what a net has learned is
    measured against them.
    """

    def task(base: Dataset) -> Dataset:
        clean = prepare(base)

        def bad(split: Split, seed: int) -> Split:
            generator = torch.Generator().manual_seed(seed)
            return replace(split, targets=spoil(split.targets, generator))

        return replace(clean, train=bad(clean.train, 0), val=bad(clean.val, 1))

    return task


def _some(percent: int, targets: Tensor, generator: torch.Generator) -> Tensor:
    """The places of `percent` of the targets, drawn at random."""
    return torch.randperm(len(targets), generator=generator)[: len(targets) * percent // 100]


def too_high(percent: int, size: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """For `spoilt`: `percent` of the targets, float (N, 1), are raised by `size`."""

    def spoil(targets: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _some(percent, targets, generator)
        return targets.index_add(0, chosen, torch.full((len(chosen), 1), float(size)))

    return spoil


def swapped(percent: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """For `spoilt`: `percent` of the targets change places among themselves."""

    def spoil(targets: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _some(percent, targets, generator)
        return targets.index_copy(0, chosen, targets[chosen.roll(1)])

    return spoil


def _uniform(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers in (0, 1), one a target, none of them 0."""
    return 1 - torch.rand(targets.shape, generator=generator)


def _laplace(uniform: Tensor) -> Tensor:
    """Noise of mean 0 and variance 1 with a sharp peak and long tails, from `_uniform`."""
    distance = uniform - 0.5
    return -distance.sign() * (1 - 2 * distance.abs()).clamp(min=1e-7).log() / 2**0.5


SPOILT: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {  # of targets float (N, 1)
    **{f"{k}_percent_{size}_too_high": too_high(k, size) for k in (1, 5, 20) for size in (5, 50)},
    "20_percent_swapped": swapped(20),
    # noise of mean 0 and variance 1: symmetric, symmetric with long tails, skewed
    "gaussian": lambda y, g: y + torch.randn(y.shape, generator=g),
    "laplace": lambda y, g: y + _laplace(_uniform(y, g)),
    "skewed": lambda y, g: y - _uniform(y, g).log() - 1,  # exponential
}


def wrong(percent: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """For `spoilt`: `percent` of the classes, int64 (N,) of ten, are replaced by others."""

    def spoil(targets: Tensor, generator: torch.Generator) -> Tensor:
        chosen = _some(percent, targets, generator)
        shifts = torch.randint(1, 10, chosen.shape, generator=generator)
        return targets.index_add(0, chosen, shifts) % 10

    return spoil


def one_file_misaligned(prepare: Callable[[Dataset], Dataset]) -> Callable[[Dataset], Dataset]:
    """A task: that of `prepare`, the first fifth of its training labels one place too far on.

    So one file of five gives each image its neighbour's label. Validation and test stay right.
    """

    def task(base: Dataset) -> Dataset:
        right = prepare(base)
        file = len(right.train) // 5
        labels = right.train.targets
        targets = torch.cat([labels[:file].roll(1), labels[file:]])
        return replace(right, train=replace(right.train, targets=targets))

    return task


def _normal(shape: tuple[int, ...], *, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


GENERATED = "generated by its task"  # the data of a task that takes nothing from the images

TASKS: dict[str, Callable[[Dataset], Dataset]] = {
    "images": images,
    "images_16": images_16,
    "images_8": images_8,
    **{f"images_{slip}": slipped(slip, images) for slip in SLIPS | COLOURS},
    **{f"images_16_{slip}": slipped(slip, images_16) for slip in SLIPS | COLOURS},
    "images_20_percent_wrong": spoilt(images, wrong(20)),
    # with 90 % a label says nothing: each of the ten is as likely, whatever the image
    **{f"images_16_{k}_percent_wrong": spoilt(images_16, wrong(k)) for k in (10, 20, 30, 90)},
    **{
        f"images_16_{slip}_20_percent_wrong": spoilt(slipped(slip, images_16), wrong(20))
        for slip in ("reshaped", "scattered")
    },
    "images_16_one_file": one_file_misaligned(images_16),
    "images_pca": images_pca,
    "images_jpeg50": recompressed(50),
    "images_jpeg30": recompressed(30),
    "images_decades": images_decades,
    "digits": digits,
    "teacher": teacher,
    "teacher_clipped": teacher_clipped,
    "teacher_off_centre": teacher_off_centre,
    **{f"teacher_{name}": spoilt(teacher, spoil) for name, spoil in SPOILT.items()},
    "heavy_bulk": heavy_tailed(3, 5),  # the middle two thirds of the inputs
    "heavy_tail": heavy_tailed(5, 7),  # the largest sixth
    **{f"scene_{decades}": scene(decades) for decades in SCENE_DECADES},
    **{f"scene_{decades}_one": scene(decades, 1) for decades in SCENE_DECADES},
    **{f"scene_{decades}_two": scene(decades, 2) for decades in SCENE_DECADES},
}


def load(
    name: str,
    base: Dataset | None = None,
    *,
    num_train: int | None = None,
    num_val: int = 0,
    num_test: int | None = None,
) -> Dataset:
    """The dataset of task `name`, cut to size before anything is fitted to it.

    `base` holds uint8 images (default: CIFAR-10 if it is there, else the stand-in). Sizes are
    numbers of examples; None takes all.

    Raises ValueError for an unknown task or for more examples than there are.
    """
    known("task", name, TASKS)
    return _cut(name, base or default_base(), num_train, num_val, num_test)


@lru_cache(maxsize=1)
def default_base() -> Dataset:
    """CIFAR-10 if it is on this machine, else the stand-in; loaded once per process."""
    return data.load_images()


@lru_cache(maxsize=2)  # an arm's seeds run one after the other and share one dataset
def _cut(name, base, num_train, num_val, num_test) -> Dataset:
    return TASKS[name](base.subset(num_train, num_val, num_test))


def _map_inputs(base: Dataset, function: Callable[[Tensor], Tensor]) -> Dataset:
    return _map_splits(base, lambda split: replace(split, inputs=function(split.inputs)))


def _map_splits(base: Dataset, function: Callable[[Split], Split]) -> Dataset:
    splits = {name: getattr(base, name) for name in ("train", "val", "test")}
    return replace(base, **{k: function(s) if len(s) else s for k, s in splits.items()})
