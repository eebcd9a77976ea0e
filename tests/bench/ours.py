"""The course's own contestants, the physical floors, and the two ways to build the book."""

import os
import shutil
import subprocess
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from unittest import mock

import torch
from work import Outcome, Work, accuracy, images, timed

from course_lib import data, replicas, speedrun, training
from course_lib.experiments import side_by_side
from course_lib.training import TrainConfig

ROOT = Path(__file__).parents[2]


def config_of(work: Work) -> TrainConfig:
    return TrainConfig(
        model="mlp", model_options={"widths": (3072, work.hidden, 10), "bias": False},
        num_train=work.num_train, epochs=work.epochs, batch_size=work.batch_size, lr=work.lr,
        momentum=work.momentum, weight_decay=0.0, augment=work.augment,
        precision=work.precision,
    )  # fmt: skip


@lru_cache(maxsize=4)
def dataset_of(num_train: int, device: str = "cpu") -> data.Dataset:
    return images().subset(num_train=num_train).to(torch.device(device))


def train(work: Work, seed: int) -> Outcome:
    """`course_lib.training.train`, at the precision that the work names."""
    dataset = dataset_of(work.num_train, work.device)
    result, seconds, cpu = timed(
        lambda: training.train(config_of(work), seed, dataset, device=work.device)
    )
    return Outcome(seconds, cpu, accuracy(result.model))


def eager(work: Work, seed: int) -> Outcome:
    """The same without a recording: every kernel is launched anew."""
    with mock.patch.dict(training.RECORDINGS, clear=True):
        return train(work, seed)


def eager_many(work: Work, seed: int) -> Outcome:
    """One net as by `eager`; its seconds times `work.replicas`."""
    one = eager(work, seed)
    return Outcome(one.seconds * work.replicas, one.cpu_seconds * work.replicas, one.accuracy)


def loader(work: Work, seed: int) -> Outcome:
    """One pass of batches from resident uint8 images, cropped and flipped if asked, normalised."""
    part, draw = dataset_of(work.num_train).train, torch.Generator().manual_seed(seed)
    config = TrainConfig(preprocess="standardise", num_train=work.num_train)
    prepare = training.make_prepare(config, dataset_of(work.num_train))

    def augment(inputs):
        return data.crop_and_flip(inputs, generator=draw)

    def drain():
        moved = augment if work.augment else None
        for inputs, _ in data.batches(part, work.batch_size, generator=draw, augment=moved):
            prepare(inputs).sum()

    _, seconds, cpu = timed(drain)
    return Outcome(seconds, cpu, None)


def conv(work: Work, seed: int) -> Outcome:
    """Answer 1's all-convolutional net in the course's loop, at the precision that it picks."""
    config = TrainConfig(
        model="all_conv", num_train=work.num_train, epochs=work.epochs, weight_decay=0.0,
        batch_size=work.batch_size, lr=work.lr, precision="auto",
    )  # fmt: skip
    dataset = dataset_of(work.num_train, work.device)
    _, seconds, cpu = timed(lambda: training.train(config, seed, dataset, device=work.device))
    return Outcome(seconds, cpu, None)


def speed_run(work: Work, seed: int) -> Outcome:
    """`course_lib.speedrun` by its own clock, which stops and starts as the published one's."""
    recipe = speedrun.Recipe(epochs=work.epochs)
    found = speedrun.train(recipe, seed, dataset_of(work.num_train, work.device))
    return Outcome(60 * found["minutes"], 60 * found["minutes"], found["accuracy"])


def together(work: Work, seed: int) -> Outcome:
    """`work.replicas` nets with learning rates of their own, side by side in one program."""
    configs, dataset = _spread(work), dataset_of(work.num_train, work.device)
    size = side_by_side(configs[0], work.device)
    groups = [configs[start : start + size] for start in range(0, len(configs), size)]
    train_together = partial(replicas.train_replicas, device=work.device)

    def run():
        return [r for group in groups for r in train_together(group, seed, dataset)]

    results, seconds, cpu = timed(run)
    return Outcome(seconds, cpu, accuracy(results[0].model))


