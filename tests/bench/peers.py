"""What people would use instead, each as its own documentation tells a user to write it.

`…_tuned` is the same tool, set up as well as we could. Every contestant takes a `Work` and a seed,
trains the bias-free net with one hidden layer by SGD with momentum and returns an `Outcome`.
"""

import logging
import os
import warnings
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from work import Outcome, Work, accuracy, images, timed, train_part

from course_lib import data

data.import_torchvision()  # importable beside a CPU-only torch; peers import it by themselves
import torchvision  # noqa: E402
from torchvision import transforms  # noqa: E402


class Net(nn.Module):
    """The net of the scaling puzzle, as its author would write it."""

    def __init__(self, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(3072, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, 10, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(inputs.flatten(1))))


def make_optimizer(model: nn.Module, work: Work) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=work.lr, momentum=work.momentum)


# --- the thread's loop ------------------------------------------------------------------------


def torchvision_data(work: Work) -> torchvision.datasets.CIFAR10:
    """torchvision's own dataset class, with its `__getitem__`, over the images at hand."""
    dataset = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    part = train_part(work)
    dataset.data = part.inputs.permute(0, 2, 3, 1).cpu().numpy()
    dataset.targets = part.targets.tolist()
    moved = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    dataset.transform = transforms.Compose(
        [*(moved if work.augment else []), transforms.ToTensor()]
    )
    dataset.target_transform = None
    return dataset


def plain_loop(model: nn.Module, loader, work: Work) -> None:
    optimizer = make_optimizer(model, work)
    for _ in range(work.epochs):
        for inputs, targets in loader:
            inputs, targets = (t.to(work.device, non_blocking=True) for t in (inputs, targets))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()


def make_net(work: Work) -> nn.Module:
    return Net(work.hidden).to(work.device)


def make_conv(work: Work) -> nn.Module:
    from course_lib import models

    return models.build("all_conv").to(work.device)


def thread_loop(
    work: Work, seed: int, make_model: Callable[[Work], nn.Module] = make_net, **loading
) -> Outcome:
    """The loop of the forum's question: ToTensor, a DataLoader with four workers."""
    torch.manual_seed(seed)
    model = make_model(work)
    # as in a script of one's own on Linux; a contestant is itself spawned, and so would workers be
    options = {"num_workers": 4, "multiprocessing_context": "fork"} | loading
    loader = DataLoader(torchvision_data(work), work.batch_size, shuffle=True, **options)
    _, seconds, cpu = timed(lambda: plain_loop(model, loader, work))
    return Outcome(seconds, cpu, accuracy(model))


def thread_loop_for_gpu(work: Work, seed: int, make_model: Callable = make_net) -> Outcome:
    """The same as one tunes it for a GPU: a worker for each core, batches in pinned memory."""
    workers = {"num_workers": len(os.sched_getaffinity(0)), "persistent_workers": True}
    return thread_loop(work, seed, make_model, pin_memory=work.device == "cuda", **workers)


def conv_loader_for_gpu(work: Work, seed: int) -> Outcome:
    """`thread_loop_for_gpu` with answer 1's all-convolutional net."""
    return thread_loop_for_gpu(work, seed, make_conv)


def thread_loop_tuned(work: Work, seed: int) -> Outcome:
    """The same with the fastest loader on two cores: workers that stay, more batches ahead."""
    return thread_loop(work, seed, num_workers=2, persistent_workers=True, prefetch_factor=8)


def thread_loader(work: Work, seed: int) -> Outcome:
    """One pass of the thread's loader alone, with Normalize, each batch dropped."""
    torch.manual_seed(seed)
    dataset = torchvision_data(work)
    normalize = transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    dataset.transform = transforms.Compose([*dataset.transform.transforms, normalize])
    loader = DataLoader(dataset, work.batch_size, shuffle=True, num_workers=0)

    def drain():
        for inputs, _ in loader:
            inputs.sum()

    _, seconds, cpu = timed(drain)
    return Outcome(seconds, cpu, None)


# --- a hand-written loop on resident tensors --------------------------------------------------


