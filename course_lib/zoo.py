"""The bug zoo: planted faults and healthy controls, on which a diagnosis must prove itself.

A case is a healthy control, or one with a fault of `faults.FAULTS`. Half of the controls and half
of the faults calibrate a check's threshold, the others judge it. All of it was fixed before any
check was written.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import models, tasks, training
from course_lib.data import Dataset, known, to_float
from course_lib.faults import ALL, FAULTS, Setup, replace_modules, scale_lr, standardise
from course_lib.training import TrainConfig

_IMAGES = TrainConfig(
    task="images_16", num_train=3000, num_val=1000, num_test=0, preprocess="standardise",
    weight_decay=0.0, batch_size=64, epochs=4,
)  # fmt: skip
_CNN = {"widths": (16, 32, 64), "image_shape": (3, 16, 16), "reduce": "stride", "batch_norm": True}
_RESNET = {"widths": (8, 16, 32)}
NETS: dict[str, TrainConfig] = {  # what the controls vary
    "mlp": replace(_IMAGES, model="mlp", model_options={"widths": (768, 128, 64, 10)}, epochs=8),
    "cnn": replace(_IMAGES, model="small_cnn", model_options=_CNN, optimizer="adam", lr=3e-3),
    "resnet": replace(
        _IMAGES, task="images_8", model="small_resnet", model_options=_RESNET, lr=0.05
    ),
    "regression": TrainConfig(
        task="teacher", num_train=3000, num_val=1000, num_test=0, preprocess="standardise",
        model="mlp", model_options={"widths": (20, 64, 64, 1)}, loss="mse", optimizer="adam",
        lr=3e-3, weight_decay=0.0, batch_size=64, epochs=8,
    ),
}  # fmt: skip
MAX_STEPS = 2000  # the nets above take 188 or 376; one example at a time, 12,000 or more
SECONDS = {"mlp": 1.0, "cnn": 1.6, "resnet": 2.7, "regression": 0.5}  # a run, about
READINGS = 6  # validations in a run, evenly spaced
NUM_CONTROLS = 20  # a net


# --- losses, by hand, so that shapes broadcast without a warning ------------------------------


def l1(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Absolute error; classes (N,) are compared as one-hot rows."""
    return _reduced((outputs - _as_numbers(targets)).abs(), reduction)


