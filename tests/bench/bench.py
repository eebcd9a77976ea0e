"""`make bench`: the course and what people would use instead, in turn, in one run.

Each contestant lives in a process of its own, and only one works at a time: peer, ours, peer, ours.
Importing, reading the images and building the net are not timed; training is, the start of loader
workers included. A ratio of times counts only if both ends are equally accurate.
"""

import argparse
import json
import os
import platform
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module, metadata
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from work import Outcome, Work, log

RESULTS = Path(__file__).parents[2] / "chapters" / "results" / "bench"


@dataclass(frozen=True)
class Row:
    """One comparison: `peer` and `ours` name functions; the target is peer time / our time."""

    what: str
    peer: str
    ours: str
    work: Work
    target: float
    clock: str = "seconds"
    repeats: int = 5
    at_most: bool = False  # the target is a ceiling of ours / peer, by the interval's upper end


LONG, QUARTER = Work(epochs=20), Work(num_train=12_500)
HALF = replace(LONG, precision="bf16")  # such rows are left out where a processor imitates it
NARROW = Work(hidden=30, num_train=10_000, epochs=5)
FRAMEWORKS = {"lightning": "Lightning", "skorch": "skorch", "keras": "Keras on torch",
              "fastai": "fastai"}  # fmt: skip
SERIAL = "ours.serial_build"


def rows() -> dict[str, Row]:
    """Every comparison, by name; the targets were set before the first measurement."""
    thread = partial(Row, ours="ours.train", work=LONG)
    loader = partial(Row, peer="peers.thread_loader", ours="ours.loader")
    found = {
        "thread": thread("S net, the thread's loop", "peers.thread_loop", target=2.4),
        "thread_tuned": thread("the same, tuned", "peers.thread_loop_tuned", target=1.8),
        "thread_bf16": thread("the thread's loop, ours in bf16", "peers.thread_loop",
                              work=HALF, target=4.5),
        "thread_tuned_bf16": thread("the tuned loop, ours in bf16", "peers.thread_loop_tuned",
                                    work=HALF, target=3.2),
        "loader": loader("loader alone", work=QUARTER, target=14),
        "loader_moved": loader("the same, moved", work=replace(QUARTER, augment=True), target=15),
        "conv": Row(
            "all-convolutional net, a tenth of an epoch", "peers.conv_plain", "ours.conv",
            Work(num_train=5000, batch_size=128), 2.1,
        ),
        "hand_written": Row(
            "a hand-written loop, processor time", "peers.hand_written", "ours.train",
            Work(num_train=10_000, epochs=4), 1.05, "cpu_seconds", 15, True,
        ),
    }  # fmt: skip
    for hidden, target in {300: 1.3, 30: 2.5, 8: 4.0}.items():
        work = Work(hidden=hidden, num_train=5000, replicas=32)
        what = f"32 replicas, {hidden} hidden units"
        found[f"replicas_{hidden}"] = Row(what, "ours.one_by_one", "ours.together", work, target)
    for name in (f"{peer}{tuned}" for peer in FRAMEWORKS for tuned in ("", "_tuned")):
        what = f"{FRAMEWORKS[name.split('_')[0]]}, 30 hidden units{', tuned' * ('_' in name)}"
        found[name] = Row(what, f"peers.{name}", "ours.train", NARROW, 2.0, repeats=15)
    book = partial(Row, peer=SERIAL, work=Work())
    found["book_cold"] = book("the book, cold", ours="ours.make_book", target=1.6)
    again = book("the book, nothing changed", ours="ours.make_book_again", target=30)
    return found | {"book_again": again}


