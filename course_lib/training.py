"""One training loop for the whole book: a configuration and a seed in, a net and its history out.

`TrainConfig` is plain data, so that an experiment is a difference between two configurations and a
record can be compared with the page that quotes it. The same seed on the same machine gives the
same bits.
"""

import math
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import data, diagnostics, graphs, models
from course_lib.data import Dataset, Split

EVAL_BATCH = 1000
PROBE_INPUTS = 2000  # probes read the first 2,000 training examples, always the same ones
RECORDINGS = {"cuda": graphs.record_cuda}  # kinds of device that replay their steps
STATE = (  # plain parts of a run that a checkpoint holds
    "epoch", "history", "probes", "sharpness", "step_losses",
)  # fmt: skip
CHECKPOINT_SECONDS = 60.0  # a run that lasts longer writes a checkpoint after its epochs


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, except its seed. Defaults: the scaling puzzle as posted."""

    task: str = "images"  # a name in tasks.TASKS
    num_train: int | None = None  # training examples; None takes all
    num_val: int = 0  # examples kept from training for tuning
    num_test: int | None = None  # test examples; None takes all
    model: str = "scaling_mlp"  # a name in models.MODELS
    model_options: Mapping = field(default_factory=dict)  # passed to models.build
    transform: str = "none"  # a name in TRANSFORMS: squashes float inputs, before preprocessing
    transform_scale: float = 1.0  # inputs are divided by it before the transform
    preprocess: str = "none"  # a name in PREPROCESS
    statistics_of: str = "train"  # what preprocessing is fitted to: "train", or "all" (a leak)
    whiten_eps: float = 1e-2  # "whiten" adds it, times the mean variance, to every variance
    input_scale: float = 1.0  # inputs are multiplied by it, after preprocessing
    augment: bool | str = False  # a name in data.AUGMENTATIONS; True: crop (padding 4) and flip
    loss: str = "cross_entropy"  # a name in LOSSES
    optimizer: str = "sgd"  # "sgd", "adam", "adamw" or "adadelta"
    lr: float = 0.02  # base learning rate
    lr_doses: tuple[tuple[int, float], ...] = ()  # (epoch, multiple of the stability limit) pairs
    momentum: float = 0.9  # SGD only
    dampening: float = 0.0  # SGD only
    nesterov: bool = False  # SGD only
    betas: tuple[float, float] = (0.9, 0.999)  # Adam and AdamW only
    rho: float = 0.95  # Adadelta only; the default of Keras
    eps: float = 1e-8  # Adam, AdamW and Adadelta only; PyTorch's default for the first two
    weight_decay: float = 1e-4  # coupled, except in AdamW
    show_penalty: bool = False  # count weight_decay / 2 · |weights|² into every loss of the history
    schedule: str = "constant"  # a name in SCHEDULES
    forget_at: int = 0  # after so many epochs the optimiser's state is lost once; 0: never
    epochs: int = 20
    batch_size: int = 250
    init_scale: tuple[float, ...] = ()  # factors on the initial weights, per weight layer
    lr_scale: tuple[float, ...] = ()  # factors on lr, per weight layer; biases keep lr
    weight_decay_scale: tuple[float, ...] = ()  # factors on weight_decay, per weight layer
    eps_scale: tuple[float, ...] = ()  # factors on Adam's eps, per weight layer
    precision: str = "fp32"  # "fp32", "bf16" (autocast), "fp64", or "auto": see precision_on
    probe_until: int = 0  # read the probes up to this step (see probe_steps); 0 reads none
    last_losses: int = 0  # so many losses of single steps, the last ones, are kept; 0: none
    score_training: bool = False  # score the training images after each epoch too, dropout off
    drawn: Mapping[str, tuple] = field(default_factory=dict)  # field -> choices, one for each seed
    val_history: bool = True  # read the validation images after each epoch; else at the end alone
    measures: tuple[str, ...] = ()  # further final metrics, names in measures.MEASURES

    def plain(self) -> dict:
        """The fields that differ from their defaults, as JSON-ready data.

        A field added later with a neutral default therefore leaves old records valid.
        """
        changed = {}
        for f in fields(self):
            default = {} if f.name in ("model_options", "drawn") else f.default
            value = getattr(self, f.name)
            if value != default:
                changed[f.name] = _jsonable(value)
        return changed


DRAWABLE = ("lr", "momentum", "weight_decay", "schedule", "batch_size", "epochs")


def settled(config: TrainConfig, seed: int) -> TrainConfig:
    """`config` with the values that `seed` draws for it: each of `drawn` from its choices, all
    choices equally likely.

    The draws are independent of initial weights and order. Raises ValueError for a field that is
    none of `DRAWABLE`, or one without choices.
    """
    if not config.drawn:
        return config
    draw, values = random.Random(seed), {}
    for name, choices in config.drawn.items():
        if name not in DRAWABLE or not choices:
            raise ValueError(f"drawn has {name!r}: {choices!r}; give choices of {DRAWABLE}")
        values[name] = choices[int(draw.random() * len(choices))]
    return replace(config, drawn={}, **values)


def _jsonable(value):
    if isinstance(value, Mapping):
        return {k: _jsonable(v) for k, v in value.items()}
    return [_jsonable(v) for v in value] if isinstance(value, (tuple, list)) else value


@dataclass(frozen=True)
class Metrics:
    """Mean loss (cross-entropy: nats per example), accuracy as a fraction (None where targets are
    not classes), largest absolute output."""

    loss: float
    accuracy: float | None
    max_abs_logit: float


@dataclass
class Result:
    """A trained net and what was seen on the way.

    `history`: one entry per epoch. `probes`: one entry per probe step, read before that step's
    update. `diverged_step`: the first step with a loss that is not finite, or None. `sharpness`:
    the loss's largest curvature, measured where `lr_doses` asks for it; one entry per dose.
    `step_losses`: the loss of the first step, then those of the last `last_losses`, if any.
    """

    model: nn.Module
    history: dict[str, list]
    probes: dict[str, list]
    diverged_step: int | None
    sharpness: list[float] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)


# --- schedules: step -> factor on the learning rate -------------------------------------------


def constant(step: int, num_steps: int) -> float:
    return 1.0


def linear(step: int, num_steps: int) -> float:
    return 1.0 - step / num_steps


def cosine(step: int, num_steps: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def one_cycle(step: int, num_steps: int) -> float:
    """From 1/25 up to 1 for three tenths of the steps, then down to 1/250,000, along cosines.

    The learning rates of PyTorch's OneCycleLR as it comes, 1 being its `max_lr`; the momentum,
    which that moves against them, stays as it is. Source: Smith and Topin 2019.
    """
    top, last = 0.3 * num_steps - 1, num_steps - 1
    if step <= top:
        start, end, share = 1 / 25, 1.0, step / top
    else:
        start, end, share = 1.0, 1 / 250_000, (step - top) / (last - top)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def early_drop(step: int, num_steps: int) -> float:
    return 1.0 if step < 0.2 * num_steps else 0.1


def late_drop(step: int, num_steps: int) -> float:
    return 1.0 if step < 0.9 * num_steps else 0.1


def drops(*steps: int) -> Callable[[int, int], float]:
    """A schedule: to a tenth at each of `steps`, however long the run."""
    return lambda step, _: 0.1 ** sum(step >= drop for drop in steps)


def decay(factor: float) -> Callable[[int, int], float]:
    """A schedule: times `factor` at each step."""
    return lambda step, _: factor**step


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "early_drop": early_drop,  # to a tenth, after a fifth of the steps
    "late_drop": late_drop,  # to a tenth, for the last tenth of the steps
    "drops_300_3000": drops(300, 3000),
    "drops_2000_5000": drops(2000, 5000),
    "decay_0.9995": decay(0.9995),
    "decay_0.999995": decay(0.999995),
}


def _of_one_hot(loss: Callable) -> Callable:
    """`loss` against classes (B,) as rows of 0 and a 1: a sum over classes, a mean over examples.

    With `reduction="sum"` the sum over examples too.
    """

    def value(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        rows = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        total = loss(outputs, rows, reduction="sum")
        return total if reduction == "sum" else total / len(targets)

    return value


LOSSES_OF_CLASSES: dict[str, Callable] = {  # outputs (B, classes), targets (B,)
    "cross_entropy": F.cross_entropy,
    "one_hot_l2": _of_one_hot(F.mse_loss),
    "one_hot_l1": _of_one_hot(F.l1_loss),
}
LOSSES: dict[str, Callable] = {
    **LOSSES_OF_CLASSES,
    "mse": F.mse_loss,  # outputs and targets (B, K), as for the two below
    "l1": F.l1_loss,
    "huber": F.huber_loss,  # squared up to an error of 1, linear beyond
}


# --- inputs -----------------------------------------------------------------------------------


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {  # of inputs / transform_scale
    "tanh": torch.tanh,
    "log": torch.log1p,  # for inputs ≥ 0
    "asinh": torch.asinh,
    "clip": lambda x: x.clamp(-1.0, 1.0),
}
PREPROCESS = ("none", "centre", "standardise", "whiten")  # "whiten": ZCA, eigenvectors kept


def dtype_of(config: TrainConfig) -> torch.dtype:
    """Of weights and inputs; with "bf16" products alone are made in it."""
    return torch.float64 if config.precision == "fp64" else torch.float32


def make_prepare(config: TrainConfig, dataset: Dataset) -> Callable:
    """A function from stored inputs to what the net sees: float, preprocessed, scaled.

    uint8 images (N, 3, H, W) go to [0, 1] first; float inputs (N, D) are taken as they are.
    Statistics are those of the training split, per channel for images and per feature otherwise;
    whitening mixes all features of an example. Standardising only centres what never changes.
    """
    dtype = dtype_of(config)
    floats = _make_floats(config, dataset, dtype)
    normalise = _make_normalise(config, dataset, floats)

    def prepare(inputs: Tensor) -> Tensor:
        x = normalise(floats(inputs))
        return x if config.input_scale == 1.0 else x * config.input_scale

    return prepare


def first_examples(split: Split, count: int) -> Split:
    """The first `count` examples of `split`, or all if there are fewer."""
    return Split(split.inputs[:count], split.targets[:count])


def _make_floats(config: TrainConfig, dataset: Dataset, dtype: torch.dtype) -> Callable:
    """From stored inputs to floats, a new tensor where it may be changed in place."""
    if config.transform == "none":
        return lambda x: data.to_float(x, dtype) if x.dtype == torch.uint8 else x.to(dtype)
    transform = TRANSFORMS[data.known("transform", config.transform, TRANSFORMS)]
    if dataset.train.inputs.dtype == torch.uint8:
        raise ValueError(f"transform is {config.transform!r}; it needs a task with float inputs")
    return lambda x: transform(x.to(dtype) / config.transform_scale)


def _make_normalise(config: TrainConfig, dataset: Dataset, floats: Callable) -> Callable:
    data.known("preprocess", config.preprocess, PREPROCESS)
    data.known("statistics_of", config.statistics_of, ("train", "all"))
    if config.preprocess == "none":
        return lambda x: x
    inputs = dataset.train.inputs
    if config.statistics_of == "all":
        inputs = torch.cat([inputs, dataset.test.inputs])
    if config.preprocess == "whiten":
        return _make_whiten(floats(inputs).flatten(1), config.whiten_eps)
    is_image, dtype = inputs.dtype == torch.uint8, floats(inputs[:1]).dtype
    if is_image:
        mean, std = data.channel_statistics(Split(inputs, torch.zeros(len(inputs))))
        mean, std = mean.view(3, 1, 1), std.view(3, 1, 1)
    else:
        values = floats(inputs).double()
        mean, std = values.mean(dim=0), data.divisor(values.std(dim=0))
    mean, std = (v.to(inputs.device, dtype) for v in (mean, std))

    def normalise(x: Tensor) -> Tensor:
        x = x.sub_(mean) if is_image else x - mean
        return x.div_(std) if config.preprocess == "standardise" else x

    return normalise


def _make_whiten(flat: Tensor, eps: float) -> Callable:
    """ZCA (Bell and Sejnowski 1997): decorrelate, give every direction variance 1, turn back."""
    mean = flat.double().mean(dim=0)
    centred = flat.double() - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(flat))
    gains = (variances.clamp(min=0.0) + eps * variances.mean()).rsqrt()
    matrix, mean = ((axes * gains) @ axes.T).to(flat.dtype), mean.to(flat.dtype)
    return lambda x: ((x.flatten(1) - mean) @ matrix).view_as(x)


# --- optimisers -------------------------------------------------------------------------------


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of `config`, one parameter group per weight layer that has its own factor."""
    groups = _parameter_groups(config, model)
    lr, weight_decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=lr,
            momentum=config.momentum,
            dampening=config.dampening,
            nesterov=config.nesterov,
            weight_decay=weight_decay,
            fused=True,
        )
    if config.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        settings = {"betas": config.betas, "eps": config.eps, "weight_decay": weight_decay}
        return kind(groups, lr=lr, fused=True, **settings)
    if config.optimizer == "adadelta":
        settings = {"rho": config.rho, "eps": config.eps, "weight_decay": weight_decay}
        return torch.optim.Adadelta(groups, lr=lr, **settings)
    raise ValueError(
        f"optimizer is {config.optimizer!r}; known: 'sgd', 'adam', 'adamw', 'adadelta'"
    )


