"""Studies: written once on a page, run at two speeds, kept as records.

A study names its arms (configurations), its contrasts (what claims assert about them) and its
seeds. `make results` runs what a record lacks; a page runs small copies of the same arms. Running
needs torch and numpy alone.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch

from course_lib import (
    checks,
    data,
    diagnostics,
    models,
    records,
    replicas,
    speedrun,
    tasks,
    training,
    zoo,
)
from course_lib.records import RecordError, Runs, run_key
from course_lib.speedrun import Recipe
from course_lib.training import TrainConfig
from course_lib.verdicts import (
    Contrast,
    Verdict,
    diagnostic,
    judge,
    repairs,
    shares_by_arm,
)
from course_lib.zoo import Case

Arm = TrainConfig | Case | Recipe
CHECKPOINTS = Path(__file__).parents[1] / "_build" / "checkpoints"
TUNING_SEEDS = 2000  # tuning runs use seeds from here on, so that judged seeds stay fresh
TUNING_VAL = 5000  # images kept from training, as the design asks
GRAD_INPUTS = 10_000  # the final gradient norm is that of the first 10,000 training examples
CANARY_STEPS = 5  # a deep net makes other rounding visible from the sixth on
CANARY_BATCH = 52  # in all more images than the 256 coordinates that one task makes of them
TIMED_STEPS = 40  # of either net, for a ratio of speeds
REPLICAS = 8  # runs in one program; 16 were slower, their weights no longer fit the cache
SHARED_WEIGHTS = 100_000  # a first layer with more of them gains nothing from company
MOVED_INPUTS = 2000  # the first so many test images are moved, turned and zoomed
USUAL_BATCH = 64  # speeds of other batch sizes are in units of that with this one
TIMED_EXAMPLES = 1024  # in a row, of either batch size; `TIMED_ROUNDS` times
TIMED_ROUNDS = 6
GOAL = 0.35  # a validation accuracy, for the price of reaching it
EQUAL_ACCURACIES = (0.4, 0.45, 0.5)  # the posted CNN log passes them from epoch 4 to 9
SMALL_LEVELS = (25, 35)  # per cent right that a small net soon gets to on its training images
STATED_ACCURACY = 0.4  # convergence is timed until then: all arms of the studies get there
MAX_CANARIES = 2  # arms of a study, evenly spread, that a record keeps a canary for


# --- one run ----------------------------------------------------------------------------------


def load_task(config: TrainConfig, base: data.Dataset | None = None) -> data.Dataset:
    """The dataset that `config` trains on."""
    sizes = {name: getattr(config, name) for name in ("num_train", "num_val", "num_test")}
    return tasks.load(config.task, base, **sizes)


def run(config: Arm, seed: int, *, device: str = "cpu", test: bool = True) -> dict:
    """One run, as a record keeps it. `test=False` (tuning) leaves the test set unread."""
    if isinstance(config, Case):
        return _run_case(config, seed, device)
    if isinstance(config, Recipe):
        return _run_recipe(config, seed, device)
    start = time.monotonic()
    dataset = load_task(config)
    key = run_key(config.plain(), seed, tasks.default_base().identity)
    kind = torch.device(device).type
    checkpoint = CHECKPOINTS / f"{key}-{SOURCE}-{kind}.pt"  # other code must not resume it
    tuning = replace(config, val_history=False, score_training=False)  # it keeps no history
    trained = config if test else tuning
    result = training.train(trained, seed, dataset, device=device, checkpoint=checkpoint)
    kept = _kept(config, seed, result, dataset.to(device), device=device, test=test)
    return kept | {"seconds": time.monotonic() - start}


def _run_case(case: Case, seed: int, device: str) -> dict:
    """One run of the zoo, which reads no test set."""
    if device != "cpu":
        raise ValueError(f"device is {device!r}; the zoo's nets are small: run them on 'cpu'")
    start = time.monotonic()
    found = checks.run(case, seed) if case.check else zoo.run(case, seed)
    seen = {"metrics": found, "history": {}, "probes": {}}
    name = load_task(zoo.NETS[case.net]).name
    return _stamped(case, seed, name, seen) | {"seconds": time.monotonic() - start}


def _run_recipe(recipe: Recipe, seed: int, device: str) -> dict:
    """One speed-run, on validation images where the recipe holds some back."""
    start = time.monotonic()
    dataset = load_task(recipe)
    found = speedrun.train(recipe, seed, dataset.to(device))
    split = "val" if recipe.num_val else "test"
    metrics = {f"{split}_accuracy": found["accuracy"], "minutes": found["minutes"]}
    seen = {"metrics": metrics, "history": {}, "probes": {}}
    precision = training.precision_on(torch.device(device), "auto")
    made = _stamped(recipe, seed, dataset.name, seen, device, precision)
    return made | {"seconds": time.monotonic() - start}


def run_together(configs: list[TrainConfig], seed: int, *, test: bool = True) -> list[dict]:
    """As `run`, for replicas in one program on the CPU; each counts an equal part of the time."""
    start = time.monotonic()
    dataset = load_task(configs[0])
    results = replicas.train_replicas(configs, seed, dataset)
    pairs = zip(configs, results, strict=True)
    kept = [_kept(config, seed, result, dataset, test=test) for config, result in pairs]
    share = (time.monotonic() - start) / len(configs)
    return [run | {"replicas": len(configs), "seconds": share} for run in kept]


def _kept(config, seed, result, dataset, *, device: str = "cpu", test: bool) -> dict:
    """What a record keeps of a run, but for the time it took; of a tuning run only its end."""
    seen = {
        "metrics": final_metrics(config, result, dataset, test=test),
        "history": since_dose(config, result.history) if test else {},
        "probes": result.probes if test else {},
    }
    precision = training.precision_on(torch.device(device), config.precision)
    return _stamped(config, seed, dataset.name, seen, device, precision)


def _stamped(
    config: Arm, seed: int, data_name: str, seen: Mapping, device="cpu",
    precision="fp32",
) -> dict:  # fmt: skip
    """What was seen in a run, with all that says where it comes from."""
    return {
        "seed": seed,
        "config": config.plain(),
        "data": {"name": data_name, "identity": tasks.default_base().identity},
        **seen,
        "device": _device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "source": SOURCE,
        "date": date.today().isoformat(),
    }


def grad_growth(probes: Mapping[str, list]) -> float:
    """The largest gradient norm of the first ten steps, in units of the one before training."""
    first = [g for step, g in zip(probes["step"], probes["grad_norm"], strict=True) if step <= 10]
    return max(first, key=lambda norm: norm if math.isfinite(norm) else math.inf) / first[0]


def since_dose(config: TrainConfig, history: Mapping[str, list]) -> dict[str, list]:
    """The epochs from the last dose on: those before it only lead there, at another lr."""
    start = config.lr_doses[-1][0] if config.lr_doses else 0
    return {name: values[start:] for name, values in history.items()}


def loss_growth(losses: list[float]) -> float:
    """The largest loss, in units of the first."""
    return max(losses, key=lambda loss: loss if math.isfinite(loss) else math.inf) / losses[0]


def loss_by_steps(losses: list[float]) -> dict[str, float]:
    """What the losses of single steps say, given that of the first step and those of the last ones.

    first_loss; of the last ones last_loss, their mean, median_loss, and loss_swing, their 95 % over
    their 5 % quantile. In decades, from −4 on, since below 0.0001 all is fitted, up to 38 where not
    finite, about the largest float32: log_loss, of last_loss; loss_fall, from the first to that.
    """
    first, last = losses[0], torch.tensor(losses[1:], dtype=torch.float64)
    low, median, high = last.quantile(torch.tensor([0.05, 0.5, 0.95]).double()).tolist()
    found = {"first_loss": first, "last_loss": last.mean().item(), "median_loss": median}
    found["loss_swing"] = high / low if low else math.inf
    log_first, found["log_loss"] = (_decades(loss) for loss in (first, found["last_loss"]))
    return found | {"loss_fall": log_first - found["log_loss"]}


def _decades(loss: float) -> float:
    return math.log10(max(loss, 1e-4)) if math.isfinite(loss) else 38.0


def loss_at_accuracy(history: Mapping[str, list], split: str, accuracy: float) -> float | None:
    """The loss when the `split`'s accuracy first reaches `accuracy`: on a straight line between
    two epochs, the first of which is guessing (a tenth right, loss ln 10). None if it never does.
    """
    accuracies, losses = history[f"{split}_accuracy"], history[f"{split}_loss"]
    return _when_reached(accuracies, losses, accuracy, before=math.log(10))


def _when_reached(accuracies: list, values: list, level: float, *, before: float) -> float | None:
    """What `values` are when `accuracies` first reach `level`: on a straight line between two
    epochs, the first of which is guessing, with `before`. None if they never do."""
    last = (0.1, before)
    for now in zip(accuracies, values, strict=True):
        if now[0] >= level:
            share = (level - last[0]) / (now[0] - last[0]) if level > last[0] else 0.0
            return last[1] + share * (now[1] - last[1])
        last = now
    return None


def loss_at_equal_accuracy(history: Mapping[str, list]) -> dict[str, float]:
    """equal_accuracy_{split}_loss for training and validation, as the history has them: the mean
    of `loss_at_accuracy` at `EQUAL_ACCURACIES`; NaN if one of them is never reached."""
    found = {}
    for split in ("train", "val"):
        losses = [loss_at_accuracy(history, split, level) for level in EQUAL_ACCURACIES]
        value = math.nan if None in losses else statistics.fmean(losses)
        found[f"equal_accuracy_{split}_loss"] = value
    return found


def epochs_to(history: Mapping[str, list], column: str, accuracy: float) -> float:
    """After how many epochs `column` of the history first reaches `accuracy`; NaN if never."""
    epochs = _when_reached(history[column], history["epoch"], accuracy, before=0.0)
    return math.nan if epochs is None else epochs


def epochs_to_printed(history: Mapping[str, list]) -> dict[str, float]:
    """epochs_to_train and epochs_to_val: until the accuracy that is printed first reaches
    `STATED_ACCURACY`. epochs_to_best: until that of validation comes within a point of its best."""
    best = max(history["val_accuracy"]) - 0.01
    return {
        "epochs_to_train": epochs_to(history, "train_accuracy", STATED_ACCURACY),
        "epochs_to_val": epochs_to(history, "val_accuracy", STATED_ACCURACY),
        "epochs_to_best": epochs_to(history, "val_accuracy", best),
    }


def parting_epoch(history: Mapping[str, list]) -> dict[str, float]:
    """parting_epoch: the first from which the training accuracy as printed stays more than a point
    above that of validation to the end; NaN if it does not at the end."""
    pairs = zip(history["train_accuracy"], history["val_accuracy"], strict=True)
    apart = [train - val > 0.01 for train, val in pairs]
    together = [k for k, now in zip(history["epoch"], apart, strict=True) if not now]
    first = max(together, default=0) + 1
    return {"parting_epoch": float(first) if apart[-1] else math.nan}


def epochs_to_levels(history: Mapping[str, list]) -> dict[str, float]:
    """Epochs to each of `SMALL_LEVELS`, as epochs_to_{per cent}: of the training images, scored
    with dropout off."""
    column = "scored_train_accuracy"
    return {f"epochs_to_{n}": epochs_to(history, column, n / 100) for n in SMALL_LEVELS}


def price_of_accuracy(history: Mapping[str, list], metrics: Mapping) -> dict[str, float]:
    """epochs_to_goal, steps_to_goal and time_to_goal: until the validation accuracy is `GOAL`.

    The time is that of training alone, in units of an epoch with batches of `USUAL_BATCH`. Raises
    ValueError without the speed, which another measure reads: name that first.
    """
    if "speed" not in metrics:
        raise ValueError("measures holds 'price_of_accuracy'; put 'speed' in front of it")
    epochs = epochs_to(history, "val_accuracy", GOAL)
    steps, time_taken = epochs * metrics["steps_per_epoch"], epochs / metrics["speed"]
    return {"epochs_to_goal": epochs, "steps_to_goal": steps, "time_to_goal": time_taken}


def dead_share_of(model, split: data.Split, prepare) -> float:
    """As `diagnostics.dead_share`, on a split too large to be prepared at once."""
    parts = data.batches(split, training.EVAL_BATCH)
    dead = [diagnostics.dead_units(model, prepare(inputs)).values() for inputs, _ in parts]
    layers = [torch.stack(layer).all(dim=0) for layer in zip(*dead, strict=True)]
    return torch.cat(layers).double().mean().item() if layers else 0.0


@torch.no_grad()
def logits_digest(model, split: data.Split, prepare) -> int:
    """48 bits of the SHA-256 of the logits: the same for nets whose outputs agree to the bit."""
    digest = hashlib.sha256()
    for inputs, _ in data.batches(split, training.EVAL_BATCH):
        digest.update(model(prepare(inputs)).cpu().numpy().tobytes())
    return int(digest.hexdigest()[:12], 16)


def final_metrics(config: TrainConfig, result, dataset: data.Dataset, *, test: bool) -> dict:
    """What is measured once training is over, in eval mode, on whole splits."""
    dtype = torch.float64 if config.precision == "fp64" else torch.float32
    prepare = training.make_prepare(config, dataset, dtype)
    model, loss_fn = result.model.eval(), training.LOSSES[config.loss]
    splits = {"train": dataset.train, "val": dataset.val} | ({"test": dataset.test} if test else {})
    metrics = {}
    for name, split in splits.items():
        if len(split):
            found = training.evaluate(model, split, prepare, loss_fn=loss_fn)
            metrics[f"{name}_loss"] = found.loss
            if found.accuracy is not None:
                metrics[f"{name}_accuracy"] = found.accuracy
            metrics.setdefault("max_abs_logit", found.max_abs_logit)  # of the training split
    first = training.first_examples(dataset.train, GRAD_INPUTS)
    metrics["grad_norm"] = training.probe(model, first, prepare, loss_fn=loss_fn)["grad_norm"]
    metrics["dead_share"] = dead_share_of(model, dataset.train, prepare)
    metrics["logits_digest"] = logits_digest(model, first, prepare)
    if result.sharpness:
        metrics["sharpness_first"], metrics["sharpness"] = result.sharpness[0], result.sharpness[-1]
        metrics["loss_growth"] = loss_growth(since_dose(config, result.history)["train_loss"])
    if result.probes:
        metrics["grad_growth"] = grad_growth(result.probes)
    if result.step_losses:
        metrics |= loss_by_steps(result.step_losses)
    for name in config.measures if test else ():
        if name in HISTORY_MEASURES:
            metrics |= HISTORY_MEASURES[name](result.history, metrics)
            continue
        found = measure(name)(config, model, dataset)
        metrics |= found if isinstance(found, dict) else {name: found}
    return metrics | {"diverged_step": result.diverged_step}


def measure(name: str) -> Callable:
    """The function behind a name in `TrainConfig.measures`; ValueError for an unknown one."""
    if name not in MEASURES:
        known = ", ".join((*MEASURES, *HISTORY_MEASURES))
        raise ValueError(f"measures holds {name!r}; known: {known}")
    return MEASURES[name]


def _test_accuracy_prepared_as(**changes) -> Callable:
    """Test accuracy when test inputs are prepared otherwise than training inputs were."""

    def value(config: TrainConfig, model, dataset: data.Dataset) -> float:
        prepare = training.make_prepare(replace(config, **changes), dataset, torch.float32)
        return training.evaluate(model, dataset.test, prepare).accuracy

    return value


def _test_accuracy_own_statistics(config: TrainConfig, model, dataset: data.Dataset) -> float:
    swapped = replace(dataset, train=dataset.test)
    prepare = training.make_prepare(config, swapped, torch.float32)
    return training.evaluate(model, dataset.test, prepare).accuracy


def _test_loss_clipped(config: TrainConfig, model, dataset: data.Dataset) -> float:
    """Test loss of a regression, outputs clipped to the range of the training targets."""
    if not dataset.train.targets.is_floating_point():
        raise ValueError("measures holds 'test_loss_clipped'; it needs a task with float targets")
    low, high = torch.aminmax(dataset.train.targets)
    loss_fn = training.LOSSES[config.loss]

    def clipped(outputs: torch.Tensor, targets: torch.Tensor, **options) -> torch.Tensor:
        return loss_fn(outputs.clamp(low, high), targets, **options)

    prepare = training.make_prepare(config, dataset, torch.float32)
    return training.evaluate(model, dataset.test, prepare, loss_fn=clipped).loss


def _test_errors(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
    """Errors of a regression on test targets, whatever its loss: root mean square, mean absolute,
    and the mean itself (what it is too high by)."""
    if not dataset.test.targets.is_floating_point():
        raise ValueError("measures holds 'test_errors'; it needs a task with float targets")
    prepare = training.make_prepare(config, dataset, torch.float32)

    def mean(error: Callable) -> float:
        return training.evaluate(model, dataset.test, prepare, loss_fn=error).loss

    return {
        "test_rms_error": math.sqrt(mean(training.LOSSES["mse"])),
        "test_mean_abs_error": mean(training.LOSSES["l1"]),
        "test_mean_error": mean(lambda outputs, targets, reduction: (outputs - targets).sum()),
    }


def _speed_over_relu(config: TrainConfig, model, dataset: data.Dataset) -> float:
    """Training steps per second of processor time, in units of those of the same net with ReLU.

    1 is as fast. Processor time stands still while another program has the core; the steps of both
    nets alternate, so that a shared cache slows both; the fastest of each counts. CPU only.
    """
    prepare = training.make_prepare(config, dataset, torch.float32)
    batch = training.first_examples(dataset.train, config.batch_size)
    inputs, loss_fn = prepare(batch.inputs), training.LOSSES[config.loss]
    options = (config.model_options, {**config.model_options, "activation": "relu"})
    nets = [_net_to_time(replace(config, model_options=chosen)) for chosen in options]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_STEPS):
        for (net, optimizer), found in zip(nets, seconds, strict=True):
            start = time.process_time()
            loss = loss_fn(net(inputs), batch.targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            found.append(time.process_time() - start)
    return min(seconds[1]) / min(seconds[0])


def _speed_over_usual_batch(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
    """speed: examples trained on per second, in units of those with batches of `USUAL_BATCH`; with
    it epoch_time, which is its inverse, and steps_per_epoch.

    Measured as `_speed_over_relu` measures, by turns and in processor time; on a GPU, whose work a
    processor's time does not show, by the clock.
    """
    device = next(model.parameters()).device
    prepare = training.make_prepare(config, dataset, torch.float32)
    split = training.first_examples(dataset.train, TIMED_EXAMPLES)
    inputs, targets = prepare(split.inputs), split.targets
    loss_fn = training.LOSSES[config.loss]
    net, optimizer = _net_to_time(config, device)
    seconds: dict[int, list[float]] = {config.batch_size: [], USUAL_BATCH: []}
    for _ in range(TIMED_ROUNDS):
        for size, found in seconds.items():
            start = training.clock(device)
            for batch in zip(inputs.split(size), targets.split(size), strict=True):
                loss = loss_fn(net(batch[0]), batch[1])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            found.append(training.clock(device) - start)
    speed = min(seconds[USUAL_BATCH]) / min(seconds[config.batch_size])
    steps = math.ceil(len(dataset.train) / config.batch_size)
    return {"speed": speed, "epoch_time": 1 / speed, "steps_per_epoch": steps}


def _net_to_time(config: TrainConfig, device: torch.device | str = "cpu"):
    """A new net of `config` and its optimiser, in the memory layout that training uses."""
    generator = torch.Generator().manual_seed(0)
    net = models.build(config.model, generator=generator, **config.model_options).to(device)
    if any(isinstance(module, torch.nn.Conv2d) for module in net.modules()):
        net.to(memory_format=torch.channels_last)
    return net, training.make_optimizer(config, net)


WAYS_TO_MOVE: dict[str, dict[float, list[dict]]] = {  # by name and amount: for diagnostics.moved
    "shifted": {  # by whole pixels, along each axis
        k: [{"shift": way} for way in ((k, 0), (-k, 0), (0, k), (0, -k))] for k in (1, 2, 3, 4)
    },
    "turned": {angle: [{"degrees": angle}, {"degrees": -angle}] for angle in (10, 20, 30)},
    "zoomed": {factor: [{"zoom": factor}] for factor in (0.8, 0.9, 1.1, 1.25)},
}


def _on_moved_images(name: str) -> Callable:
    """Accuracy on moved test images, and the share of them that keep their predicted class.

    For each amount, {name}_{amount}_accuracy and {name}_{amount}_same_share; {name}_accuracy and
    {name}_same_share are means over the amounts. Of the first `MOVED_INPUTS` test images, whose
    accuracy unmoved is `unmoved_accuracy`; they are moved after preprocessing.
    """

    def values(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
        split = training.first_examples(dataset.test, MOVED_INPUTS)
        inputs = training.make_prepare(config, dataset, torch.float32)(split.inputs)
        still = diagnostics.predicted_classes(model, inputs)
        found: dict[str, list[float]] = {f"{name}_accuracy": [], f"{name}_same_share": []}
        for amount, ways in WAYS_TO_MOVE[name].items():
            images = (diagnostics.moved(inputs, **way) for way in ways)
            classes = torch.stack([diagnostics.predicted_classes(model, x) for x in images])
            for what, expected in (("accuracy", split.targets), ("same_share", still)):
                share = (classes == expected).double().mean().item()
                found[f"{name}_{amount}_{what}"] = [share]
                found[f"{name}_{what}"].append(share)
        unmoved = (still == split.targets).double().mean().item()
        return {"unmoved_accuracy": unmoved} | {k: statistics.fmean(v) for k, v in found.items()}

    return values


def _accuracy_by_fifth(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
    """Accuracy on each fifth of the training split in its stored order: lowest and median."""
    prepare = training.make_prepare(config, dataset, torch.float32)
    parts = torch.arange(len(dataset.train)).tensor_split(5)
    splits = [data.Split(dataset.train.inputs[p], dataset.train.targets[p]) for p in parts]
    found = sorted(training.evaluate(model, split, prepare).accuracy for split in splits)
    return {"lowest_fifth_accuracy": found[0], "median_fifth_accuracy": found[2]}


def _incoming_norm(config: TrainConfig, model, dataset: data.Dataset) -> float:
    """The largest norm of a unit's incoming weights, in layers that max-norm limits or could; a net
    needs one such layer."""
    limited = (module for module in model.modules() if hasattr(module, "max_norm"))
    return max(module.weight.norm(dim=1).max().item() for module in limited)


# name -> function of configuration, net and dataset; gives a number, or several by their own names
MEASURES: dict[str, Callable] = {
    "test_accuracy_unprepared": _test_accuracy_prepared_as(preprocess="none"),
    "test_accuracy_own_statistics": _test_accuracy_own_statistics,
    "test_loss_clipped": _test_loss_clipped,
    "test_errors": _test_errors,
    "accuracy_by_fifth": _accuracy_by_fifth,
    "incoming_norm": _incoming_norm,
    "speed_over_relu": _speed_over_relu,  # this and the next another machine gives otherwise
    "speed": _speed_over_usual_batch,
    **{name: _on_moved_images(name) for name in WAYS_TO_MOVE},
}
# name -> function of what was read after each epoch, and of the metrics that are known by then
HISTORY_MEASURES: dict[str, Callable[[Mapping, Mapping], dict]] = {
    "loss_at_equal_accuracy": lambda history, _: loss_at_equal_accuracy(history),
    "epochs_to": lambda history, _: epochs_to_levels(history),
    "price_of_accuracy": price_of_accuracy,
    "epochs_to_printed": lambda history, _: epochs_to_printed(history),
    "parting_epoch": lambda history, _: parting_epoch(history),
}


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def _source_digest() -> str:
    rooms = ("data", "tasks", "models", "diagnostics", "graphs", "training", "replicas",
             "faults", "zoo", "checks", "speedrun", "experiments")  # fmt: skip
    joined = b"".join(Path(__file__).with_name(f"{room}.py").read_bytes() for room in rooms)
    return hashlib.sha256(joined).hexdigest()[:12]


SOURCE = _source_digest()  # of the rooms that decide a run's numbers, as they were imported


def canary(config: Arm) -> list[float]:
    """The losses of five fp32 steps on the stand-in: they move when course_lib's training does.

    They end before the first that is over twice the one at the start, or that is not finite: from
    there on rounding decides, and another processor rounds otherwise.
    """
    kinds = {Case: _case_losses, Recipe: _recipe_losses, TrainConfig: _losses}
    found = kinds[type(config)](config)
    losses = [float(f"{loss:.5g}") for loss in found]
    calm = itertools.takewhile(lambda loss: loss <= 2 * losses[0] < math.inf, losses)
    return list(calm)


_SUNG: dict[str, list[float]] = {}  # by configuration


def _losses(config: TrainConfig) -> list[float]:
    config = training.settled(config, 0)
    doses = tuple((0, dose) for _, dose in config.lr_doses[-1:])
    small = replace(
        config, lr_doses=doses, num_train=CANARY_STEPS * CANARY_BATCH, num_val=0, num_test=20,
        precision="fp32", epochs=1, batch_size=CANARY_BATCH, probe_until=0, measures=(),
        last_losses=CANARY_STEPS - 1, val_history=False,
    )  # fmt: skip
    known = json.dumps(small.plain(), sort_keys=True)
    if known not in _SUNG:  # arms of one experiment share many a canary
        _SUNG[known] = training.train(small, 0, load_task(small, _canary_base())).step_losses
    return _SUNG[known]


def _case_losses(case: Case) -> list[float]:
    sizes = {"num_train": (CANARY_STEPS - 1) * CANARY_BATCH, "num_val": CANARY_BATCH}
    config = replace(zoo.control(case.net, case.control), **sizes)
    changes = {**case.changes, "epochs": CANARY_STEPS, "max_steps": CANARY_STEPS}
    return zoo.train(zoo.build_from(config, case.fault, 0, _canary_base(), **changes)).losses


def _recipe_losses(recipe: Recipe) -> list[float]:
    sizes = {"num_train": CANARY_BATCH, "batch_size": CANARY_BATCH, "num_val": 0}
    small = replace(recipe, epochs=CANARY_STEPS, widths=(8, 8, 8), **sizes)
    return speedrun.train(small, 0, load_task(small, _canary_base()), precision="fp32")["losses"]


def canaries(study: "Study") -> dict[str, list[float]]:
    """Canaries of up to `MAX_CANARIES` arms, evenly spread over the study."""
    arms = list(study.arms)[:: max(1, math.ceil(len(study.arms) / MAX_CANARIES))]
    return {arm: canary(study.arms[arm]) for arm in arms}


@lru_cache(maxsize=1)
def _canary_base() -> data.Dataset:
    return data.load_standin(CANARY_STEPS * CANARY_BATCH, 20)


# --- a study ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """An experiment as a page writes it down: the only place where it stands.

    `arms`: name -> TrainConfig, a case of the zoo, or a recipe of the speed-run. `claims`: claim id
    -> Contrast; an id may carry a setting, as in "S2 @ batch 50", which the board shows as a
    boundary. `tune`: field -> values tried for every arm on validation images, with `tuning_seeds`
    seeds; the arms in `as_is` stay as they are. `seeds`: judged runs per arm. `live`: field ->
    value that makes the arms small enough for a page.
    """

    name: str
    arms: Mapping[str, Arm]
    claims: Mapping[str, Contrast] = field(default_factory=dict)
    seeds: int = 10
    tune: Mapping[str, tuple] = field(default_factory=dict)
    tuning_seeds: int = 3
    live: Mapping = field(default_factory=dict)
    as_is: tuple[str, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"study name is {self.name!r}; use a-z, 0-9 and _")
        plain = [json.dumps(config.plain(), sort_keys=True) for config in self.arms.values()]
        if len(set(plain)) < len(plain):
            raise ValueError(f"two arms of study {self.name!r} are the same; drop or change one")
        for claim, contrast in self.claims.items():
            unknown = set(contrast.arms()) - set(self.arms)
            if unknown:
                raise ValueError(f"{claim} names arm {unknown.pop()!r}; arms: {list(self.arms)}")
        if not set(self.as_is) <= set(self.arms):
            raise ValueError(f"as_is is {self.as_is!r}; arms: {list(self.arms)}")

    def plan(self) -> dict:
        """Arms, contrasts and seeds as plain data: what a record must have been made from."""
        plan = {
            "arms": {name: config.plain() for name, config in self.arms.items()},
            "contrasts": {claim: contrast.plain() for claim, contrast in self.claims.items()},
            "seeds": self.seeds,
            "tune": {k: list(v) for k, v in self.tune.items()},
        }
        if self.as_is:  # so that older records keep their plan
            plan["as_is"] = list(self.as_is)
        return json.loads(json.dumps(plan))

    def record(self) -> dict:
        """This study's record, or an empty one. Raises RecordError if it is another study's."""
        names = self.name, self.name + records.GPU
        if not any(records.path_of(name).exists() for name in names):
            return records.empty(self.name, self.plan())
        record = records.shown(self.name)
        for part, value in self.plan().items():
            if record["analysis"].get(part) != value:
                raise RecordError(
                    f"the page's {part} of study {self.name!r} differ from its record's; "
                    "run `make results` to bring the record up to date"
                )
        return record

    def runs(self) -> Runs:
        return Runs(self.record())

    def tuning_curve(self, arm: str) -> tuple[list[float], list[list[float | None]]]:
        """The values tried of the one tuned field, and a row of validation accuracies per seed.

        Losses instead where targets are not classes; None where a run is not made yet. Raises
        ValueError if the study tunes another number of fields than one.
        """
        if len(self.tune) != 1:
            raise ValueError(f"study {self.name!r} tunes {list(self.tune)}; tune one for a curve")
        runs = self.record()["runs"]
        identity = next((run["data"]["identity"] for run in runs.values()), "")
        columns = []
        for values in tuning_grid(self):
            found = [runs.get(job.key(identity)) for job in _tuning_runs(self, arm, values)]
            columns.append([run and _val_reading(run["metrics"])[0] for run in found])
        return list(*self.tune.values()), [list(row) for row in zip(*columns, strict=True)]

    def verdict(self, claim: str) -> Verdict:
        """The verdict on `claim`, computed from the record."""
        if claim not in self.claims:
            raise ValueError(f"claim is {claim!r}; study {self.name!r} has {list(self.claims)}")
        return judge(claim, self.claims[claim], self.runs(), self.seeds)

    def run_live(self, arm: str, seed: int = 0) -> training.Result:
        """Train `arm` now, cut down by `live`, on the images that are here; never for a verdict."""
        if arm not in self.arms:
            raise ValueError(f"arm is {arm!r}; study {self.name!r} has {list(self.arms)}")
        config = replace(self.arms[arm], **self.live)
        return training.train(config, seed, load_task(config))


@dataclass(frozen=True)
class Job:
    """One run that a record lacks."""

    study: str
    arm: str
    config: Arm
    seed: int
    phase: str  # "tune" or "judge"

    def key(self, identity: str) -> str:
        """What its run is filed under, on the data called `identity`."""
        return run_key(self.config.plain(), self.seed, identity)


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """1 and 3 times each power of ten from 10^`low` up to 10^`high`, both ends included."""
    whole = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in (1, 3)]
    return tuple(whole[:-1])


def tuning_grid(study: Study) -> list[dict]:
    """Every combination of the values that are tuned; one empty combination if none is."""
    combinations = itertools.product(*study.tune.values())
    return [dict(zip(study.tune, values, strict=True)) for values in combinations]


def _tuning_runs(study: Study, arm: str, values: Mapping) -> list[Job]:
    config = replace(study.arms[arm], num_val=TUNING_VAL, **values)
    seeds = range(TUNING_SEEDS, TUNING_SEEDS + study.tuning_seeds)
    return [Job(study.name, arm, config, seed, "tune") for seed in seeds]


def tune(study: Study, record: Mapping, identity: str) -> dict[str, TrainConfig] | None:
    """The arms as tuning leaves them, by mean validation accuracy, or loss where targets are not
    classes; None while runs are missing."""
    if not study.tune:
        return dict(study.arms)
    chosen = {}
    for arm in study.arms:
        if arm in study.as_is:
            chosen[arm] = replace(study.arms[arm], num_val=TUNING_VAL)
            continue
        scores = []
        for values in tuning_grid(study):
            keys = [job.key(identity) for job in _tuning_runs(study, arm, values)]
            if any(key not in record["runs"] for key in keys):
                return None
            readings = [_val_reading(record["runs"][key]["metrics"]) for key in keys]
            scores.append((statistics.fmean(score for _, score in readings), values))
        best = max(scores, key=lambda score: score[0])[1]
        chosen[arm] = replace(study.arms[arm], num_val=TUNING_VAL, **best)
    return chosen


def _val_reading(metrics: Mapping) -> tuple[float | None, float]:
    """What validation says of a run, and that as a score: the higher, the better."""
    if "val_accuracy" in metrics:
        return metrics["val_accuracy"], metrics["val_accuracy"]
    loss = metrics["val_loss"]
    return loss, -math.inf if loss is None or not math.isfinite(loss) else -loss


def _tuned(study: Study, record: Mapping, identity: str) -> dict[str, dict]:
    arms = tune(study, record, identity) if study.tune else {}
    return {arm: config.plain() for arm, config in (arms or {}).items()}


def planned(study: Study, record: Mapping, identity: str) -> list[Job]:
    """All runs of the study; judged runs appear once tuning is complete, seed by seed: a study that
    is stopped has as many runs of each arm."""
    jobs = []
    if study.tune:
        tuned = (arm for arm in study.arms if arm not in study.as_is)
        for arm, values in itertools.product(tuned, tuning_grid(study)):
            jobs += _tuning_runs(study, arm, values)
    arms = tune(study, record, identity) or {}
    for seed, (arm, config) in itertools.product(range(study.seeds), arms.items()):
        jobs.append(Job(study.name, arm, config, seed, "judge"))
    return jobs


def pending(study: Study, record: Mapping, identity: str) -> list[Job]:
    """The runs that `record` still lacks."""
    jobs = planned(study, record, identity)
    return [job for job in jobs if job.key(identity) not in record["runs"]]


def bundles(jobs: list[Job], device: str = "cpu") -> list[list[Job]]:
    """Jobs to be done together: on the CPU replicas in groups of `REPLICAS`; every other job alone.

    Made from all planned jobs, so that a run has the same company, and so the same rounding,
    whenever the queue is stopped and started.
    """
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        company = job.config
        if device == "cpu" and _gains_by_company(job.config):
            company = replicas.shared_part(job.config)
        groups.setdefault((job.phase, job.seed, str(company)), []).append(job)
    parts = [(group, range(0, len(group), REPLICAS)) for group in groups.values()]
    return [group[start : start + REPLICAS] for group, starts in parts for start in starts]


def _gains_by_company(config: Arm) -> bool:
    if not isinstance(config, TrainConfig):
        return False
    widths = config.model_options.get("widths", (math.inf, 1))
    return replicas.can_share(config) and widths[0] * widths[1] <= SHARED_WEIGHTS


# --- a tip on the bug zoo ---------------------------------------------------------------------


def finds(metric: str, nets: tuple[str, ...] = zoo.ALL) -> Contrast:
    """`metric` tells faults from healthy scripts: judged on one half of both, calibrated on healthy
    scripts of the other. For a study whose arms are `zoo.cases` of these nets."""
    return diagnostic(
        metric, faults=zoo.arms_by_fault("judge", nets), controls=zoo.control_arms("judge", nets),
        calibrate=zoo.control_arms("calibrate", nets),
    )  # fmt: skip


def mends(nets: tuple[str, ...] = zoo.ALL) -> Contrast:
    """The change that a check makes repairs more than half of the judging faults that cost
    something, if its author keeps the variant that scores best. Arms as for `finds`."""
    return repairs(
        "after_skill", before="before_skill", faults=zoo.arms_by_fault("judge", nets),
        healthy=zoo.healthy_arms("judge", nets),
    )  # fmt: skip


def shares_by_half(study: "Study", claim: str) -> dict[str, dict[str, dict[str, float]]]:
    """What `plots.matrix` draws of a contrast of `finds` or `mends`: half of the faults -> fault ->
    net -> the share of runs that alarm, or are repaired. Without what has no run, or costs nothing.
    """
    contrast, runs, found = study.claims[claim], study.runs(), {}
    for name, split in {"judging": "judge", "calibrating": "calibrate"}.items():
        faults = {
            fault: tuple(arm for arm in arms if arm in study.arms)  # it may leave out nets
            for fault, arms in zoo.arms_by_fault(split).items()
        }
        half = replace(contrast, faults=faults, healthy=zoo.healthy_arms(split))
        for arm, share in shares_by_arm(half, runs).items():
            net, fault = arm.split()
            found.setdefault(name, {}).setdefault(fault, {})[net] = share
    return found


# --- the queue --------------------------------------------------------------------------------


def work(jobs: list[Job], device: str = "cpu") -> list[dict]:
    """Do one bundle; the process that calls it needs this library and the data, nothing else."""
    first, test = jobs[0], jobs[0].phase != "tune"
    if len(jobs) == 1:
        runs = [run(first.config, first.seed, device=device, test=test)]
    else:
        runs = run_together([job.config for job in jobs], first.seed, test=test)
    return [{"arm": j.arm, "phase": j.phase, **r} for j, r in zip(jobs, runs, strict=True)]


def compute(study: Study, executor: Executor, *, device: str = "cpu", say=print) -> dict:
    """Run what is pending and write each run as it comes. Stop and start it as you like.

    `executor` is any `concurrent.futures.Executor`. What a GPU does goes to a record of its own.
    Raises DataMissing without CIFAR-10, and RecordError where the record was made on other data.
    """
    base = data.load_cifar10()
    record = _open_record(study, base, device)
    _adopt(study, record, base.identity, device)
    while jobs := pending(study, record, base.identity):
        say(f"{study.name}: {len(jobs)} runs pending, about {_estimate(jobs, device)}")
        start, left = time.monotonic(), len(jobs)
        groups = bundles(planned(study, record, base.identity), device)
        open_groups = [group for group in groups if any(job in jobs for job in group)]
        futures = {executor.submit(work, group, device): group for group in open_groups}
        for future in as_completed(futures):
            group = futures[future]
            runs = future.result()
            _check_data(study, runs, base.identity)
            done = {j.key(base.identity): r for j, r in zip(group, runs, strict=True)}
            left -= len(done.keys() - record["runs"].keys())
            record["runs"] = {**record["runs"], **done, **record["runs"]}  # what is there stays
            records.save(record)
            time_left = _clock((time.monotonic() - start) / (len(jobs) - left) * left)
            name = f"{group[0].arm}, seed {group[0].seed}"
            say(f"{study.name}: {name} done; {left} to go, {time_left} left")
        record["analysis"]["tuned"] = _tuned(study, record, base.identity)
        records.save(record)
    return record


def _check_data(study: Study, runs: list[dict], identity: str) -> None:
    for made in (run["data"] for run in runs if run["data"]["identity"] != identity):
        raise RecordError(
            f"a run of study {study.name!r} was made on {made['name']} ({made['identity']}), not on"
            f" the data found at the start ({identity}): it is thrown away. Were images moved, or"
            " is COURSE_DATA another one where the runs are made? Put them back and start again"
        )


def _open_record(study: Study, base: data.Dataset, device: str = "cpu") -> dict:
    """The study's record with the page's present plan and canaries, saved before the first run."""
    name = study.name if device == "cpu" else study.name + records.GPU
    there = records.path_of(name).exists()
    record = records.load(name) if there else records.empty(name, {})
    others = [run["data"] for run in record["runs"].values()]
    if other := next((data for data in others if data["identity"] != base.identity), None):
        raise RecordError(
            f"record {name!r} was made on {other['name']} ({other['identity']}), here lies "
            f"{base.name} ({base.identity}); move the record away to start one of your own"
        )
    record["analysis"] = {**study.plan(), "tuned": _tuned(study, record, base.identity)}
    made_with = record["canaries"] if record["runs"] else {}
    record["canaries"] = canaries(study) | made_with
    records.save(record)
    return record


def _adopt(study: Study, record: dict, identity: str, device: str) -> None:
    """Take over from other records the runs that are pending here: no run is made twice."""
    made = [item for other in records.load_all().values() for item in other["runs"].items()]
    known = {key: run for key, run in made if run["device"] == _device_name(device)}
    for job in pending(study, record, identity):
        if run := known.get(job.key(identity)):
            record["runs"][job.key(identity)] = {**run, "arm": job.arm, "phase": job.phase}
    records.save(record)


def _estimate(jobs: list[Job], device: str) -> str:
    """Time for `jobs` on these cores, from ten timed steps of each arm, or the zoo's own word."""
    seconds = {job.arm: job.config for job in jobs}
    seconds = {arm: _time_run(config, device) for arm, config in seconds.items()}
    total = sum(seconds[job.arm] for job in jobs)
    return f"{_clock(total / _workers())} on {_workers()} cores"