def gpu_rows() -> dict[str, Row]:
    """The comparisons on a GPU, by name; none of them was measured when the targets were set."""
    there = Work(epochs=20, device="cuda")
    conv = replace(there, epochs=1, batch_size=128)
    ours = partial(Row, ours="ours.train", work=there)
    return {
        "graph": ours("S net, each kernel launched anew", "ours.eager", target=1),
        "thread": ours("S net, the thread's loop", "peers.thread_loop", target=250),
        "thread_tuned": ours("the same, tuned for a GPU", "peers.thread_loop_for_gpu", target=50),
        "nets_1000": Row(
            "1,000 S nets, one after the other", "ours.eager_many", "ours.together",
            replace(there, replicas=1000), 20,
        ),
        "conv_loader": Row(
            "all-convolutional net, loader tuned", "peers.conv_loader_for_gpu", "ours.conv", conv, 7
        ),
        "conv": Row(
            "the same, images resident", "peers.conv_hand_written", "ours.conv", conv, 2.5
        ),
        "published": Row(
            "the published speed-run", "published.run", "ours.speed_run",
            replace(there, epochs=8), 1, repeats=50,
        ),
    }  # fmt: skip


def contest(name: str, work: Work, seed: int) -> Outcome:
    """Run one contestant; called in its own process."""
    module, function = name.split(".")
    return getattr(import_module(module), function)(work, seed)


def run_rows(rows: list[Row]) -> list[dict]:
    """Rows of one peer and one work, in turn: the peer, then each row's own side; again.

    The first round warms up and is dropped.
    """
    first, single = rows[0], {"max_workers": 1, "mp_context": get_context("spawn")}
    rounds = []
    with ProcessPoolExecutor(**single) as peer, ProcessPoolExecutor(**single) as ours:
        sides = [(peer, first.peer), *((ours, row.ours) for row in rows)]
        for seed in range(first.repeats + 1):
            found = [pool.submit(contest, name, first.work, seed).result() for pool, name in sides]
            log(f"  {seed}: " + ", ".join(f"{o.seconds:.2f} s, {o.accuracy}" for o in found))
            rounds.append([asdict(outcome) for outcome in found])
        rates = ours.submit(_rates, first.work).result()
    pairs = [[[each[0], each[1 + place]] for each in rounds[1:]] for place in range(len(rows))]
    return [
        {**asdict(row), "pairs": own, "rates": rates, "gflop": _gflop(row)}
        for row, own in zip(rows, pairs, strict=True)
    ]


def _rates(work: Work) -> dict[str, float]:
    return import_module("ours").rates(work)


def _gflop(row: Row) -> float | None:
    whole = row.ours in ("ours.train", "ours.together")
    return import_module("ours").gflop(row.work) if whole else None


def machine() -> dict:
    """What the figures hold for."""
    import torch

    peers = ("torch", "torchvision", "lightning", "skorch", "keras", "fastai")
    installed = {part.name for part in metadata.distributions()}
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": model[0].split(": ")[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        **{name: metadata.version(name) for name in peers if name in installed},
    }


def _that_count_here(known: dict[str, Row], device: str) -> list[str]:
    """All rows but those in a precision that this machine would only imitate."""
    quick = import_module("ours").quick_precision(device)
    return [name for name, row in known.items() if row.work.precision in ("fp32", quick)]


def save(path: Path, record: dict) -> None:
    """Write a record atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"{path.name}.partial")
    partial_path.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial_path, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help="default: all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    known = rows() if options.device == "cpu" else gpu_rows()
    path = RESULTS / f"{options.device}.json"
    chosen = options.rows or _that_count_here(known, options.device)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"rows: {', '.join(unknown)} unknown; known: {', '.join(known)}")
    record = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    with tempfile.TemporaryDirectory() as place:
        os.environ["BENCH_TMP"] = place
        for _, shared in groupby(chosen, key=lambda name: (known[name].peer, known[name].work)):
            names = list(shared)
            log("; ".join(f"{name}: {known[name].what}" for name in names))
            found = run_rows([known[name] for name in names])
            for name, row in zip(names, found, strict=True):
                record["rows"][name] = row | {"machine": machine()}
            save(path, record)  # at once: a stop loses little


if __name__ == "__main__":
    main()
