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

RECORD = Path(__file__).parents[2] / "chapters" / "results" / "bench" / "cpu.json"


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
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": model[0].split(": ")[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in peers},
    }


def _that_count_here(known: dict[str, Row]) -> list[str]:
    """All rows but those in a precision that this processor would only imitate."""
    quick = import_module("ours").quick_precision()
    return [name for name, row in known.items() if row.work.precision in ("fp32", quick)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"default: all of {', '.join(rows())}")
    known = rows()
    chosen = parser.parse_args().rows or _that_count_here(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"rows: {', '.join(unknown)} unknown; known: {', '.join(known)}")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"rows": {}}
    with tempfile.TemporaryDirectory() as place:
        os.environ["BENCH_TMP"] = place
        for _, shared in groupby(chosen, key=lambda name: (known[name].peer, known[name].work)):
            names = list(shared)
            log("; ".join(f"{name}: {known[name].what}" for name in names))
            found = run_rows([known[name] for name in names])
            for name, row in zip(names, found, strict=True):
                record["rows"][name] = row | {"machine": machine()}
            RECORD.parent.mkdir(parents=True, exist_ok=True)
            RECORD.write_text(json.dumps(record, indent=1) + "\n")  # at once: a stop loses little


if __name__ == "__main__":
    main()