def _time_run(config: Arm, device: str) -> float:
    """Seconds that one run of `config` will take, extrapolated from ten steps."""
    if isinstance(config, Case):
        return zoo.SECONDS[config.net]
    if isinstance(config, Recipe):
        return _time_recipe(config, device)
    dataset = load_task(config)
    short = replace(dataset, train=training.first_examples(dataset.train, 10 * config.batch_size))
    for _ in range(2):  # the first round pays for set-up
        start = time.monotonic()
        training.train(replace(config, epochs=1, probe_until=0), 0, short, device=device)
    steps = math.ceil(len(dataset.train) / config.batch_size) * config.epochs
    return (time.monotonic() - start) / 10 * steps * 1.1  # evaluation adds about a tenth


def _time_recipe(recipe: Recipe, device: str) -> float:
    short = replace(recipe, num_train=2 * recipe.batch_size, num_val=20, epochs=1)
    dataset = load_task(short).to(device)
    start = time.monotonic()
    speedrun.train(short, 0, dataset)
    steps = math.ceil(len(load_task(recipe).train) / recipe.batch_size) * recipe.epochs
    return (time.monotonic() - start) / 2 * steps


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"


def _workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# --- reading pages ----------------------------------------------------------------------------

OPTIONS = re.compile(r"---\n.*?\n---\n|(?::[\w-]+:[^\n]*\n)*", re.DOTALL)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def study_cells(page: Path) -> str:
    """The code of a MyST page's cells tagged `study`, joined. Needs no jupytext."""
    cells = []
    for match in CELL.finditer(page.read_text(encoding="utf-8")):
        body = match.group(1)
        options = OPTIONS.match(body).group(0)
        if re.search(r"^:?tags:.*\bstudy\b", options, re.MULTILINE):
            cells.append(body[len(options) :])
    return "\n".join(cells)


