"""Many small nets in one program: replicas that share a seed train side by side.

Runs that differ only in numbers (learning rate, scales, weight decay) see the same examples in the
same order. So each batch is read and converted once, and their first layers are one wide matrix
product. Each replica ends where it would end alone, up to the rounding of float32. On a GPU the
step of all of them is one recording, see `graphs`.
"""

import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from course_lib import data, graphs, models, training
from course_lib.data import Dataset
from course_lib.training import Result, TrainConfig

OWN = {"input_scale", "lr", "momentum", "dampening", "weight_decay", "init_scale", "lr_scale",
       "weight_decay_scale"}  # fields in which replicas may differ  # fmt: skip
READ = OWN | {"task", "num_train", "num_val", "num_test", "model", "model_options", "preprocess",
              "schedule", "epochs", "batch_size"}  # fields that `train_replicas` knows  # fmt: skip


def can_share(config: TrainConfig) -> bool:
    """Whether runs like `config` can be replicas: SGD on a bias-free ReLU net of two layers."""
    options = config.model_options
    two_layers = config.model == "scaling_mlp" or (
        config.model == "mlp"
        and options.get("bias") is False
        and len(options.get("widths", ())) == 3
        and set(options) <= {"widths", "bias", "init", "init_std"}
    )
    return two_layers and set(config.plain()) <= READ


def shared_part(config: TrainConfig) -> TrainConfig:
    """`config` without the fields in which replicas may differ: the same for all of one program."""
    return replace(config, **{f.name: f.default for f in fields(config) if f.name in OWN})


def train_replicas(
    configs: Sequence[TrainConfig], seed: int, dataset: Dataset, *, device: str = "cpu"
) -> list[Result]:
    """One `Result` for each of `configs`, as `train` gives it, all trained from `seed` at once.

    Raises ValueError if one of them cannot be a replica, if they differ in more than `OWN`, or for
    a device that is not there.
    """
    if alone := [config.plain() for config in configs if not can_share(config)]:
        raise ValueError(
            f"configs holds {reprlib.repr(alone[0])}, which cannot be a replica (see can_share); "
            "use training.train"
        )
    if any(shared_part(config) != shared_part(configs[0]) for config in configs):
        raise ValueError(f"configs differ in more than {', '.join(sorted(OWN))}; train them apart")
    place = training.check_device(device)
    nets = [_draw(config, seed).to(place) for config in configs]
    stack = _Stack(configs, nets)
    losses, num_correct = _train(stack, shared_part(configs[0]), seed, dataset.to(place))
    stack.unload(nets)
    sizes = torch.full((losses.shape[1],), configs[0].batch_size)
    sizes[-1] = len(dataset.train) - configs[0].batch_size * (len(sizes) - 1)
    means = (losses.double() * sizes[:, None]).sum(dim=1) / len(dataset.train)  # (epochs, R)
    accuracies = num_correct.double() / len(dataset.train)
    finite = losses.isfinite().all(dim=0).all(dim=0)
    return [
        _result(net, means[:, r], accuracies[:, r])
        if finite[r]  # one that diverges would train on to the last epoch here, and harms no other
        else training.train(configs[r], seed, dataset, device=device)
        for r, net in enumerate(nets)
    ]


def _draw(config: TrainConfig, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):  # drawn on the CPU, wherever it trains
        torch.manual_seed(seed)
        net = models.build(config.model, **config.model_options)
    if config.init_scale:
        models.scale_initial_weights(net, config.init_scale)
    return net


