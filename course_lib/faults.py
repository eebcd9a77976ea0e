"""What goes wrong in training scripts, planted the way people do it: one short function a fault.

A function takes a healthy `Setup`, all that a script holds before it starts to train, and spoils
it. Nothing here raises or warns: these are the bugs that run to the end.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import models
from course_lib.data import divisor

ALL = ("mlp", "cnn", "resnet", "regression")  # the nets of the zoo
CLASSIFIERS, CONVOLUTIONS, WITH_NORM = ALL[:3], ALL[1:3], ALL[1:3]
SGD = ("mlp", "resnet")  # the others train with Adam, which forgives a wrong scale of the loss


def update(setup: "Setup", inputs: Tensor, targets: Tensor) -> Tensor:
    """One step of training, as it should be; returns the loss."""
    setup.optimizer.zero_grad()
    loss = setup.loss(setup.model(inputs), targets)
    loss.backward()
    setup.optimizer.step()
    return loss


@dataclass
class Setup:
    """What a training script holds before it starts: to be spoilt, changed and trained."""

    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    loss: Callable[..., Tensor]  # of outputs and targets, its mean unless `reduction` says "sum"
    inputs: Tensor  # training inputs as loaded, float: images (N, 3, 16, 16) in [0, 1], or (N, D)
    targets: Tensor  # classes int64 (N,), or numbers float (N, 1)
    val_inputs: Tensor
    val_targets: Tensor  # as the script has them
    truth: Tensor  # the right validation targets; no fault and no change touches them
    prepare: Callable[[Tensor], Tensor]  # from loaded inputs to what the net sees
    val_prepare: Callable[[Tensor], Tensor]
    batch_size: int
    epochs: int
    max_steps: int  # training ends after `epochs`, or so many steps if they come first
    seed: int  # of the order of the examples, and of dropout
    shuffle: bool = True  # a new order in every epoch
    train_mode: bool = True  # model.train() is called after each validation
    eval_mode: bool = True  # model.eval() is called before it
    step: Callable[["Setup", Tensor, Tensor], Tensor] = update  # of prepared inputs and targets


@dataclass(frozen=True)
class Fault:
    """A fault, the nets that it can be planted in, and the part of the script that holds it."""

    plant: Callable[[Setup], None]
    nets: tuple[str, ...]
    part: str  # "loop", "loss", "data" or "net"


FAULTS: dict[str, Fault] = {}


def fault(part: str, nets: tuple[str, ...] = ALL) -> Callable:
    """Enter a function into `FAULTS` under its name."""

    def enter(plant: Callable[[Setup], None]) -> Callable[[Setup], None]:
        FAULTS[plant.__name__] = Fault(plant, nets, part)
        return plant

    return enter


def scale_lr(setup: Setup, factor: float) -> None:
    """Multiply the learning rate of every parameter."""
    for group in setup.optimizer.param_groups:
        group["lr"] *= factor


def replace_modules(model: nn.Module, kind: type | tuple, make: Callable[[], nn.Module]) -> None:
    """Put a new module in the place of each of `kind`, however deep."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, make())


def _before_head(setup: Setup, module: nn.Module) -> None:
    *features, head = setup.model
    setup.model = nn.Sequential(*features, module, head)


# --- the loop ---------------------------------------------------------------------------------


