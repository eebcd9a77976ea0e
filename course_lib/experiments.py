"""Studies: written once on a page, run at two speeds, kept as records.

A study names its arms (configurations), its contrasts (what claims assert about them) and its
seeds. `make results` runs what a record lacks; a page runs small copies of the same arms. Running
needs torch and numpy alone, and further what `data` and the tasks name as theirs.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch

from course_lib import (
    checks,
    data,
    measures,
    models,
    records,
    replicas,
    speedrun,
    tasks,
    training,
    zoo,
)
from course_lib.records import RecordError, Runs, run_key
from course_lib.speedrun import Recipe
from course_lib.training import TrainConfig
from course_lib.verdicts import (
    Contrast,
    Verdict,
    diagnostic,
    judge,
    repairs,
    shares_by_arm,
)
from course_lib.zoo import Case

Arm = TrainConfig | Case | Recipe
CHECKPOINTS = Path(__file__).parents[1] / "_build" / "checkpoints"
TUNING_SEEDS = range(2000, 2003)  # of tuning runs, so that judged seeds stay fresh
TUNING_VAL = 5000  # images kept from training, as the design asks
CANARY_STEPS = 5  # a deep net makes other rounding visible from the sixth on
CANARY_BATCH = 52  # in all more images than the 256 coordinates that one task makes of them
REPLICAS = 8  # runs in one program; more only while their first layers fit, all together, into
WEIGHTS_TOGETHER = {"cpu": 600_000, "cuda": 10**9}  # the cache, and 16 GB with all that goes along
SHARED_WEIGHTS = 100_000  # on a CPU, a first layer with more of them gains nothing from company
MAX_CANARIES = 2  # arms of a study, evenly spread, that a record keeps a canary for


# --- one run ----------------------------------------------------------------------------------


def load_task(config: TrainConfig, base: data.Dataset | None = None) -> data.Dataset:
    """The dataset that `config` trains on."""
    sizes = {name: getattr(config, name) for name in ("num_train", "num_val", "num_test")}
    return tasks.load(config.task, base, **sizes)


def run(config: Arm, seed: int, *, device: str = "cpu", test: bool = True) -> dict:
    """One run, as a record keeps it. `test=False` (tuning) leaves the test set unread."""
    if isinstance(config, Case):
        return _run_case(config, seed, device)
    if isinstance(config, Recipe):
        return _run_recipe(config, seed, device)
    start = time.monotonic()
    measures.check(config)  # before it trains for hours
    dataset = load_task(config)
    key = run_key(config.plain(), seed, tasks.default_base().identity)
    kind = torch.device(device).type
    checkpoint = CHECKPOINTS / f"{key}-{SOURCE}-{kind}.pt"  # other code must not resume it
    tuning = replace(config, val_history=False, score_training=False)  # it keeps no history
    trained = config if test else tuning
    result = training.train(trained, seed, dataset, device=device, checkpoint=checkpoint)
    kept = _kept(config, seed, result, dataset.to(device), device=device, test=test)
    return kept | {"seconds": time.monotonic() - start}


def _run_case(case: Case, seed: int, device: str) -> dict:
    """One run of the zoo, which reads no test set."""
    if device != "cpu":
        raise ValueError(f"device is {device!r}; the zoo's nets are small: run them on 'cpu'")
    start = time.monotonic()
    found = checks.run(case, seed) if case.check else zoo.run(case, seed)
    seen = {"metrics": found, "history": {}, "probes": {}}
    name = load_task(zoo.NETS[case.net]).name
    return _stamped(case, seed, name, seen) | {"seconds": time.monotonic() - start}


def _run_recipe(recipe: Recipe, seed: int, device: str) -> dict:
    """One speed-run, on validation images where the recipe holds some back."""
    start = time.monotonic()
    dataset = load_task(recipe)
    found = speedrun.train(recipe, seed, dataset.to(device))
    split = "val" if recipe.num_val else "test"
    metrics = {f"{split}_accuracy": found["accuracy"], "minutes": found["minutes"]}
    seen = {"metrics": metrics, "history": {}, "probes": {}}
    precision = training.precision_on(torch.device(device), "auto")
    made = _stamped(recipe, seed, dataset.name, seen, device, precision)
    return made | {"seconds": time.monotonic() - start}


def run_together(
    configs: list[TrainConfig], seed: int, *, device: str = "cpu", test: bool = True
) -> list[dict]:
    """As `run`, for replicas in one program; each counts an equal part of the time."""
    start = time.monotonic()
    dataset = load_task(configs[0]).to(torch.device(device))
    results = replicas.train_replicas(configs, seed, dataset, device=device)
    pairs = zip(configs, results, strict=True)
    kept = [
        _kept(config, seed, result, dataset, device=device, test=test) for config, result in pairs
    ]
    share = (time.monotonic() - start) / len(configs)
    return [run | {"replicas": len(configs), "seconds": share} for run in kept]


def _kept(config, seed, result, dataset, *, device: str = "cpu", test: bool) -> dict:
    """What a record keeps of a run, but for the time it took; of a tuning run only its end."""
    seen = {
        "metrics": measures.final_metrics(config, result, dataset, test=test),
        "history": measures.since_dose(config, result.history) if test else {},
        "probes": result.probes if test else {},
    }
    precision = training.precision_on(torch.device(device), config.precision)
    return _stamped(config, seed, dataset.name, seen, device, precision)


def _stamped(
    config: Arm, seed: int, data_name: str, seen: Mapping, device="cpu",
    precision="fp32",
) -> dict:  # fmt: skip
    """What was seen in a run, with all that says where it comes from."""
    return {
        "seed": seed,
        "config": config.plain(),
        "data": {"name": data_name, "identity": tasks.default_base().identity},
        **seen,
        "device": _device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "source": SOURCE,
        "date": date.today().isoformat(),
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def _source_digest() -> str:
    rooms = ("data", "tasks", "models", "diagnostics", "graphs", "training", "replicas",
             "faults", "zoo", "checks", "speedrun", "measures", "experiments")  # fmt: skip
    joined = b"".join(Path(__file__).with_name(f"{room}.py").read_bytes() for room in rooms)
    return hashlib.sha256(joined).hexdigest()[:12]


SOURCE = _source_digest()  # of the rooms that decide a run's numbers, as they were imported


def canary(config: Arm) -> list[float]:
    """The losses of five fp32 steps on the stand-in: they move when course_lib's training does.

    They end before the first that is over twice the one at the start, or that is not finite: from
    there on rounding decides, and another processor rounds otherwise.
    """
    kinds = {Case: _case_losses, Recipe: _recipe_losses, TrainConfig: _losses}
    found = kinds[type(config)](config)
    losses = [float(f"{loss:.5g}") for loss in found]
    calm = itertools.takewhile(lambda loss: loss <= 2 * losses[0] < math.inf, losses)
    return list(calm)


_SUNG: dict[str, list[float]] = {}  # by configuration


def _losses(config: TrainConfig) -> list[float]:
    config = training.settled(config, 0)
    doses = tuple((0, dose) for _, dose in config.lr_doses[-1:])
    small = replace(
        config, lr_doses=doses, num_train=CANARY_STEPS * CANARY_BATCH, num_val=0, num_test=20,
        precision="fp32", epochs=1, batch_size=CANARY_BATCH, probe_until=0, measures=(),
        last_losses=CANARY_STEPS - 1, val_history=False,
    )  # fmt: skip
    known = json.dumps(small.plain(), sort_keys=True)
    if known not in _SUNG:  # arms of one experiment share many a canary
        _SUNG[known] = training.train(small, 0, load_task(small, _canary_base())).step_losses
    return _SUNG[known]


def _case_losses(case: Case) -> list[float]:
    sizes = {"num_train": (CANARY_STEPS - 1) * CANARY_BATCH, "num_val": CANARY_BATCH}
    config = replace(zoo.control(case.net, case.control), **sizes)
    changes = {**case.changes, "epochs": CANARY_STEPS, "max_steps": CANARY_STEPS}
    return zoo.train(zoo.build_from(config, case.fault, 0, _canary_base(), **changes)).losses


def _recipe_losses(recipe: Recipe) -> list[float]:
    sizes = {"num_train": CANARY_BATCH, "batch_size": CANARY_BATCH, "num_val": 0}
    small = replace(recipe, epochs=CANARY_STEPS, widths=(8, 8, 8), **sizes)
    return speedrun.train(small, 0, load_task(small, _canary_base()), precision="fp32")["losses"]


def canaries(study: "Study") -> dict[str, list[float]]:
    """Canaries of up to `MAX_CANARIES` arms, evenly spread over the study."""
    arms = list(study.arms)[:: max(1, math.ceil(len(study.arms) / MAX_CANARIES))]
    return {arm: canary(study.arms[arm]) for arm in arms}


@lru_cache(maxsize=1)
def _canary_base() -> data.Dataset:
    return data.load_standin(CANARY_STEPS * CANARY_BATCH, 20)


# --- a study ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """An experiment as a page writes it down: the only place where it stands.

    `arms`: name -> TrainConfig, a case of the zoo, or a recipe of the speed-run. `claims`: claim id
    -> Contrast; an id may carry a setting, as in "S2 @ batch 50", which the board shows as a
    boundary. `tune`: field -> values tried for every arm on validation images, with `TUNING_SEEDS`;
    the arms in `as_is` stay as they are. `seeds`: judged runs per arm. `live`: field -> value that
    makes the arms small enough for a page.
    """

    name: str
    arms: Mapping[str, Arm]
    claims: Mapping[str, Contrast] = field(default_factory=dict)
    seeds: int = 10
    tune: Mapping[str, tuple] = field(default_factory=dict)
    live: Mapping = field(default_factory=dict)
    as_is: tuple[str, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"study name is {self.name!r}; use a-z, 0-9 and _")
        plain = [json.dumps(config.plain(), sort_keys=True) for config in self.arms.values()]
        if len(set(plain)) < len(plain):
            raise ValueError(f"two arms of study {self.name!r} are the same; drop or change one")
        for claim, contrast in self.claims.items():
            unknown = set(contrast.arms()) - set(self.arms)
            if unknown:
                raise ValueError(f"{claim} names arm {unknown.pop()!r}; arms: {list(self.arms)}")
        if not set(self.as_is) <= set(self.arms):
            raise ValueError(f"as_is is {self.as_is!r}; arms: {list(self.arms)}")

    def plan(self) -> dict:
        """Arms, contrasts and seeds as plain data: what a record must have been made from."""
        plan = {
            "arms": {name: config.plain() for name, config in self.arms.items()},
            "contrasts": {claim: contrast.plain() for claim, contrast in self.claims.items()},
            "seeds": self.seeds,
            "tune": {k: list(v) for k, v in self.tune.items()},
        }
        if self.as_is:  # so that older records keep their plan
            plan["as_is"] = list(self.as_is)
        return json.loads(json.dumps(plan))

    def record(self) -> dict:
        """This study's record, or an empty one. Raises RecordError if it is another study's."""
        names = self.name, self.name + records.GPU
        if not any(records.path_of(name).exists() for name in names):
            return records.empty(self.name, self.plan())
        record = records.shown(self.name)
        for part, value in self.plan().items():
            if record["analysis"].get(part) != value:
                raise RecordError(
                    f"the page's {part} of study {self.name!r} differ from its record's; "
                    "run `make results` to bring the record up to date"
                )
        return record

    def runs(self) -> Runs:
        return Runs(self.record())

    def tuning_curve(self, arm: str) -> tuple[list[float], list[list[float | None]]]:
        """The values tried of the one tuned field, and a row of validation accuracies per seed.

        Losses instead where targets are not classes; None where a run is not made yet. Raises
        ValueError if the study tunes another number of fields than one.
        """
        if len(self.tune) != 1:
            raise ValueError(f"study {self.name!r} tunes {list(self.tune)}; tune one for a curve")
        runs = self.record()["runs"]
        identity = next((run["data"]["identity"] for run in runs.values()), "")
        columns = []
        for values in tuning_grid(self):
            found = [runs.get(job.key(identity)) for job in _tuning_runs(self, arm, values)]
            columns.append([run and _val_reading(run["metrics"])[0] for run in found])
        return list(*self.tune.values()), [list(row) for row in zip(*columns, strict=True)]

    def verdict(self, claim: str) -> Verdict:
        """The verdict on `claim`, computed from the record."""
        if claim not in self.claims:
            raise ValueError(f"claim is {claim!r}; study {self.name!r} has {list(self.claims)}")
        return judge(claim, self.claims[claim], self.runs(), self.seeds)

    def run_live(self, arm: str, seed: int = 0) -> training.Result:
        """Train `arm` now, cut down by `live`, on the images that are here; never for a verdict."""
        if arm not in self.arms:
            raise ValueError(f"arm is {arm!r}; study {self.name!r} has {list(self.arms)}")
        config = replace(self.arms[arm], **self.live)
        return training.train(config, seed, load_task(config))


@dataclass(frozen=True)
class Job:
    """One run that a record lacks."""

    arm: str
    config: Arm
    seed: int
    phase: str  # "tune" or "judge"

    def key(self, identity: str) -> str:
        """What its run is filed under, on the data called `identity`."""
        return run_key(self.config.plain(), self.seed, identity)


def half_decades(low: int, high: int) -> tuple[float, ...]:
    """1 and 3 times each power of ten from 10^`low` up to 10^`high`, both ends included."""
    whole = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in (1, 3)]
    return tuple(whole[:-1])


def tuning_grid(study: Study) -> list[dict]:
    """Every combination of the values that are tuned; one empty combination if none is."""
    combinations = itertools.product(*study.tune.values())
    return [dict(zip(study.tune, values, strict=True)) for values in combinations]


def _tuning_runs(study: Study, arm: str, values: Mapping) -> list[Job]:
    config = replace(study.arms[arm], num_val=TUNING_VAL, **values)
    return [Job(arm, config, seed, "tune") for seed in TUNING_SEEDS]


def tune(study: Study, record: Mapping, identity: str) -> dict[str, TrainConfig] | None:
    """The arms as tuning leaves them, by mean validation accuracy, or loss where targets are not
    classes; None while runs are missing."""
    if not study.tune:
        return dict(study.arms)
    chosen = {}
    for arm in study.arms:
        if arm in study.as_is:
            chosen[arm] = replace(study.arms[arm], num_val=TUNING_VAL)
            continue
        scores = []
        for values in tuning_grid(study):
            keys = [job.key(identity) for job in _tuning_runs(study, arm, values)]
            if any(key not in record["runs"] for key in keys):
                return None
            readings = [_val_reading(record["runs"][key]["metrics"]) for key in keys]
            scores.append((statistics.fmean(score for _, score in readings), values))
        best = max(scores, key=lambda score: score[0])[1]
        chosen[arm] = replace(study.arms[arm], num_val=TUNING_VAL, **best)
    return chosen


def _val_reading(metrics: Mapping) -> tuple[float | None, float]:
    """What validation says of a run, and that as a score: the higher, the better."""
    if "val_accuracy" in metrics:
        return metrics["val_accuracy"], metrics["val_accuracy"]
    loss = metrics["val_loss"]
    return loss, -math.inf if loss is None or not math.isfinite(loss) else -loss


def _tuned(study: Study, record: Mapping, identity: str) -> dict[str, dict]:
    arms = tune(study, record, identity) if study.tune else {}
    return {arm: config.plain() for arm, config in (arms or {}).items()}


def planned(study: Study, record: Mapping, identity: str) -> list[Job]:
    """All runs of the study, each once, also where tuning made one of two arms; judged runs appear
    once tuning is complete, seed by seed: a study that is stopped has as many runs of each arm."""
    jobs = []
    if study.tune:
        tuned = (arm for arm in study.arms if arm not in study.as_is)
        for arm, values in itertools.product(tuned, tuning_grid(study)):
            jobs += _tuning_runs(study, arm, values)
    arms = tune(study, record, identity) or {}
    for seed, (arm, config) in itertools.product(range(study.seeds), arms.items()):
        jobs.append(Job(arm, config, seed, "judge"))
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(job.key(identity), job)
    return list(found.values())


def pending(study: Study, record: Mapping, identity: str) -> list[Job]:
    """The runs that `record` still lacks."""
    jobs = planned(study, record, identity)
    return [job for job in jobs if job.key(identity) not in record["runs"]]


def bundles(jobs: list[Job], device: str = "cpu") -> list[list[Job]]:
    """Jobs to be done together: replicas, `side_by_side`; every other job alone.

    Made from all planned jobs, so that a run has the same company, and so the same rounding,
    whenever the queue is stopped and started.
    """
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        company, size = job.config, 1
        if _gains_by_company(job.config, device):
            company, size = replicas.shared_part(job.config), side_by_side(job.config, device)
        groups.setdefault((job.phase, job.seed, str(company), size), []).append(job)
    parts = [(group, size) for (*_, size), group in groups.items()]
    return [group[i : i + size] for group, size in parts for i in range(0, len(group), size)]


def side_by_side(config: Arm, device: str = "cpu") -> int:
    """How many replicas like `config` one program trains: what was measured fastest on CPUs; on a
    GPU, untried, so many that they fill it and leave room for another program."""
    return max(REPLICAS, WEIGHTS_TOGETHER[device] // _first_weights(config))


def _first_weights(config: TrainConfig) -> int:
    """The weights of the first layer of a net that can be a replica."""
    return math.prod(config.model_options.get("widths", models.SCALING_WIDTHS)[:2])


def _gains_by_company(config: Arm, device: str) -> bool:
    shares = isinstance(config, TrainConfig) and replicas.can_share(config)
    return shares and (device != "cpu" or _first_weights(config) <= SHARED_WEIGHTS)


# --- a tip on the bug zoo ---------------------------------------------------------------------


def finds(metric: str, nets: tuple[str, ...] = zoo.ALL) -> Contrast:
    """`metric` tells faults from healthy scripts: judged on one half of both, calibrated on healthy
    scripts of the other. For a study whose arms are `zoo.cases` of these nets."""
    return diagnostic(
        metric, faults=zoo.arms_by_fault("judge", nets), controls=zoo.control_arms("judge", nets),
        calibrate=zoo.control_arms("calibrate", nets),
    )  # fmt: skip


def mends(nets: tuple[str, ...] = zoo.ALL) -> Contrast:
    """The change that a check makes repairs more than half of the judging faults that cost
    something, if its author keeps the variant that scores best. Arms as for `finds`."""
    return repairs(
        "after_skill", before="before_skill", faults=zoo.arms_by_fault("judge", nets),
        healthy=zoo.healthy_arms("judge", nets),
    )  # fmt: skip


def shares_by_half(study: "Study", claim: str) -> dict[str, dict[str, dict[str, float]]]:
    """What `plots.matrix` draws of a contrast of `finds` or `mends`: half of the faults -> fault ->
    net -> the share of runs that alarm, or are repaired. Without what has no run, or costs nothing.
    """
    contrast, runs, found = study.claims[claim], study.runs(), {}
    for name, split in {"judging": "judge", "calibrating": "calibrate"}.items():
        faults = {
            fault: tuple(arm for arm in arms if arm in study.arms)  # it may leave out nets
            for fault, arms in zoo.arms_by_fault(split).items()
        }
        half = replace(contrast, faults=faults, healthy=zoo.healthy_arms(split))
        for arm, share in shares_by_arm(half, runs).items():
            net, fault = arm.split()
            found.setdefault(name, {}).setdefault(fault, {})[net] = share
    return found


# --- the queue --------------------------------------------------------------------------------


def work(jobs: list[Job], device: str = "cpu") -> list[dict]:
    """Do one bundle; the process that calls it needs this library, what its runs need, the data."""
    first, test = jobs[0], jobs[0].phase != "tune"
    if len(jobs) == 1:
        runs = [run(first.config, first.seed, device=device, test=test)]
    else:
        configs = [job.config for job in jobs]
        runs = run_together(configs, first.seed, device=device, test=test)
    return [{"arm": j.arm, "phase": j.phase, **r} for j, r in zip(jobs, runs, strict=True)]


def compute(study: Study, executor: Executor, *, device: str = "cpu", say=print) -> dict:
    """Run what is pending and write each run as it comes. Stop and start it as you like.

    `executor` is any `concurrent.futures.Executor`. What a GPU does goes to a record of its own.
    Raises DataMissing without CIFAR-10, and RecordError where the record was made on other data.
    """
    base = data.load_cifar10()
    record = _open_record(study, base, device)
    _adopt(study, record, base.identity, device)
    while jobs := pending(study, record, base.identity):
        say(f"{study.name}: {len(jobs)} runs pending, about {_estimate(jobs, device)}")
        start, left = time.monotonic(), len(jobs)
        groups = bundles(planned(study, record, base.identity), device)
        open_groups = [group for group in groups if any(job in jobs for job in group)]
        futures = {executor.submit(work, group, device): group for group in open_groups}
        try:
            for future in as_completed(futures):
                group = futures[future]
                runs = future.result()
                _check_data(study, runs, base.identity)
                done = {j.key(base.identity): r for j, r in zip(group, runs, strict=True)}
                left -= len(done.keys() - record["runs"].keys())
                record["runs"] = {**record["runs"], **done, **record["runs"]}  # what is there stays
                records.save(record)
                time_left = _clock((time.monotonic() - start) / (len(jobs) - left) * left)
                name = f"{group[0].arm}, seed {group[0].seed}"
                say(f"{study.name}: {name} done; {left} to go, {time_left} left")
        finally:  # after an error nobody would take what the others find
            for future in futures:
                future.cancel()
        record["analysis"]["tuned"] = _tuned(study, record, base.identity)
        records.save(record)
    return record


def _check_data(study: Study, runs: list[dict], identity: str) -> None:
    for made in (run["data"] for run in runs if run["data"]["identity"] != identity):
        raise RecordError(
            f"a run of study {study.name!r} was made on {made['name']} ({made['identity']}), not on"
            f" the data found at the start ({identity}): it is thrown away. Were images moved, or"
            " is COURSE_DATA another one where the runs are made? Put them back and start again"
        )


def _open_record(study: Study, base: data.Dataset, device: str = "cpu") -> dict:
    """The study's record with the page's present plan and canaries, saved before the first run."""
    name = study.name if device == "cpu" else study.name + records.GPU
    there = records.path_of(name).exists()
    record = records.load(name) if there else records.empty(name, {})
    others = [run["data"] for run in record["runs"].values()]
    if other := next((data for data in others if data["identity"] != base.identity), None):
        raise RecordError(
            f"record {name!r} was made on {other['name']} ({other['identity']}), here lies "
            f"{base.name} ({base.identity}); move the record away to start one of your own"
        )
    plan, former = study.plan(), record["analysis"].get("arms", {}) if record["runs"] else {}
    same = [arm for arm in plan["arms"] if former.get(arm) == plan["arms"][arm]]
    made_with = {arm: losses for arm, losses in record["canaries"].items() if arm in same}
    record["analysis"] = {**plan, "tuned": _tuned(study, record, base.identity)}
    record["canaries"] = canaries(study) | made_with
    records.save(record)
    return record


def _adopt(study: Study, record: dict, identity: str, device: str) -> None:
    """Take over from other records the runs that are pending here: no run is made twice."""
    made = [item for other in records.load_all().values() for item in other["runs"].items()]
    known = {key: run for key, run in made if run["device"] == _device_name(device)}
    for job in pending(study, record, identity):
        if run := known.get(job.key(identity)):
            record["runs"][job.key(identity)] = {**run, "arm": job.arm, "phase": job.phase}
    records.save(record)


def _estimate(jobs: list[Job], device: str) -> str:
    """Time for `jobs` on these cores, from ten timed steps of each arm, or the zoo's own word."""
    seconds = {job.arm: job.config for job in jobs}
    seconds = {arm: _time_run(config, device) for arm, config in seconds.items()}
    total = sum(seconds[job.arm] for job in jobs)
    return f"{_clock(total / _workers())} on {_workers()} cores"