def _parameter_groups(config: TrainConfig, model: nn.Module) -> list[dict]:
    layers = models.weight_layers(model)
    shared, groups = list(model.parameters()), []
    scales = {n: _per_layer(config, f"{n}_scale", layers) for n in ("lr", "weight_decay", "eps")}
    for index, layer in enumerate(layers):
        own = {n: getattr(config, n) * s[index] for n, s in scales.items() if s[index] != 1.0}
        if own:
            shared = [p for p in shared if p is not layer.weight]
            groups.append({"params": [layer.weight], **own})
    return groups + ([{"params": shared}] if shared else [])


def _per_layer(config: TrainConfig, name: str, layers: list) -> tuple:
    factors = getattr(config, name)
    if len(factors) not in (0, len(layers)):
        raise ValueError(
            f"{name} has {len(factors)} factors, but the net has {len(layers)} weight layers; "
            "give one factor for each, or none"
        )
    return tuple(factors) or (1.0,) * len(layers)


def at_input_scale(config: TrainConfig, factor: float) -> TrainConfig:
    """The configuration that, on inputs `factor` times larger, trains the very same function.

    Only the first weight layer changes. Its initial weights are divided by `factor` (s). Its
    gradients are then s times larger, so SGD needs lr / s² and weight decay × s²; momentum,
    dampening and Nesterov stay. Adam divides by the size of the gradient: lr / s, eps × s, and
    coupled weight decay × s²; AdamW, whose decay is lr × weight decay: weight decay × s. Biases
    keep their lr. Exact in real arithmetic, and to the bit in floating point where s is a power
    of two and nothing overflows. Derivation: the page "The exact answer".

    Raises ValueError for an optimiser without such a map, or a factor that is not positive.
    """
    powers = {  # of the factor
        "sgd": {"init": -1, "lr": -2, "weight_decay": 2},
        "adam": {"init": -1, "lr": -1, "weight_decay": 2, "eps": 1},
        "adamw": {"init": -1, "lr": -1, "weight_decay": 1, "eps": 1},
    }
    if config.optimizer not in powers:
        raise ValueError(f"optimizer is {config.optimizer!r}; the map is known for {list(powers)}")
    if not factor > 0:
        raise ValueError(f"factor is {factor!r}; give a number above 0")
    num_layers = len(models.weight_layers(models.build(config.model, **config.model_options)))
    changed = {"input_scale": config.input_scale * factor}
    for name, power in powers[config.optimizer].items():
        first, *rest = getattr(config, f"{name}_scale") or (1.0,) * num_layers
        changed[f"{name}_scale"] = (first * factor**power, *rest)
    return replace(config, **changed)


