"""When is the cached output of a page still true?

The book's cache knows a page by its code cells alone. What a page shows also depends on the rooms
of course_lib that it imports, the pinned versions, the records it loads and the data. So while the
tests run a page, its kernel notes which files of the book it reads. `_build/fingerprints.json`
keeps that list for each page with a digest of what was read. A page whose digest no longer fits is
stale, and its cached output is removed before a build.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

# A code cell of a MyST notebook, from fence to fence.
CELL = re.compile(r"^(`{3,})\{code-cell\}.*\n(?:.*\n)*?\1`*[ \t]*$", re.MULTILINE)

# Code for the kernel: note every file and every listed folder under the `roots`. Modules come from
# their compiled copies. Folders that the import system lists (os.listdir) do not count.
WATCH = """
def watch(roots):
    import importlib.util, os, sys
    seen = set()
    def note(event, args):
        if event not in ("open", "os.scandir") or args[0] is None or isinstance(args[0], int):
            return
        writes = os.O_WRONLY | os.O_RDWR  # os.open, which writes compiled modules, gives no mode
        if event == "open" and (set(str(args[1])) & set("wax+") or (args[2] or 0) & writes):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if "chapters" not in path and "course_lib" not in path:
            return
        path = os.path.realpath(path)
        if (path + os.sep).startswith(roots):
            is_module = path.endswith(".pyc")
            seen.add(importlib.util.source_from_cache(path) if is_module else path)
    sys.addaudithook(note)
    get_ipython().files_read = seen
"""


def is_notebook(page: Path) -> bool:
    """True for a Markdown page that is a MyST notebook."""
    return page.suffix == ".md" and "format_name: myst" in page.read_text(encoding="utf-8")[:1000]


def cell_lines(text: str) -> list[int]:
    """The line of the opening fence of each code cell, counted from 1."""
    return [text.count("\n", 0, cell.start()) + 1 for cell in CELL.finditer(text)]


def pages(root: Path) -> list[Path]:
    """The pages under `root`/chapters that have code to run, in a fixed order."""
    found = sorted((root / "chapters").rglob("*.md"))
    found = [page for page in found if "/." not in name_of(page, root)]  # copies that editors keep
    return [page for page in found if is_notebook(page) and CELL.search(page.read_text("utf-8"))]


def name_of(path: Path, root: Path) -> str:
    """A file's name in `fingerprints.json`: its path from the root, with forward slashes."""
    return path.resolve().relative_to(root).as_posix()


# ------------------------------------------------------------------------------- the fingerprint


def watch_code(root: Path) -> str:
    """Code that starts the watch in a kernel and leaves no name behind."""
    roots = tuple(f"{root / name}{os.sep}" for name in ("chapters", "course_lib"))
    return f"{WATCH}\nwatch({roots!r})\ndel watch"


def report_code(target: Path) -> str:
    """Code that makes the kernel write what it has read so far to `target`."""
    return (
        f"with open({str(target)!r}, 'w') as file:\n"
        "    file.write('\\n'.join(sorted(get_ipython().files_read)))"
    )


def fingerprint(page: Path, reads: list[str], root: Path) -> str:
    """A digest of all that the output of `page` depends on, `reads` being what it read.

    Also counted are records whose names stand in quotes on the page: one that is not there yet
    cannot have been read.
    """
    text = page.read_text(encoding="utf-8")
    quoted = set(re.findall(r"[\"']([\w-]+)[\"']", text))
    records = (root / "chapters/results").glob("*.json")
    named = [name_of(p, root) for p in records if p.stem.removesuffix(".gpu") in quoted]
    digest = hashlib.sha256()
    for name in sorted({name_of(page, root), "requirements.txt", *reads, *named}):
        digest.update(f"{name}\0{_content(root / name)}\n".encode())
    if "course_lib/data.py" in reads:
        digest.update(_data_listing(root).encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    """A file's digest, or the names in a folder."""
    if path.is_dir():
        names = (entry.name for entry in path.iterdir())
        return " ".join(sorted(name for name in names if name[0] not in "._"))
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"


def _data_listing(root: Path) -> str:
    """Names, sizes and times of the data folder's top entries, without reading them."""
    folder = Path(os.environ.get("COURSE_DATA") or root / "data")
    if not folder.is_dir():
        return "no data"
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    # The uint8 copy appears during the first page that loads the images, so it says nothing new as
    # long as what it was made from is there.
    sources = [entry for entry in entries if not entry.name.startswith("cifar10-uint8.pt")]
    listing = sorted((entry.name, entry.stat()) for entry in sources or entries)
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in listing)


# ------------------------------------------------------------------------------------- the cache


def stale(root: Path) -> list[Path]:
    """The pages whose cached output is missing or was made from other inputs."""
    known = _load(root)
    return [
        page
        for page in pages(root)
        if (entry := known.get(name_of(page, root))) is None
        or entry["fingerprint"] != fingerprint(page, entry["reads"], root)
        or not (root / "_build/.jupyter_cache/executed" / entry["key"] / "base.ipynb").exists()
    ]


def forget(outdated: list[Path], root: Path) -> None:
    """Remove the cached output of these pages, so that no build can show it."""
    import jupytext
    from jupyter_cache.cache.db import NbCacheRecord

    cache, known = _cache(root), _load(root)
    for page in outdated:
        entry = known.pop(name_of(page, root), None)
        keys = {entry["key"]} if entry else set()
        if page.exists():  # also what a build outside `make` may have cached for it
            keys.add(cache.create_hashed_notebook(jupytext.read(page))[1])
        for record in cache.list_cache_records():
            if record.hashkey in keys:
                NbCacheRecord.remove_record(record.pk, cache.db)
                shutil.rmtree(cache.path / "executed" / record.hashkey, ignore_errors=True)
        _unread(page, root)
    cache.db.dispose()
    _save(known, root)


def store(executed: list[dict], root: Path) -> None:
    """Put executed pages into the cache: dicts of page, reads, fingerprint, seconds, notebook."""
    from jupyter_cache.base import CacheBundleIn
    from nbformat import from_dict

    cache, known = _cache(root), _load(root)
    for run in executed:
        page = root / run["page"]
        bundle = CacheBundleIn(
            from_dict(run["notebook"]), str(page), data={"execution_seconds": run["seconds"]}
        )
        record = cache.cache_notebook_bundle(bundle, overwrite=True)
        known[run["page"]] = {
            "key": record.hashkey,
            "fingerprint": run["fingerprint"],
            "reads": run["reads"],
        }
        _unread(page, root)
    cache.db.dispose()
    _save(known, root)


def _unread(page: Path, root: Path) -> None:
    """Make Sphinx read the page again: its source may be unchanged where its output is not."""
    doctree = root / "_build/.doctrees" / page.relative_to(root).with_suffix(".doctree")
    doctree.unlink(missing_ok=True)


def _cache(root: Path):
    from jupyter_cache import get_cache

    return get_cache(root / "_build/.jupyter_cache")


def _load(root: Path) -> dict[str, dict]:
    path = root / "_build/fingerprints.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _save(known: dict[str, dict], root: Path) -> None:
    path = root / "_build/fingerprints.json"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(known, indent=1, sort_keys=True), encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":  # a quick answer for `make book`: 0 if there is nothing to run
    sys.exit(1 if stale(Path(__file__).resolve().parent) else 0)
