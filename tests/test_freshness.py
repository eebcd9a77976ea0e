"""A page's cached output is stale exactly when something that it shows could have changed."""

import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

import freshness

HEADER = (
    "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n---\n# A page\n"
)
READS = ["chapters/results/noise.json", "course_lib/__init__.py", "course_lib/plots.py"]


def cell(code: str) -> str:
    return f"```{{code-cell}}\n:tags: [study]\n{code}\n```\n\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A book with one page, which draws one of two records."""
    monkeypatch.delenv("COURSE_DATA", raising=False)
    files = {
        "requirements.txt": "torch==1\n",
        "course_lib/__init__.py": "",
        "course_lib/data.py": "SIZE = 32\n",
        "course_lib/models.py": "WIDTH = 8\n",
        "course_lib/plots.py": "def draw():\n    from .models import WIDTH\n    return WIDTH\n",
        "chapters/results/noise.json": "{}",
        "chapters/results/other.json": "{}",
        "chapters/page.md": HEADER + cell('from course_lib.plots import draw\ndraw("noise")'),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def changes(root, name, text="changed = 1\n", reads=READS):
    """Whether writing `text` to the file `name` changes the fingerprint of a page that read so."""
    page = root / "chapters/page.md"
    before = freshness.fingerprint(page, reads, root)
    assert before == freshness.fingerprint(page, reads, root)
    (root / name).write_text(text)
    return freshness.fingerprint(page, reads, root) != before


# ------------------------------------------------------------------------------ the fingerprint


@pytest.mark.parametrize(
    "name",
    [
        "course_lib/plots.py",
        "requirements.txt",
        "chapters/page.md",
        "chapters/results/noise.json",
        "chapters/results/noise.gpu.json",  # new, beside a record that the page names
    ],
)
def test_what_a_page_uses_makes_it_stale(root, name):
    assert changes(root, name)


@pytest.mark.parametrize(
    "name",
    [
        "course_lib/data.py",
        "chapters/results/other.json",
        "chapters/results/noise_floor.json",  # only begins like the record
        "chapters/claims.yml",
    ],
)
def test_what_a_page_does_not_use_leaves_it_fresh(root, name):
    assert not changes(root, name)


def test_a_record_that_a_page_names_but_could_not_read_yet_counts(root):
    (root / "chapters/page.md").write_text(HEADER + cell('Study("new_study")'))
    assert changes(root, "chapters/results/new_study.json", reads=[])


def test_a_file_that_goes_away_makes_the_page_stale(root):
    page = root / "chapters/page.md"
    before = freshness.fingerprint(page, READS, root)
    (root / "course_lib/plots.py").unlink()
    assert freshness.fingerprint(page, READS, root) != before


def test_a_listed_folder_counts_by_the_names_in_it(root):
    listed = ["chapters/results"]
    assert not changes(root, "chapters/results/other.json", reads=listed)
    assert changes(root, "chapters/results/third.json", reads=listed)


def test_the_data_folder_counts_only_for_pages_that_import_data(root):
    reads = ["course_lib/data.py"]
    (root / "data").mkdir()
    assert not changes(root, "data/one")
    assert changes(root, "data/two", reads=reads)
    assert changes(root, "data/two", "of another size", reads=reads)
    page = root / "chapters/page.md"
    before = freshness.fingerprint(page, reads, root)
    os.utime(root / "data/two", (1, 1))
    assert freshness.fingerprint(page, reads, root) != before


def test_the_data_folder_follows_the_environment_variable(root, monkeypatch):
    page, reads = root / "chapters/page.md", ["course_lib/data.py"]
    without = freshness.fingerprint(page, reads, root)
    (root / "elsewhere/train").mkdir(parents=True)
    monkeypatch.setenv("COURSE_DATA", str(root / "elsewhere"))
    assert freshness.fingerprint(page, reads, root) != without


def test_the_copy_that_the_first_page_writes_leaves_the_others_fresh(root):
    reads = ["course_lib/data.py"]
    (root / "data/cifar10-jpeg").mkdir(parents=True)
    assert not changes(root, "data/cifar10-uint8.pt", reads=reads)
    (root / "data/cifar10-jpeg").rmdir()  # now the copy is all there is
    assert changes(root, "data/cifar10-uint8.pt", "another copy", reads=reads)


# ------------------------------------------------------------------------- what a kernel has read


def reads_of(code: str, root: Path) -> list[str]:
    """What `code` reads of the book, run in the chapters folder under the watch."""
    target = root / "reads.txt"
    stub = "from types import SimpleNamespace\nshell = SimpleNamespace()\n"
    stub += "def get_ipython():\n    return shell\n"
    parts = [stub, freshness.watch_code(root), code, freshness.report_code(target)]
    subprocess.run(
        [sys.executable, "-c", "\n".join(parts)],
        cwd=root / "chapters",
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )
    return [freshness.name_of(Path(line), root) for line in target.read_text().splitlines()]


@pytest.mark.parametrize("attempt", ["from source", "from the compiled copy"])
def test_imported_rooms_are_noted_and_no_others(root, attempt):
    code = "from course_lib import plots; plots.draw()"
    if attempt != "from source":
        reads_of(code, root)
    expected = ["course_lib/__init__.py", "course_lib/models.py", "course_lib/plots.py"]
    assert reads_of(code, root) == expected


def test_files_and_globs_are_noted_by_relative_path_too(root):
    code = (
        "from pathlib import Path\nopen('results/noise.json').close()\nPath('page.md').read_text()"
    )
    assert reads_of(code, root) == ["chapters/page.md", "chapters/results/noise.json"]
    assert "chapters/results" in reads_of("import glob; glob.glob('results/*.json')", root)
    assert "chapters/results" in reads_of(
        "from pathlib import Path; list(Path('results').glob('*'))", root
    )


def test_what_a_page_writes_and_what_lies_elsewhere_is_not_noted(root):
    code = "open('new.txt', 'w').close(); open('../requirements.txt').close(); import json"
    assert reads_of(code, root) == []


# ------------------------------------------------------------------------------------- the cache


def test_pages_are_notebooks_with_code(root):
    (root / "chapters/prose.md").write_text(HEADER + "No code.\n")
    (root / "chapters/plain.md").write_text("# Plain\n\n" + cell("1"))
    (root / "chapters/.ipynb_checkpoints").mkdir()
    (root / "chapters/.ipynb_checkpoints/page.md").write_text(HEADER + cell("1"))
    assert freshness.pages(root) == [root / "chapters/page.md"]


def test_lines_of_cells_are_those_of_their_fences():
    text = "# A\n\n" + cell("1") + "```python\n2\n```\n\n" + cell("3").replace("```", "````")
    assert freshness.cell_lines(text) == [3, 12]


def executed(page):
    """The page's notebook, as if it had run."""
    notebook = jupytext.read(page)
    for number, code in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        code.execution_count = number + 1
    return notebook


def test_a_stored_page_is_fresh_until_its_inputs_or_its_output_go(root):
    page = root / "chapters/page.md"
    doctree = root / "_build/.doctrees/chapters/page.doctree"
    doctree.parent.mkdir(parents=True)
    doctree.touch()
    assert freshness.stale(root) == [page]
    run = {
        "page": "chapters/page.md",
        "reads": READS,
        "fingerprint": freshness.fingerprint(page, READS, root),
        "seconds": 1.5,
        "notebook": executed(page),
    }
    freshness.store([run], root)
    assert freshness.stale(root) == []
    assert not doctree.exists()  # so that Sphinx reads the page again, its source being the same

    (root / "chapters/results/noise.json").write_text('{"runs": 1}')
    assert freshness.stale(root) == [page]
    (root / "chapters/results/noise.json").write_text("{}")
    assert freshness.stale(root) == []
    freshness.forget([page], root)
    assert freshness.stale(root) == [page]
    assert not list((root / "_build/.jupyter_cache/executed").glob("*/base.ipynb"))


def test_output_cached_by_a_bare_build_is_removed_too(root):
    page = root / "chapters/page.md"
    cache = get_cache(root / "_build/.jupyter_cache")
    cache.cache_notebook_bundle(CacheBundleIn(executed(page), str(page)))
    assert freshness.stale(root) == [page]
    freshness.forget([page], root)
    assert cache.list_cache_records() == []