def _train(stack, config: TrainConfig, seed: int, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Losses (epochs, steps, R) and counts of right answers (epochs, R), both on the CPU."""
    prepare = training.make_prepare(config, dataset)
    schedule, order = training.SCHEDULES[config.schedule], torch.Generator().manual_seed(seed)
    steps = math.ceil(len(dataset.train) / config.batch_size)
    device = dataset.train.targets.device
    losses = torch.empty(config.epochs, steps, stack.count, device=device)
    num_correct = torch.zeros(config.epochs, stack.count, dtype=torch.int64, device=device)

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return stack.step(prepare(inputs).flatten(1), targets)

    if device.type in training.RECORDINGS:
        step = graphs.Graphed(step, training.RECORDINGS[device.type])
    for epoch in range(config.epochs):
        batches = data.batches(dataset.train, config.batch_size, generator=order)
        for index, (inputs, targets) in enumerate(batches):
            stack.set_lr(schedule(epoch * steps + index, config.epochs * steps))
            losses[epoch, index], right = step(inputs, targets)
            num_correct[epoch] += right
    return losses.cpu(), num_correct.cpu()


class _Stack:
    """R nets of one shape: weights (R, hidden, inputs) and (R, classes, hidden)."""

    def __init__(self, configs: Sequence[TrainConfig], nets: Sequence[torch.nn.Module]):
        pairs = [models.weight_layers(net) for net in nets]
        first, second = (
            [layer.weight.detach() for layer in part] for part in zip(*pairs, strict=True)
        )
        self.count, self.weights = len(nets), [torch.stack(first), torch.stack(second)]
        self.velocities: list[Tensor] | None = None  # none before the first step, as in PyTorch

        def numbers(values: Iterable[float]) -> Tensor:  # one for each replica
            return first[0].new_tensor(list(values)).view(-1, 1, 1)

        self.scale = numbers(c.input_scale for c in configs)
        self.momentum = numbers(c.momentum for c in configs)
        self.gain = numbers(1 - c.dampening if c.momentum else 1.0 for c in configs)
        self.peak_lr = [numbers(c.lr * _factor(c.lr_scale, k) for c in configs) for k in (0, 1)]
        self.weight_decay = [
            numbers(c.weight_decay * _factor(c.weight_decay_scale, k) for c in configs)
            for k in (0, 1)
        ]
        self.lr = [lr.clone() for lr in self.peak_lr]

    def set_lr(self, factor: float) -> None:
        """What the schedule makes of the learning rates; in place, for a recorded step."""
        for lr, peak in zip(self.lr, self.peak_lr, strict=True):
            torch.mul(peak, factor, out=lr)

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One step of SGD. Returns each replica's loss and its right answers before it: (R,)."""
        first, second = self.weights
        hidden = (first.flatten(0, 1) @ inputs.T).view(self.count, -1, len(inputs))
        hidden = (hidden * self.scale).relu_()  # (R, hidden, batch)
        logits = second @ hidden  # (R, classes, batch)
        log_probs = logits.log_softmax(dim=1)
        each = torch.arange(len(targets), device=targets.device)
        loss = -log_probs[:, targets, each].mean(dim=1)
        # `argmax` names the same class, and takes seven times as long along an inner dimension
        right = (logits.max(dim=1).indices == targets).sum(dim=1)

        errors = log_probs.exp_()  # the gradient by the logits: probabilities minus one-hot targets
        errors[:, targets, each] -= 1
        errors /= len(targets)
        back = (second.mT @ errors).mul_(hidden > 0).mul_(self.scale)
        gradients = [back.flatten(0, 1) @ inputs, errors @ hidden.mT]
        self._update([gradients[0].view_as(first), gradients[1]])
        return loss, right

    def _update(self, gradients: list[Tensor]) -> None:
        for k, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            gradient.addcmul_(weight, self.weight_decay[k])
            if self.velocities is not None:
                self.velocities[k].mul_(self.momentum).addcmul_(gradient, self.gain)
                gradient = self.velocities[k]
            weight.addcmul_(gradient, self.lr[k], value=-1.0)
        if self.velocities is None:
            self.velocities = gradients

    def unload(self, nets: Sequence[torch.nn.Module]) -> None:
        """Put each replica's weights into its net."""
        for index, net in enumerate(nets):
            for layer, weight in zip(models.weight_layers(net), self.weights, strict=True):
                layer.weight.data.copy_(weight[index])


def _factor(scale: tuple[float, ...], layer: int) -> float:
    return scale[layer] if scale else 1.0


def _result(net: torch.nn.Module, losses: Tensor, accuracies: Tensor) -> Result:
    history = {"epoch": list(range(1, len(losses) + 1)), "train_loss": losses.tolist()}
    return Result(net, history | {"train_accuracy": accuracies.tolist()}, {}, None)
