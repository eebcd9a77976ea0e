"""A speed-run: CIFAR-10 as accurate as possible in minutes, every trick a switch. Stands alone.

    python -m course_lib.speedrun --runs 5 --epochs 8 [--without whiten muon] [--device cuda]

Ideas from Page (2018), "How to train your ResNet", hlb-CIFAR10 (Balsam 2023) and Jordan (2024),
"94 % on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498; Muon from Jordan (2024),
"Muon: an optimizer for hidden layers in neural networks". The numbers are those of the paper's
repository, KellerJordan/cifar10-airbench: of its version with Muon (March 2025), and without Muon
of the paper's own. SGD's rates are for a mean in place of its sum of losses.

The clock starts when the uint8 images lie on the device and stops when the images that judge are
classified; the whitening is timed. It counts minutes of a GPU, or of processor cores: work on two
cores counts twice, and work for others not at all.
"""

import argparse
import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import data, training

WHITENED = 5_000  # training images that the whitening filters are made of


@dataclass(frozen=True)
class Recipe:
    """What is trained and how; a trick that is off leaves the usual way."""

    num_train: int | None = None  # None: all
    num_val: int = 0  # training images held back to judge; 0: the test images judge
    epochs: int = 8
    batch_size: int = 2000
    widths: tuple[int, int, int] = (64, 256, 256)
    whiten: bool = True  # the first layer: fixed filters of uncorrelated outputs
    identity: bool = True  # a convolution starts as a copy of its inputs, as far as it can
    muon: bool = True  # for the 3×3 filters; else SGD
    fast_shifts: bool = True  # batch norm shifts alone, 36 times as fast; else scales, too
    alternate: bool = True  # mirrored in every other epoch; else by chance
    shift: int = 2  # pixels, in training
    cycle: bool = True  # the learning rate rises, then falls to 0; else it stays at half its peak
    smoothing: float = 0.2  # of labels
    views: bool = True  # at the end: mean over an image, shifted, and their mirror images
    task: str = "images"  # a name of `tasks` that gives images 32×32 uint8
    num_test: ClassVar[None] = None

    def plain(self) -> dict:
        """As JSON-ready data; all fields, since a default may be tuned one day, but the usual task:
        records older than this field keep their plan."""
        plain = asdict(self)
        if self.task == Recipe.task:
            del plain["task"]
        return {"speedrun": plain}


class Conv(nn.Module):
    """A convolution of k × k filters, held as a matrix (filters, inputs · k²) as Muon wants it."""

    def __init__(self, channels: int, filters: int, *, size: int = 3, identity: bool):
        super().__init__()
        weight = nn.init.kaiming_uniform_(torch.empty(filters, channels, size, size), a=5**0.5)
        if identity:
            nn.init.dirac_(weight[:channels])
        self.shape, self.weight = weight.shape, nn.Parameter(weight.flatten(1))

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight.view(self.shape).contiguous(memory_format=torch.channels_last)
        return F.conv2d(inputs, weight, padding=self.shape[-1] // 2)


def build(recipe: Recipe, images: Tensor) -> nn.Sequential:
    """The net: a 2×2 convolution, three blocks of two convolutions, one linear layer.

    `images` (N, 3, 32, 32), normalised, are what the first layer is whitened on.
    """
    first = nn.Conv2d(3, 24, 2)
    if recipe.whiten:
        filters = whitening_filters(images)
        first.weight = nn.Parameter(torch.cat([filters, -filters]), requires_grad=False)
    layers, channels = [first, nn.GELU()], 24
    for width in recipe.widths:
        for end in (nn.MaxPool2d(2), nn.Identity()):  # pooled before it is normalised: less work
            norm = nn.BatchNorm2d(width, momentum=0.4)
            norm.weight.requires_grad = not recipe.fast_shifts
            layers += [Conv(channels, width, identity=recipe.identity), end, norm, nn.GELU()]
            channels = width
    head = nn.Linear(channels, 10, bias=False)
    with torch.no_grad():  # small logits at the start, whatever the width
        head.weight.div_(head.weight.std() * channels)
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), head)