# --- evaluation -------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, prepare: Callable, *, loss_fn: Callable = F.cross_entropy
) -> Metrics:
    """Mean loss and accuracy of `model` on `split`, in eval mode.

    Every example weighs the same, so a short last batch counts for what it holds. Leaves the
    model in the mode it was in. Raises ValueError if the split is empty.
    """
    if len(split) == 0:
        raise ValueError("split has 0 examples; evaluate a split with at least one")
    training = model.training
    model.eval()
    loss_sum, num_correct, largest = 0.0, 0, []
    for inputs, targets in data.batches(split, EVAL_BATCH):
        outputs = model(prepare(inputs))
        loss_sum += loss_fn(outputs, targets, reduction="sum").item()
        num_correct += _num_correct(outputs, targets).item()
        largest.append(outputs.abs().max())  # NaN, if one of them is
    model.train(training)
    accuracy = num_correct / len(split) if _are_classes(split.targets) else None
    return Metrics(loss_sum / split.targets.numel(), accuracy, torch.stack(largest).max().item())


def probe(
    model: nn.Module, split: Split, prepare: Callable, *, loss_fn: Callable = F.cross_entropy
) -> dict[str, float]:
    """Loss, accuracy (of classes), gradient norm, share of dead units on `split`, in eval mode."""
    training = model.training
    model.eval()
    inputs = prepare(split.inputs)
    outputs = model(inputs)
    loss = loss_fn(outputs, split.targets)
    model.zero_grad(set_to_none=True)
    loss.backward()
    readings = {"loss": loss.item()}
    if _are_classes(split.targets):
        readings["accuracy"] = (outputs.argmax(dim=1) == split.targets).double().mean().item()
    readings["grad_norm"] = diagnostics.grad_norm(model)
    readings["dead_share"] = diagnostics.dead_share(model, inputs)
    model.zero_grad(set_to_none=True)
    model.train(training)
    return readings


