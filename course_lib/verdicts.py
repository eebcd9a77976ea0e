"""Verdicts: what a claim asserts about the arms of a study, and what a record says of it.

A contrast is plain data and is committed before the full run. The five words are computed by the
rules of `judge`, never typed: "not yet", "holds", "fails", "depends" or "open". Needs no torch, but
scipy for intervals.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from course_lib.records import Runs, rounded

MAX_HALF_WIDTH = 0.03  # a prediction interval wider than ± 3 points decides nothing
CALIBRATED_TO = 0.05  # share of calibrating healthy runs that a diagnostic may alarm in
COSTLY = 0.2  # a fault costs something if it takes this share of what the healthy net has learned
SENSITIVITY = 0.5  # a diagnostic has to find more than this share of the faults
FALSE_ALARMS = 0.25  # and to alarm in fewer than this share of the healthy controls
REPAIRED = 0.5  # a change has to repair more than this share of the costly faults
NULL_IS_NEVER = {"diverged_step"}  # here no value means "never"; elsewhere "not finite"


# --- contrasts: what a claim asserts ----------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """One assertion about the arms of a study, as plain data. Made by the functions below.

    `threshold` is δ for `better` and `same`, the stated share for `event`, the stated figure for
    `number`, and the bar to clear for `always`; in the unit of the metric (fractions, not points).
    """

    kind: str  # a name in JUDGES
    arm: str = ""
    metric: str = ""
    than: str = ""  # the arm that it is compared with
    threshold: float = 0.0
    about: float = 0.0  # how loosely a figure is said; the difference that alarms in `misleads`
    than_metric: str = ""  # what is read from `than`, where it is not `metric`
    lower_is_better: bool = False
    relative: bool = False  # differences and δ are shares of the mean of `than`
    at_least: float | None = None
    at_most: float | None = None
    given: Mapping = field(default_factory=dict)  # metric -> value that a run must have to count
    equals: Mapping = field(default_factory=dict)  # metric -> value that it then has
    faults: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> arms that have it
    controls: tuple[str, ...] = ()
    calibrate: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()  # several arms of an event, and their rivals
    against: tuple[str, ...] = ()
    false_alarms: float = 0.0  # the share of controls that a diagnostic may not reach
    before: str = ""  # the metric before a change, of which `metric` is the value after it
    healthy: Mapping[str, str] = field(default_factory=dict)  # arm -> the same one without fault
    rivals: Mapping[str, str] = field(default_factory=dict)  # arm -> the one it is compared with
    places: Mapping[str, Mapping] = field(default_factory=dict)  # arm -> axis -> its value there
    steps: tuple[str, ...] = ()  # of a search, the first arm of `places` being its start
    than_steps: tuple[str, ...] = ()
    differs: bool = False  # for every seed two arms differ; else they are equal
    finding: bool | None = None  # what the page computed
    note: str = ""  # and how

    def __post_init__(self):
        for name in ("controls", "calibrate", "cases", "against", "steps", "than_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a record has lists
        faults = {name: tuple(arms) for name, arms in self.faults.items()}
        object.__setattr__(self, "faults", faults)

    def plain(self) -> dict:
        """The fields that are set, as JSON-ready data; `Contrast(**plain)` brings it back."""
        unset = asdict(Contrast(self.kind))
        changed = {k: v for k, v in asdict(self).items() if v != unset[k]}
        return json.loads(json.dumps({"kind": self.kind, **changed}))

    def arms(self) -> list[str]:
        """The arms that it speaks of."""
        faulty = (arm for arms in self.faults.values() for arm in arms)
        healthy = (*self.controls, *self.calibrate, *self.healthy.values(), *self.rivals.values())
        several = (*faulty, *healthy, *self.cases, *self.against, *self.places)
        return [arm for arm in (self.arm, self.than, *several) if arm]

    def read(self) -> list[tuple[str, str]]:
        """The arm and, if there is one, that it is compared with, each with its metric."""
        both = ((self.arm, self.metric), (self.than, self.than_metric or self.metric))
        return [(arm, metric) for arm, metric in both if arm]


def number(arm: str, metric: str, value: float, *, about: float = 0.0) -> Contrast:
    """The text gives a figure: `value`, said loosely to within ± `about`.

    Holds if some value in that range lies inside the 95 % prediction interval of one new run, and
    the interval is no wider than ± 3 points, or ± `about` where that is more; fails if none does.
    """
    return Contrast("number", arm, metric, threshold=value, about=about)


def better(
    arm: str,
    metric: str,
    *,
    than: str,
    by: float = 0.01,
    than_metric: str = "",
    lower_is_better: bool = False,
    relative: bool = False,
) -> Contrast:
    """`arm` beats `than` by at least `by` (δ), a share of `than`'s mean if `relative`.

    With `than_metric`, that is read from `than`, which may then be `arm` itself: one net judged in
    two ways.
    """
    return Contrast(
        "better", arm, metric, than, by, than_metric=than_metric, lower_is_better=lower_is_better,
        relative=relative,
    )  # fmt: skip


def search(
    *steps: str,
    than: Sequence[str],
    places: Mapping[str, Mapping],
    by: float = 0.01,
) -> Contrast:
    """Who takes these steps gets further than who takes those of `than`, by at least `by` (δ).

    `places` gives for each arm its value on each axis; the first arm is where both start. A step
    "lr" tries all values of that axis, one run each, and keeps the one with the highest validation
    accuracy; "lr+net" tries every pair, "net=deep" goes there untried. Each seed is one searcher,
    its runs are all of that seed, and the last one is judged by its test accuracy. Raises
    ValueError for a step along no axis.
    """
    axes = set().union(*places.values())
    named = {axis for step in (*steps, *than) for axis in step.partition("=")[0].split("+")}
    if unknown := named - axes:
        raise ValueError(f"a step is {unknown.pop()!r}; axes: {', '.join(sorted(axes))}")
    grid = {arm: dict(place) for arm, place in places.items()}
    return Contrast(
        "better", metric="test_accuracy", threshold=by, places=grid, steps=steps, than_steps=than
    )


def same(
    arm: str,
    metric: str,
    *,
    than: str,
    within: float = 0.01,
    than_metric: str = "",
    relative: bool = False,
) -> Contrast:
    """`arm` equals `than` to within ± `within` (δ); `than_metric` as for `better`."""
    return Contrast("same", arm, metric, than, within, than_metric=than_metric, relative=relative)


def always(arm: str, metric: str, *, never_above: float, than: str = "") -> Contrast:
    """The text says that no net exceeds `never_above`; `arm` is the counter-example.

    With `than`, it says that this arm is the best: none exceeds it by more than `never_above`.
    Never holds. Fails if the first half of the seeds and the second half, as fresh ones, each put
    their whole 99 % interval above the bar.
    """
    return Contrast("always", arm, metric, than, never_above)


def event(
    arm: str | Sequence[str],
    metric: str,
    *,
    share: float = 0.5,
    at_least: float | None = None,
    at_most: float | None = None,
    than: str | Sequence[str] = (),
) -> Contrast:
    """In more than `share` of the runs `metric` is at least, at most or between the given values; a
    run that has no finite value may be either.

    `arm` may be several: the runs of all count, where each arm is a task of its own. With `than`,
    one arm for each of them, it is the difference to that arm's run of the same seed that counts.
    Raises ValueError without a bound, or where `than` has not as many arms.
    """
    if at_least is None and at_most is None:
        raise ValueError("at_least and at_most are None; give an event one of them, or both")
    cases, against = ((v,) if isinstance(v, str) else tuple(v) for v in (arm, than))
    if against and len(against) != len(cases):
        raise ValueError(f"than has {len(against)} arms for {len(cases)}; give one for each")
    bounds = {"threshold": share, "at_least": at_least, "at_most": at_most}
    if len(cases) == 1 and not against:
        return Contrast("event", cases[0], metric, **bounds)
    return Contrast("event", metric=metric, cases=cases, against=against, **bounds)


def diagnostic(
    metric: str,
    *,
    faults: Mapping[str, Iterable[str]],
    controls: Iterable[str],
    calibrate: Iterable[str],
) -> Contrast:
    """A `metric` above its threshold raises the alarm: for more than the share `SENSITIVITY` of the
    faults, and for fewer than `FALSE_ALARMS` of the healthy controls.

    The threshold is the lowest that alarms in at most `CALIBRATED_TO` of the runs of `calibrate`,
    healthy arms that judge nothing. A fault is found if at least half of its runs alarm, over all
    its arms; so with a control. A value that is not finite alarms.
    """
    return Contrast(
        "diagnostic", metric=metric, threshold=SENSITIVITY, false_alarms=FALSE_ALARMS,
        faults=faults, controls=controls, calibrate=calibrate,
    )  # fmt: skip


def repairs(
    metric: str,
    *,
    before: str,
    faults: Mapping[str, Iterable[str]],
    healthy: Mapping[str, str],
) -> Contrast:
    """A change repairs more than `REPAIRED` of the faults: brings back half of what they cost.

    Performance with the fault is `before`, and `metric` after the change; `healthy` names for each
    arm the one without the fault, whose `before` says what was there to lose. Runs that lost less
    than `COSTLY` of it count for nothing, nor do faults without another run. A fault is repaired
    if at least half of its runs that count are.
    """
    return Contrast(
        "repairs", metric=metric, before=before, threshold=REPAIRED, faults=faults,
        healthy=dict(healthy),
    )  # fmt: skip


def brings_more(
    metric: str,
    *,
    before: str,
    faults: Mapping[str, Iterable[str]],
    rivals: Mapping[str, str],
    by: float = 0.01,
) -> Contrast:
    """Over many faults, one change brings back more than another, by `by` (δ) on average.

    Performance with the fault is `before`, after the change `metric`; nobody keeps what is worse,
    so the larger of the two counts. `rivals` names for each arm that with the other change. The
    difference is averaged over the runs of a fault; its interval is over the faults.
    """
    return Contrast(
        "better", metric=metric, before=before, threshold=by, faults=faults, rivals=dict(rivals)
    )


def misleads(
    metric: str,
    *,
    than: str,
    changed: str,
    neutral: str,
    by: float = 0.01,
) -> Contrast:
    """A comparison of two single runs with one seed is no instrument to rely on.

    Each seed is one comparison. It raises the alarm where the two runs differ by `by` or more: for
    `changed`, which is known to be worse than `than`, in that direction; for `neutral`, which is
    equal to it in law, in either. Holds if it finds the change in fewer than the share
    `SENSITIVITY` of the seeds, or alarms without one in more than `FALSE_ALARMS`; fails if it does
    well in both.
    """
    return Contrast(
        "diagnostic", changed, metric, than, SENSITIVITY, about=by, controls=(neutral,),
        false_alarms=FALSE_ALARMS,
    )  # fmt: skip


def exact(arm: str, *, equals: Mapping[str, float], given: Mapping[str, float]) -> Contrast:
    """In every run of `arm` that meets `given`, `equals` is met, to a record's five digits."""
    return Contrast("exact", arm, given=dict(given), equals=dict(equals))


