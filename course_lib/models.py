"""Every net of the three texts, by name, and a few plain ones for the studies.

Nets take float inputs, images as (B, C, H, W), and return logits (B, 10): the softmax at the end of
the Keras nets is part of the loss here. Layers are named by kind and place: conv1, relu1, linear1.
Nets from Keras code keep its defaults: Glorot uniform weights (fans as PyTorch's), zero biases, and
batch normalisation with epsilon 1e-3 and momentum 0.99, which PyTorch writes as 0.01. What differs:
- The moving variance averages unbiased variances, as do TensorFlow's fused kernel and Keras from
  January 2018 (its pull request 9028). Older Keras and Keras 3 average biased ones, (n − 1) / n.
- Keras' max-norm also shrinks vectors below the limit, by 1e-7 in norm a step; ours does not.
- Keras 2.2 and later can flatten channels-first arrays in another order. That permutes independent
  draws, the next layer's columns: the same net in distribution.
"""

import inspect
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise, permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.data import known

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
OUTPUTS = ACTIVATIONS | {"none": None, "softmax": partial(nn.Softmax, dim=1)}
WEIGHT_STDS: dict[str, Callable[[int, int], float]] = {  # of fan_in and fan_out
    "he": lambda fan_in, _: math.sqrt(2.0) / math.sqrt(fan_in),  # He et al. 2015
    "lecun": lambda fan_in, _: 1.0 / math.sqrt(fan_in),  # LeCun et al. 1998
    "glorot": lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out)),  # 2010; "Xavier"
}
TRUNCATION = 0.87962566103423978  # standard deviation of a unit Gaussian cut off at ± 2
SHAPES: dict[str, Callable[[Tensor, float], Tensor]] = {  # of a weight and its standard deviation
    "normal": lambda w, std: w.normal_(0.0, std),
    "uniform": lambda w, std: w.uniform_(-math.sqrt(3.0) * std, math.sqrt(3.0) * std),
    "truncated": lambda w, std: nn.init.trunc_normal_(
        w, 0.0, std / TRUNCATION, -2 * std / TRUNCATION, 2 * std / TRUNCATION
    ),
}
# "torch": as PyTorch's layers come, uniform, ± 1/√fan_in, biases too; the others: biases 0
INITIALISERS = ("torch", *(f"{rule}_{shape}" for rule in WEIGHT_STDS for shape in SHAPES))
ORDERS = ("posted", *map(" ".join, permutations(("relu", "norm", "dropout"))))
KERAS_NORM = {"eps": 1e-3, "momentum": 0.01}


class ColumnNorm(nn.BatchNorm2d):
    """Batch norm per column of (B, C, H, W): Keras' default axis −1 on channels-first arrays."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.transpose(1, 3)).transpose(1, 3)


class Blur(nn.Module):
    """Halves (B, C, H, W) after a binomial 3×3 blur, borders reflected (Zhang 2019)."""

    def forward(self, inputs: Tensor) -> Tensor:
        row = torch.tensor([0.25, 0.5, 0.25], dtype=inputs.dtype, device=inputs.device)
        kernel = torch.outer(row, row).expand(inputs.shape[1], 1, 3, 3)
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, kernel, stride=2, groups=inputs.shape[1])


REDUCTIONS: dict[str, tuple[Callable[[], nn.Module], ...]] = {  # what halves an image
    "max": (partial(nn.MaxPool2d, 2),),
    "mean": (partial(nn.AvgPool2d, 2),),
    "stride": (),  # the convolution before it does
    "blur": (partial(nn.MaxPool2d, 2, stride=1), Blur),
}


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016): the second block of a stage up."""

    def __init__(
        self, channels: int, filters: int, stride: int, make_activation: Callable, bias: bool
    ):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
            make_activation(),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
            nn.BatchNorm2d(filters),
        )
        plain = stride == 1 and channels == filters
        shortcut = partial(nn.Conv2d, channels, filters, 1, stride, bias=bias)
        self.shortcut = nn.Identity() if plain else shortcut()
        self.activation = make_activation()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(self.body(inputs) + self.shortcut(inputs))