def _are_classes(targets: Tensor) -> bool:
    return not targets.is_floating_point()


def _num_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many classes are right; 0 where targets are not classes. Stays on the device."""
    if not _are_classes(targets):
        return torch.zeros((), dtype=torch.int64, device=targets.device)
    return (outputs.argmax(dim=1) == targets).sum()


# --- the loop ---------------------------------------------------------------------------------


def train(
    config: TrainConfig,
    seed: int,
    dataset: Dataset,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> Result:
    """Train one net: `config` on `dataset`, everything random drawn from `seed`.

    Initial weights and the order of the examples depend on the seed alone, so that two arms with
    the same net and task share both. A loss that is not finite ends the run after its epoch and is
    recorded, not raised. With `checkpoint`, a run of over a minute saves its state after an epoch
    and resumes from it to the same bits; the file is removed at the end.

    Raises ValueError for a name that is unknown or a device that is not there.
    """
    config, device = settled(config, seed), check_device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        run = _Run(config, seed, dataset.to(device), device)
        run.resume(checkpoint)
        for epoch in range(run.epoch, config.epochs):
            run.train_epoch(epoch)
            if run.diverged_step is not None:
                break
            run.save(checkpoint)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return run.result()


def check_device(name: str) -> torch.device:
    """The device called `name`; raises ValueError if this machine has none such."""
    if name not in ("cpu", "cuda"):
        raise ValueError(
            f"device is {name!r}; use 'cpu' or 'cuda', and choose among several GPUs with the "
            "variable CUDA_VISIBLE_DEVICES"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but this machine has no CUDA device; use 'cpu'")
    return torch.device(name)


class _Run:
    """The state of one training run: what a checkpoint holds."""

    def __init__(self, config: TrainConfig, seed: int, dataset: Dataset, device: torch.device):
        self.train_split, self.val_split = dataset.train, dataset.val
        self.prepare = make_prepare(config, dataset)
        self.model = models.build(config.model, **config.model_options)
        # first of all, so that float64 weights are scaled in float64
        self.model.to(device, dtype_of(config))
        if any(isinstance(module, nn.Conv2d) for module in self.model.modules()):
            self.model.to(memory_format=torch.channels_last)  # a fifth faster on CPU, same numbers
        if config.init_scale:
            models.scale_initial_weights(self.model, config.init_scale)
        self.probe_split = first_examples(dataset.train, PROBE_INPUTS)
        self.config = config
        _check_doses(config)
        self.optimizer = make_optimizer(config, self.model)
        self.order = torch.Generator().manual_seed(seed)  # so a GPU sees the CPU's order
        self.crops = torch.Generator(device).manual_seed(seed)
        augment, ways = config.augment, data.AUGMENTATIONS
        self.augment = ways[data.known("augment", augment, ways)] if augment else None
        self.autocast = autocast(config.precision, device)
        self.schedule = SCHEDULES[data.known("schedule", config.schedule, SCHEDULES)]
        self.loss_fn = LOSSES[data.known("loss", config.loss, LOSSES)]
        _check_targets(config.loss, dataset.train.targets)
        self.step = self._step
        if device.type in RECORDINGS and not (config.lr_doses or config.forget_at):
            graphs.make_recordable(self.optimizer)
            self.step = graphs.Graphed(self._step, RECORDINGS[device.type])
        self.batches_per_epoch = math.ceil(len(self.train_split) / config.batch_size)
        self.epoch, self.diverged_step, self.saved_at = 0, None, time.monotonic()
        self.probe_steps = probe_steps(config.probe_until)
        self.history, self.probes, self.sharpness = {"epoch": []}, {}, []
        self.step_losses: list[float] = []

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training split. Reads nothing back from the device until its end."""
        self._set_dose(epoch)
        if epoch and epoch == self.config.forget_at:
            self.optimizer.state.clear()
        config = self.config
        self.model.train()
        device = self.train_split.targets.device
        losses = torch.empty(self.batches_per_epoch, device=device)
        num_correct = torch.zeros((), dtype=torch.int64, device=device)
        augment = self.augment and partial(self.augment, generator=self.crops)
        batches = data.batches(
            self.train_split, config.batch_size, generator=self.order, augment=augment
        )
        for index, (inputs, targets) in enumerate(batches):
            step = epoch * self.batches_per_epoch + index
            if step in self.probe_steps:
                self._read_probes(step)
            self._set_lr(step)
            losses[index], right = self.step(inputs, targets)
            num_correct += right
        self._close_epoch(epoch, losses.cpu(), num_correct.item())

    def _step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One step on one batch; its loss and how many classes were right before it."""
        with self.autocast:
            outputs = self.model(self.prepare(inputs))
            loss = self.loss_fn(outputs, targets)
        penalty = self._penalty()  # of the weights that gave this loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        models.apply_max_norm(self.model)
        return loss.detach() + penalty, _num_correct(outputs, targets)

    def _penalty(self) -> Tensor | float:
        """What the history's losses count beside the loss: as Keras does, with its regularisers."""
        if not self.config.show_penalty:
            return 0.0
        squares = [p.detach().square().sum() for p in self.model.parameters()]
        return self.config.weight_decay / 2 * torch.stack(squares).sum()

    def _set_dose(self, epoch: int) -> None:
        """Set lr to the dose due now: 1 is the limit 2 (1 + momentum) / sharpness, above which
        gradient descent with momentum diverges on a quadratic (Polyak 1964). The sharpness is that
        of the first `PROBE_INPUTS` training examples."""
        for dose in (dose for start, dose in self.config.lr_doses if start == epoch):
            inputs, targets = self.prepare(self.probe_split.inputs), self.probe_split.targets
            curvature = diagnostics.top_hessian_eigenvalue
            self.sharpness.append(curvature(self.model, self.loss_fn, inputs, targets))
            for group in self.optimizer.param_groups:
                group["lr"] = dose * 2 * (1 + self.config.momentum) / self.sharpness[-1]

    def _set_lr(self, step: int) -> None:
        if self.config.schedule == "constant":
            return
        factor = self.schedule(step, self.config.epochs * self.batches_per_epoch)
        for group in self.optimizer.param_groups:
            lr = group.setdefault("initial_lr", float(group["lr"])) * factor
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(lr)  # in place: a recorded step reads this very tensor
            else:
                group["lr"] = lr

    def _read_probes(self, step: int) -> None:
        readings = probe(self.model, self.probe_split, self.prepare, loss_fn=self.loss_fn)
        for name, value in {"step": step, **readings}.items():
            self.probes.setdefault(name, []).append(value)

    def _close_epoch(self, epoch: int, losses: Tensor, num_correct: int) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            self.diverged_step = epoch * self.batches_per_epoch + bad[0].item()
        if self.config.last_losses:
            self._keep(losses)
        sizes = torch.full_like(losses, self.config.batch_size)
        sizes[-1] = len(self.train_split) - self.config.batch_size * (len(losses) - 1)
        entry = {
            "epoch": epoch + 1,
            "train_loss": (losses * sizes).double().sum().item() / len(self.train_split),
        }
        if _are_classes(self.train_split.targets):
            entry["train_accuracy"] = num_correct / len(self.train_split)
        if len(self.val_split) and self.config.val_history:
            val = evaluate(self.model, self.val_split, self.prepare, loss_fn=self.loss_fn)
            val_loss = val.loss + float(self._penalty())
            entry |= {"val_loss": val_loss, "val_accuracy": val.accuracy}
        if self.config.score_training:
            scored = evaluate(self.model, self.train_split, self.prepare, loss_fn=self.loss_fn)
            entry["scored_train_accuracy"] = scored.accuracy
        for name, value in entry.items():
            if value is not None:
                self.history.setdefault(name, []).append(value)
        self.epoch = epoch + 1

    def _keep(self, losses: Tensor) -> None:
        """Add an epoch's losses to those that are kept: the first of the run, and the last ones."""
        first, *last = [*self.step_losses, *losses.tolist()]
        self.step_losses = [first, *last[-self.config.last_losses :]]

    def result(self) -> Result:
        """What has been trained and seen so far."""
        seen = self.probes, self.diverged_step, self.sharpness, self.step_losses
        return Result(self.model, self.history, *seen)

    def save(self, path: Path | None) -> None:
        """Write the state atomically, at most once a minute."""
        if path is None or time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        state = {name: getattr(self, name) for name in STATE}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"order": self.order.get_state(), "crops": self.crops.get_state()}
        state["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)
        self.saved_at = time.monotonic()

    def resume(self, path: Path | None) -> None:
        """Take up the state at `path`, if there is one."""
        if path is None or not Path(path).exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.step, graphs.Graphed):
            graphs.make_recordable(self.optimizer)  # a checkpoint is read to the CPU
        self.order.set_state(state["order"])
        self.crops.set_state(state["crops"])
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"])
        for name in STATE:
            setattr(self, name, state[name])


