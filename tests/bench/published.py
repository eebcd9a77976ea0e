"""The published speed-run itself, unmodified, on this book's images: it is not part of this book.

    PUBLISHED=…/airbench94_muon.py .venv-bench/bin/python tests/bench/published.py --runs 3

The file comes from KellerJordan/cifar10-airbench. It is written for one kind of GPU; on a processor
what it asks of one is answered otherwise, see `on_a_processor`: its arithmetic is then that of our
own program, bfloat16 products of float32 weights, in place of float16 throughout.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack, chdir, contextmanager
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from work import Outcome, images, log

from course_lib import data

data.import_torchvision()  # importable beside a CPU-only torch; the program imports it by itself

RECORD = Path(__file__).parents[2] / "chapters" / "results" / "bench" / "published.json"


def path() -> Path:
    """Where the program lies. Raises ValueError where PUBLISHED does not say."""
    if not Path(os.environ.get("PUBLISHED", "")).is_file():
        raise ValueError(
            f"PUBLISHED is {os.environ.get('PUBLISHED')!r}; set it to the file airbench94_muon.py "
            "of a checkout of KellerJordan/cifar10-airbench"
        )
    return Path(os.environ["PUBLISHED"]).resolve()


class ProcessorEvent:
    """In place of a CUDA event: notes the processor time, in seconds."""

    def __init__(self, enable_timing: bool):
        self.at = 0.0

    def record(self) -> None:
        self.at = time.process_time()

    def elapsed_time(self, other: "ProcessorEvent") -> float:
        return 1000 * (other.at - self.at)  # milliseconds, as CUDA has it


@contextmanager
def on_a_processor():
    """Everything stays where it is, in float32, and products are made in bfloat16."""
    load = torch.load
    replaced = [
        (torch, "compile", lambda model: model),
        (torch, "load", lambda file, map_location: load(file)),
        (torch.Tensor, "half", torch.Tensor.float),
        (torch.nn.Module, "half", torch.nn.Module.float),
        (torch.nn.Module, "cuda", lambda module: module),
        (torch.nn.Module, "compile", lambda module, mode: None),
        (torch.cuda, "Event", ProcessorEvent),
        (torch.cuda, "synchronize", lambda: None),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def program() -> ModuleType:
    """The file as a module; it reads its own text from `sys.argv`."""
    spec = importlib.util.spec_from_file_location("published_program", path())
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "argv", [str(path())]):
        spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def prepared(device: str) -> tuple[ModuleType, torch.nn.Module]:
    """The program and its net, which it compiles once."""
    module = program()
    if device == "cpu":
        _compute_in_bf16(module.CifarNet)
    model = module.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")
    return module, model


def _compute_in_bf16(net: type) -> None:
    """The net's products alone: whitening needs float32, and the loss is better in it."""
    forward = net.forward

    def in_bf16(self, *inputs, **options):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = forward(self, *inputs, **options)
        return outputs.float()

    net.forward = in_bf16


def save_images(place: Path) -> None:
    """The book's images, in the form in which the program keeps its own."""
    (place / "cifar10").mkdir(exist_ok=True)
    for name, part in {"train": images().train, "test": images().test}.items():
        kept = {"images": part.inputs.permute(0, 2, 3, 1).contiguous(), "labels": part.targets}
        torch.save(kept | {"classes": list(map(str, range(10)))}, place / "cifar10" / f"{name}.pt")


def run(work, seed: int) -> Outcome:
    """One run of the program as it is: eight epochs, by its own clock."""
    told = {}
    with ExitStack() as stack:
        if work.device == "cpu":
            stack.enter_context(on_a_processor())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_images(place)
        stack.enter_context(chdir(place))
        module, model = prepared(work.device)
        module.print_training_details = lambda variables, is_final_entry: told.update(variables)
        torch.manual_seed(seed)
        accuracy = module.main(seed, model)
    return Outcome(told["time_seconds"], told["time_seconds"], accuracy)


def main() -> None:
    """Run it alone, on the processor, and note each accuracy on the test images."""
    from work import Work

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=3, help="seeds 0, 1, …")
    torch.set_num_threads(1)
    made = {
        "program": hashlib.sha256(path().read_bytes()).hexdigest()[:12],
        "data": {"name": images().name, "identity": images().identity},
        "torch": torch.__version__.split("+")[0],
        "date": date.today().isoformat(),
    }
    runs = []
    for seed in range(parser.parse_args().runs):
        found = run(Work(), seed)
        log(f"seed {seed}: {100 * found.accuracy:.2f} %, {found.cpu_seconds / 60:.1f} min")
        runs.append({"accuracy": found.accuracy, "minutes": found.cpu_seconds / 60})
        RECORD.write_text(json.dumps(made | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