def identical(arm: str, metric: str, *, than: str, differs: bool = False) -> Contrast:
    """For every seed `arm` and `than` have the same `metric`, or with `differs` never have it."""
    return Contrast("exact", arm, metric, than, differs=differs)


def assertion(finding: bool, note: str = "") -> Contrast:
    """The claim is settled by a computation that the page does itself, or by a proof."""
    return Contrast("exact", finding=bool(finding), note=note)


def text(finding: bool, note: str = "") -> Contrast:
    """The claim is settled by the text's own figures; the page computes `finding` from them."""
    return Contrast("text", finding=bool(finding), note=note)


# --- verdicts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a record says of a claim. Effects and intervals are in the unit of the metric."""

    claim: str
    word: str
    kind: str
    n: int  # of runs, pairs, faults or searchers that it rests on; of the rarest arm, if not yet
    needed: int  # runs asked of each arm; 0 where it rests on none
    effect: float | None = None
    interval95: tuple[float, float] | None = None
    interval99: tuple[float, float] | None = None
    threshold: float = 0.0
    flips_at: float | None = None  # the nearest threshold, or `about` of a number, at another word
    metric: str = ""
    than: str = ""
    paired: bool = False
    relative: bool = False
    about: float = 0.0
    detail: str = ""


def t_interval(values: list[float], level: float) -> tuple[float, float]:
    """Student's t interval of the mean of at least two values."""
    mean, variance = _moments(values)
    half = _t_quantile(len(values) - 1, level) * math.sqrt(variance / len(values))
    return mean - half, mean + half


