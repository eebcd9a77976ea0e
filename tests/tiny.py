"""A small study, its data and its executor, for the tests that compute one."""

from concurrent.futures import Executor, Future

import torch

from course_lib import experiments
from course_lib.data import Dataset, Split
from course_lib.experiments import Study
from course_lib.training import TrainConfig

TINY = TrainConfig(
    model="mlp",
    model_options={"widths": (3072, 4, 10)},
    num_train=64,
    num_test=32,
    epochs=1,
    batch_size=32,
)


class InProcess(Executor):
    """Runs a job when it is submitted; can be told to die before the k-th."""

    def __init__(self, dies_before: int | None = None):
        self.count, self.dies_before = 0, dies_before

    def submit(self, function, /, *arguments, **keywords):
        if self.count == self.dies_before:
            raise KeyboardInterrupt
        self.count += 1
        future = Future()
        future.set_result(function(*arguments, **keywords))
        return future


def made_up(name: str) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5200, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.arange(5200) % 10  # a brighter image has a higher class, so there is a task
    images = images // 8 + (targets * 20).to(torch.uint8).view(-1, 1, 1, 1)
    split = Split(images, targets)
    return Dataset(name, name, train=split, val=Split(images[:0], split.targets[:0]), test=split)


def compute(study: Study, executor: Executor | None = None) -> dict:
    return experiments.compute(study, executor or InProcess(), say=lambda line: None)
