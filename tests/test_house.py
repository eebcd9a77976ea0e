"""The house around the book: the guards of the build fire, one execution serves tests and pages."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
import yaml
from jupytext.config import load_jupytext_config

import freshness

ROOT = Path(__file__).parents[1]
HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
"""
OFFLINE = runpy.run_path(str(ROOT / ".ci/offline.py"))


# ----------------------------------------------------------------------------------- a small book


def write_book(root: Path, pages: dict[str, str]) -> Path:
    """A book with the real configuration and only these pages; the first one is the root."""
    (root / "chapters/back").mkdir(parents=True)
    (root / "_build/extra").mkdir(parents=True)  # stands for MathJax, which make copies
    for folder in (".ci", "chapters/_static"):
        shutil.copytree(ROOT / folder, root / folder)
    for name in ("_config.yml", "conftest.py", "freshness.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copy(ROOT / "chapters/back/references.bib", root / "chapters/back")
    (root / "requirements.txt").touch()
    for name, text in pages.items():
        (root / f"chapters/{name}.md").write_text(text)
    first, *others = (f"chapters/{name}" for name in pages)
    toc = {"format": "jb-book", "root": first}
    if others:
        toc["chapters"] = [{"file": page} for page in others]
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    return root


def start(root: Path, *command: str) -> subprocess.Popen:
    """Start a command in `root` as `make` would, with this Python's tools."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = str(root)  # its own course_lib, not the installed one
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(root: Path, *command: str) -> tuple[int, str]:
    """The exit status and all output of a command in `root`."""
    process = start(root, *command)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def run_pages(root: Path, *options: str) -> tuple[int, str]:
    return run(root, sys.executable, "-m", "pytest", "-n", "0", *options, "chapters")


# -------------------------------------------------------------------------------- the strict build

BROKEN = {
    "a cell that raises": (
        HEADER + "# Bad\n\n```{code-cell}\nraise OSError('no such luck')\n```\n",
        "no such luck",
    ),
    "an undefined reference": ("# Bad\n\n{ref}`nowhere`\n", "nowhere"),
    "a page dropped from the table of contents": ("# Bad\n\n[gone](gone.md)\n", "chapters/gone"),
    "a picture on another machine": (
        '# Bad\n\n<img alt="" src="https://example.org/a.png">\n',
        "https://example.org/a.png",
    ),
}


def test_the_strict_build_refuses_what_it_should(tmp_path):
    builds = {}
    for fault, (text, _) in BROKEN.items():
        folder = tmp_path / fault.replace(" ", "-")
        folder.mkdir()
        root = write_book(folder, {"bad": text})
        (root / "chapters/gone.md").write_text("# Gone\n")
        builds[fault] = start(root, ".ci/strict", ".")
    outputs = {fault: build.communicate(timeout=300)[0] for fault, build in builds.items()}
    for fault, (_, message) in BROKEN.items():
        assert builds[fault].returncode != 0, f"the build accepts {fault}"
        assert message in outputs[fault]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img alt="" srcset="a.png 1x, http://example.org/b.png 2x">',
        '<p style="background: url(https://example.org/a.png)">',
        "<style>@import 'https://example.org/a.css';</style>",
        '<svg><image xlink:href="https://example.org/a.png"/></svg>',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_what_a_browser_would_fetch_is_found(tmp_path, text):
    (tmp_path / "page.html").write_text(f"<html>\n<body>{text}</body></html>")
    assert len(OFFLINE["remote_loads"](tmp_path)) == 1
    assert OFFLINE["main"](tmp_path) == 1


def test_remote_fonts_in_styles_are_found(tmp_path):
    (tmp_path / "a.css").write_text("@font-face { src: url('https://example.org/a.woff2'); }")
    assert len(OFFLINE["remote_loads"](tmp_path)) == 1


def test_links_to_follow_and_local_files_are_fine(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://example.org">a paper</a> <img alt="" src="../a.png">'
        '<link rel="canonical" href="https://example.org"> <img src="data:image/png;base64,AA">'
        '<style>p { background: url("data:image/svg+xml;x"); }</style> <pre>src="https://x"</pre>'
    )
    assert OFFLINE["main"](tmp_path) == 0


def test_a_folder_without_pages_is_an_error(tmp_path):
    assert OFFLINE["main"](tmp_path) == 1


# --------------------------------------------------------------------------- chapters as tests

# Each run of the page leaves a line behind, so that runs can be counted.
COUNTING = """# Counting

```{code-cell}
import json, os
from pathlib import Path
with open("runs.txt", "a") as file:
    file.write("x\\n")
```

```{code-cell}
from course_lib import used

value = json.loads(Path("results/small.json").read_text())
print("value is", value, "threads", os.environ["OMP_NUM_THREADS"])
```
"""


def test_one_execution_serves_the_tests_and_the_book(tmp_path):
    root = write_book(tmp_path, {"counting": HEADER + COUNTING})
    (root / "chapters/results").mkdir()
    record = root / "chapters/results/small.json"
    record.write_text("17")
    (root / "course_lib").mkdir()
    for room in ("__init__", "used", "unused"):
        (root / f"course_lib/{room}.py").touch()
    page = root / "_build/html/chapters/counting.html"
    runs = root / "chapters/runs.txt"

    status, output = run_pages(root)
    assert status == 0 and "2 passed" in output, output
    status, output = run(root, ".ci/strict", ".")
    assert status == 0, output
    assert "value is 17 threads 1" in page.read_text()
    assert runs.read_text() == "x\n"  # the build took the outputs that the test left

    status, output = run_pages(root, "--stale")
    assert status == 0 and "All pages are fresh." in output
    assert runs.read_text() == "x\n"

    (root / "course_lib/unused.py").write_text("1")
    assert freshness.stale(root) == []
    (root / "course_lib/used.py").write_text("1")
    assert freshness.stale(root) == [root / "chapters/counting.md"]
    (root / "course_lib/used.py").write_text("")
    assert freshness.stale(root) == []

    record.write_text("18")
    status, output = run_pages(root, "--stale")
    assert status == 0, output
    status, output = run(root, "jupyter-book", "build", "-q", ".")  # without --all, as make book
    assert status == 0 and "value is 18" in page.read_text(), output
    assert runs.read_text() == "x\nx\n"


FAILING = """# Failing

```{code-cell}
print("first")
```

```{code-cell}
raise ValueError("on purpose")
```

```{code-cell}
print("never")
```
"""
MARKED = "# Marked\n\n```{code-cell}\n# NBVAL_CHECK_OUTPUT\n1\n```\n"


def test_a_failing_page_says_where_and_leaves_no_output_behind(tmp_path):
    root = write_book(tmp_path, {"failing": HEADER + FAILING, "marked": HEADER + MARKED})
    notebook = jupytext.read(root / "chapters/failing.md")
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
    old = {"page": "chapters/failing.md", "reads": [], "fingerprint": "", "seconds": 1}
    freshness.store([{**old, "notebook": notebook}], root)  # as if the page had passed before
    cached = root / "_build/.jupyter_cache/executed"
    assert len(list(cached.iterdir())) == 1

    status, output = run_pages(root, "--continue-on-collection-errors")
    assert status == 1
    assert "1 failed, 1 passed, 1 skipped, 1 error" in output, output
    assert "chapters/failing.md:11\n" in output and "ValueError: on purpose" in output
    assert "marked.md, line 7" in output and "write an assert" in output
    assert "\x1b" not in output
    assert list(cached.iterdir()) == []


# ------------------------------------------------------------------------------- one truth each


def test_saving_a_page_in_jupyterlab_keeps_its_header():
    config = load_jupytext_config(str(ROOT / "chapters/intro.md"))
    header = HEADER.replace("kernelspec", "symptoms: [{see: NaN}]\nkernelspec")
    notebook = jupytext.reads(header + "# A\n", fmt="md:myst", config=config)
    saved = jupytext.writes(notebook, fmt="md:myst", config=config)
    assert "symptoms:" in saved and "version" not in saved


def test_no_notebook_lies_beside_a_page():
    """Sphinx would build the notebook in place of the page."""
    assert list((ROOT / "chapters").rglob("*.ipynb")) == []


def test_versions_are_named_once():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line.split("#")[0].strip() for line in lines if line and not line.startswith("#")]
    assert pins[-1] == "-e ."
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins[:-1])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (ruff,) = (repo["rev"] for repo in hooks["repos"] if "ruff" in repo["repo"])
    assert f"ruff=={ruff.removeprefix('v')}" in pins
