"""Many small nets in one program: replicas that share a seed train side by side.

Runs that differ only in numbers (learning rate, scales, weight decay) see the same examples in the
same order. So each batch is read and converted once, and their first layers are one wide matrix
product. Each replica ends where it would end alone, up to the rounding of float32.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from course_lib import data, models, training
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


def train_replicas(configs: Sequence[TrainConfig], seed: int, dataset: Dataset) -> list[Result]:
    """One `Result` for each of `configs`, as `train` gives it, all trained from `seed` at once.

    Raises ValueError if one of them cannot be a replica, or if they differ in more than `OWN`.
    """
    if not all(can_share(config) for config in configs):
        raise ValueError("configs: some cannot be replicas (see can_share); use training.train")
    if any(shared_part(config) != shared_part(configs[0]) for config in configs):
        raise ValueError(f"configs differ in more than {', '.join(sorted(OWN))}; train them apart")
    nets = [_draw(config, seed) for config in configs]
    stack = _Stack(configs, nets)
    losses, num_correct = _train(stack, shared_part(configs[0]), seed, dataset)
    stack.unload(nets)
    sizes = torch.full((losses.shape[1],), configs[0].batch_size)
    sizes[-1] = len(dataset.train) - configs[0].batch_size * (len(sizes) - 1)
    means = (losses.double() * sizes[:, None]).sum(dim=1) / len(dataset.train)  # (epochs, R)
    accuracies = num_correct.double() / len(dataset.train)
    finite = losses.isfinite().all(dim=0).all(dim=0)
    return [
        _result(net, means[:, r], accuracies[:, r])
        if finite[r]  # one that diverges would train on to the last epoch here, and harms no other
        else training.train(configs[r], seed, dataset)
        for r, net in enumerate(nets)
    ]


def _draw(config: TrainConfig, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = models.build(config.model, **config.model_options)
    if config.init_scale:
        models.scale_initial_weights(net, config.init_scale)
    return net


def _train(stack, config: TrainConfig, seed: int, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Losses (epochs, steps, R) and counts of right answers (epochs, R)."""
    prepare = training.make_prepare(config, dataset, torch.float32)
    schedule, order = training.SCHEDULES[config.schedule], torch.Generator().manual_seed(seed)
    steps = math.ceil(len(dataset.train) / config.batch_size)
    losses = torch.empty(config.epochs, steps, stack.count)
    num_correct = torch.zeros(config.epochs, stack.count, dtype=torch.int64)
    for epoch in range(config.epochs):
        batches = data.batches(dataset.train, config.batch_size, generator=order)
        for index, (inputs, targets) in enumerate(batches):
            factor = schedule(epoch * steps + index, config.epochs * steps)
            loss, right = stack.step(prepare(inputs).flatten(1), targets, factor)
            losses[epoch, index] = loss
            num_correct[epoch] += right
    return losses, num_correct


class _Stack:
    """R nets of one shape: weights (R, hidden, inputs) and (R, classes, hidden)."""

    def __init__(self, configs: Sequence[TrainConfig], nets: Sequence[torch.nn.Module]):
        pairs = [models.weight_layers(net) for net in nets]
        first, second = (
            [layer.weight.detach() for layer in part] for part in zip(*pairs, strict=True)
        )
        self.count, self.weights = len(nets), [torch.stack(first), torch.stack(second)]
        self.velocities: list[Tensor] | None = None  # none before the first step, as in PyTorch
        self.scale = _numbers(c.input_scale for c in configs)
        self.momentum = _numbers(c.momentum for c in configs)
        self.gain = _numbers(1 - c.dampening if c.momentum else 1.0 for c in configs)
        self.lr = [_numbers(c.lr * _factor(c.lr_scale, k) for c in configs) for k in (0, 1)]
        self.weight_decay = [
            _numbers(c.weight_decay * _factor(c.weight_decay_scale, k) for c in configs)
            for k in (0, 1)
        ]

    def step(self, inputs: Tensor, targets: Tensor, lr_factor: float) -> tuple[Tensor, Tensor]:
        """One step of SGD. Returns each replica's loss and its right answers before it: (R,)."""
        first, second = self.weights
        hidden = (first.flatten(0, 1) @ inputs.T).view(self.count, -1, len(inputs))
        hidden = (hidden * self.scale).relu_()  # (R, hidden, batch)
        logits = second @ hidden  # (R, classes, batch)
        log_probs = logits.log_softmax(dim=1)
        loss = -log_probs[:, targets, torch.arange(len(targets))].mean(dim=1)
        # `argmax` names the same class, and takes seven times as long along an inner dimension
        right = (logits.max(dim=1).indices == targets).sum(dim=1)

        errors = log_probs.exp_()  # the gradient by the logits: probabilities minus one-hot targets
        errors[:, targets, torch.arange(len(targets))] -= 1
        errors /= len(targets)
        back = (second.mT @ errors).mul_(hidden > 0).mul_(self.scale)
        gradients = [back.flatten(0, 1) @ inputs, errors @ hidden.mT]
        self._update([gradients[0].view_as(first), gradients[1]], lr_factor)
        return loss, right

    def _update(self, gradients: list[Tensor], lr_factor: float) -> None:
        for k, (weight, gradient) in enumerate(zip(self.weights, gradients, strict=True)):
            gradient.addcmul_(weight, self.weight_decay[k])
            if self.velocities is not None:
                self.velocities[k].mul_(self.momentum).addcmul_(gradient, self.gain)
                gradient = self.velocities[k]
            weight.addcmul_(gradient, self.lr[k], value=-lr_factor)
        if self.velocities is None:
            self.velocities = gradients

    def unload(self, nets: Sequence[torch.nn.Module]) -> None:
        """Put each replica's weights into its net."""
        for index, net in enumerate(nets):
            for layer, weight in zip(models.weight_layers(net), self.weights, strict=True):
                layer.weight.data.copy_(weight[index])


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values)).view(-1, 1, 1)  # one for each replica


def _factor(scale: tuple[float, ...], layer: int) -> float:
    return scale[layer] if scale else 1.0


def _result(net: torch.nn.Module, losses: Tensor, accuracies: Tensor) -> Result:
    history = {"epoch": list(range(1, len(losses) + 1)), "train_loss": losses.tolist()}
    return Result(net, history | {"train_accuracy": accuracies.tolist()}, {}, None)
