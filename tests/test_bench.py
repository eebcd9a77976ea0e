"""The benchmarks' plan; the benchmarks themselves run in an environment of their own."""

import ast
from pathlib import Path

import pytest

from course_lib import data

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import bench

    return bench


@pytest.fixture
def rows(bench):
    return bench.rows()


def functions(module: str) -> set[str]:
    tree = ast.parse((BENCH / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_contestant_is_written(bench):
    for row in (*bench.rows().values(), *bench.gpu_rows().values()):
        for name in (row.peer, row.ours):
            module, function = name.split(".")
            assert function in functions(module), name


def test_every_peer_meets_us_as_documented_and_tuned(rows):
    names = {row.peer for row in rows.values()}
    for peer in ("lightning", "skorch", "keras", "fastai", "thread_loop"):
        assert {f"peers.{peer}", f"peers.{peer}_tuned"} <= names


def test_pairs_are_enough_for_a_median_or_an_interval(rows):
    assert all(row.repeats >= 5 for row in rows.values())
    assert rows["hand_written"].repeats >= 15


def contestants(bench) -> list[str]:
    """Of the rows on a GPU, but for the published program, which is no part of the book."""
    names = {name for row in bench.gpu_rows().values() for name in (row.peer, row.ours)}
    return sorted(names - {"published.run"})


def test_a_gpus_contestants_run_rehearsed_on_the_cpu(bench, monkeypatch):
    import ours
    import peers
    import work

    few = data.load_standin(120, 40)
    for module in (ours, peers, work):
        monkeypatch.setattr(module, "images", lambda: few)
    small = work.Work(hidden=8, num_train=120, batch_size=60, replicas=2)
    for name in contestants(bench):
        outcome = bench.contest(name, small, 0)
        assert outcome.seconds > 0, name
        assert outcome.accuracy is None or 0 <= outcome.accuracy <= 1
    ours.dataset_of.cache_clear()