def prediction_interval(values: list[float], level: float) -> tuple[float, float]:
    """Where one new value falls with probability `level`, values being normal."""
    mean, variance = _moments(values)
    half = _t_quantile(len(values) - 1, level) * math.sqrt(variance * (1 + 1 / len(values)))
    return mean - half, mean + half


def welch_interval(a: list[float], b: list[float], level: float) -> tuple[float, float]:
    """Welch's interval of mean(a) - mean(b)."""
    (mean_a, var_a), (mean_b, var_b) = _moments(a), _moments(b)
    effect, va, vb = mean_a - mean_b, var_a / len(a), var_b / len(b)
    if va + vb == 0.0:
        return effect, effect
    share = va / (va + vb)
    df = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    half = _t_quantile(df, level) * math.sqrt(va + vb)
    return effect - half, effect + half


def half_width(sd: float, n: int, level: float) -> float:
    """Half the interval of the difference of two means of n runs each, runs spreading by `sd`."""
    return _t_quantile(2 * n - 2, level) * sd * math.sqrt(2 / n)


def binomial_interval(hits: int, n: int, level: float, *, maybe: int = 0) -> tuple[float, float]:
    """The exact interval of Clopper and Pearson (1934) for a share; `maybe` more could be hits."""
    from scipy.special import betaincinv

    tail, most = (1 - level) / 2, hits + maybe
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if most == n else float(betaincinv(most + 1, n - most, 1 - tail))
    return low, high


