"""The stand-in: a generated look-alike of CIFAR-10 for machines without the data.

An image is a sum of three parts. The background is Gaussian noise with CIFAR-10's spectrum,
colours and leading principal components. The layout is a coarse pattern of light and colour,
which a fully connected net can read. The patches are striped spots: slant and stripe width tell
the class, place and phase are random, so that a convolutional net learns them far more easily.
There are no objects. Strengths were set by trial, so that small studies show what CIFAR-10 shows.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

NAME = "stand-in"
CHANNEL_MEAN = (0.4914, 0.4822, 0.4465)  # widely published for CIFAR-10's training images
CHANNEL_STD = (0.2470, 0.2435, 0.2616)
# Measured for this book on the training images of a JPEG copy (quality 75), not on the original
# files. Shares of all pixel variance: brightness, top against bottom, middle against edges (for
# which a band across the middle stands in).
SPECTRUM_SLOPE = -2.72  # log power of grey against log frequency, 1 to 15 cycles per image
COMPONENT_SHARES = (0.292, 0.113, 0.067)
COLOUR_SHARES = (0.92, 0.065, 0.015)  # of grey, red against blue, green against both
TOLERANCES = {"mean": 0.01, "std": 0.01, "slope": 0.2, "shares": 0.015}

LAYOUT_SHARE = 0.31  # of the variance of the coarsest cosine waves: what the class decides
NUM_LAYOUTS = 2  # per class; more than one, so that a linear net falls behind a hidden layer
NUM_PATCHES, PATCH_RADIUS = 4, 4.0  # per image; standard deviation of the window, in pixels
MAX_AMPLITUDE, PATCH_SHARE = 1.5, 0.075  # in deviations of grey; of the variance of grey
STRIPE_WIDTHS = (4.0, 6.0)  # pixels per period; two widths and five slants make ten classes
SPECTRUM_POWER = 1.8  # of the squared frequency; with the patches it gives SPECTRUM_SLOPE
CLIPPING_GAIN = 1.05  # makes good the spread that is lost where pixels stop at 0 and 255
BLOCK = 1000  # images drawn at a time; a change would change every image
DOUBLE = torch.float64  # so that rounding to bytes gives the same images on every processor


def generate(num_train: int = 8000, num_test: int = 2000, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw a training set and a test set of stand-in images.

    Returns train_images, train_targets, test_images, test_targets: images uint8 (N, 3, 32, 32),
    targets int64 (N,) in shuffled order, the ten classes balanced to within one. Classes are always
    the same, `seed` draws the images. Equal arguments give equal tensors, whatever the number of
    threads; the test set does not depend on `num_train`.

    Raises ValueError for a negative size or seed.
    """
    for name, value in {"num_train": num_train, "num_test": num_test, "seed": seed}.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; pass a whole number, 0 or more")
    data = {}
    for stream, (split, size) in enumerate({"train": num_train, "test": num_test}.items()):
        generator = torch.Generator().manual_seed(2 * seed + stream)
        targets = torch.randperm(size, generator=generator) % 10
        blocks = [_draw_images(block, generator) for block in targets.split(BLOCK)]
        data |= {f"{split}_images": torch.cat(blocks), f"{split}_targets": targets}
    return data