SCALING_WIDTHS = (3072, 300, 10)  # of the scaling puzzle's net


def mlp(
    *,
    widths: Sequence[int] = SCALING_WIDTHS,
    bias: bool = True,
    activation: str = "relu",
    output: str = "none",
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: str = "torch",
    init_std: float | Sequence[float | None] | None = None,
) -> nn.Sequential:
    """Fully connected net on flattened inputs, with an activation between layers.

    `batch_norm` normalises before each activation, `dropout` is the share dropped after it,
    `output` names an activation behind the last layer. `init_std` gives standard deviations of
    initial weights: one number for all layers, or one for each, where None leaves that layer to
    `init`. Their distribution has the shape that `init` names (Gaussian for "torch"), and a layer
    so set has zero biases.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths is {widths!r}; give at least two positive numbers of units")
    make_activation = ACTIVATIONS[known("activation", activation, ACTIVATIONS)]
    layers = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
        layers += [nn.BatchNorm1d(fan_out)] * batch_norm + [make_activation()]
        layers += [nn.Dropout(dropout)] * (dropout > 0)
    layers.append(nn.Linear(*widths[-2:], bias=bias))
    make_output = OUTPUTS[known("output", output, OUTPUTS)]
    return _finish([*layers, make_output()] if make_output else layers, init, init_std)


def scaling_mlp() -> nn.Sequential:
    """The net of the scaling puzzle: 3072-300-10, ReLU, no biases, PyTorch's initialisation."""
    return mlp(bias=False)


def small_cnn(
    *,
    widths: Sequence[int] = (16, 32, 64),
    convs: int = 1,
    image_shape: Sequence[int] = (3, 32, 32),
    reduce: str = "max",
    halve_before: Sequence[int] | None = None,
    head: str = "flatten",
    padding_mode: str = "zeros",
    bias: bool = True,
    activation: str = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: str = "torch",
) -> nn.Sequential:
    """Our own small net: 3×3 convolutions, each followed by a halving, and one linear layer.

    With `convs` above 1, so many convolutions of a width stand in front of each halving. `reduce`
    halves by "max" or "mean" pooling, by a "stride" of the convolution, or by "blur": a
    dense max pool, blurred before it is thinned out. With `halve_before` only the widths at these
    places, from 0, halve, and at once: by the stride of their first convolution, or by what stands
    in front of it, so that all ways have equal weights and multiply-adds. `head` "mean" averages
    each channel before the linear layer. `padding_mode` is PyTorch's ("circular": the image is a
    torus). `batch_norm` normalises before each activation; `dropout` is the share dropped before
    the linear layer.
    """
    channels, height, width = image_shape
    places = range(len(widths)) if halve_before is None else halve_before
    if not set(places) <= set(range(len(widths))):
        last = len(widths) - 1
        raise ValueError(f"halve_before is {halve_before!r}; name places from 0 to {last}")
    if min(height, width) < (side := 2 ** len(places)):
        raise ValueError(f"image_shape is {image_shape!r}; {len(places)} pools need sides ≥ {side}")
    make_activation = ACTIVATIONS[known("activation", activation, ACTIVATIONS)]
    if convs < 1:
        raise ValueError(f"convs is {convs!r}; give at least 1 for each width")
    halve, early = REDUCTIONS[known("reduce", reduce, REDUCTIONS)], halve_before is not None
    make_conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=bias, padding_mode=padding_mode)
    layers = []
    for place, filters in enumerate(widths):
        pools, strides = [make() for make in halve] if place in places else [], [1] * convs
        if reduce == "stride" and place in places:
            strides[0 if early else -1] = 2
        layers += pools if early else []
        for stride in strides:
            layers.append(make_conv(channels, filters, stride=stride))
            layers += [nn.BatchNorm2d(filters)] * batch_norm + [make_activation()]
            channels = filters
        layers += [] if early else pools
        if place in places:
            height, width = height // 2, width // 2
    if known("head", head, ("flatten", "mean")) == "mean":
        layers, height, width = [*layers, nn.AdaptiveAvgPool2d(1)], 1, 1
    layers += [nn.Flatten(), *[nn.Dropout(dropout)] * (dropout > 0)]
    return _finish([*layers, nn.Linear(channels * height * width, 10, bias=bias)], init)