def _moments(values: list[float]) -> tuple[float, float]:
    mean = statistics.fmean(values)
    mean += statistics.fmean(v - mean for v in values)  # so that equal values have no variance
    return mean, math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def _t_quantile(df: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def judge(claim: str, contrast: Contrast, runs: Runs, needed: int) -> Verdict:
    """The verdict on one contrast: `not yet` while an arm has fewer than `needed` runs, `open`
    where a mean is asked for and a run has no finite value.

    Raises ValueError for an arm, or a metric, that the record does not have.
    """
    verdict, arms = JUDGES[contrast.kind](contrast, runs), contrast.arms()
    made = min((len(runs.of(arm)) for arm in arms), default=needed)
    if contrast.kind == "exact" and contrast.than:
        made = verdict.n  # a run from before its metric was kept counts for nothing
    changes = {}
    if made < needed:
        changes = {"word": "not yet", "n": made}
    elif contrast.kind in ("number", "better", "same"):
        values = [value for pair in contrast.read() for value in runs.metric(*pair)]
        if lost := values.count(None):
            detail = f"{lost} of {len(values)} runs have no finite {contrast.metric}"
            changes = {"word": "open", "flips_at": None, "detail": detail}
    return replace(
        verdict, claim=claim, needed=needed if arms else 0, threshold=contrast.threshold,
        metric=contrast.metric, than=contrast.than, relative=contrast.relative, **changes,
    )  # fmt: skip


def _made(contrast: Contrast, word: str, n: int, **rest) -> Verdict:
    return Verdict("", word, contrast.kind, n, 0, **rest)


def is_share(metric: str) -> bool:
    """Whether values of `metric` are fractions of 1, to be read in per cent and points."""
    return metric.endswith(("accuracy", "share"))


def _word(low: float, high: float, bar: float) -> str:
    """The word for an interval that has to lie above `bar`."""
    return "holds" if low > bar else "fails" if high < bar else "open"


def _flip(threshold: float, *ends: float) -> float | None:
    return min(ends, key=lambda end: abs(end - threshold), default=None)


def _judge_number(contrast: Contrast, runs: Runs) -> Verdict:
    values = runs.finite(contrast.arm, contrast.metric)
    if len(values) < 2:
        return _made(contrast, "open", len(values), detail="fewer than two values")
    low, high = prediction_interval(values, 0.95)
    distance = max(low - contrast.threshold, contrast.threshold - high, 0.0)
    widest = max(MAX_HALF_WIDTH, contrast.about)
    narrow = (high - low) / 2 <= widest
    said = f"{100 * widest:g} points" if is_share(contrast.metric) else f"{widest:g}"
    word = "fails" if distance > contrast.about else "holds" if narrow else "open"
    return _made(
        contrast, word, len(values), effect=statistics.fmean(values), interval95=(low, high),
        interval99=prediction_interval(values, 0.99), flips_at=distance, about=contrast.about,
        detail="" if narrow else f"a prediction interval wider than ± {said} decides nothing",
    )  # fmt: skip


def _judge_difference(contrast: Contrast, runs: Runs) -> Verdict:
    if contrast.rivals:
        return _judge_over_faults(contrast, runs)
    if contrast.places:
        return _judge_searches(contrast, runs)
    (arm, metric), (than, than_metric) = contrast.read()
    a, b, paired = runs.pair(arm, than, metric, than_metric)
    n, shift = min(len(a), len(b)), 0.0
    if n < 2 or (contrast.relative and t_interval(b, 0.99)[0] <= 0.0):
        few = "fewer than two values" if n < 2 else f"relative to {contrast.than!r}, which may be 0"
        return _made(contrast, "open", n, detail=few)
    if contrast.relative:
        a, b, shift = _linearised(a, b)
    sign = -1.0 if contrast.lower_is_better else 1.0

    def interval(level):
        ends = _difference_interval(a, b, level, paired=paired)
        return tuple(sorted(sign * (shift + end) for end in ends))

    word, flips_at = _place(contrast, *interval(0.99))
    return _made(
        contrast, word, n, effect=sign * (shift + statistics.fmean(a) - statistics.fmean(b)),
        interval95=interval(0.95), interval99=interval(0.99), flips_at=flips_at, paired=paired,
    )  # fmt: skip


def _difference_interval(
    a: list[float], b: list[float], level: float, *, paired: bool
) -> tuple[float, float]:
    if not paired:
        return welch_interval(a, b, level)
    return t_interval([x - y for x, y in zip(a, b, strict=True)], level)


def _judge_over_faults(contrast: Contrast, runs: Runs) -> Verdict:
    gaps = []
    for arms in contrast.faults.values():
        pairs = []
        for arm in arms:
            both = (_kept(contrast, runs, name) for name in (arm, contrast.rivals[arm]))
            pairs += zip(*both, strict=False)  # lengths differ only while runs are missing
        gaps += [statistics.fmean(kept - other for kept, other in pairs)] if pairs else []
    return _judge_gaps(contrast, gaps, "faults")


def _judge_gaps(contrast: Contrast, gaps: list[float], of: str) -> Verdict:
    """The verdict on the mean of differences, one for each `of` (faults, searchers)."""
    if len(gaps) < 2:
        return _made(contrast, "open", len(gaps), detail=f"fewer than two {of}")
    word, flips_at = _place(contrast, *t_interval(gaps, 0.99))
    return _made(
        contrast, word, len(gaps), effect=statistics.fmean(gaps), paired=True,
        interval95=t_interval(gaps, 0.95), interval99=t_interval(gaps, 0.99), flips_at=flips_at,
    )  # fmt: skip


def found_by(contrast: Contrast, runs: Runs, steps: Sequence[str]) -> dict[int, str]:
    """Where `steps` lead in the runs of each seed that has them all: seed -> arm."""
    read = {arm: {run["seed"]: run for run in runs.of(arm)} for arm in contrast.places}
    seeds = set.intersection(*(set(made) for made in read.values()))
    found = {}
    for seed in sorted(seeds):
        scores = {arm: made[seed]["metrics"]["val_accuracy"] or 0.0 for arm, made in read.items()}
        found[seed] = _walk(contrast.places, scores, steps)
    return found


def _walk(places: Mapping[str, Mapping], scores: Mapping[str, float], steps: Sequence[str]) -> str:
    here = next(iter(places))
    for step in steps:
        axis, _, value = step.partition("=")
        rest = {name: v for name, v in places[here].items() if name not in axis.split("+")}
        line = [arm for arm, place in places.items() if rest.items() <= place.items()]
        if value:
            line = [arm for arm in line if str(places[arm][axis]) == value]
        here = max(line, key=scores.get)
    return here


def _judge_searches(contrast: Contrast, runs: Runs) -> Verdict:
    values = {
        (arm, run["seed"]): value
        for arm in contrast.places
        for run, value in zip(runs.of(arm), runs.metric(arm, contrast.metric), strict=True)
    }
    ends, others = (found_by(contrast, runs, s) for s in (contrast.steps, contrast.than_steps))
    gaps = [values[arm, seed] - values[others[seed], seed] for seed, arm in ends.items()]
    return _judge_gaps(contrast, gaps, "searchers")


def _kept(contrast: Contrast, runs: Runs, arm: str) -> list[float]:
    pairs = zip(runs.metric(arm, contrast.before), runs.metric(arm, contrast.metric), strict=True)
    return [max(old or 0.0, new or 0.0) for old, new in pairs]


def _linearised(a: list[float], b: list[float]) -> tuple[list[float], list[float], float]:
    # the delta method: to first order r = mean(a) / mean(b) errs by the mean of (a - r b) / mean(b)
    unit = statistics.fmean(b)
    ratio = statistics.fmean(a) / unit
    return [x / unit for x in a], [ratio * y / unit for y in b], ratio - 1.0


def _place(contrast: Contrast, low: float, high: float) -> tuple[str, float]:
    """The word for a 99 % interval against δ, and the nearest δ at which it would change."""
    delta = contrast.threshold
    if contrast.kind == "better":
        return _word(low, high, delta), _flip(delta, low, high)
    outer = max(abs(low), abs(high))
    inner = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
    word = "holds" if outer < delta else "fails" if inner > delta else "open"
    return word, _flip(delta, inner, outer) if inner > 0.0 else outer  # no δ lies below 0


def _judge_always(contrast: Contrast, runs: Runs) -> Verdict:
    a, b, paired = runs.finite(contrast.arm, contrast.metric), [], False
    if contrast.than:
        a, b, paired = runs.pair(contrast.arm, contrast.than, contrast.metric)
    n = min(len(a), len(b)) if contrast.than else len(a)
    half = n // 2
    if half < 2:
        return _made(contrast, "open", n, detail="fewer than four values")

    def interval(part, level):
        if not contrast.than:
            return t_interval(a[part], level)
        return _difference_interval(a[part], b[part], level, paired=paired)

    halves = slice(0, half), slice(half, None)
    bar, whole = min(interval(part, 0.99)[0] for part in halves), slice(None)
    fails = bar > contrast.threshold
    return _made(
        contrast, "fails" if fails else "open", n, paired=paired,
        effect=statistics.fmean(a) - (statistics.fmean(b) if b else 0.0),
        interval95=interval(whole, 0.95), interval99=interval(whole, 0.99), flips_at=bar,
        detail="counter-example, confirmed on the second half of the seeds" if fails else "",
    )  # fmt: skip


def _share(contrast: Contrast, values: list[float | None]) -> tuple[int, tuple, tuple]:
    """How many values are hits, with the share's 95 % and 99 % intervals."""
    known = [value for value in values if value is not None]
    least = -math.inf if contrast.at_least is None else contrast.at_least
    most = math.inf if contrast.at_most is None else contrast.at_most
    hits = sum(least <= value <= most for value in known)
    maybe = 0 if contrast.metric in NULL_IS_NEVER else len(values) - len(known)
    return hits, *(binomial_interval(hits, len(values), p, maybe=maybe) for p in (0.95, 0.99))


def _judge_event(contrast: Contrast, runs: Runs) -> Verdict:
    values, share = _values(contrast, runs), contrast.threshold
    hits, interval95, (low, high) = _share(contrast, values)
    return _made(
        contrast, _word(low, high, share), len(values), effect=hits / max(len(values), 1),
        interval95=interval95, interval99=(low, high), detail=f"{hits} of {len(values)} runs",
        flips_at=_flip(share, *(e for e in (low, high) if 0 < e < 1)),
    )  # fmt: skip


def _values(contrast: Contrast, runs: Runs) -> list[float | None]:
    """What an event counts: a value of each run, or its difference to its counterpart's."""
    cases = contrast.cases or (contrast.arm,)
    if not contrast.against:
        return [value for arm in cases for value in runs.metric(arm, contrast.metric)]
    both = []
    for pair in zip(cases, contrast.against, strict=True):
        columns = (runs.metric(arm, contrast.metric) for arm in pair)  # in order of seed
        both += zip(*columns, strict=False)  # lengths differ only while runs are missing
    return [None if None in pair else pair[0] - pair[1] for pair in both]


def alarm_above(contrast: Contrast, runs: Runs) -> float:
    """The threshold of a diagnostic, from the runs of its calibrating arms; inf without any."""
    readings = sorted(_alarming(contrast, runs, contrast.calibrate), reverse=True)
    return readings[math.floor(CALIBRATED_TO * len(readings))] if readings else math.inf


def _alarming(contrast: Contrast, runs: Runs, arms: Iterable[str]) -> list[float]:
    found = [value for arm in arms for value in runs.metric(arm, contrast.metric)]
    return [math.inf if value is None else value for value in found]


def alarm_shares(contrast: Contrast, runs: Runs) -> tuple[dict[str, float], dict[str, float]]:
    """Of each fault, and of each control, the share of runs that alarm; without those not run."""
    bar = alarm_above(contrast, runs)

    def share(arms):
        readings = _alarming(contrast, runs, arms)
        return sum(r > bar or r == math.inf for r in readings) / len(readings) if readings else None

    faulty = {name: share(arms) for name, arms in contrast.faults.items()}
    healthy = {arm: share([arm]) for arm in contrast.controls}
    return tuple({k: v for k, v in found.items() if v is not None} for found in (faulty, healthy))


def revealed(contrast: Contrast, runs: Runs) -> tuple[set[str], set[str]]:
    """The faults, and the controls, of which at least half of the runs alarm."""
    both = alarm_shares(contrast, runs)
    return tuple({name for name, share in shares.items() if share >= 0.5} for shares in both)


def repaired_shares(contrast: Contrast, runs: Runs) -> dict[str, float]:
    """Of each fault that costs something, the share of its costly runs that are repaired."""
    return {fault: statistics.fmean(hits) for fault, hits in _costly(contrast, runs).items()}


def repaired(contrast: Contrast, runs: Runs) -> set[str]:
    """The faults of which at least half of the costly runs are repaired."""
    return {fault for fault, share in repaired_shares(contrast, runs).items() if share >= 0.5}


def costly_runs(contrast: Contrast, runs: Runs) -> dict[str, int]:
    """Of each fault that costs something, how many runs it costs something."""
    return {fault: len(hits) for fault, hits in _costly(contrast, runs).items()}


def _costly(contrast: Contrast, runs: Runs) -> dict[str, list[bool]]:
    """Of each fault that costs something, whether its costly runs are repaired."""
    found = {
        fault: [hit for arm in arms for hit in _repaired(contrast, runs, arm)]
        for fault, arms in contrast.faults.items()
    }
    return {fault: hits for fault, hits in found.items() if hits}


def _repaired(contrast: Contrast, runs: Runs, arm: str) -> list[bool]:
    """Of each run of `arm` that lost something, whether half of that is back."""
    columns = (
        runs.metric(contrast.healthy[arm], contrast.before),
        runs.metric(arm, contrast.before), runs.metric(arm, contrast.metric),
    )  # fmt: skip
    rows = [(whole, old or 0.0, new or 0.0) for whole, old, new in zip(*columns, strict=False)]
    return [new - old >= (w - old) / 2 for w, old, new in rows if w and w - old >= COSTLY * w]


def shares_by_arm(contrast: Contrast, runs: Runs) -> dict[str, float]:
    """Of each arm with a fault, the share of runs that alarm (`diagnostic`), or of its costly runs
    those that are repaired (`repairs`); without arms that have none."""
    arms = [arm for faulty in contrast.faults.values() for arm in faulty]
    single = replace(contrast, faults={arm: (arm,) for arm in arms})
    if contrast.kind == "repairs":
        return repaired_shares(single, runs)
    return alarm_shares(single, runs)[0]


def _judge_diagnostic(contrast: Contrast, runs: Runs) -> Verdict:
    if contrast.than:
        return _judge_comparisons(contrast, runs)
    faulty, healthy = alarm_shares(contrast, runs)
    found, false = (len(names) for names in revealed(contrast, runs))
    sensitivity = binomial_interval(found, len(faulty), 0.99)
    false_alarm = binomial_interval(false, len(healthy), 0.99)
    return _made(
        contrast, _as_instrument(contrast, sensitivity, false_alarm), len(faulty) + len(healthy),
        effect=found / max(len(faulty), 1), interval99=sensitivity,
        interval95=binomial_interval(found, len(faulty), 0.95),
        detail=f"{found} of {len(faulty)} faults found, {false} false alarm{'s' * (false != 1)} "
        f"in {len(healthy)} healthy scripts",
    )  # fmt: skip


def _as_instrument(contrast: Contrast, finds: tuple, alarms: tuple) -> str:
    """The word for what finds enough and seldom alarms without cause, by 99 % intervals of both."""
    if finds[0] > contrast.threshold and alarms[1] < contrast.false_alarms:
        return "holds"
    poor = finds[1] < contrast.threshold or alarms[0] > contrast.false_alarms
    return "fails" if poor else "open"


def compared(contrast: Contrast, runs: Runs) -> tuple[list[bool], list[bool]]:
    """Of `misleads`: for each seed whether the change is seen, and whether there is a false alarm.

    A run without a finite value differs from every other.
    """
    bar = contrast.about - 1e-9  # so that a difference of just `by` counts, however it is rounded

    def differences(arm):
        found = _values(replace(contrast, cases=(arm,), against=(contrast.than,)), runs)
        return [-math.inf if value is None else value for value in found]

    seen = [value <= -bar for value in differences(contrast.arm)]
    return seen, [abs(value) >= bar for value in differences(contrast.controls[0])]


def _judge_comparisons(contrast: Contrast, runs: Runs) -> Verdict:
    seen, false = compared(contrast, runs)
    if not (seen and false):
        return _made(contrast, "open", 0, detail="no comparison")
    finds, alarms = (binomial_interval(sum(found), len(found), 0.99) for found in (seen, false))
    word = _as_instrument(contrast, finds, alarms)  # what the claim denies
    return _made(
        contrast, {"holds": "fails", "fails": "holds"}.get(word, word), len(seen),
        effect=sum(false) / len(false), interval99=alarms,
        interval95=binomial_interval(sum(false), len(false), 0.95),
        detail=f"false alarms with {sum(false)} of {len(false)} seeds, the change seen with "
        f"{sum(seen)} of {len(seen)}",
    )  # fmt: skip


def _judge_repairs(contrast: Contrast, runs: Runs) -> Verdict:
    shares = repaired_shares(contrast, runs)
    hits = len(repaired(contrast, runs))
    if not shares:
        return _made(contrast, "open", 0, detail="no fault costs anything")
    low, high = binomial_interval(hits, len(shares), 0.99)
    return _made(
        contrast, _word(low, high, contrast.threshold), len(shares), effect=hits / len(shares),
        interval95=binomial_interval(hits, len(shares), 0.95), interval99=(low, high),
        detail=f"{hits} of {len(shares)} costly faults repaired",
    )  # fmt: skip


def _judge_exact(contrast: Contrast, runs: Runs) -> Verdict:
    def met(stated):
        columns = [(runs.metric(contrast.arm, name), rounded(v)) for name, v in stated.items()]
        return {i for i in range(n) if all(column[i] == v for column, v in columns)}

    if contrast.finding is not None:
        return _judge_text(contrast, runs)
    if contrast.than:
        a, b, _ = runs.pair(contrast.arm, contrast.than, contrast.metric)
        given = set(range(len(a)))
        kept = {i for i in given if (a[i] == b[i]) != contrast.differs}
    else:
        n = len(runs.of(contrast.arm))
        given = met(contrast.given)
        kept = given & met(contrast.equals)
    word = "open" if not given else "holds" if kept == given else "fails"
    what = "different" if contrast.differs else "equal"
    return _made(contrast, word, len(given), detail=f"{what} in {len(kept)} of {len(given)} runs")


def _judge_text(contrast: Contrast, runs: Runs) -> Verdict:
    return _made(contrast, "holds" if contrast.finding else "fails", 0, detail=contrast.note)


JUDGES = {
    "number": _judge_number,
    "better": _judge_difference,
    "same": _judge_difference,
    "always": _judge_always,
    "event": _judge_event,
    "diagnostic": _judge_diagnostic,
    "repairs": _judge_repairs,
    "exact": _judge_exact,
    "text": _judge_text,
}


def combine(parts: Mapping[str, str], main: str) -> str:
    """The word for a claim with parts: {part id: word}, `main` being the part it stands on.

    Holds if all hold; fails if the main part fails; depends if the main part is decided and some
    part fails or depends; else not yet or open, by what keeps it from being decided.
    """
    words = set(parts.values())
    if words == {"holds"} or parts[main] == "fails":
        return parts[main]
    if parts[main] in ("holds", "depends") and words & {"fails", "depends"}:
        return "depends"
    return "not yet" if "not yet" in words else "open"