def _draw_images(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one block of images, uint8 (B, 3, 32, 32)."""
    spread, layouts, place = _spectrum().sqrt(), _class_layouts(), torch.arange(32, dtype=DOUBLE)
    basis = 2**0.5 * torch.cos(math.pi / 32 * place[:, None] * (place + 0.5))  # (wave, place)
    basis[0] = 1.0  # as every wave, of mean square 1
    which = torch.randint(NUM_LAYOUTS, targets.shape, generator=generator)
    # Some images are typical of their class, some hardly show it; the mean square is 1.
    typicality = 3**0.5 * torch.rand(len(targets), 1, 1, generator=generator, dtype=DOUBLE)
    planes = torch.empty(3, len(targets), 32, 32, dtype=DOUBLE)
    for axis, waves in enumerate((32, 8, 8)):  # finer waves of colour are too weak to matter
        noise = torch.randn(len(targets), waves, waves, generator=generator, dtype=DOUBLE)
        coarse = noise[:, :4, 0:3:2]  # a view; even waves: a flip leaves the class as it is
        coarse *= (1 - LAYOUT_SHARE) ** 0.5
        coarse += LAYOUT_SHARE**0.5 * typicality * layouts[targets, which, axis]
        planes[axis] = basis[:waves].T @ (noise * spread[axis, :waves, :waves]) @ basis[:waves]
    planes[0] += _draw_patches(targets, generator)
    return _to_pixels(planes)


def _draw_patches(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Striped spots (B, 32, 32): cos(a(x) + b(y)) under a round Gaussian window."""
    shape = (6, len(targets), NUM_PATCHES, 1)
    tilt, left, top, phase, mirror, strength = torch.rand(shape, generator=generator, dtype=DOUBLE)
    slant = math.pi / 8 * (targets % 5).view(-1, 1, 1) + 0.1 * (tilt - 0.5)
    frequency = 2 * math.pi / torch.tensor(STRIPE_WIDTHS, dtype=DOUBLE)[targets // 5].view(-1, 1, 1)
    x, y = (torch.arange(32, dtype=DOUBLE) - (4 + 24 * edge) for edge in (left, top))
    a = frequency * slant.cos() * x + 2 * math.pi * phase
    b = frequency * slant.sin() * y * (mirror[:, :1] - 0.5).sign()  # either way, per image
    rows = MAX_AMPLITUDE * strength[:, :1] * torch.exp(-0.5 * (y / PATCH_RADIUS) ** 2)
    columns = torch.exp(-0.5 * (x / PATCH_RADIUS) ** 2)
    rows = torch.cat([rows * b.cos(), -rows * b.sin()], dim=1)  # (B, 2 patches, 32)
    return rows.mT @ torch.cat([columns * a.cos(), columns * a.sin()], dim=1)


def _to_pixels(planes: Tensor) -> Tensor:
    """Turn the three colour axes (3, B, 32, 32) into images (B, 3, 32, 32)."""
    axes = normalize(torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=DOUBLE))
    spread = (torch.tensor(COLOUR_SHARES, dtype=DOUBLE) @ axes**2).sqrt()  # of each channel
    gain = CLIPPING_GAIN * torch.tensor(CHANNEL_STD, dtype=DOUBLE) / spread
    mean = torch.tensor(CHANNEL_MEAN, dtype=DOUBLE).view(3, 1, 1)
    pixels = mean + torch.einsum("ac,abyx->bcyx", axes * gain, planes)
    return (255 * pixels).round_().clamp_(0, 255).to(torch.uint8)


def _spectrum() -> Tensor:
    """Variance of the waves (3, 32, 32): colour axis, vertical wave, horizontal wave."""
    squares = torch.arange(32, dtype=DOUBLE) ** 2
    grey = (9 + squares[:, None] + squares) ** -SPECTRUM_POWER
    leading = torch.tensor(COMPONENT_SHARES, dtype=DOUBLE) / COLOUR_SHARES[0]
    grey *= (1 - PATCH_SHARE - leading.sum()) / (grey.sum() - grey[:3, 0].sum())
    grey[:3, 0] = leading
    smooth = grey**1.5 / (grey**1.5).sum()  # colour varies more smoothly than light
    spectra = torch.stack([grey, smooth, smooth])
    return spectra * torch.tensor(COLOUR_SHARES, dtype=DOUBLE).view(3, 1, 1)


def _class_layouts() -> Tensor:
    """Fixed coarse patterns (class, layout, axis, 4, 2) of mean 0 and variance 1 over layouts."""
    fixed = torch.Generator().manual_seed(1)
    layouts = torch.randn(10, NUM_LAYOUTS, 3, 4, 2, generator=fixed, dtype=DOUBLE)
    return (layouts - layouts.mean(dim=(0, 1))) / layouts.std(dim=(0, 1), correction=0)