def deep_cnn(
    *,
    depth: int = 18,
    filters: int = 64,
    image_shape: Sequence[int] = (3, 8, 8),
    head: str = "flatten",
    batch_norm: bool = True,
    outputs: int = 1,
    init: str = "he_truncated",
    init_std: float | None = None,
) -> nn.Sequential:
    """A plain stack of 3×3 convolutions, no shortcuts, no pooling; one output, for a regression.

    The first of the `depth` convolutions halves the image by its stride, each has ReLU behind it
    and, with `batch_norm`, a norm in front of that. The linear layer reads every position, or with
    `head` "mean" the average of each channel.
    `init_std` draws all weights from one Gaussian instead of `init`; biases are 0 at the start.
    With 10 `outputs` it classifies.
    """
    if depth < 1 or filters < 1:
        raise ValueError(f"depth is {depth!r}, filters {filters!r}; give at least 1 of each")
    layers, (channels, height, width) = [], image_shape
    for place in range(depth):
        layers.append(nn.Conv2d(channels, filters, 3, 1 if place else 2, 1))
        layers += [nn.BatchNorm2d(filters)] * batch_norm + [nn.ReLU()]
        channels = filters
    left = filters * math.ceil(height / 2) * math.ceil(width / 2)
    if known("head", head, ("flatten", "mean")) == "mean":
        layers, left = [*layers, nn.AdaptiveAvgPool2d(1)], filters
    return _finish([*layers, nn.Flatten(), nn.Linear(left, outputs)], init, init_std)


def small_resnet(
    *,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 1,
    reduce: str = "stride",
    bias: bool = True,
    activation: str = "relu",
    output: str = "none",
    init: str = "torch",
) -> nn.Sequential:
    """A small modern net: a stem, a residual block per width, batch norm, global mean pooling.

    Every block but the first halves the image: by its stride, or, with another `reduce` of
    `small_cnn`, by that in front of the block. With `blocks` above 1 a width has so many, of which
    only the first does. Takes images of any size. `bias` is that of shortcuts and the last layer:
    in front of a norm there is none. `output` names an activation behind the last layer.
    Give `widths` that 8 divides: on a CPU, the backward pass of torch 2.13 corrupts memory in a
    strided 1×1 convolution of channels-last images with 4, 5 or 6 channels.
    """
    strides = (1, 2 if known("reduce", reduce, REDUCTIONS) == "stride" else 1)
    if blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; give at least 1 for each width")
    make_activation = ACTIVATIONS[known("activation", activation, ACTIVATIONS)]
    make_output = OUTPUTS[known("output", output, OUTPUTS)]
    stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
    layers = [stem, nn.BatchNorm2d(widths[0]), make_activation()]
    for channels, filters in pairwise((widths[0], *widths)):
        later = len(layers) > 3
        layers += [make() for make in REDUCTIONS[reduce]] if later else []
        layers.append(Residual(channels, filters, strides[later], make_activation, bias))
        layers += [Residual(filters, filters, 1, make_activation, bias) for _ in range(1, blocks)]
    last = nn.Linear(widths[-1], 10, bias=bias)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), last]
    return _finish([*layers, make_output()] if make_output else layers, init)


