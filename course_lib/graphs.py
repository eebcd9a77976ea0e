"""A training step as a CUDA graph: recorded once, then replayed without launching its kernels anew.

The step of a small net is some dozens of small kernels. A GPU runs them faster than a processor
can launch them one by one; a graph launches all of them at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps that run as they are; what they create, a recording needs (PyTorch's docs)
Step = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class Graphed:
    """`step(inputs, targets)`, replayed from a recording once it has run `WARM_UP` times.

    Every call is one step of training, the first ones too. `step` returns tensors, reads nothing
    back from the device and draws random numbers only from the device's default generator. Batches
    of another shape than the first run as they are. What a call returns is valid until the next.

    `record` makes the recording: `record_cuda`, or `rehearse` where there is no GPU.
    """

    def __init__(self, step: Step, record: Callable):
        self.step, self.record, self.calls = step, record, 0
        self.inputs = self.targets = self.replay = self.outputs = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        if self.inputs is None:
            self.inputs, self.targets = inputs.clone(), targets.clone()
        if inputs.shape != self.inputs.shape:
            return self.step(inputs, targets)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)
        self.calls += 1
        if self.calls <= WARM_UP:
            return _beside(self.step, self.inputs, self.targets)
        if self.replay is None:
            self.replay, self.outputs = self.record(self.step, self.inputs, self.targets)
        self.replay()
        return self.outputs


def record_cuda(step: Step, inputs: Tensor, targets: Tensor) -> tuple[Callable, tuple]:
    """A replay of `step` on these very tensors, and the tensors that it fills. Trains nothing."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step(inputs, targets)
    return graph.replay, outputs


def rehearse(step: Step, inputs: Tensor, targets: Tensor) -> tuple[Callable, list]:
    """As `record_cuda` on any device, by calling `step`: what the tests use without a GPU."""
    outputs = []

    def replay():
        outputs[:] = step(inputs, targets)

    return replay, outputs


def make_recordable(optimizer: torch.optim.Optimizer) -> None:
    """Turn each learning rate into a tensor, so that a schedule reaches a step already recorded."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)
        if "capturable" in group and group["lr"].is_cuda:
            group["capturable"] = True


def _beside(step: Step, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """`step` on a stream of its own, as PyTorch asks of the steps before a recording."""
    if not inputs.is_cuda:
        return step(inputs, targets)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs = step(inputs, targets)
    torch.cuda.current_stream().wait_stream(stream)
    return outputs
