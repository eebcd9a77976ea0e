"""Chapters are tests, and what the tests ran is what the book shows.

Every page under chapters/ with code cells is collected as a notebook: one kernel in the page's
folder, one test per cell. A page that passes to the end goes into the book's cache with its
outputs, so that `jupyter-book build` need not run it again; a page that fails leaves the cache.

`pytest --stale chapters` runs only the pages whose inputs changed (see freshness.py).
"""

import fcntl
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jupytext
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, find_comment_markers, find_metadata_tags

import freshness

ROOT = Path(__file__).resolve().parent
PAGES = pytest.StashKey[set[Path] | None]()  # the pages to run, or None for all
EXECUTED = pytest.StashKey[Path]()  # where finished pages wait for the cache


class Page(IPyNbFile):
    """A chapter: its cells in order, in one kernel."""

    broken = False
    passed = 0

    def collect(self):
        self.collected = time.time()
        text = self.path.read_text(encoding="utf-8")
        self.nb = jupytext.reads(text, fmt="md:myst")
        self.cells = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        lines = freshness.cell_lines(text)
        if len(lines) != len(self.cells):
            raise self.CollectError(
                f"{self.path.name}: {len(lines)} code cells in the text, {len(self.cells)} in the "
                "notebook; close every fence, and put no code cell inside another block"
            )
        for number, (cell, line) in enumerate(zip(self.cells, lines, strict=True)):
            options = defaultdict(bool, find_metadata_tags(cell.metadata))
            options.update(find_comment_markers(cell.source))
            if options["check"]:
                raise self.CollectError(
                    f"{self.path.name}, line {line}: a Markdown page stores no outputs to compare "
                    "with; write an assert in place of NBVAL_CHECK_OUTPUT"
                )
            yield Cell.from_parent(
                self, name=f"Cell {number}", cell_num=number, cell=cell, options=options, line=line
            )

    def setup(self):
        with open(self.config.stash[EXECUTED] / "starting", "w") as lock:
            # One kernel starts at a time: side by side, two can be given the same free port.
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().setup()
        self.start = time.time()
        self._run_silently(freshness.watch_code(ROOT))

    def teardown(self):
        seconds = time.time() - self.start
        if self.passed == len(self.cells):
            self._keep(seconds)
        super().teardown()

    def _run_silently(self, code):
        client = self.kernel.kc
        self.kernel.await_reply(client.execute(code, silent=True), timeout=60)

    def _keep(self, seconds):
        """Leave the executed page for the cache, unless something changed while it ran."""
        page = freshness.name_of(self.path, ROOT)
        target = self.config.stash[EXECUTED] / f"{page.replace('/', '.')}.json"
        self._run_silently(freshness.report_code(target))
        files = [Path(line) for line in target.read_text(encoding="utf-8").splitlines()]
        target.unlink()
        changed = [file for file in files if file.is_file() and file.stat().st_mtime > self.start]
        if changed or self.path.stat().st_mtime > self.collected:
            return
        reads = [freshness.name_of(path, ROOT) for path in files]
        self.nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        run = {
            "page": page,
            "reads": reads,
            "fingerprint": freshness.fingerprint(self.path, reads, ROOT),
            "seconds": seconds,
            "notebook": self.nb,
        }
        target.write_text(json.dumps(run), encoding="utf-8")


class Cell(IPyNbCell):
    """A code cell. Once one has failed, the later ones of the page are skipped."""

    def __init__(self, *, line, **kwargs):
        super().__init__(**kwargs)
        self.line = line

    def setup(self):
        if self.parent.broken:
            pytest.skip("an earlier cell of this page failed")
        super().setup()

    def runtest(self):
        try:
            super().runtest()
        except Exception:
            self.parent.broken = True
            raise
        self.cell.outputs = self.test_outputs
        self.cell.execution_count = self.cell_num + 1
        for output in self.test_outputs:
            if output.output_type == "execute_result":
                output.execution_count = self.cell.execution_count
        self.parent.passed += 1

    def reportinfo(self):
        page = freshness.name_of(self.path, ROOT)
        return self.path, self.line - 1, f"{page}:{self.line} cell {self.cell_num}"

    def repr_failure(self, excinfo):
        report = re.sub(r"\x1b\[[0-9;]*m", "", str(super().repr_failure(excinfo)))
        return f"{freshness.name_of(self.path, ROOT)}:{self.line}\n{report}"


# ------------------------------------------------------------------------------------------ hooks


def pytest_addoption(parser):
    parser.addoption(
        "--stale", action="store_true", help="of the chapters, run only those with changed inputs"
    )


def pytest_cmdline_main(config):
    """With --stale: remove outdated outputs, and stop here when there is nothing to run."""
    config.stash[PAGES] = None
    if not config.option.stale:
        return None
    stale = freshness.stale(ROOT)
    if not stale:
        print("All pages are fresh.")
        return pytest.ExitCode.OK
    freshness.forget(stale, ROOT)
    config.stash[PAGES] = set(stale)
    return None


def pytest_configure(config):
    # Kernels inherit it. Two busy threads per process can be many times slower than one.
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(config, "workerinput"):
        stale = config.workerinput["stale"]
        config.stash[PAGES] = None if stale is None else {ROOT / page for page in stale}
        config.stash[EXECUTED] = Path(config.workerinput["executed"])
    else:
        folder = tempfile.TemporaryDirectory(prefix="pages-")
        config.add_cleanup(folder.cleanup)
        config.stash[EXECUTED] = Path(folder.name)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node):
    pages = node.config.stash[PAGES]
    node.workerinput["executed"] = str(node.config.stash[EXECUTED])
    node.workerinput["stale"] = pages and [freshness.name_of(page, ROOT) for page in pages]


def pytest_collect_file(file_path, parent):
    page = file_path.resolve()
    if ROOT / "chapters" not in page.parents or not freshness.is_notebook(page):
        return None
    pages = parent.config.stash[PAGES]
    if pages is not None and page not in pages:
        return None
    return Page.from_parent(parent, path=file_path)


@pytest.hookimpl(trylast=True)  # after pytest-xdist has let its workers finish
def pytest_sessionfinish(session):
    """One process writes the cache: two at once would find its database locked."""
    if hasattr(session.config, "workerinput"):
        return
    executed = sorted(session.config.stash[EXECUTED].glob("*.json"))
    if executed:
        freshness.store([json.loads(path.read_text(encoding="utf-8")) for path in executed], ROOT)
    stats = session.config.pluginmanager.get_plugin("terminalreporter").stats
    reports = stats.get("failed", []) + stats.get("error", [])
    failed = {ROOT / report.nodeid.split("::")[0] for report in reports}
    if failed := failed.intersection(freshness.pages(ROOT)):
        freshness.forget(sorted(failed), ROOT)