@fault("loop")
def no_zero_grad(setup: Setup) -> None:
    """`optimizer.zero_grad()` is missing. Every step adds its gradients to all earlier ones."""

    def step(setup: Setup, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = setup.loss(setup.model(inputs), targets)
        loss.backward()
        setup.optimizer.step()
        return loss

    setup.step = step


@fault("loop")
def zero_grad_too_late(setup: Setup) -> None:
    """`optimizer.zero_grad()` stands between `backward()` and `step()`. There is nothing to do."""

    def step(setup: Setup, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = setup.loss(setup.model(inputs), targets)
        loss.backward()
        setup.optimizer.zero_grad()
        setup.optimizer.step()
        return loss

    setup.step = step


@fault("loop")
def stale_optimizer(setup: Setup) -> None:
    """The net is made anew (copied, loaded) after the optimiser, which goes on with the old one."""
    setup.model = deepcopy(setup.model)


@fault("loop")
def lr_times_100(setup: Setup) -> None:
    """The learning rate is 100 times too large."""
    scale_lr(setup, 100.0)


@fault("loop")
def lr_over_1000(setup: Setup) -> None:
    """The learning rate is 1000 times too small."""
    scale_lr(setup, 1e-3)


@fault("loop")
def sorted_unshuffled(setup: Setup) -> None:
    """The files come class by class (numbers by size), and nobody shuffles them."""
    order = setup.targets.flatten().argsort(stable=True)
    setup.inputs, setup.targets = setup.inputs[order], setup.targets[order]
    setup.shuffle = False


@fault("loop")
def debug_slice(setup: Setup) -> None:
    """A slice from a debugging session was left in. The first batch is all the data."""
    setup.inputs = setup.inputs[: setup.batch_size]
    setup.targets = setup.targets[: setup.batch_size]


@fault("loop", WITH_NORM)
def eval_stays(setup: Setup) -> None:
    """After the first validation nobody calls `model.train()`. It trains on moving averages."""
    setup.train_mode = False


@fault("loop", WITH_NORM)
def no_eval(setup: Setup) -> None:
    """`model.eval()` is missing. Validation uses its batches' statistics, and leaves its mark."""
    setup.eval_mode = False


# --- the loss ---------------------------------------------------------------------------------


@fault("loss", CLASSIFIERS)
def softmax_twice(setup: Setup) -> None:
    """The net ends in a softmax, and cross-entropy takes another one."""
    setup.model.append(nn.Softmax(dim=1))


@fault("loss", CLASSIFIERS)
def softmax_over_batch(setup: Setup) -> None:
    """The softmax runs over dimension 0. The examples of a batch compete, not the classes."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.nll_loss(F.log_softmax(outputs, dim=0), targets)

    setup.loss = loss


@fault("loss", SGD)
def loss_summed(setup: Setup) -> None:
    """The loss is a sum over the batch in place of a mean."""
    setup.loss = partial(setup.loss, reduction="sum")


@fault("loss")
def relu_on_head(setup: Setup) -> None:
    """An activation behind the last layer, too. No output can be below 0."""
    setup.model.append(nn.ReLU())


@fault("loss", ("regression",))
def broadcast(setup: Setup) -> None:
    """Outputs (N, 1) minus targets (N,) are (N, N). Each output is drawn to the mean target."""
    setup.targets, setup.val_targets = setup.targets.squeeze(1), setup.val_targets.squeeze(1)


# --- the data ---------------------------------------------------------------------------------


@fault("data")
def labels_shuffled(setup: Setup) -> None:
    """Inputs and targets were shuffled apart. No target belongs to its input."""
    setup.targets = setup.targets[torch.randperm(len(setup.targets))]


@fault("data", CLASSIFIERS)
def labels_off_by_one(setup: Setup) -> None:
    """The training file counts classes from 1, the validation file from 0."""
    setup.targets = (setup.targets + 1) % 10


@fault("data", CLASSIFIERS)
def labels_20_percent_wrong(setup: Setup) -> None:
    """A fifth of the training images carry the name of another class."""
    wrong = torch.randperm(len(setup.targets))[: len(setup.targets) // 5]
    setup.targets[wrong] = (setup.targets[wrong] + torch.randint(1, 10, wrong.shape)) % 10


@fault("data", ("regression",))
def targets_5_percent_outliers(setup: Setup) -> None:
    """A twentieth of the training targets are 50 standard deviations too high."""
    wrong = torch.randperm(len(setup.targets))[: len(setup.targets) // 20]
    setup.targets[wrong] += 50.0


@fault("data")
def constant_target(setup: Setup) -> None:
    """The wrong column was read. Every training target is the same."""
    setup.targets[:] = setup.targets[0].clone()


@fault("data")
def nan_in_one_sample(setup: Setup) -> None:
    """One number of one training input is missing."""
    setup.inputs.view(-1)[0] = float("nan")


@fault("data")
def one_huge_sample(setup: Setup) -> None:
    """One training input is in another unit, 10,000 times as large."""
    setup.inputs[0] *= 1e4


@fault("data", CLASSIFIERS)
def inputs_0_to_255(setup: Setup) -> None:
    """The images go in as they were stored. Nothing divides or standardises them."""
    setup.prepare = setup.val_prepare = lambda inputs: 255 * inputs


@fault("data", CLASSIFIERS)
def validation_unprepared(setup: Setup) -> None:
    """Training images are standardised; those that the net is then used on are not."""
    setup.val_prepare = lambda inputs: inputs


@fault("data")
def validation_own_statistics(setup: Setup) -> None:
    """Validation inputs are standardised by their own mean and deviation, not by training's."""
    setup.val_prepare = standardise(setup.val_inputs)


@fault("data", CONVOLUTIONS)
def pixels_reshaped(setup: Setup) -> None:
    """Images (N, H, W, 3) are reshaped to (N, 3, H, W), not transposed. Neighbours part."""
    for name in ("inputs", "val_inputs"):
        images = getattr(setup, name)
        setattr(setup, name, images.permute(0, 2, 3, 1).reshape(images.shape))


@fault("data")
def examples_reshaped(setup: Setup) -> None:
    """A table (D, N) is reshaped to (N, D), not transposed. Every row mixes the examples."""
    for name in ("inputs", "val_inputs"):
        inputs = getattr(setup, name)
        setattr(setup, name, inputs.flatten(1).T.reshape(inputs.shape))


def standardise(inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that takes the mean of float `inputs` off and divides by their standard deviation.

    Both per channel of images (N, C, H, W), and per feature of other inputs (N, D); where one never
    varies, its deviation counts as 1: see `data.divisor`.
    """
    dims = [d for d in range(inputs.ndim) if d != 1]
    std, mean = torch.std_mean(inputs, dims, keepdim=True)
    std = divisor(std)
    return lambda inputs: (inputs - mean) / std


# --- the net ----------------------------------------------------------------------------------


@fault("net")
def init_zero(setup: Setup) -> None:
    """All weights and biases start at 0. The hidden units are one unit many times over."""
    for layer in models.weight_layers(setup.model):
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


@fault("net")
def init_times_10(setup: Setup) -> None:
    """Initial weights ten times too large in every layer."""
    models.scale_initial_weights(setup.model, 10.0)


@fault("net")
def init_over_100(setup: Setup) -> None:
    """Initial weights a hundred times too small in every layer."""
    models.scale_initial_weights(setup.model, 0.01)


@fault("net")
def dead_relus(setup: Setup) -> None:
    """Biases so low, from one bad step, say, that no hidden ReLU fires. Nothing can learn."""
    *hidden, _ = [m for m in setup.model.modules() if getattr(m, "bias", None) is not None]
    for layer in hidden:
        nn.init.constant_(layer.bias, -10.0)


@fault("net")
def no_activations(setup: Setup) -> None:
    """The activations were forgotten. Layers without them make one linear layer."""
    replace_modules(setup.model, nn.ReLU, nn.Identity)


@fault("net")
def first_layer_frozen(setup: Setup) -> None:
    """`requires_grad = False` was left on the first layer, which keeps its random weights."""
    models.weight_layers(setup.model)[0].requires_grad_(False)


class Detach(nn.Module):
    """Passes its inputs on, cut off from the graph, as `.detach()`, `.data` or NumPy do."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.detach()


@fault("net")
def features_detached(setup: Setup) -> None:
    """The graph is cut in front of the last layer. It alone learns."""
    _before_head(setup, Detach())


@fault("net")
def dropout_90_percent(setup: Setup) -> None:
    """0.9 was meant as the share to keep; PyTorch drops it."""
    _before_head(setup, nn.Dropout(0.9))


@fault("net", WITH_NORM)
def norm_of_one_example(setup: Setup) -> None:
    """Batch norm with a batch size of 1."""
    setup.batch_size = 1


@fault("net", WITH_NORM)
def norm_statistics_lag(setup: Setup) -> None:
    """Batch norm's momentum, 0.1 in PyTorch, set to 0.001. Validation sees statistics long past."""
    for module in setup.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.001