def _time_run(config: Arm, device: str) -> float:
    """Seconds that one run of `config` will take, extrapolated from ten steps."""
    if isinstance(config, Case):
        return zoo.SECONDS[config.net]
    if isinstance(config, Recipe):
        return _time_recipe(config, device)
    dataset = load_task(config)
    short = replace(dataset, train=training.first_examples(dataset.train, 10 * config.batch_size))
    for _ in range(2):  # the first round pays for set-up
        start = time.monotonic()
        training.train(replace(config, epochs=1, probe_until=0), 0, short, device=device)
    steps = math.ceil(len(dataset.train) / config.batch_size) * config.epochs
    return (time.monotonic() - start) / 10 * steps * 1.1  # evaluation adds about a tenth


def _time_recipe(recipe: Recipe, device: str) -> float:
    short = replace(recipe, num_train=2 * recipe.batch_size, num_val=20, epochs=1)
    dataset = load_task(short).to(device)
    start = time.monotonic()
    speedrun.train(short, 0, dataset)
    steps = math.ceil(len(load_task(recipe).train) / recipe.batch_size) * recipe.epochs
    return (time.monotonic() - start) / 2 * steps


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"


def _workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# --- reading pages ----------------------------------------------------------------------------

OPTIONS = re.compile(r"---\n.*?\n---\n|(?::[\w-]+:[^\n]*\n)*", re.DOTALL)
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def study_cells(page: Path) -> str:
    """The code of a MyST page's cells tagged `study`, joined. Needs no jupytext."""
    cells = []
    for match in CELL.finditer(page.read_text(encoding="utf-8")):
        body = match.group(1)
        options = OPTIONS.match(body).group(0)
        if re.search(r"^:?tags:.*\bstudy\b", options, re.MULTILINE):
            cells.append(body[len(options) :])
    return "\n".join(cells)


