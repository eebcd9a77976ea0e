"""The house: imports flow one way, and each room keeps to its own materials."""

import ast
from pathlib import Path

import pytest

import course_lib
from course_lib.pages import ROOMS

PACKAGE = Path(course_lib.__file__).parent


def imported(room: str) -> set[str]:
    """Every module that a room imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def test_every_file_is_a_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room):
    above = ROOMS[: ROOMS.index(room)]
    for name in imported(room):
        package, _, rest = name.partition(".")
        if package == "course_lib" and rest:
            neighbour = rest.split(".")[0]
            own_copy = room == "experiments" == neighbour  # `python -m` finds the imported module
            assert neighbour in above or own_copy, f"{room} imports {neighbour}"


@pytest.mark.parametrize("room", ROOMS)
def test_materials(room):
    packages = {name.split(".")[0] for name in imported(room)}
    assert ("matplotlib" in packages) == (room == "plots")
    if room in ("records", "verdicts", "plots", "pages"):
        assert "torch" not in packages


def test_the_package_says_the_order():
    text = " ".join(course_lib.__doc__.split())
    places = [text.index(room) for room in ROOMS]
    assert places == sorted(places)
