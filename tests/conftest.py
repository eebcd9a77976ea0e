"""Every test starts from the same random state, whichever tests ran before it and in any worker."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_state():
    torch.manual_seed(0)
