"""Every test starts from the same random state, whichever tests ran before it and in any worker.
Tests of studies share a book without records."""

import pytest
import torch
from tiny import made_up

from course_lib import data, experiments, records, tasks


@pytest.fixture(autouse=True)
def _same_random_state():
    torch.manual_seed(0)


@pytest.fixture
def base(monkeypatch, tmp_path):
    """A book without records whose CIFAR-10 is noise."""
    dataset = made_up("CIFAR-10")
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(experiments, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(data, "load_cifar10", lambda: dataset)
    monkeypatch.setattr(tasks, "default_base", lambda: dataset)
    return dataset