def whitening_filters(images: Tensor, eps: float = 5e-4) -> Tensor:
    """Twelve 2×2 filters (12, 3, 2, 2) whose outputs on `images` (N, 3, H, W) are uncorrelated and
    of variance about 1: eigenvectors of the patches' covariance over its roots."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return (vectors / (values + eps).sqrt()).T.reshape(12, 3, 2, 2).flip(0).contiguous()


def optimizers(recipe: Recipe, model: nn.Sequential) -> list[torch.optim.Optimizer]:
    """SGD with Nesterov momentum, one rate a kind of parameter, and Muon for the filters."""
    filters = [m.weight for m in model.modules() if isinstance(m, Conv)]
    shifts = [p for name, p in model.named_parameters() if name.endswith("bias")]
    head, batch_size = model[-1].weight, recipe.batch_size
    apart = {id(p) for p in (*filters, *shifts, head)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    lr = 1.5 * batch_size / 1024
    groups = [
        {"params": shifts, "lr": 0.053 * batch_size if recipe.fast_shifts else lr},
        {"params": [head], "lr": 0.67 * batch_size / (256 * head.shape[1])},
        {"params": others if recipe.muon else others + filters, "lr": lr},
    ]
    for group in groups:  # every step shrinks all weights by the same share
        group["weight_decay"] = 2e-6 * batch_size / group["lr"]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    if not recipe.muon:
        return [sgd]
    muon = torch.optim.Muon(filters, lr=0.24, momentum=0.6, weight_decay=0.0, ns_steps=3)
    muon.register_step_pre_hook(rescale)
    return [sgd, muon]


@torch.no_grad()
def rescale(muon: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    """Before each step of `muon`, a hook: filters of mean square norm 1. Its steps are of one size;
    filters that grew would make them small."""
    for weight in muon.param_groups[0]["params"]:
        weight.mul_(len(weight) ** 0.5 / weight.norm())


def rate(step: int, num_steps: int) -> float:
    """The learning rate over its peak: a fifth at the start, 1 after a fifth, then down to 0."""
    done = step / num_steps
    return min(0.2 + 4 * done, (1 - done) / 0.8)


def augment(images: Tensor, recipe: Recipe, epoch: int, start: Tensor) -> Tensor:
    """Images (N, 3, 32, 32) of one epoch, shifted and mirrored; `start` (N,): mirrored first."""
    count, size, reach = len(images), images.shape[-1], recipe.shift
    chance = torch.rand(count, device=images.device) < 0.5
    mirrored = start ^ bool(epoch % 2) if recipe.alternate else chance
    across = torch.arange(size, device=images.device)
    columns = torch.where(mirrored[:, None], size - 1 - across, across)
    down, right = torch.randint(2 * reach + 1, (2, count, 1), device=images.device)
    rows, columns = across + down, columns + right
    padded = F.pad(images, (reach,) * 4, mode="reflect").permute(0, 2, 3, 1)
    each = torch.arange(count, device=images.device)[:, None, None]
    picked = padded[each, rows[:, :, None], columns[:, None]]
    return picked.permute(0, 3, 1, 2)  # channels last in memory


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, recipe: Recipe) -> Tensor:
    """Classes (N,) of normalised `images`; with `views` from six looks at each."""
    model.eval()
    outputs = []
    for batch in images.split(2000):
        looks = [batch]
        if recipe.views:
            wide = F.pad(batch, (1,) * 4, mode="reflect")
            looks += [wide[:, :, :-2, :-2], wide[:, :, 2:, 2:]]
            looks += [look.flip(3) for look in looks]
        logits = [model(look.contiguous(memory_format=torch.channels_last)) for look in looks]
        weights = [0.25, 0.125, 0.125] * 2 if recipe.views else [1.0]
        outputs.append(sum(w * found for w, found in zip(weights, logits, strict=True)))
    return torch.cat(outputs).argmax(dim=1)


def train(recipe: Recipe, seed: int, dataset: data.Dataset, *, precision: str = "auto") -> dict:
    """One run on the device where `dataset` lies, in a precision of `training.precision_on`.

    Returns `accuracy` (0 to 1) on the validation images if there are any, else on the test images,
    `minutes` (see above), and `losses`, one a step. Raises ValueError for images not 32×32 uint8.
    """
    images, device = dataset.train.inputs, dataset.train.inputs.device
    if images.dtype != torch.uint8 or images.shape[1:] != (3, 32, 32):
        raise ValueError(
            f"images are {tuple(images.shape)}, {images.dtype}; use uint8 (N, 3, 32, 32)"
        )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _train(recipe, dataset, device, precision)


def _train(recipe: Recipe, dataset: data.Dataset, device: torch.device, precision: str) -> dict:
    start, judge = training.clock(device), dataset.val if len(dataset.val) else dataset.test
    images = dataset.train.inputs
    mean, std = (v.float().view(-1, 1, 1) for v in data.channel_statistics(dataset.train))
    images, judged = ((data.to_float(part) - mean) / std for part in (images, judge.inputs))
    model = build(recipe, images[:WHITENED]).to(device, memory_format=torch.channels_last)
    tools, losses = optimizers(recipe, model), []
    peaks = [(group, group["lr"]) for tool in tools for group in tool.param_groups]
    mirrored_first = torch.rand(len(images), device=device) < 0.5
    num_steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    for epoch in range(recipe.epochs):
        for picked in torch.randperm(len(images), device=device).split(recipe.batch_size):
            for group, peak in peaks:
                group["lr"] = peak * (rate(len(losses), num_steps) if recipe.cycle else 0.5)
            inputs = augment(images[picked], recipe, epoch, mirrored_first[picked])
            with training.autocast(precision, device):
                logits = model(inputs).float()
            targets = dataset.train.targets[picked]
            loss = F.cross_entropy(logits, targets, label_smoothing=recipe.smoothing)
            loss.backward()
            losses.append(loss.detach())
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
    with training.autocast(precision, device):
        right = classify(model, judged, recipe) == judge.targets
    minutes = (training.clock(device) - start) / 60
    accuracy, told = right.double().mean().item(), torch.stack(losses).tolist()
    return {"accuracy": accuracy, "minutes": minutes, "losses": told}


def main() -> None:
    """Run and print; recipes are chosen here, so it reads validation images, no test images."""
    switches = [name for name, value in asdict(Recipe()).items() if value is True]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--without", nargs="*", default=[], choices=switches, metavar="TRICK")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = training.check_device(options.device)
    dataset = data.load_cifar10().subset(num_val=5000).to(device)
    recipe = Recipe(epochs=options.epochs, **dict.fromkeys(options.without, False))
    for seed in range(options.runs):
        run = train(recipe, seed, dataset)
        print(f"seed {seed}: {100 * run['accuracy']:.2f} %, {run['minutes']:.2f} min", flush=True)


if __name__ == "__main__":
    main()