def studies_of(page: Path) -> list[Study]:
    """The studies that a page writes down."""
    code = study_cells(page)
    if not code:
        return []
    namespace: dict = {}
    exec(compile(code, str(page), "exec"), namespace)
    return [value for value in namespace.values() if isinstance(value, Study)]


def all_studies() -> dict[str, Study]:
    """Every study of the book, by name. Raises ValueError if two pages use one name."""
    found: dict[str, Study] = {}
    for page in records.chapter_pages():
        for study in studies_of(page):
            if study.name in found:
                raise ValueError(f"study {study.name!r} stands on two pages; rename one")
            found[study.name] = study
    return found


def _as_long(sung: Mapping[str, list], record: Mapping) -> dict[str, list]:
    """Canaries cut to the length of the record's: it keeps no step on which two processors were
    seen to part by rounding alone."""
    known = record["canaries"]
    return {arm: losses[: len(known.get(arm, losses))] for arm, losses in sung.items()}


def main(arguments: list[str] | None = None) -> None:
    """`make results`: run what is pending, in all studies or in those named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("studies", nargs="*", help="names of studies; default: all")
    parser.add_argument("--merge", type=Path, help="join a record made elsewhere, then stop")
    parser.add_argument("--list", action="store_true", help="say what is pending, run nothing")
    parser.add_argument(
        "--renew-canaries", action="store_true", help="after a change of training that is meant"
    )
    parser.add_argument("--device", default="cpu", help="where runs are made; 'cuda' for a GPU")
    options = parser.parse_args(arguments)
    if options.merge:
        print(f"merged into {records.merge(options.merge).name}")
        return
    known = all_studies()
    for name in options.studies:
        if name not in known:
            parser.error(f"study is {name!r}; known studies: {', '.join(known)}")
    chosen = [known[name] for name in options.studies or known]
    if options.list:
        _list_pending(chosen)
        return
    training.check_device(options.device)
    torch.set_num_threads(1)
    if options.renew_canaries:
        for study in (s for s in chosen if records.path_of(s.name).exists()):
            records.save(study.record() | {"canaries": _as_long(canaries(study), study.record())})
        return
    with ProcessPoolExecutor(
        _workers(), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        for study in chosen:
            compute(study, pool, device=options.device)


def _list_pending(studies: list[Study]) -> None:
    identity = data.load_cifar10().identity
    for study in studies:
        record = study.record()
        jobs = pending(study, record, identity)
        print(f"{study.name}: {len(record['runs'])} runs there, {len(jobs)} pending")


if __name__ == "__main__":
    from course_lib import experiments  # the module that pages import, not this copy of it

    experiments.main()