def hand_written(work: Work, seed: int, make_model: Callable = make_net) -> Outcome:
    """What one writes in ten minutes: uint8 tensors in memory, indexed by a permutation."""
    torch.manual_seed(seed)
    model, part = make_model(work), train_part(work)
    optimizer = torch.optim.SGD(model.parameters(), lr=work.lr, momentum=work.momentum, fused=True)

    def train():
        for _ in range(work.epochs):
            order = torch.randperm(len(part), device=work.device)
            for start in range(0, len(part), work.batch_size):
                picked = order[start : start + work.batch_size]
                inputs, targets = part.inputs[picked].float().div_(255), part.targets[picked]
                loss = F.cross_entropy(model(inputs), targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    _, seconds, cpu = timed(train)
    return Outcome(seconds, cpu, accuracy(model))


def conv_hand_written(work: Work, seed: int) -> Outcome:
    """The same with answer 1's all-convolutional net."""
    return hand_written(work, seed, make_conv)


def conv_plain(work: Work, seed: int) -> Outcome:
    """Answer 1's all-convolutional net in a plain float32 loop over resident tensors."""
    torch.manual_seed(seed)
    model, part = make_conv(work), train_part(work)
    optimizer = make_optimizer(model, work)

    def train():
        for inputs, targets in DataLoader(
            TensorDataset(part.inputs.float().div_(255), part.targets),
            work.batch_size,
            shuffle=True,
        ):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    _, seconds, cpu = timed(train)
    return Outcome(seconds, cpu, None)


# --- frameworks -------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def float_images(work: Work) -> TensorDataset:
    part = train_part(work)
    return TensorDataset(data.to_float(part.inputs), part.targets)


def by_example(work: Work) -> DataLoader:
    """As tutorials have it: shuffled, example by example."""
    return DataLoader(float_images(work), batch_size=work.batch_size, shuffle=True)


def by_batch(work: Work) -> DataLoader:
    """The same, whole batches indexed at once."""
    dataset = float_images(work)
    sampler = BatchSampler(RandomSampler(dataset), work.batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def lightning(work: Work, seed: int, *, loader=by_example, **options) -> Outcome:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net(work.hidden)

        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            loss = F.cross_entropy(self.net(inputs), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return make_optimizer(self, work)

    L.seed_everything(seed, verbose=False)
    module, batches = Module(), loader(work)
    trainer = L.Trainer(
        max_epochs=work.epochs,
        accelerator="cpu",
        default_root_dir=os.environ["BENCH_TMP"],
        **options,
    )
    _, seconds, cpu = timed(lambda: trainer.fit(module, batches))
    return Outcome(seconds, cpu, accuracy(module.net))


def lightning_tuned(work: Work, seed: int) -> Outcome:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return lightning(work, seed, loader=by_batch, **dict.fromkeys(off, False))


def skorch(work: Work, seed: int, *, fast: bool = False) -> Outcome:
    from skorch import NeuralNetClassifier

    torch.manual_seed(seed)
    inputs, targets = float_images(work).tensors
    rest = {"callbacks": "disable", "verbose": 0} if fast else {}
    if fast:
        rest |= {"iterator_train": _batched_iterator}
    else:
        rest |= {"iterator_train__shuffle": True}
    net = NeuralNetClassifier(
        Net, module__hidden=work.hidden, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD,
        optimizer__momentum=work.momentum, lr=work.lr, max_epochs=work.epochs,
        batch_size=work.batch_size, train_split=None, **rest,
    )  # fmt: skip
    net.initialize()
    _, seconds, cpu = timed(lambda: net.partial_fit(inputs, targets))
    return Outcome(seconds, cpu, accuracy(net.module_))


def _batched_iterator(dataset, batch_size: int, **_) -> DataLoader:
    whole = TensorDataset(dataset.X, dataset.y)
    sampler = BatchSampler(RandomSampler(whole), batch_size, drop_last=False)
    return DataLoader(whole, sampler=sampler, batch_size=None)


def skorch_tuned(work: Work, seed: int) -> Outcome:
    return skorch(work, seed, fast=True)


def keras(work: Work, seed: int, *, fast: bool = False) -> Outcome:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as k

    k.utils.set_random_seed(seed)
    inputs, targets = (t.numpy() for t in float_images(work).tensors)
    dense = partial(k.layers.Dense, use_bias=False)
    model = k.Sequential([
        k.Input((3, 32, 32)), k.layers.Flatten(),
        dense(work.hidden, activation="relu", kernel_initializer=_uniform(k, 3072)),
        dense(10, kernel_initializer=_uniform(k, work.hidden)),
    ])  # fmt: skip
    model.compile(
        optimizer=k.optimizers.SGD(work.lr, momentum=work.momentum),
        loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[] if fast else ["accuracy"],
    )
    model.build((None, 3, 32, 32))
    fit = {"batch_size": work.batch_size, "epochs": work.epochs, "verbose": 0 if fast else "auto"}
    _, seconds, cpu = timed(lambda: model.fit(inputs, targets, **fit))
    predicted = model.predict(
        data.to_float(images().test.inputs).numpy(), batch_size=1000, verbose=0
    )
    share = float(np.mean(predicted.argmax(1) == images().test.targets.numpy()))
    return Outcome(seconds, cpu, share)


def _uniform(k, fan_in: int):
    """PyTorch's default for a linear layer, so that both sides start alike."""
    return k.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def keras_tuned(work: Work, seed: int) -> Outcome:
    return keras(work, seed, fast=True)


def fastai(work: Work, seed: int, *, fast: bool = False) -> Outcome:
    import fastai.callback.progress  # noqa: F401 - gives learners their no_bar
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as FastLoader
    from fastai.learner import Learner
    from fastai.optimizer import SGD

    torch.manual_seed(seed)
    held = TensorDataset(*(t[: work.batch_size] for t in float_images(work).tensors))
    if fast:
        batches = by_batch(work)
    else:
        batches = FastLoader(float_images(work), bs=work.batch_size, shuffle=True, num_workers=0)
    loaders = DataLoaders(batches, FastLoader(held, bs=work.batch_size, num_workers=0))
    model = Net(work.hidden)
    learner = Learner(
        loaders, model, loss_func=F.cross_entropy, opt_func=partial(SGD, mom=work.momentum),
        path=os.environ["BENCH_TMP"],
    )  # fmt: skip
    if fast:
        with learner.no_bar(), learner.no_logging():
            _, seconds, cpu = timed(lambda: learner.fit(work.epochs, work.lr))
    else:
        _, seconds, cpu = timed(lambda: learner.fit(work.epochs, work.lr))
    return Outcome(seconds, cpu, accuracy(model))


def fastai_tuned(work: Work, seed: int) -> Outcome:
    return fastai(work, seed, fast=True)


warnings.filterwarnings("ignore")  # the peers' own, about workers and missing loggers
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
