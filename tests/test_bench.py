"""The benchmarks' plan; the benchmarks themselves run in an environment of their own."""

import ast
from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import bench

    return bench.rows()


def functions(module: str) -> set[str]:
    tree = ast.parse((BENCH / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_contestant_is_written(rows):
    for row in rows.values():
        for name in (row.peer, row.ours):
            module, function = name.split(".")
            assert function in functions(module), name


def test_every_peer_meets_us_as_documented_and_tuned(rows):
    names = {row.peer for row in rows.values()}
    for peer in ("lightning", "skorch", "keras", "fastai", "thread_loop"):
        assert {f"peers.{peer}", f"peers.{peer}_tuned"} <= names


def test_pairs_are_enough_for_a_median_or_an_interval(rows):
    assert all(row.repeats >= (3 if "book" in name else 5) for name, row in rows.items())
    assert rows["hand_written"].repeats >= 15
