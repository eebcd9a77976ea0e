"""What is timed: one amount of work, and what a contestant returns for it."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from course_lib import data


@dataclass(frozen=True)
class Work:
    """A training run (or a pass of a loader) that two contestants do in turn."""

    hidden: int = 300  # units of the bias-free net with one hidden layer
    num_train: int = 50_000
    epochs: int = 1
    batch_size: int = 250
    lr: float = 0.02
    momentum: float = 0.9
    augment: bool = False
    replicas: int = 1
    precision: str = "fp32"  # ours; peers train in float32
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """Seconds on the clock, seconds of processor time, test accuracy (None: nothing was learnt)."""

    seconds: float
    cpu_seconds: float
    accuracy: float | None


@lru_cache(maxsize=1)
def images() -> data.Dataset:
    """CIFAR-10, resident as uint8; reading it is never timed."""
    return data.load_cifar10()


def train_part(work: Work) -> data.Split:
    """The first `num_train` training examples, on the work's device."""
    return images().subset(num_train=work.num_train).to(work.device).train


def timed(run: Callable[[], object]) -> tuple[object, float, float]:
    """What `run()` returns, and how long it took on the clock and on the processor; a GPU is waited
    for."""
    catch_up = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    catch_up()
    clock, cpu = time.perf_counter(), time.process_time()
    result = run()
    catch_up()
    return result, time.perf_counter() - clock, time.process_time() - cpu


def accuracy(model: torch.nn.Module) -> float:
    """Share of the 10,000 test images that `model` gets right; untimed."""
    test = images().to(next(model.parameters()).device).test
    model.eval()
    with torch.no_grad():
        parts = [
            (model(data.to_float(inputs)).argmax(1) == targets).sum()
            for inputs, targets in data.batches(test, 1000)
        ]
    model.train()
    return sum(part.item() for part in parts) / len(test)


def log(text: str) -> None:
    """Progress goes to stderr; stdout holds the table."""
    print(text, file=sys.stderr, flush=True)