def l2(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Squared error; classes (N,) are compared as one-hot rows."""
    return _reduced((outputs - _as_numbers(targets)).square(), reduction)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else getattr(losses, reduction)()


def _as_numbers(targets: Tensor) -> Tensor:
    return targets if targets.is_floating_point() else F.one_hot(targets, 10).float()


LOSSES = {"cross_entropy": F.cross_entropy, "mse": l2, "l2": l2, "l1": l1}


# --- healthy controls -------------------------------------------------------------------------

# Accuracy, or share of variance explained (R²), of the nets above with seed `SCREENING_SEED`.
REFERENCE = {"mlp": 0.396, "cnn": 0.424, "resnet": 0.368, "regression": 0.901}
HEALTHY = 0.8  # of the reference, both counted from what guessing gives
SCREENING_SEED = 1000  # runs that judge use seeds from 0 on
REJECTED: dict[str, tuple[int, ...]] = {  # draws that were not healthy
    "mlp": (10,),
    "cnn": (),
    "resnet": (),
    "regression": (),
}


def guessing(net: str) -> float:
    """The performance of a net that has learned nothing: 0.1 of ten classes, R² of 0."""
    return 0.0 if NETS[net].task == "teacher" else 0.1


def is_healthy(net: str, performance: float) -> bool:
    """Whether a control has at least the share `HEALTHY` of what the reference net learns."""
    floor = guessing(net)
    return performance - floor >= HEALTHY * (REFERENCE[net] - floor)


def draw(net: str, number: int) -> TrainConfig:
    """Draw `number` of a control: lr × 1/3 to 3, widths × 1/2 to 2, any initialiser."""
    random_number = random.Random(f"{net} {number}").random  # stable from one Python to the next
    config = NETS[net]
    lr = config.lr * 3 ** (2 * random_number() - 1)
    factor = 2 ** (2 * random_number() - 1)
    init = models.INITIALISERS[int(random_number() * len(models.INITIALISERS))]
    widths = config.model_options["widths"]
    scaled = [8 * max(1, round(width * factor / 8)) for width in widths]
    if config.model == "mlp":  # its inputs and outputs are given
        scaled[0], scaled[-1] = widths[0], widths[-1]
    options = {**config.model_options, "widths": tuple(scaled), "init": init}
    return replace(config, lr=float(f"{lr:.3g}"), model_options=options)


def control(net: str, number: int) -> TrainConfig:
    """Healthy control `number`, 0 to 19: of the draws that were not rejected, in order."""
    return draw(net, next(islice((k for k in count() if k not in REJECTED[net]), number, None)))


# --- cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One animal of the zoo, and what a reader changes about it. Plain data, as `TrainConfig`.

    Raises ValueError for an unknown net, fault or change, for a fault that the net cannot have, and
    for a control that is not there.
    """

    net: str  # a name in NETS
    fault: str = ""  # a name in FAULTS; "" is healthy
    control: int = 0  # the healthy control that it is, or that the fault is planted in
    changes: Mapping = field(default_factory=dict)  # names and values of CHANGES, made afterwards
    check: str = ""  # a name in checks.CHECKS; "" trains, and that is all

    def __post_init__(self):
        known("net", self.net, NETS)
        if self.fault:
            known("fault", self.fault, FAULTS)
            if self.net not in FAULTS[self.fault].nets:
                nets = ", ".join(FAULTS[self.fault].nets)
                raise ValueError(f"net is {self.net!r}; {self.fault} can be planted in: {nets}")
        if self.control not in range(NUM_CONTROLS):
            raise ValueError(f"control is {self.control!r}; use 0 to {NUM_CONTROLS - 1}")
        for name in self.changes:
            known("a change", name, CHANGES)

    def plain(self) -> dict:
        """As JSON-ready data, without what is at its default."""
        fault = {"fault": self.fault} if self.fault else {}
        changes = {"changes": dict(self.changes)} if self.changes else {}
        check = {"check": self.check} if self.check else {}
        return {"net": self.net, "control": self.control} | fault | changes | check

    @property
    def split(self) -> str:
        """Whether it may calibrate a check or judge it: "calibrate" or "judge"."""
        return fault_split(self.fault) if self.fault else control_split(self.control)


def control_split(number: int) -> str:
    """Controls were drawn in no order: even numbers calibrate, odd ones judge."""
    return "judge" if number % 2 else "calibrate"


@lru_cache
def _shuffled_faults() -> list[str]:
    """Part by part of the script; within a part in an order that nobody chose."""
    digest = {name: hashlib.sha256(name.encode()).hexdigest() for name in FAULTS}
    return sorted(FAULTS, key=lambda name: (FAULTS[name].part, digest[name]))


def fault_split(name: str) -> str:
    """Of `_shuffled_faults`, every other one judges: half of each part, up to one.

    Raises ValueError for an unknown fault.
    """
    return "judge" if _shuffled_faults().index(known("fault", name, FAULTS)) % 2 else "calibrate"


def cases(split: str | None = None, check: str = "", nets=ALL, **changes) -> dict[str, Case]:
    """Every case of `nets` by name, or those of one split: arms for a study.

    Each with `check` and `changes`. A fault is planted once in each net that it applies to, in a
    control of its own split. Raises ValueError for an unknown split.
    """
    if split not in (None, "calibrate", "judge"):
        raise ValueError(f"split is {split!r}; use 'calibrate', 'judge' or None for both")
    found = {
        f"{net} {number:02d}": Case(net, control=number, changes=changes, check=check)
        for net in NETS
        for number in range(NUM_CONTROLS)
    }
    for place, fault in enumerate(_shuffled_faults()):
        for net in FAULTS[fault].nets:
            found[f"{net} {fault}"] = Case(net, fault, place % NUM_CONTROLS, changes, check)
    return {k: c for k, c in found.items() if c.net in nets and split in (None, c.split)}


def arms_by_fault(split: str, nets=ALL) -> dict[str, tuple[str, ...]]:
    """The names in `cases` of each fault's cases: what a contrast over faults asks for."""
    found: dict[str, tuple[str, ...]] = {}
    for name, case in cases(split, nets=nets).items():
        if case.fault:
            found[case.fault] = (*found.get(case.fault, ()), name)
    return found


def control_arms(split: str, nets=ALL) -> tuple[str, ...]:
    """The names in `cases` of the healthy controls."""
    return tuple(name for name, case in cases(split, nets=nets).items() if not case.fault)


def healthy_arms(split: str, nets=ALL) -> dict[str, str]:
    """For each faulty case's name in `cases`, the control's that the fault is planted in."""
    return {
        name: f"{case.net} {case.control:02d}"
        for name, case in cases(split, nets=nets).items()
        if case.fault
    }


# --- from a case to a setup -------------------------------------------------------------------


def _setter(name: str) -> Callable:
    return lambda setup, value: setattr(setup, name, value)


def _cut(setup: Setup, number: int) -> None:
    setup.inputs, setup.targets = setup.inputs[:number], setup.targets[:number]


def _set_lr(setup: Setup, lr: float) -> None:
    for group in setup.optimizer.param_groups:
        group["lr"] = lr


def _set_batch_norm(setup: Setup, keep: bool) -> None:
    if not keep:
        replace_modules(setup.model, nn.BatchNorm2d, nn.Identity)


def _set_loss(setup: Setup, name: str) -> None:
    setup.loss = LOSSES[known("loss", name, LOSSES)]


# What a reader may try, by name: done to the setup that has the fault, as to a script with a bug
CHANGES: dict[str, Callable] = {
    "lr": _set_lr,
    "lr_factor": scale_lr,
    "batch_size": _setter("batch_size"),
    "num_train": _cut,
    "epochs": _setter("epochs"),
    "max_steps": _setter("max_steps"),
    "batch_norm": _set_batch_norm,
    "init_scale": lambda setup, factor: models.scale_initial_weights(setup.model, factor),
    "loss": _set_loss,
}


def build(case: Case, seed: int) -> Setup:
    """The script of `case`: the healthy one, then the fault, then the changes.

    Initial weights, and what a fault draws, depend on `seed` alone.
    """
    return build_from(control(case.net, case.control), case.fault, seed, **case.changes)


def build_from(
    config: TrainConfig, fault: str, seed: int, base: Dataset | None = None, **changes
) -> Setup:
    """As `build`, for any configuration of a net. `base` as in `tasks.load`.

    Raises ValueError for an unknown fault or change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        setup = _healthy(config, seed, base)
        torch.manual_seed(seed)  # a fault draws the same numbers whatever the size of the net
        if fault:
            FAULTS[known("fault", fault, FAULTS)].plant(setup)
    for name, value in changes.items():
        CHANGES[known("a change", name, CHANGES)](setup, value)
    return setup


def _healthy(config: TrainConfig, seed: int, base: Dataset | None) -> Setup:
    sizes = {name: getattr(config, name) for name in ("num_train", "num_val", "num_test")}
    dataset = tasks.load(config.task, base, **sizes)
    inputs, val_inputs = (
        to_float(x) if x.dtype == torch.uint8 else x.clone()
        for x in (dataset.train.inputs, dataset.val.inputs)
    )
    model = models.build(config.model, **config.model_options)
    prepare = standardise(inputs)
    return Setup(
        model=model,
        optimizer=training.make_optimizer(config, model),
        loss=LOSSES[config.loss],
        inputs=inputs,
        targets=dataset.train.targets.clone(),
        val_inputs=val_inputs,
        val_targets=dataset.val.targets.clone(),
        truth=dataset.val.targets,
        prepare=prepare,
        val_prepare=prepare,
        batch_size=config.batch_size,
        epochs=config.epochs,
        max_steps=MAX_STEPS,
        seed=seed,
    )


# --- training ---------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run showed. `performance` is the truth about the net at its end, the rest is what its
    author sees, bug and all."""

    losses: list[float]  # of every step
    history: dict[str, list]  # step, train_loss (mean since the last reading), val_loss, val_score
    performance: float  # accuracy, or R² but at least 0, with the right targets
    diverged_step: int | None  # the first with a loss that is not finite; it ends the run


def train(setup: Setup) -> Outcome:
    """Train `setup`'s net in place, everything random drawn from its seed."""
    passes = math.ceil(len(setup.inputs) / setup.batch_size)
    num_steps = min(setup.epochs * passes, setup.max_steps)
    read_after = {math.ceil(num_steps * k / READINGS) for k in range(1, READINGS + 1)}
    losses, history, last = [], {}, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        setup.model.train()
        for step, (inputs, targets) in enumerate(islice(batches(setup), num_steps), start=1):
            losses.append(setup.step(setup, setup.prepare(inputs), targets).item())
            finite = math.isfinite(losses[-1])
            if step in read_after or not finite:
                row = {"step": step, "train_loss": sum(losses[last:]) / (step - last)}
                row |= validate(setup)
                last = step
                for name, value in row.items():
                    history.setdefault(name, []).append(value)
            if not finite:
                break
    performance = history.pop("performance")[-1]
    return Outcome(losses, history, performance, None if finite else step - 1)


def batches(setup: Setup) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) as loaded, `batch_size` each (the last of a pass may be shorter): pass
    after pass without end, each in a new order unless the script does not shuffle."""
    order, size = torch.Generator().manual_seed(setup.seed), len(setup.inputs)
    while True:
        places = torch.randperm(size, generator=order) if setup.shuffle else torch.arange(size)
        for chosen in places.split(setup.batch_size):
            yield setup.inputs[chosen], setup.targets[chosen]


@torch.no_grad()
def validate(setup: Setup) -> dict[str, float]:
    """Loss and score (accuracy, or R²) as the script reads them, and the true performance."""
    if setup.eval_mode:
        setup.model.eval()
    batches = setup.val_inputs.split(training.EVAL_BATCH)
    outputs = torch.cat([setup.model(setup.val_prepare(inputs)) for inputs in batches])
    if setup.train_mode:
        setup.model.train()
    return {
        "val_loss": setup.loss(outputs, setup.val_targets).item(),
        "val_score": _score(outputs, setup.val_targets),
        "performance": max(0.0, _score(outputs, setup.truth)),  # 0 for NaN, too
    }


def _score(outputs: Tensor, targets: Tensor) -> float:
    if not targets.is_floating_point():
        return (outputs.argmax(dim=1) == targets).double().mean().item()
    targets = targets.view_as(outputs).double()
    return 1.0 - (outputs - targets).square().mean().item() / targets.var(correction=0).item()


def run(case: Case, seed: int) -> dict[str, float | int | None]:
    """Build and train `case`: what a record keeps of it, the last readings."""
    outcome = train(build(case, seed))
    last = {name: values[-1] for name, values in outcome.history.items() if name != "step"}
    first = {"first_loss": outcome.losses[0], "diverged_step": outcome.diverged_step}
    return {"performance": outcome.performance} | last | first


def screen(net: str) -> tuple[int, ...]:
    """The draws to reject, until `NUM_CONTROLS` are healthy: what `REJECTED` holds."""
    rejected, number = [], 0
    while number - len(rejected) < NUM_CONTROLS:
        outcome = train(build_from(draw(net, number), "", SCREENING_SEED))
        rejected += [] if is_healthy(net, outcome.performance) else [number]
        number += 1
    return tuple(rejected)