def stuck_cnn(
    *,
    axis: str = "none",
    dropout_scale: float = 1.0,
    max_norm: float | None = 3.0,
    image_shape: Sequence[int] = (3, 32, 32),
    widths: Sequence[int] = (32, 64, 128),
    units: Sequence[int] = (1024, 512),
    order: str = "posted",
    norm_momentum: float = KERAS_NORM["momentum"],
) -> nn.Sequential:
    """The net that stays at 60 %, as posted (Keras, channels first); `stuck_cnn_bn` adds the norms.

    `axis` says what batch normalisation runs over: "width", as posted (see `ColumnNorm`), or
    "channels", as meant. `dropout_scale` multiplies the posted rates, 0.2 after each block and 0.5
    after each dense layer. `max_norm` limits incoming weights in both hidden dense layers.
    `widths` are the filters of the three blocks, `units` those of the two dense layers.
    `order` places what follows a block's last convolution, pooled, and each hidden dense layer:
    "relu", "norm" and "dropout" in any order, as "norm relu dropout". Two of the six pairs are the
    same function, since dropout and ReLU commute. `norm_momentum` is the weight of a new batch in
    the moving averages.
    """
    known("axis", axis, ("none", "width", "channels"))
    known("order", order, ORDERS)
    keras = KERAS_NORM | {"momentum": norm_momentum}
    channels, height, width = image_shape
    layers = []
    for block, filters in enumerate(widths):
        layers += [*_conv(channels, filters, 3, "same"), nn.ReLU()]
        layers += _conv(filters, filters, 3, "same")
        pooled = block < 2 or order != "posted"  # as posted, the third norm comes before its pool
        columns = width // 2 if pooled else width
        make, size = (ColumnNorm, columns) if axis == "width" else (nn.BatchNorm2d, filters)
        norms = [] if axis == "none" else [make(size, **keras)]
        parts = {"pool": [nn.MaxPool2d(2)], "relu": [nn.ReLU()], "norm": norms}
        parts["dropout"] = [_dropout(0.2, dropout_scale)]
        posted = "relu pool norm dropout" if pooled else "relu norm pool dropout"
        layers += _in_order(posted if order == "posted" else f"pool {order}", parts)
        channels, height, width = filters, height // 2, width // 2
    layers.append(nn.Flatten())
    for fan_in, fan_out in pairwise((channels * height * width, *units)):
        dense = nn.Linear(fan_in, fan_out)
        dense.max_norm = max_norm
        norms = [] if axis == "none" else [nn.BatchNorm1d(fan_out, **keras)]
        parts = {"relu": [nn.ReLU()], "norm": norms, "dropout": [_dropout(0.5, dropout_scale)]}
        posted = "relu norm dropout"
        layers += [dense, *_in_order(posted if order == "posted" else order, parts)]
    return _finish([*layers, nn.Linear(units[-1], 10)])


stuck_cnn_bn = partial(stuck_cnn, axis="width")


def all_conv(
    *,
    padding: str = "valid",
    dropout_scale: float = 1.0,
    batch_norm: bool = True,
    image_shape: Sequence[int] = (3, 32, 32),
    widths: Sequence[int] = (96, 192),
    units: int = 256,
    init: str = "glorot_uniform",
) -> nn.Sequential:
    """Answer 1's net without pooling, after arXiv 1412.6806: two pairs of convolutions.

    Posted with padding "valid"; "same" keeps the borders, at the cost of 1.9 million more weights.
    Keras' total of 1,834,602 counts 9,600 moving statistics with the trained parameters. `widths`
    are the filters of the two pairs, `units` those of the dense layer, in front of which the one
    norm stands, unless `batch_norm` is False.
    """
    lost = {"valid": 2, "same": 0}[known("padding", padding, ("valid", "same"))]
    (channels, *sides), layers = image_shape, []
    for filters, rate in zip(widths, (0.2, 0.5), strict=True):
        layers += [*_conv(channels, filters, 3, padding), nn.ReLU()]
        layers += [*_conv(filters, filters, 3, padding, stride=2), nn.ReLU()]
        layers, channels = [*layers, _dropout(rate, dropout_scale)], filters
        sides = [math.ceil((side - 2 * lost) / 2) for side in sides]
    features = channels * math.prod(sides)
    layers += [nn.Flatten(), *[nn.BatchNorm1d(features, **KERAS_NORM)] * batch_norm]
    return _finish([*layers, nn.Linear(features, units), nn.ReLU(), nn.Linear(units, 10)], init)