def _check_doses(config: TrainConfig) -> None:
    plain = config.optimizer == "sgd" and not config.nesterov and config.dampening == 0.0
    if config.lr_doses and not (plain and config.schedule == "constant" and not config.lr_scale):
        raise ValueError(
            f"lr_doses is {config.lr_doses!r}; doses need SGD with a constant lr, without "
            "dampening, Nesterov and lr_scale: the limit is another one with them"
        )


def _check_targets(loss: str, targets: Tensor) -> None:
    if (loss in LOSSES_OF_CLASSES) != _are_classes(targets):
        raise ValueError(
            f"loss is {loss!r}, but the task's targets are {targets.dtype}; "
            f"{', '.join(LOSSES_OF_CLASSES)} need int64 classes, every other loss floats (N, K)"
        )
    if loss not in LOSSES_OF_CLASSES and targets.ndim != 2:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; a regression needs (N, K)")


def precision_on(device: torch.device, precision: str) -> str:
    """What `precision` means on `device`: "auto" is "bf16" where that is quick, else "fp32".

    Quick are GPUs that have it and processors with AVX-512 BF16 or AMX. Raises ValueError for an
    unknown name.
    """
    if precision not in ("fp32", "bf16", "fp64", "auto"):
        raise ValueError(f"precision is {precision!r}; use 'fp32', 'bf16', 'fp64' or 'auto'")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has = getattr(torch.cpu, "get_capabilities", dict)()  # from torch 2.12 on
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def clock(device: torch.device) -> float:
    """Seconds that this process has worked so far; on a GPU, whose work a processor's time does not
    show, those that have passed once it has caught up."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def autocast(precision: str, device: torch.device):
    """The context in which a net computes as `precision` says: see `precision_on`."""
    if precision_on(device, precision) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def probe_steps(last: int) -> tuple[int, ...]:
    """At most 60 steps from 0 to `last`, evenly spaced in log(step + 1); none for last = 0."""
    if last == 0:
        return ()
    grid = torch.logspace(0, math.log10(last + 1), 60, dtype=torch.float64) - 1
    return tuple(sorted({int(step) for step in grid.round().tolist()}))