def one_by_one(work: Work, seed: int) -> Outcome:
    """The same nets by `training.train`, one after the other."""
    dataset = dataset_of(work.num_train)
    results, seconds, cpu = timed(
        lambda: [training.train(config, seed, dataset) for config in _spread(work)]
    )
    return Outcome(seconds, cpu, accuracy(results[0].model))


def _spread(work: Work) -> list[TrainConfig]:
    rates = torch.logspace(-3, -1.5, work.replicas).tolist()
    return [replace(config_of(work), lr=lr) for lr in rates]


# --- floors -----------------------------------------------------------------------------------


def quick_precision(device: str) -> str:
    """What "auto" means on this machine's `device`."""
    return training.precision_on(torch.device(device), "auto")


def rates(work: Work) -> dict[str, float]:
    """What the work's device can do, best of seven: the products of the first layer at the shape
    that they have in `work`, copies, and batches of images read and converted."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[work.precision]
    there, dataset = {"device": work.device}, dataset_of(work.num_train, work.device)
    width = work.hidden * min(work.replicas, side_by_side(config_of(work), work.device))
    inputs = torch.rand(work.batch_size, 3072, **there).to(dtype)
    weight, errors = (torch.rand(width, n, **there).to(dtype) for n in (3072, work.batch_size))
    large, target = torch.rand(2**25, **there), torch.empty(2**25, **there)
    prepare = training.make_prepare(config_of(work), dataset)

    def products():
        return weight @ inputs.T, errors @ inputs  # forward, and the gradient by the weights

    def read():
        order = torch.Generator().manual_seed(0)
        for batch, _ in data.batches(dataset.train, work.batch_size, generator=order):
            prepare(batch)

    def best(run, count):
        return min(timed(lambda: [run() for _ in range(count)])[1] / count for _ in range(7))

    return {
        "GFLOP per second": 4 * work.batch_size * 3072 * width / best(products, 50) / 1e9,
        "GB per second": 2 * 4 * 2**25 / best(lambda: target.copy_(large), 4) / 1e9,
        "images per second": work.num_train / best(read, 1),
    }


def gflop(work: Work) -> float:
    """Of a training run: forward, and backward without the gradient by the images."""
    first, second = 3072 * work.hidden, work.hidden * 10
    return 2 * (2 * first + 3 * second) * work.num_train * work.epochs * work.replicas / 1e9


# --- the book ---------------------------------------------------------------------------------


def serial_build(work: Work, seed: int) -> Outcome:
    """`jupyter-book build`, which runs page after page, in a copy without any cache."""
    place = _copy("serial")
    config = (
        (place / "_config.yml")
        .read_text()
        .replace("execute_notebooks: cache", "execute_notebooks: force")
    )
    (place / "_config.yml").write_text(config)
    return _build([".venv/bin/jupyter-book", "build", "-q", "."], place)


def make_book(work: Work, seed: int) -> Outcome:
    """`make book` in a copy without any cache."""
    return _build(["make", "book"], _copy("ours"))


def make_book_again(work: Work, seed: int) -> Outcome:
    """`make book` where nothing changed."""
    return _build(["make", "book"], Path(os.environ["BENCH_TMP"], "ours"))


def _copy(name: str) -> Path:
    place = Path(os.environ["BENCH_TMP"], name)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
    for part in ("data", ".venv"):
        if (ROOT / part).exists():
            (place / part).symlink_to(ROOT / part)
    return place


def _build(command: list[str], place: Path) -> Outcome:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(place)}
    run = lambda: subprocess.run(command, cwd=place, env=env, check=True, capture_output=True)  # noqa: E731
    _, seconds, cpu = timed(run)
    return Outcome(seconds, cpu, None)