def strided_cnn(
    *,
    dropout_scale: float = 1.0,
    image_shape: Sequence[int] = (3, 32, 32),
    widths: Sequence[int] = (32, 64),
    units: int = 128,
) -> nn.Sequential:
    """Answer 1's "much smaller" net: two valid convolutions, no pooling, no normalisation.

    `widths` are the filters of the convolutions, `units` those of the dense layer.
    """
    channels, *sides = image_shape
    first, second = widths
    features = second * math.prod((side - 5) // 2 for side in sides)
    layers = [*_conv(channels, first, 3), nn.ReLU(), _dropout(0.1, dropout_scale)]
    layers += [*_conv(first, second, 5, stride=2, bias=False), nn.ReLU()]
    layers += [_dropout(0.2, dropout_scale), nn.Flatten(), nn.Linear(features, units), nn.ReLU()]
    return _finish([*layers, _dropout(0.3, dropout_scale), nn.Linear(units, 10)])


def thin_cnn(
    *,
    dropout_scale: float = 1.0,
    more: int = 0,
    activation: str = "tanh",
    image_shape: Sequence[int] = (3, 32, 32),
    widths: Sequence[int] = (64, 64, 32, 32),
    units: Sequence[int] = (64, 64),
) -> nn.Sequential:
    """The last answer's net of 183,242 parameters, its 4×4 and 2×2 kernels padded 'same'.

    Even kernels cannot be padded evenly: as in TensorFlow, 4×4 gets one row and column at the top
    left and two at the bottom right, 2×2 none and one. The first pool comes before its ReLU.
    `activation` stands behind the last hidden layer. `more` 3×3 convolutions follow the third, each
    a copy of it with its ReLU and dropout. `widths` are the filters of the four convolutions,
    `units` those of the dense layers.
    """
    channels, height, width = image_shape
    first, second, third, fourth = widths
    make_last = ACTIVATIONS[known("activation", activation, ACTIVATIONS)]
    quarter = partial(_dropout, 0.25, dropout_scale)
    layers = [*_conv(channels, first, 4, "same"), nn.MaxPool2d(2), nn.ReLU(), quarter()]
    layers += [*_conv(first, second, 2, "same"), nn.ReLU(), quarter()]
    for fan_in in (second, *[third] * more):
        layers += [*_conv(fan_in, third, 3, "same"), nn.ReLU(), quarter()]
    layers += [*_conv(third, fourth, 3, "same"), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [_dropout(0.15, dropout_scale), nn.Flatten()]
    layers += [nn.Linear(fourth * (height // 4) * (width // 4), units[0]), nn.ReLU(), quarter()]
    layers += [nn.Linear(*units), make_last(), quarter(), nn.Linear(units[1], 10)]
    return _finish(layers)


# name → (constructor, source, trained parameters at default options)
MODELS: dict[str, tuple[Callable[..., nn.Module], str, int]] = {
    "scaling_mlp": (scaling_mlp, "scaling puzzle, question (S1)", 924_600),
    "mlp": (mlp, "our own; at its defaults the scaling puzzle's net with biases", 924_910),
    "stuck_cnn": (stuck_cnn, "stuck CNN, question, first listing (C1)", 2_915_114),
    "stuck_cnn_bn": (stuck_cnn_bn, "stuck CNN, question, second listing (C4)", 2_918_250),
    "all_conv": (all_conv, "stuck CNN, answer 1, first listing (C6)", 1_825_002),
    "strided_cnn": (strided_cnn, "stuck CNN, answer 1, second listing (C7)", 1_437_962),
    "thin_cnn": (thin_cnn, "stuck CNN, answer 3 (C21)", 183_242),
    "small_cnn": (small_cnn, "our own, where a study needs a small CNN", 33_834),
    "deep_cnn": (deep_cnn, "our own, for the case study: deep, plain, a regression", 632_897),
    "small_resnet": (small_resnet, "our own, where a tip meets a modern net", 77_946),
}


def build(name: str, *, generator: torch.Generator | None = None, **options) -> nn.Module:
    """A new net by name, float32, with weights drawn from torch's global generator: seed it first.

    With `generator`, a seed is drawn from that instead and the global one is left as it was.
    Raises ValueError for an unknown name, option or value.
    """
    constructor = MODELS[known("name", name, MODELS)][0]
    for option in options:
        known(f"option of {name}", option, inspect.signature(constructor).parameters)
    if generator is None:
        return constructor(**options)
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return constructor(**options)


def _conv(channels, filters, kernel, padding="valid", *, stride=1, bias=True) -> list[nn.Module]:
    """A convolution, behind a padding layer where TensorFlow's 'same' is lopsided."""
    total = kernel - stride if padding == "same" else 0  # right where stride divides the size
    pad = total // 2 if total % 2 == 0 else 0
    lopsided = [nn.ZeroPad2d((total // 2, total - total // 2) * 2)] if total % 2 else []
    return [*lopsided, nn.Conv2d(channels, filters, kernel, stride, pad, bias=bias)]


def _in_order(order: str, parts: Mapping[str, list[nn.Module]]) -> list[nn.Module]:
    """The modules of `parts`, one part after another."""
    return [module for name in order.split() for module in parts[name]]


def _dropout(rate: float, scale: float) -> nn.Dropout:
    if not 0 <= rate * scale < 1:
        raise ValueError(f"dropout_scale is {scale}; choose one that leaves {rate} × it in [0, 1)")
    return nn.Dropout(rate * scale)


def _finish(layers, init="glorot_uniform", init_std=None) -> nn.Sequential:
    """The named layers in sequence, their initial weights drawn as `init` and `init_std` say."""
    counts, named = Counter(), OrderedDict()
    for layer in layers:
        kind = type(layer).__name__.lower().removesuffix("1d").removesuffix("2d")
        counts[kind] += 1
        named[f"{kind}{counts[kind]}"] = layer
    model = nn.Sequential(named)
    rule, _, shape = known("init", init, INITIALISERS).partition("_")
    layers = weight_layers(model)
    for layer, std in zip(layers, _per_layer("init_std", init_std, layers), strict=True):
        if rule == "torch" and std is None:
            continue
        if std is None:
            std = WEIGHT_STDS[rule](*_fans(layer.weight))
        with torch.no_grad():
            SHAPES[shape or "normal"](layer.weight, std)
            if layer.bias is not None:
                layer.bias.zero_()
    return model


def _fans(weight: Tensor) -> tuple[int, int]:
    """How many inputs a unit has, and how many units an input goes to."""
    field = weight[0, 0].numel()
    return weight.shape[1] * field, weight.shape[0] * field


def _per_layer(name: str, values, layers: list) -> list:
    """One value for each layer, from a single value, a sequence of one, or one of each."""
    values = list(values) if isinstance(values, Sequence) else [values]
    if len(values) not in (1, len(layers)):
        raise ValueError(f"{name} has {len(values)} values; give 1, or {len(layers)}, one a layer")
    return values if len(values) == len(layers) else values * len(layers)


def num_parameters(model: nn.Module, *, statistics: bool = False) -> int:
    """Number of trained parameters; `statistics` adds moving means and variances, as Keras does."""
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return count + sum(b.numel() for b in model.buffers() if b.dim()) * statistics


def weight_layers(model: nn.Module) -> list[nn.Module]:
    """Modules whose `weight` has two or more dimensions, first layer first (as registered)."""
    return [m for m in model.modules() if getattr(getattr(m, "weight", None), "ndim", 0) >= 2]


@torch.no_grad()
def scale_initial_weights(model: nn.Module, scales: float | Sequence[float]) -> None:
    """Multiply weights (not biases) in place, by one factor or one for each weight layer.

    Raises ValueError for another number of factors.
    """
    layers = weight_layers(model)
    for layer, scale in zip(layers, _per_layer("scales", scales, layers), strict=True):
        layer.weight.mul_(scale)


@torch.no_grad()
def apply_max_norm(model: nn.Module) -> None:
    """Shrink each unit's incoming weights to norm `max_norm` in modules that have one (no sync)."""
    for module in model.modules():
        if getattr(module, "max_norm", None) is not None:
            module.weight.renorm_(2, 0, module.max_norm)
