"""Records: what runs left behind, one small JSON file a study, committed with the book.

A record has a run part, keyed by a digest of configuration, data and seed, and an analysis part:
the arms, contrasts and seeds that the page wrote down. Reading one needs neither torch nor numpy.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

CHAPTERS = Path(__file__).parents[1] / "chapters"
RESULTS = CHAPTERS / "results"
FORMAT = 1
GPU = ".gpu"  # ends the name of a record that a GPU made: a pair of arms never mixes devices
MAX_BYTES = 300_000  # a record above this does not belong in git
RUN_PARTS = {"arm", "seed", "phase", "config", "metrics"}  # what reading a run relies on
MEASURED = ("metrics", "history", "probes", "seconds")  # rounded; all else must equal the page's
# shared by two arms: they are paired; the last two are those of the zoo
DRAWS = ("task", "num_train", "num_val", "model", "model_options", "batch_size", "net", "control")


class RecordError(ValueError):
    """A record cannot be read, or does not belong to the study that asks for it."""


def chapter_pages() -> list[Path]:
    """Every page of the book in a fixed order, without the copies that editors keep."""
    pages = sorted(CHAPTERS.rglob("*.md"))
    return [page for page in pages if "/." not in page.relative_to(CHAPTERS.parent).as_posix()]


def run_key(config: Mapping, seed: int, data_identity: str) -> str:
    """What a run is filed under: 16 hex digits of its plain configuration, its seed and its data.

    `data_identity` is that of the images it began with, see `data.Dataset`.
    """
    plain = json.dumps([config, seed, data_identity], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def empty(study: str, analysis: Mapping) -> dict:
    """A record of `study` without runs."""
    return {"format": FORMAT, "study": study, "runs": {}, "canaries": {}, "analysis": analysis}


def path_of(study: str) -> Path:
    """The file that holds the record of `study`, once there is one."""
    return RESULTS / f"{study}.json"


def load(study: str) -> dict:
    """The record of `study`. Raises RecordError, with the remedy, if it cannot be used."""
    path = path_of(study)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in RESULTS.glob("*.json"))) or "none"
        raise RecordError(f"no record of study {study!r} (records: {known}); run `make results`")
    return read(path)


def shown(study: str) -> dict:
    """The record that pages show: the GPU's where it alone has every judged run, else the CPU's.

    Raises RecordError as `load` does.
    """
    if not path_of(study + GPU).exists():
        return load(study)
    gpu = load(study + GPU)
    if not path_of(study).exists() or (_is_complete(gpu) and not _is_complete(load(study))):
        return gpu
    return load(study)


def _is_complete(record: Mapping) -> bool:
    runs, analysis = Runs(record), record["analysis"]
    return all(len(runs.of(arm)) >= analysis["seeds"] for arm in analysis["arms"])


def load_all() -> dict[str, dict]:
    """Every record of the book, by study. Raises RecordError for one that cannot be used."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("*.json"))}


def read(path: Path) -> dict:
    """Read and check one record file; a damaged or a newer one is named, never guessed at.

    Raises RecordError, with the remedy.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] > FORMAT:
            raise RecordError(
                f"{path.name} has format {record['format']}, newer than {FORMAT}; run `git pull`"
            )
        whole = isinstance(record["study"], str) and isinstance(record["analysis"], dict)
        if not whole or any(RUN_PARTS - run.keys() for run in record["runs"].values()):
            raise TypeError("a part is missing or of the wrong type")
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path.name} is not a whole record ({error!r}); restore it from git, or move it away "
            "and run `make results`"
        ) from error
    return record


def save(record: dict) -> Path:
    """Write a record atomically; without room on the disk, a rescue copy goes elsewhere.

    Raises RecordError if runs in the file would be dropped or changed, and OSError with a note on
    the rescue copy.
    """
    path, body = path_of(record["study"]), _dump(record)
    before, after = read(path)["runs"] if path.exists() else {}, json.loads(body)["runs"]
    if lost := [key for key, run in before.items() if after.get(key) != run]:
        raise RecordError(
            f"{path.name} has {len(lost)} runs that this would drop or change; load the record and "
            "add to it, or move the file away"
        )
    try:
        _write(path, body)
    except OSError as error:
        rescue = Path(tempfile.gettempdir()) / path.name
        with contextlib.suppress(OSError):
            _write(rescue, body)
            error.add_note(f"the runs are safe: free some room, `make results MERGE={rescue}`")
        raise
    return path


def _write(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(body, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _dump(record: Mapping) -> str:
    """JSON with one run a line, so that a diff shows which runs came."""
    head = {key: value for key, value in record.items() if key != "runs"}
    head["canaries"] = rounded(head.get("canaries", {}))
    body = json.dumps(head, indent=1, allow_nan=False)
    lines = ",\n".join(f"  {json.dumps(k)}: {_line(run)}" for k, run in record["runs"].items())
    return f'{body[:-2]},\n "runs": {{\n{lines}\n }}\n}}\n'


def _line(run: Mapping) -> str:
    kept = {part: rounded(value) if part in MEASURED else value for part, value in run.items()}
    return json.dumps(kept, allow_nan=False, separators=(",", ":"))


def rounded(value):
    """Numbers to five significant digits, however nested; one that is not finite becomes None."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(v) for key, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


