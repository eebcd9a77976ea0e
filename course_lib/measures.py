"""What is measured once training is over, of the net and of its curves.

`final_metrics` are taken of every run, and further measures of those that name them.
"""

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from course_lib import data, diagnostics, models, training
from course_lib.training import TrainConfig

GRAD_INPUTS = 10_000  # the final gradient norm is that of the first 10,000 training examples
TIMED_STEPS = 40  # of either net, for a ratio of speeds
MOVED_INPUTS = 2000  # the first so many test images are moved, turned and zoomed
USUAL_BATCH = 64  # speeds of other batch sizes are in units of that with this one
TIMED_EXAMPLES = 1024  # in a row, of either batch size; `TIMED_ROUNDS` times
TIMED_ROUNDS = 6
GOAL = 0.35  # a validation accuracy, for the price of reaching it
EQUAL_ACCURACIES = (0.4, 0.45, 0.5)  # the posted CNN log passes them from epoch 4 to 9
SMALL_LEVELS = (25, 35)  # per cent right that a small net soon gets to on its training images
STATED_ACCURACY = 0.4  # convergence is timed until then: all arms of the studies get there


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
    prepare = training.make_prepare(config, dataset)
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
        found = MEASURES[name](config, model, dataset)
        metrics |= found if isinstance(found, dict) else {name: found}
    return metrics | {"diverged_step": result.diverged_step}


def check(config: TrainConfig) -> None:
    """Raise ValueError if `config.measures` holds an unknown name."""
    for name in config.measures:
        data.known("a measure", name, (*MEASURES, *HISTORY_MEASURES))


def _test_accuracy_prepared_as(**changes) -> Callable:
    """Test accuracy when test inputs are prepared otherwise than training inputs were."""

    def value(config: TrainConfig, model, dataset: data.Dataset) -> float:
        prepare = training.make_prepare(replace(config, **changes), dataset)
        return training.evaluate(model, dataset.test, prepare).accuracy

    return value


def _test_accuracy_own_statistics(config: TrainConfig, model, dataset: data.Dataset) -> float:
    swapped = replace(dataset, train=dataset.test)
    prepare = training.make_prepare(config, swapped)
    return training.evaluate(model, dataset.test, prepare).accuracy


def _test_loss_clipped(config: TrainConfig, model, dataset: data.Dataset) -> float:
    """Test loss of a regression, outputs clipped to the range of the training targets."""
    if not dataset.train.targets.is_floating_point():
        raise ValueError("measures holds 'test_loss_clipped'; it needs a task with float targets")
    low, high = torch.aminmax(dataset.train.targets)
    loss_fn = training.LOSSES[config.loss]

    def clipped(outputs: torch.Tensor, targets: torch.Tensor, **options) -> torch.Tensor:
        return loss_fn(outputs.clamp(low, high), targets, **options)

    prepare = training.make_prepare(config, dataset)
    return training.evaluate(model, dataset.test, prepare, loss_fn=clipped).loss


def _test_errors(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
    """Errors of a regression on test targets, whatever its loss: root mean square, mean absolute,
    and the mean itself (what it is too high by)."""
    if not dataset.test.targets.is_floating_point():
        raise ValueError("measures holds 'test_errors'; it needs a task with float targets")
    prepare = training.make_prepare(config, dataset)

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
    nets alternate, so that a shared cache slows both; the fastest of each counts. On a GPU, whose
    work a processor's time does not show, by the clock.
    """
    device = dataset.train.inputs.device
    prepare = training.make_prepare(config, dataset)
    batch = training.first_examples(dataset.train, config.batch_size)
    inputs, loss_fn = prepare(batch.inputs), training.LOSSES[config.loss]
    options = (config.model_options, {**config.model_options, "activation": "relu"})
    nets = [_net_to_time(replace(config, model_options=chosen), device) for chosen in options]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMED_STEPS):
        for (net, optimizer), found in zip(nets, seconds, strict=True):
            start = training.clock(device)
            loss = loss_fn(net(inputs), batch.targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            found.append(training.clock(device) - start)
    return min(seconds[1]) / min(seconds[0])


def _speed_over_usual_batch(config: TrainConfig, model, dataset: data.Dataset) -> dict[str, float]:
    """speed: examples trained on per second, in units of those with batches of `USUAL_BATCH`; with
    it epoch_time, which is its inverse, and steps_per_epoch.

    Measured as `_speed_over_relu` measures, by turns.
    """
    device = dataset.train.inputs.device
    prepare = training.make_prepare(config, dataset)
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


def _net_to_time(config: TrainConfig, device: torch.device):
    """A new net of `config` and its optimiser, in the memory layout that training uses."""
    generator = torch.Generator().manual_seed(0)
    net = models.build(config.model, generator=generator, **config.model_options)
    net.to(device, training.dtype_of(config))
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
        inputs = training.make_prepare(config, dataset)(split.inputs)
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
    prepare = training.make_prepare(config, dataset)
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