def studies_of(page: Path) -> list[Study]:
    """The studies that a page writes down."""
    code = study_cells(page)
    if not code:
        return []
    namespace: dict = {}
    exec(compile(code, str(page), "exec"), namespace)
    return [value for value in namespace.values() if isinstance(value, Study)]


def all_studies() -> dict[str, Study]:
    """Every study of the book, by name. Raises ValueError if two pages use one name."""
    found: dict[str, Study] = {}
    for page in records.chapter_pages():
        for study in studies_of(page):
            if study.name in found:
                raise ValueError(f"study {study.name!r} stands on two pages; rename one")
            found[study.name] = study
    return found


def _as_long(sung: Mapping[str, list], record: Mapping) -> dict[str, list]:
    """Canaries cut to the length of the record's: it keeps no step on which two processors were
    seen to part by rounding alone."""
    known = record["canaries"]
    return {arm: losses[: len(known.get(arm, losses))] for arm, losses in sung.items()}


def main(arguments: list[str] | None = None) -> None:
    """`make results`: run what is pending, in all studies or in those named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("studies", nargs="*", help="names of studies; default: all")
    parser.add_argument("--merge", type=Path, help="join a record made elsewhere, then stop")
    parser.add_argument("--list", action="store_true", help="say what is pending, run nothing")
    parser.add_argument(
        "--renew-canaries", action="store_true", help="after a change of training that is meant"
    )
    parser.add_argument("--device", default="cpu", help="where runs are made; 'cuda' for a GPU")
    options = parser.parse_args(arguments)
    if options.merge:
        print(f"merged into {records.merge(options.merge).name}")
        return
    known = all_studies()
    for name in options.studies:
        if name not in known:
            parser.error(f"study is {name!r}; known studies: {', '.join(known)}")
    chosen = [known[name] for name in options.studies or known]
    if options.device != "cpu":  # the zoo's nets are small: they stay on the CPU
        chosen = [study for study in chosen if not _is_of_the_zoo(study)]
    if options.list:
        _list_pending(chosen)
        return
    training.check_device(options.device)
    torch.set_num_threads(1)
    if options.renew_canaries:
        for study in (s for s in chosen if records.path_of(s.name).exists()):
            records.save(study.record() | {"canaries": _as_long(canaries(study), study.record())})
        return
    with ProcessPoolExecutor(
        _workers(), mp_context=get_context("spawn"), initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:  # fmt: skip
        for study in chosen:
            compute(study, pool, device=options.device)


def _is_of_the_zoo(study: Study) -> bool:
    return any(isinstance(config, Case) for config in study.arms.values())


def _list_pending(studies: list[Study]) -> None:
    identity = data.load_cifar10().identity
    for study in studies:
        record = study.record()
        jobs = pending(study, record, identity)
        print(f"{study.name}: {len(record['runs'])} runs there, {len(jobs)} pending")


if __name__ == "__main__":
    from course_lib import experiments  # the module that pages import, not this copy of it

    experiments.main()