def merge(path: Path) -> Path:
    """Join the runs of a record made elsewhere into the one here; equal keys keep ours.

    Raises RecordError if the two were made from different pages, data or devices. Data are told
    apart by identity: runs on one have several names where their tasks make something of their own.
    """
    other = read(path)
    if not path_of(other["study"]).exists():
        return save(other)
    ours = load(other["study"])
    plan, their_plan = ours["analysis"], other["analysis"]
    for part in ("arms", "contrasts", "tune"):
        if plan.get(part) != their_plan.get(part):
            raise RecordError(f"{path} has other {part} than ours; make both from the same page")
    made = {"data": lambda run: run["data"]["identity"], "device": lambda run: run["device"]}
    for what, of in made.items():
        here, there = ({of(run) for run in record["runs"].values()} for record in (ours, other))
        if here and there and here != there:
            raise RecordError(
                f"record {ours['study']!r} has {what} {', '.join(sorted(here))}, the new runs have "
                f"{', '.join(sorted(there))}; keep them in a record of their own"
            )
    ours["runs"] = {**ours["runs"], **other["runs"], **ours["runs"]}  # ours come first, and stay
    plan["tuned"] = {**their_plan.get("tuned", {}), **plan.get("tuned", {})}
    return save(ours)


def _plain(config: Mapping) -> str:
    return json.dumps(config, sort_keys=True)


class Runs:
    """The judged runs of a record, by arm, in order of seed.

    A run counts, once a seed, if its configuration is its arm's present one (the tuned one, if the
    study tunes) and its seed is one of the study's: arms that tuning made one share their runs.
    Runs of a former page stay in the file but say nothing.
    """

    def __init__(self, record: Mapping):
        analysis = record["analysis"]
        tuned = analysis.get("tuned", {})  # arm -> its whole configuration, once tuning is done
        self.configs = {**analysis["arms"], **tuned}
        settled = tuned if analysis.get("tune") else self.configs
        self._runs: dict[str, dict[int, dict]] = {arm: {} for arm in self.configs}
        arms: dict[str, list[str]] = {}
        for arm in settled:
            arms.setdefault(_plain(self.configs[arm]), []).append(arm)
        for run in sorted(record["runs"].values(), key=lambda run: run["seed"]):
            if run["phase"] == "judge" and run["seed"] < analysis["seeds"]:
                for arm in arms.get(_plain(run["config"]), ()):
                    self._runs[arm].setdefault(run["seed"], run)

    def of(self, arm: str) -> list[dict]:
        """The runs of `arm`; raises ValueError for an arm that the record does not have."""
        if arm not in self._runs:
            raise ValueError(f"arm is {arm!r}; the record has {', '.join(self._runs)}")
        return list(self._runs[arm].values())

    def metric(self, arm: str, name: str) -> list[float | None]:
        """`name` of every run of `arm`, by seed; None where a run has no finite value.

        Raises ValueError for an arm that the record does not have, or a metric that no run has.
        """
        runs = self.of(arm)
        if runs and not any(name in run["metrics"] for run in runs):
            raise ValueError(f"metric is {name!r}; runs have {', '.join(runs[0]['metrics'])}")
        return [rounded(run["metrics"].get(name)) for run in runs]

    def metrics(self, arms: Iterable[str], name: str) -> list[float | None]:
        """As `metric`, of several arms, one after the other."""
        return [value for arm in arms for value in self.metric(arm, name)]

    def finite(self, arm: str, name: str) -> list[float]:
        """As `metric`, without the runs that have no finite value."""
        return [value for value in self.metric(arm, name) if value is not None]

    def series(
        self, arm: str, name: str, *, part: str = "probes", x: str = "step"
    ) -> tuple[list, list[list]]:
        """What was read during the runs of `arm`: x of the longest run (T,), and one row per seed,
        which is shorter where a run ended early. `part` is "probes", or "history" by "epoch"."""
        parts = [run[part] for run in self.of(arm)]
        longest = max((p[x] for p in parts), key=len, default=[])
        return longest, [p[name] for p in parts]

    def pair(
        self, a: str, b: str, name: str, name_b: str = ""
    ) -> tuple[list[float], list[float], bool]:
        """Values of two arms, and whether they are paired by seed: if both arms share the initial
        weights and the order of the examples, which the seed decides. `name_b`: the metric of `b`,
        where it is another. A seed that one arm ran in another precision than the other, where both
        left it to the machine, is left out. Raises ValueError as `metric` does."""
        name_b = name_b or name
        x, y = self.metric(a, name), self.metric(b, name_b)
        if any(self.configs[a].get(part) != self.configs[b].get(part) for part in DRAWS):
            return self.finite(a, name), self.finite(b, name_b), False
        one = {seed: v for seed, v in zip(self._runs[a], x, strict=True) if v is not None}
        two = {seed: v for seed, v in zip(self._runs[b], y, strict=True) if v is not None}
        seeds = [seed for seed in one if seed in two and not self._differ(a, b, seed)]
        return [one[seed] for seed in seeds], [two[seed] for seed in seeds], True

    def _differ(self, a: str, b: str, seed: int) -> bool:
        if any(self.configs[arm].get("precision") != "auto" for arm in (a, b)):
            return False
        return self._runs[a][seed]["precision"] != self._runs[b][seed]["precision"]
