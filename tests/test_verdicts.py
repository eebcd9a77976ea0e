"""Verdicts against made-up records with a known answer, and intervals against scipy.stats."""

import itertools
import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats

from course_lib import verdicts
from course_lib.records import Runs
from course_lib.verdicts import Contrast, combine, judge

METRIC = "test_accuracy"
WORDS = ("not yet", "holds", "fails", "depends", "open")


def made_up(*, paired: bool = True, seeds: int = 20, **arms) -> Runs:
    """The runs of a record whose arms have these values, one a seed.

    A value is that of METRIC, or a dict of metrics. Unpaired arms differ in their model.
    """
    configs = {arm: {"lr" if paired else "model": arm} for arm in arms}
    runs = {
        f"{arm} {seed}": {
            "arm": arm,
            "seed": seed,
            "phase": "judge",
            "config": configs[arm],
            "metrics": value if isinstance(value, dict) else {METRIC: value},
        }
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    }
    return Runs({"runs": runs, "analysis": {"arms": configs, "seeds": seeds}})


def spread(mean: float, sd: float, n: int = 10) -> list[float]:
    """`n` values with this mean and standard deviation."""
    z = np.linspace(-1, 1, n)
    return (mean + sd * z / z.std(ddof=1)).tolist()


def word(contrast: Contrast, runs: Runs, needed: int = 10) -> str:
    return judge("X1", contrast, runs, needed).word


# --- intervals against scipy.stats ------------------------------------------------------------

SAMPLES = [np.random.default_rng(n).normal(0.5, 0.02, n).tolist() for n in (2, 3, 10, 20)]


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_the_t_interval_is_scipys(values, level):
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert verdicts.t_interval(values, level) == pytest.approx(tuple(expected), rel=1e-9)


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_the_prediction_interval_is_the_textbooks(values):
    n = len(values)
    scale = statistics.stdev(values) * math.sqrt(1 + 1 / n)
    expected = stats.t.interval(0.95, n - 1, loc=statistics.fmean(values), scale=scale)
    assert verdicts.prediction_interval(values, 0.95) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(SAMPLES, 2)))
def test_the_welch_interval_is_scipys(a, b):
    b = [0.4 + 3 * value for value in b]
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.99)
    assert verdicts.welch_interval(a, b, 0.99) == pytest.approx(tuple(expected), rel=1e-8)


@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize(("hits", "n"), [(k, n) for n in (1, 5, 20) for k in range(n + 1)])
def test_the_binomial_interval_is_scipys(hits, n, level):
    expected = stats.binomtest(hits, n).proportion_ci(level, method="exact")
    assert verdicts.binomial_interval(hits, n, level) == pytest.approx(tuple(expected), abs=1e-9)


def test_runs_that_may_be_hits_widen_the_binomial_interval_upwards():
    interval = verdicts.binomial_interval(3, 20, 0.99, maybe=4)
    assert interval[0] == verdicts.binomial_interval(3, 20, 0.99)[0]
    assert interval[1] == verdicts.binomial_interval(7, 20, 0.99)[1]
    assert verdicts.binomial_interval(0, 0, 0.99) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.1, 0.4853, 0.6443, 2.3026, 1e-20, 0.0])
@pytest.mark.parametrize("n", [2, 3, 7, 10, 20])
def test_equal_values_give_an_interval_of_that_very_value(value, n):
    assert verdicts.t_interval([value] * n, 0.99) == (value, value)
    assert verdicts.prediction_interval([value] * n, 0.99) == (value, value)
    assert verdicts.welch_interval([value] * n, [0.0, 0.0], 0.99) == (value, value)


def test_welch_with_one_constant_arm_is_the_t_interval_of_the_other():
    a = SAMPLES[2]
    low, high = verdicts.t_interval(a, 0.99)
    assert verdicts.welch_interval(a, [0.5] * 3, 0.99) == pytest.approx((low - 0.5, high - 0.5))


def test_welch_does_not_underflow():
    a, b = [1e-100, 2e-100, 4e-100], [3e-100, 1e-100]
    scaled = verdicts.welch_interval([1e100 * v for v in a], [1e100 * v for v in b], 0.99)
    tiny = verdicts.welch_interval(a, b, 0.99)
    assert [1e100 * end for end in tiny] == pytest.approx(scaled)


# --- contrasts --------------------------------------------------------------------------------

FACTORIES = [
    verdicts.number("a", METRIC, 0.5, about=0.01),
    verdicts.better("a", METRIC, than="b", by=0.02, lower_is_better=True, relative=True),
    verdicts.same("a", METRIC, than="b", within=0.02),
    verdicts.always("a", METRIC, never_above=0.5),
    verdicts.always("a", METRIC, never_above=0.01, than="b"),
    verdicts.event("a", METRIC, share=0.75, at_most=0.11),
    verdicts.diagnostic(METRIC, faults={"x": ["a"]}, controls=("b", "c"), calibrate=["d"]),
    verdicts.repairs(METRIC, before="dead_share", faults={"x": ("a",)}, healthy={"a": "b"}),
    verdicts.exact("a", equals={METRIC: 0.1}, given={"dead_share": 1.0}),
    verdicts.text(False, "the log rises in 23 of 49 steps"),
]


@pytest.mark.parametrize("contrast", FACTORIES, ids=lambda c: c.kind)
def test_a_contrast_comes_back_from_its_plain_form(contrast):
    plain = contrast.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert Contrast(**plain) == contrast


def test_there_is_a_factory_and_a_judge_for_every_kind():
    assert {contrast.kind for contrast in FACTORIES} == set(verdicts.JUDGES)


def test_a_plain_contrast_holds_only_what_is_set():
    plain = verdicts.better("a", METRIC, than="b").plain()
    expected = {"kind": "better", "arm": "a", "metric": METRIC, "than": "b", "threshold": 0.01}
    assert plain == expected


@pytest.mark.parametrize(
    ("contrast", "arms"),
    list(zip(FACTORIES, ["a", "ab", "ab", "a", "ab", "a", "abcd", "ab", "a", ""], strict=True)),
)
def test_a_contrast_names_its_arms(contrast, arms):
    assert contrast.arms() == list(arms)


def test_an_event_has_a_bound_and_one_rival_for_each_arm():
    with pytest.raises(ValueError, match="at_least and at_most are None; give an event one"):
        verdicts.event("a", METRIC)
    with pytest.raises(ValueError, match="than has 1 arms for 2; give one for each"):
        verdicts.event(["a", "b"], METRIC, at_least=0.0, than="c")


def test_an_event_of_one_arm_is_plain_as_before_and_one_of_several_comes_back():
    assert verdicts.event(["a"], METRIC, at_least=0.0) == verdicts.event("a", METRIC, at_least=0.0)
    several = verdicts.event(list("ab"), METRIC, at_least=0.0, than=list("cd"))
    assert several.arms() == list("abcd")
    assert Contrast(**several.plain()) == several


# --- number -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "about", "sd", "expected"),
    [
        (0.50, 0.0, 0.005, "holds"),
        (0.51, 0.0, 0.005, "holds"),  # outside the mean's interval, inside that of one new run
        (0.52, 0.0, 0.005, "fails"),
        (0.48, 0.0, 0.005, "fails"),
        (0.52, 0.01, 0.005, "holds"),
        (0.55, 0.01, 0.005, "fails"),
        (0.50, 0.0, 0.020, "open"),  # ± 4.7 points decides nothing
        (0.60, 0.0, 0.020, "fails"),  # but it excludes what lies outside
    ],
)
def test_number(value, about, sd, expected):
    runs = made_up(a=spread(0.5, sd))
    verdict = judge("S1", verdicts.number("a", METRIC, value, about=about), runs, 10)
    assert verdict.word == expected
    assert verdict.effect == pytest.approx(0.5)
    half = stats.t.ppf(0.975, 9) * sd * math.sqrt(1.1)
    assert verdict.interval95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)
    assert (verdict.claim, verdict.kind, verdict.metric) == ("S1", "number", METRIC)
    assert (verdict.n, verdict.needed, verdict.threshold) == (10, 10, value)


def test_a_number_that_every_run_gives_holds_and_its_neighbour_fails():
    runs = made_up(a=[0.6443] * 10)
    assert word(verdicts.number("a", METRIC, 0.6443), runs) == "holds"
    assert word(verdicts.number("a", METRIC, 0.6444), runs) == "fails"


def test_a_number_in_another_unit_may_spread_as_far_as_the_text_is_loose():
    runs = made_up(a=spread(15.0, 1.0))  # epochs: ± 2.4 for one more run
    assert word(verdicts.number("a", METRIC, 15, about=3), runs) == "holds"
    assert word(verdicts.number("a", METRIC, 15, about=2), runs) == "open"
    assert word(verdicts.number("a", METRIC, 25, about=3), runs) == "fails"


# --- better and same --------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("difference", "expected"),
    [(0.05, "holds"), (0.0, "fails"), (-0.05, "fails"), (0.01, "open"), (0.0095, "open")],
)
def test_better(difference, expected, paired):
    noise = np.random.default_rng(1).normal(0, 0.001, 20)
    a, b = (0.5 + difference + noise[:10]).tolist(), (0.5 + noise[10:]).tolist()
    runs = made_up(a=a, b=b, paired=paired)
    verdict = judge("X1", verdicts.better("a", METRIC, than="b", by=0.01), runs, 10)
    assert verdict.word == expected
    assert verdict.paired is paired
    assert verdict.effect == pytest.approx(difference, abs=0.002)
    assert verdict.interval99[0] < verdict.interval95[0] < verdict.effect
    assert verdict.effect < verdict.interval95[1] < verdict.interval99[1]


@pytest.mark.parametrize(
    ("by", "expected"), [(0.005, "holds"), (0.007, "open"), (0.013, "open"), (0.015, "fails")]
)
def test_what_95_percent_would_decide_is_open_at_99(by, expected):
    runs = made_up(a=spread(0.51, 0.0036), b=[0.5] * 10)
    verdict = judge("X1", verdicts.better("a", METRIC, than="b", by=by), runs, 10)
    assert verdict.interval95 == pytest.approx((0.0074, 0.0126), abs=1e-4)
    assert verdict.interval99 == pytest.approx((0.0063, 0.0137), abs=1e-4)
    assert verdict.word == expected


def test_pairing_decides_what_welch_leaves_open():
    shared = np.random.default_rng(2).normal(0, 0.03, 10)  # what a seed does to both arms
    a, b = (0.52 + shared + spread(0, 0.002)).tolist(), (0.5 + shared).tolist()
    contrast = verdicts.better("a", METRIC, than="b", by=0.01)
    paired = judge("X1", contrast, made_up(a=a, b=b), 10)
    welch = judge("X1", contrast, made_up(a=a, b=b, paired=False), 10)
    assert (paired.word, welch.word) == ("holds", "open")
    expected = stats.ttest_rel(a, b).confidence_interval(0.99)
    assert paired.interval99 == pytest.approx(tuple(expected), abs=1e-4)  # records: five digits
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.99)
    assert welch.interval99 == pytest.approx(tuple(expected), abs=1e-4)


def test_pairs_go_by_seed_and_not_by_place():
    a, b = [0.9, 0.5, 0.6, 0.7], [0.4, 0.5, 0.6]
    runs = made_up(a=a, b=[None, *b])
    verdict = judge("X1", verdicts.same("a", METRIC, than="b"), runs, 4)
    assert verdict.effect == pytest.approx(statistics.mean([0.1, 0.1, 0.1]))
    assert verdict.n == 3


def test_one_net_may_be_the_same_in_two_ways():
    gap = [0.01, 0.012] * 5
    runs = made_up(a=[{"train_accuracy": 0.5 + g, METRIC: 0.5} for g in gap])
    alike = verdicts.same("a", "train_accuracy", than="a", than_metric=METRIC, within=0.03)
    verdict = judge("X1", alike, runs, 10)
    assert (verdict.word, verdict.paired) == ("holds", True)
    assert word(replace(alike, threshold=0.005), runs) == "fails"


def test_one_net_judged_in_two_ways_is_paired_with_itself():
    shared = np.random.default_rng(3).normal(0, 0.03, 10)
    rows = [{METRIC: 0.5 + s, "unprepared": 0.4 + s} for s in shared.tolist()]
    contrast = verdicts.better("a", METRIC, than="a", than_metric="unprepared")
    verdict = judge("X1", contrast, made_up(a=rows), 10)
    assert (verdict.word, verdict.paired) == ("holds", True)
    assert verdict.effect == pytest.approx(0.1, abs=1e-4)
    assert Contrast(**contrast.plain()) == contrast
    rows[3] = {METRIC: 0.5, "unprepared": None}
    assert "1 of 20 runs have no finite" in judge("X1", contrast, made_up(a=rows), 10).detail


def test_lower_is_better_turns_effect_and_interval_round():
    runs = made_up(a=spread(1.2, 0.01), b=spread(1.5, 0.02))
    higher = judge("X1", verdicts.better("a", METRIC, than="b", by=0.1), runs, 10)
    lower = judge(
        "X1", verdicts.better("a", METRIC, than="b", by=0.1, lower_is_better=True), runs, 10
    )
    assert (higher.word, lower.word) == ("fails", "holds")
    assert lower.effect == -higher.effect > 0
    assert lower.interval95 == (-higher.interval95[1], -higher.interval95[0])


@pytest.mark.parametrize(("by", "expected"), [(0.1, "holds"), (0.3, "fails"), (0.2, "open")])
def test_relative_differences_are_shares_of_the_other_arm(by, expected):
    runs = made_up(a=spread(80, 1), b=spread(100, 2)[::-1])
    contrast = verdicts.better("a", METRIC, than="b", by=by, lower_is_better=True, relative=True)
    verdict = judge("X1", contrast, runs, 10)
    assert verdict.word == expected
    assert verdict.effect == pytest.approx(0.2, abs=1e-4)
    assert verdict.relative
    assert verdict.interval99[0] < 0.2 < verdict.interval99[1]


def fieller(a: np.ndarray, b: np.ndarray, level: float) -> list[float]:
    """The ratios r at which a paired t test of a - r b just fails to reject, less 1."""
    bound = stats.t.ppf((1 + level) / 2, len(a) - 1)
    ratio = a.mean() / b.mean()

    def excess(r):
        return abs(stats.ttest_1samp(a - r * b, 0.0).statistic) - bound

    ends = [optimize.brentq(excess, ratio + 1e-9, ratio * (1 + s)) for s in (-0.5, 0.5)]
    return [end - 1 for end in ends]


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0])
def test_relative_paired_intervals_agree_with_fieller(ratio):
    rng = np.random.default_rng(3)
    b = rng.normal(100, 3, 20).round(2)
    a = (ratio * b + rng.normal(0, 2, 20)).round(2)
    contrast = verdicts.better("a", METRIC, than="b", relative=True)
    verdict = judge("X1", contrast, made_up(a=a.tolist(), b=b.tolist()), 20)
    expected = fieller(a, b, 0.99)
    width = expected[1] - expected[0]
    assert verdict.interval99 == pytest.approx(expected, abs=0.03 * width)


@pytest.mark.parametrize("make", [verdicts.better, verdicts.same])
@pytest.mark.parametrize("other", [[0.0] * 10, spread(0.01, 0.05), spread(-1.0, 0.1)])
def test_nothing_is_relative_to_a_mean_that_may_be_zero(make, other):
    runs = made_up(a=spread(1.0, 0.1), b=other)
    verdict = judge("X1", make("a", METRIC, than="b", relative=True), runs, 10)
    assert verdict.word == "open"
    assert verdict.interval99 is None
    assert "may be 0" in verdict.detail


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("difference", "sd", "expected"),
    [
        (0.0, 0.002, "holds"),
        (-0.004, 0.002, "holds"),
        (0.05, 0.002, "fails"),
        (-0.05, 0.002, "fails"),
        (0.01, 0.002, "open"),
        (0.0, 0.05, "open"),  # equal means, but not known well enough
    ],
)
def test_same(difference, sd, expected, paired):
    noise = np.random.default_rng(4).normal(0, sd, 20)
    a, b = (0.5 + difference + noise[:10]).tolist(), (0.5 + noise[10:]).tolist()
    runs = made_up(a=a, b=b, paired=paired)
    assert word(verdicts.same("a", METRIC, than="b", within=0.01), runs) == expected


def test_identical_arms_are_the_same():
    values = spread(0.5, 0.1)
    verdict = judge("X1", verdicts.same("a", METRIC, than="b"), made_up(a=values, b=values), 10)
    assert (verdict.word, verdict.interval99) == ("holds", (0.0, 0.0))


# --- always -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.6, 0.6, "fails"),
        (0.6, 0.5, "open"),  # fresh seeds do not confirm it
        (0.5, 0.6, "open"),
        (0.4, 0.4, "open"),  # not refuted is not proved
    ],
)
def test_always_fails_only_when_both_halves_refute(first, second, expected):
    runs = made_up(a=spread(first, 0.01) + spread(second, 0.01))
    verdict = judge("X1", verdicts.always("a", METRIC, never_above=0.5), runs, 20)
    assert verdict.word == expected
    assert verdict.effect == pytest.approx((first + second) / 2)
    assert ("counter-example" in verdict.detail) == (expected == "fails")


@pytest.mark.parametrize("paired", [True, False])
def test_the_best_is_refuted_by_an_arm_that_beats_it_in_both_halves(paired):
    best = verdicts.always("a", METRIC, never_above=0.01, than="b")
    b = spread(0.40, 0.002) * 2
    for lead, expected in ((0.03, "fails"), (0.012, "open"), (-0.03, "open")):
        a = [v + lead + shift for v, shift in zip(b, spread(0, 0.002) * 2, strict=True)]
        verdict = judge("X1", best, made_up(paired=paired, a=a, b=b), 20)
        assert (verdict.word, verdict.paired, verdict.than) == (expected, paired, "b")
        assert verdict.effect == pytest.approx(lead, abs=1e-5)  # a record rounds
        whole = verdicts.welch_interval(a, b, 0.99)
        if paired:
            whole = verdicts.t_interval([x - y for x, y in zip(a, b, strict=True)], 0.99)
        assert verdict.interval99 == pytest.approx(whole, abs=1e-5)
    late = [*spread(0.40, 0.002), *spread(0.45, 0.002)]  # a lead in the second half alone
    assert word(best, made_up(paired=paired, a=late, b=b), 20) == "open"
    assert word(best, made_up(paired=paired, a=late[:3], b=b[:3]), 3) == "open"


def test_always_never_holds():
    runs = made_up(a=spread(0.1, 0.001))
    words = {word(verdicts.always("a", METRIC, never_above=bar), runs) for bar in (-9, 0.1, 0.5, 9)}
    assert words == {"open", "fails"}


# --- event ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "share", "expected"),
    [
        (20, 0.75, "holds"),  # 0.005 ** (1 / 20) = 0.767
        (20, 0.77, "open"),
        (19, 0.75, "open"),
        (10, 0.5, "open"),
        (3, 0.5, "fails"),
        (4, 0.5, "open"),
        (0, 0.25, "fails"),
        (0, 0.2, "open"),
    ],
)
def test_event(hits, share, expected):
    runs = made_up(a=[0.1] * hits + [0.4] * (20 - hits))
    verdict = judge("X1", verdicts.event("a", METRIC, share=share, at_most=0.1), runs, 20)
    assert verdict.word == expected
    assert verdict.effect == hits / 20
    assert verdict.detail == f"{hits} of 20 runs"
    mirrored = made_up(a=[0.4] * hits + [0.1] * (20 - hits))
    assert word(verdicts.event("a", METRIC, share=share, at_least=0.4), mirrored, 20) == expected


def test_a_run_without_a_finite_value_may_or_may_not_be_the_event():
    contrast = verdicts.event("a", METRIC, share=0.5, at_least=100.0)
    assert word(contrast, made_up(a=[1.0] * 20), 20) == "fails"
    assert word(contrast, made_up(a=[1.0] * 10 + [None] * 10), 20) == "open"  # NaN may be ≥ 100
    assert word(contrast, made_up(a=[200.0] * 18 + [None] * 2), 20) == "holds"
    assert word(contrast, made_up(a=[200.0] * 15 + [None] * 5), 20) == "open"
    verdict = judge("X1", contrast, made_up(a=[None] * 20), 20)
    assert (verdict.word, verdict.interval99, verdict.flips_at) == ("open", (0.0, 1.0), None)


def test_an_event_between_two_bounds():
    runs = made_up(a=[0.001] * 2 + [0.1] * 17 + [2.0])
    verdict = judge("X1", verdicts.event("a", METRIC, at_least=0.01, at_most=1.0), runs, 20)
    assert (verdict.word, verdict.detail) == ("holds", "17 of 20 runs")


def test_an_event_counts_the_runs_of_several_arms():
    tasks = {f"task {k}": [0.1 if k < 18 else 0.4] for k in range(20)}
    contrast = verdicts.event(list(tasks), METRIC, at_most=0.1)
    verdict = judge("X1", contrast, made_up(**tasks, seeds=1), 1)
    assert (verdict.word, verdict.n, verdict.detail) == ("holds", 20, "18 of 20 runs")
    assert judge("X1", contrast, made_up(**{**tasks, "task 3": []}, seeds=1), 1).word == "not yet"


def test_an_event_may_be_a_difference_to_the_rivals_run_of_the_same_seed():
    runs = made_up(a=[3.0, 1.0], b=[2.0, None], c=[1.0, 1.0], d=[2.5, 0.0], seeds=2)
    contrast = verdicts.event(["a", "b"], METRIC, at_least=1.0, than=["c", "d"])
    verdict = judge("X1", contrast, runs, 2)
    assert verdict.detail == "1 of 4 runs"  # differences 2, 0, -0.5 and one that may be anything
    assert verdict.interval99 == verdicts.binomial_interval(1, 4, 0.99, maybe=1)


@pytest.mark.parametrize(("diverged", "expected"), [(20, "holds"), (10, "open"), (0, "fails")])
def test_a_run_that_never_diverged_is_known_not_to_have(diverged, expected):
    steps = [{"diverged_step": 7}] * diverged + [{"diverged_step": None}] * (20 - diverged)
    contrast = verdicts.event("a", "diverged_step", at_least=0)
    assert word(contrast, made_up(a=steps), 20) == expected


# --- diagnostic and repairs -------------------------------------------------------------------


def diagnosed(found: int, false: int, num: int = 20, **changes):
    """A verdict where `found` of `num` faults and `false` of `num` controls read 1, the rest 0."""
    rows = {f"f{k}": [float(k < found)] * 2 for k in range(num)}
    rows |= {f"h{k}": [float(k < false)] * 2 for k in range(num)}
    rows |= {f"c{k}": [0.5, 0.1] for k in range(num)}
    contrast = verdicts.diagnostic(
        METRIC,
        faults={f"fault {k}": [f"f{k}"] for k in range(num)},
        controls=[f"h{k}" for k in range(num)],
        calibrate=[f"c{k}" for k in range(num)],
    )
    return judge("X1", replace(contrast, **changes), made_up(**rows), 2)


@pytest.mark.parametrize(
    ("found", "false", "expected"),
    [
        (20, 0, "holds"),
        (20, 1, "open"),  # one alarm in twenty controls: it may be a third
        (2, 0, "fails"),  # misses too much
        (20, 12, "fails"),  # cries wolf
        (10, 0, "open"),
    ],
)
def test_diagnostic(found, false, expected):
    verdict = diagnosed(found, false)
    assert verdict.word == expected
    assert verdict.effect == found / 20 and verdict.n == 40
    alarms = "1 false alarm" if false == 1 else f"{false} false alarms"
    assert verdict.detail == f"{found} of 20 faults found, {alarms} in 20 healthy scripts"
    assert verdict.interval99 == verdicts.binomial_interval(found, 20, 0.99)


def test_a_diagnostic_with_enough_controls_holds():
    assert diagnosed(40, 0, num=40).word == "holds"
    assert diagnosed(40, 1, num=40).word == "holds"
    assert diagnosed(40, 4, num=40).word == "open"
    assert diagnosed(20, 0, false_alarms=0.2).word == "open"  # up to 23 %, says the 99 % interval


@pytest.mark.parametrize(
    ("seen", "false", "expected"),
    [
        (60, 30, "holds"),  # cries wolf with every second seed
        (12, 3, "holds"),  # misses the change
        (55, 4, "fails"),  # one seed is enough
        (55, 15, "open"),
        (30, 0, "open"),
    ],
)
def test_one_seed_misleads_where_it_misses_or_cries_wolf(seen, false, expected):
    changed = [0.48] * seen + [0.495] * (59 - seen) + [0.53] * (seen < 60)  # better: not seen
    neutral = [0.49, 0.51] * (false // 2) + [0.49] * (false % 2)
    neutral += [0.4901] * (60 - len(neutral))
    contrast = verdicts.misleads(METRIC, than="a", changed="b", neutral="c")
    verdict = judge("X1", contrast, made_up(a=[0.5] * 60, b=changed, c=neutral, seeds=60), 60)
    assert verdict.word == expected and verdict.n == 60
    assert verdict.detail == (
        f"false alarms with {false} of 60 seeds, the change seen with {seen} of 60"
    )
    assert verdict.interval99 == verdicts.binomial_interval(false, 60, 0.99)


def test_one_seed_waits_for_all_three_arms_and_sees_what_is_not_finite():
    contrast = verdicts.misleads(METRIC, than="a", changed="b", neutral="c")
    assert contrast.arms() == ["b", "a", "c"]
    assert judge("X1", contrast, made_up(a=[0.5], b=[0.4], c=[]), 1).word == "not yet"
    lost = made_up(a=[0.5] * 2, b=[None] * 2, c=[0.5, None])
    assert verdicts.compared(contrast, lost) == ([True, True], [False, True])
    assert Contrast(**contrast.plain()) == contrast


def test_the_alarm_is_calibrated_on_healthy_arms_that_do_not_judge():
    readings = [float(k) for k in range(40)]
    contrast = verdicts.diagnostic(METRIC, faults={"x": "f"}, controls="h", calibrate="c")
    runs = made_up(f=[37.0, 38.0], h=[37.5, 0.0], c=readings, seeds=40)
    assert verdicts.alarm_above(contrast, runs) == 37.0  # two of forty lie above
    found, false = verdicts.alarm_shares(contrast, runs)
    assert found == {"x": 0.5} and false == {"h": 0.5}
    assert verdicts.revealed(contrast, runs) == ({"x"}, {"h"})


def test_a_reading_that_is_not_finite_alarms():
    contrast = verdicts.diagnostic(METRIC, faults={"x": "f"}, controls="h", calibrate="c")
    runs = made_up(f=[None] * 2, h=[0.0] * 2, c=[0.0] * 20)
    assert verdicts.alarm_shares(contrast, runs) == ({"x": 1.0}, {"h": 0.0})
    lost = made_up(f=[None] * 2, h=[0.0] * 2, c=[None] * 10 + [0.0] * 10)
    assert verdicts.alarm_above(contrast, lost) == math.inf
    assert verdicts.alarm_shares(contrast, lost) == ({"x": 1.0}, {"h": 0.0})


def test_a_fault_counts_once_however_many_nets_have_it():
    contrast = verdicts.diagnostic(
        METRIC, faults={"x": "fgh", "y": "i"}, controls="k", calibrate="c"
    )
    runs = made_up(f=[1.0], g=[1.0], h=[0.0], i=[0.0], k=[0.0], c=[0.5])
    verdict = judge("X1", contrast, runs, 1)
    assert verdict.detail.startswith("1 of 2 faults found")
    assert judge("X1", contrast, runs, 2).word == "not yet"


def mended(**rows):
    """Arms of (before, after); 'well' is the healthy one, with 1.0 before."""
    pairs = {k: [{"old": a, "new": b} for a, b in runs] for k, runs in rows.items()}
    runs = made_up(well=[{"old": 1.0, "new": 0.9}] * 2, **pairs)
    contrast = verdicts.repairs(
        "new", before="old", faults={k: [k] for k in rows}, healthy=dict.fromkeys(rows, "well")
    )
    return contrast, runs


def test_a_fault_is_repaired_when_half_of_the_loss_is_back():
    contrast, runs = mended(
        back=[(0.2, 0.61)] * 2, short=[(0.2, 0.59)] * 2, once=[(0.2, 0.61), (0.2, 0.2)],
        cheap=[(0.81, 0.9)] * 2, half_cheap=[(0.81, 0.9), (0.5, 0.5)], lost=[(None, None)] * 2,
    )  # fmt: skip
    assert verdicts.repaired_shares(contrast, runs) == {
        "back": 1.0, "short": 0.0, "once": 0.5, "half_cheap": 0.0, "lost": 0.0,
    }  # fmt: skip
    assert verdicts.repaired(contrast, runs) == {"back", "once"}
    assert verdicts.costly_runs(contrast, runs) == {
        "back": 2, "short": 2, "once": 2, "half_cheap": 1, "lost": 2,
    }  # fmt: skip
    verdict = judge("X1", contrast, runs, 2)
    assert verdict.detail == "2 of 5 costly faults repaired" and verdict.n == 5
    assert verdict.word == "open" and verdict.effect == 0.4


@pytest.mark.parametrize(("repaired", "expected"), [(20, "holds"), (0, "fails"), (10, "open")])
def test_repairs(repaired, expected):
    rows = {f"f{k}": [(0.0, float(k < repaired))] * 2 for k in range(20)}
    assert judge("X1", *mended(**rows), 2).word == expected


def test_shares_by_arm_tell_the_nets_of_a_fault_apart():
    contrast = verdicts.diagnostic(METRIC, faults={"x": "fg"}, controls="h", calibrate="c")
    runs = made_up(f=[1.0, 0.0], g=[0.0, 0.0], h=[0.0], c=[0.5])
    assert verdicts.shares_by_arm(contrast, runs) == {"f": 0.5, "g": 0.0}
    contrast, runs = mended(back=[(0.2, 0.61), (0.2, 0.3)], cheap=[(0.9, 0.9)])
    assert verdicts.shares_by_arm(contrast, runs) == {"back": 0.5}


def test_one_change_brings_more_than_another_over_faults():
    rows = {}
    for k, (ours, theirs) in enumerate([(0.5, 0.3), (0.4, 0.3), (0.1, 0.0)]):  # 0.1: worse than 0.2
        rows |= {
            f"a{k}": [{"old": 0.2, "new": ours}] * 2,
            f"b{k}": [{"old": 0.2, "new": theirs}] * 2,
        }
    contrast = verdicts.brings_more(
        "new", before="old", faults={f"fault {k}": [f"a{k}"] for k in range(3)},
        rivals={f"a{k}": f"b{k}" for k in range(3)},
    )  # fmt: skip
    assert set(contrast.arms()) == set(rows)
    verdict = judge("X1", contrast, made_up(**rows), 2)
    assert verdict.effect == pytest.approx((0.2 + 0.1 + 0.0) / 3) and verdict.word == "open"
    interval = pytest.approx(verdicts.t_interval([0.2, 0.1, 0.0], 0.99))
    assert verdict.n == 3 and verdict.interval99 == interval
    assert judge("X1", contrast, made_up(**rows), 3).word == "not yet"
    far = replace(contrast, threshold=-1.0)
    assert judge("X1", far, made_up(**rows), 2).word == "holds"


def test_faults_that_cost_nothing_decide_nothing():
    verdict = judge("X1", *mended(cheap=[(0.9, 1.0)] * 2), 2)
    assert (verdict.word, verdict.detail) == ("open", "no fault costs anything")


# --- exact and text ---------------------------------------------------------------------------

DEAD = {"dead_share": 1.0, "max_abs_logit": 0.0, "test_loss": 2.3026}
ALIVE = {"dead_share": 0.2, "max_abs_logit": 4.0, "test_loss": 1.5}
EQUALS = {"max_abs_logit": 0, "test_loss": math.log(10)}  # a record keeps five digits of ln 10


@pytest.mark.parametrize(
    ("rows", "expected", "n"),
    [
        ([DEAD] * 3 + [ALIVE], "holds", 3),
        ([DEAD] * 3 + [{**DEAD, "dead_share": 0.99}], "holds", 3),
        ([DEAD] * 3 + [{**DEAD, "max_abs_logit": 1e-30}], "fails", 4),
        ([DEAD] * 3 + [{**DEAD, "test_loss": None}], "fails", 4),
        ([ALIVE] * 4, "open", 0),
    ],
)
def test_exact(rows, expected, n):
    contrast = verdicts.exact("a", equals=EQUALS, given={"dead_share": 1})
    verdict = judge("X1", contrast, made_up(a=rows), 4)
    assert (verdict.word, verdict.n) == (expected, n)


def test_exact_without_conditions_speaks_of_every_run():
    contrast = verdicts.exact("a", equals={"dead_share": 1.0}, given={})
    assert word(contrast, made_up(a=[DEAD] * 4), 4) == "holds"
    assert word(contrast, made_up(a=[DEAD, ALIVE, DEAD, DEAD]), 4) == "fails"


@pytest.mark.parametrize("part", ["given", "equals"])
def test_exact_names_a_metric_that_no_run_has(part):
    stated = {"given": {"dead_share": 1.0}, "equals": {"max_abs_logit": 0.0}, part: {"typo": 0.0}}
    with pytest.raises(ValueError, match="metric is 'typo'"):
        word(verdicts.exact("a", **stated), made_up(a=[DEAD] * 4), 4)


@pytest.mark.parametrize(("finding", "expected"), [(True, "holds"), (np.False_, "fails")])
def test_text(finding, expected):
    verdict = judge("C3a", verdicts.text(finding, "counted in the log"), made_up(), 10)
    assert (verdict.word, verdict.needed, verdict.n) == (expected, 0, 0)
    assert verdict.detail == "counted in the log"


# --- missing runs and missing values ----------------------------------------------------------

OF_RUNS = [contrast for contrast in FACTORIES if contrast.kind != "text"]
ROW = {METRIC: 0.1, "dead_share": 1.0}


@pytest.mark.parametrize("contrast", OF_RUNS, ids=lambda c: c.kind)
@pytest.mark.parametrize("made", [0, 1, 2, 9])
def test_not_yet_while_any_arm_lacks_runs(contrast, made):
    full = {arm: [ROW] * 10 for arm in "abcd"}
    assert word(contrast, made_up(**full)) != "not yet"
    for short in contrast.arms():
        verdict = judge("X1", contrast, made_up(**{**full, short: [ROW] * made}), 10)
        assert (verdict.word, verdict.n, verdict.needed) == ("not yet", made, 10)


@pytest.mark.parametrize("lost", [1, 9, 10])
@pytest.mark.parametrize("contrast", OF_RUNS[:3], ids=lambda c: c.kind)
def test_a_mean_of_the_survivors_decides_nothing(contrast, lost):
    for arm in contrast.arms():
        arms = {"a": spread(0.5, 0.001), "b": spread(0.3, 0.001)}
        arms[arm] = [None] * lost + arms[arm][lost:]
        verdict = judge("X1", contrast, made_up(**arms), 10)
        assert verdict.word == "open"
        assert f"{lost} of {10 * len(contrast.arms())} runs have no finite" in verdict.detail
        assert verdict.flips_at is None


def test_a_counter_example_counts_even_if_another_run_broke():
    runs = made_up(a=[None, *spread(0.6, 0.01, 9), *spread(0.6, 0.01)])
    assert word(verdicts.always("a", METRIC, never_above=0.5), runs, 20) == "fails"
    assert word(verdicts.always("a", METRIC, never_above=0.5), made_up(a=[None] * 20), 20) == "open"


@pytest.mark.parametrize("contrast", OF_RUNS, ids=lambda c: c.kind)
def test_an_arm_that_is_not_in_the_record_is_named(contrast):
    with pytest.raises(ValueError, match=r"arm is '[abcd]'; the record has other"):
        word(contrast, made_up(other=[ROW] * 10))


@pytest.mark.parametrize("contrast", OF_RUNS, ids=lambda c: c.kind)
def test_a_metric_that_is_not_in_the_record_is_named(contrast):
    with pytest.raises(ValueError, match=r"metric is '\w+'; runs have loss"):
        word(contrast, made_up(**{arm: [{"loss": 1.0}] * 10 for arm in "abcd"}))


# --- where a verdict flips --------------------------------------------------------------------


def contrasts_at(threshold: float) -> list[Contrast]:
    pair = {"arm": "a", "metric": METRIC, "than": "b"}
    return [
        verdicts.better(**pair, by=threshold),
        verdicts.better(**pair, by=threshold, lower_is_better=True),
        verdicts.better(**pair, by=threshold, relative=True),
        verdicts.same(**pair, within=threshold),
        verdicts.same(**pair, within=threshold, relative=True),
        verdicts.always("a", METRIC, never_above=threshold),
        *(verdicts.event("a", METRIC, share=threshold, at_least=v) for v in (0.3, 0.5, 0.7)),
    ]


def cases():
    rng = np.random.default_rng(5)
    for case in range(16):
        a, b = rng.normal(0.5, rng.choice([0.001, 0.02, 0.1]), (2, 10)).round(4)
        yield made_up(a=a.tolist(), b=(b - rng.choice([-0.2, 0, 0.2])).tolist(), paired=case % 2)


def test_another_word_stands_just_beyond_flips_at():
    seen = set()
    for runs, threshold in itertools.product(cases(), (0.01, 0.1, 0.5)):
        for contrast in contrasts_at(threshold):
            verdict = judge("X1", contrast, runs, 10)
            at = verdict.flips_at
            below, above = (
                word(replace(contrast, threshold=at + step), runs) for step in (-1e-9, 1e-9)
            )
            near, far = (above, below) if threshold > at else (below, above)
            assert near == verdict.word != far, (contrast, verdict)
            between = (threshold + at) / 2  # no flip on the way
            assert word(replace(contrast, threshold=between), runs) == verdict.word
            assert contrast.kind != "same" or at > 0
            assert contrast.kind != "event" or 0 < at < 1
            seen.add((contrast.kind, verdict.word))
    assert len(seen) == 3 + 3 + 2 + 3, "every kind must have been seen with every word"


def test_a_number_flips_at_the_looseness_that_reaches_it():
    runs = made_up(a=spread(0.5, 0.005))
    verdict = judge("X1", verdicts.number("a", METRIC, 0.55), runs, 10)
    at = verdict.flips_at
    words = [
        word(verdicts.number("a", METRIC, 0.55, about=at + step), runs) for step in (-1e-9, 1e-9)
    ]
    assert words == ["fails", "holds"]
    assert judge("X1", verdicts.number("a", METRIC, 0.505), runs, 10).flips_at == 0.0


# --- how often a verdict is wrong -------------------------------------------------------------


def at_most(wrong: int, studies: int, promised: float) -> bool:
    """Whether `wrong` verdicts in `studies` are compatible with an error rate of `promised`."""
    return stats.binomtest(wrong, studies, promised, alternative="greater").pvalue > 0.01


def tally(contrast: Contrast, a: np.ndarray, b: np.ndarray, *, paired: bool) -> dict[str, int]:
    """How often each word falls in studies of the rows of `a` and `b`."""
    words = [
        word(contrast, made_up(a=x, b=y, paired=paired))
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    return {w: words.count(w) for w in WORDS}


@pytest.mark.parametrize("paired", [True, False])
def test_without_a_difference_one_study_in_a_hundred_finds_one(paired):
    rng = np.random.default_rng(6)
    shared = rng.normal(0.5, 0.02, (2000, 10)) if paired else 0.5
    a, b = shared + rng.normal(0, [[[0.01]], [[0.02]]], (2, 2000, 10))
    count = tally(verdicts.better("a", METRIC, than="b", by=0.0), a, b, paired=paired)
    decided = count["holds"] + count["fails"]
    assert count["holds"] > 0 and count["fails"] > 0, "a simulation that never errs shows nothing"
    assert at_most(decided, 2000, 0.01)
    assert at_most(count["holds"], 2000, 0.005)


def test_arms_that_differ_by_the_margin_are_seldom_called_the_same_or_different():
    a, b = np.random.default_rng(7).normal([[[0.51]], [[0.5]]], 0.005, (2, 1000, 10))
    count = tally(verdicts.same("a", METRIC, than="b", within=0.01), a, b, paired=False)
    assert at_most(count["holds"], 1000, 0.005)
    assert at_most(count["fails"], 1000, 0.005)
    assert count["open"] > 900


def test_a_ratio_that_meets_the_margin_is_seldom_called_larger_or_smaller():
    # at a ratio of 3 it matters that the error of the denominator counts three times
    rng = np.random.default_rng(8)
    a, b = rng.normal(300, 5, (1000, 10)), rng.normal(100, 5, (1000, 10))
    contrast = verdicts.better("a", METRIC, than="b", by=2.0, relative=True)
    count = tally(contrast, a, b, paired=False)
    assert at_most(count["holds"] + count["fails"], 1000, 0.01)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_an_event_of_exactly_the_stated_share_is_seldom_decided(share):
    risk = dict.fromkeys(WORDS, 0.0)  # exact: all 21 outcomes with their probabilities
    for hits in range(21):
        runs = made_up(a=[1.0] * hits + [0.0] * (20 - hits))
        outcome = word(verdicts.event("a", METRIC, share=share, at_least=1.0), runs, 20)
        risk[outcome] += stats.binom.pmf(hits, 20, share)
    assert risk["holds"] <= 0.005 and risk["fails"] <= 0.005


def test_a_new_run_misses_its_own_prediction_interval_once_in_twenty():
    values = np.random.default_rng(9).normal(0.5, 0.005, (2000, 11))
    words = [
        word(verdicts.number("a", METRIC, new), made_up(a=old)) for *old, new in values.tolist()
    ]
    assert at_most(words.count("fails"), 2000, 0.05)
    assert words.count("fails") > 60, "95 % is what is promised, not more"
    assert words.count("holds") + words.count("fails") == 2000


# --- claims with parts ------------------------------------------------------------------------

COMBINED = {  # main part: the word of the claim, by the other part's word in the order of WORDS
    "not yet": ("not yet", "not yet", "not yet", "not yet", "not yet"),
    "holds": ("not yet", "holds", "depends", "depends", "open"),
    "fails": ("fails", "fails", "fails", "fails", "fails"),
    "depends": ("depends", "depends", "depends", "depends", "depends"),
    "open": ("not yet", "open", "open", "open", "open"),
}


@pytest.mark.parametrize("main", WORDS)
def test_a_claim_of_two_parts(main):
    got = tuple(combine({"S8a": main, "S8b": other}, "S8a") for other in WORDS)
    assert got == COMBINED[main]


@pytest.mark.parametrize("parts", list(itertools.product(WORDS, repeat=3)))
def test_a_claim_of_three_parts(parts):
    main, *others = parts
    got = combine(dict(zip("abc", parts, strict=True)), "a")
    assert got == combine(dict(zip("acb", parts, strict=True)), "a"), "the order is of no account"
    assert got in WORDS
    assert (got == "holds") == (set(parts) == {"holds"})
    assert (got == "fails") == (main == "fails")
    if main == "holds" and "fails" in others:
        assert got == "depends"
    if main in ("not yet", "open"):
        assert got == ("not yet" if "not yet" in parts else "open")


@pytest.mark.parametrize("word_of_one", WORDS)
def test_a_claim_of_one_part_has_its_word(word_of_one):
    assert combine({"S1": word_of_one}, "S1") == word_of_one


def test_half_width_is_that_of_two_equal_arms():
    a, b = [0.1, 0.2, 0.4, 0.7], [0.3, 0.4, 0.6, 0.9]  # shifted copies: the same spread
    low, high = verdicts.welch_interval(a, b, 0.99)
    assert verdicts.half_width(statistics.stdev(a), 4, 0.99) == pytest.approx((high - low) / 2)


# --- exact, between two arms --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "differs", "word"),
    [
        ([1, 2, 3], [1, 2, 3], False, "holds"),
        ([1, 2, 3], [1, 2, 4], False, "fails"),
        ([1, 2, 3], [4, 5, 6], True, "holds"),
        ([1, 2, 3], [1, 5, 6], True, "fails"),
        ([1, 2, None], [1, 2, 3], False, "not yet"),
    ],
)
def test_identical_compares_seed_by_seed(a, b, differs, word):
    contrast = verdicts.identical("a", METRIC, than="b", differs=differs)
    assert judge("X1", contrast, made_up(a=a, b=b), 3).word == word


@pytest.mark.parametrize(("finding", "word"), [(True, "holds"), (False, "fails")])
def test_an_assertion_needs_no_runs(finding, word):
    verdict = judge("X1", verdicts.assertion(finding, "shown"), made_up(a=[1]), 10)
    assert (verdict.word, verdict.kind, verdict.needed) == (word, "exact", 0)


# --- searches ---------------------------------------------------------------------------------

GRID = {  # the first is the start
    f"{lr} {net}": {"lr": lr, "net": net} for net in ("plain", "deep") for lr in (1, 2, 3)
}


def searched(val: dict[str, float], test: dict[str, float], seeds: int = 10) -> Runs:
    """Runs on `GRID` with these accuracies, all seeds but for a little alike."""
    return made_up(**{
        arm: [{"val_accuracy": val[arm], METRIC: test[arm] + seed / 1e4} for seed in range(seeds)]
        for arm in GRID
    })  # fmt: skip


def test_a_search_keeps_what_validates_best_along_each_axis():
    val = dict(zip(GRID, (0.1, 0.3, 0.2, 0.5, 0.4, 0.6), strict=True))
    runs, grid = searched(val, val), verdicts.search(than=(), places=GRID)

    def ends(*steps):
        return set(verdicts.found_by(grid, runs, steps).values())

    assert ends() == {"1 plain"}
    assert ends("lr") == {"2 plain"}
    assert ends("net") == {"1 deep"}
    assert ends("lr", "net") == {"2 deep"}  # in this order it misses the best
    assert ends("net", "lr") == {"3 deep"}
    assert ends("net=deep", "lr", "net=plain") == {"3 plain"}
    assert ends("net+lr") == {"3 deep"}


def test_a_search_is_chosen_on_validation_and_judged_on_the_test_set():
    val = dict(zip(GRID, (0.1, 0.3, 0.2, 0.5, 0.4, 0.6), strict=True))
    test = {arm: 1 - value for arm, value in val.items()}
    runs = searched(val, test)
    contrast = verdicts.search("lr", than=(), places=GRID, by=0.01)
    verdict = judge("X1", contrast, runs, 10)
    assert (verdict.word, verdict.n, verdict.effect) == ("fails", 10, pytest.approx(-0.2))
    assert word(verdicts.search(than=("lr",), places=GRID, by=0.1), runs) == "holds"
    assert word(contrast, searched(val, val)) == "holds"
    few = searched(val, val, seeds=9)
    assert judge("X1", contrast, few, 10).word == "not yet"


def test_each_seed_searches_on_its_own():
    """Where validation is pure luck, so is the choice: no search gains from it."""
    rng = np.random.default_rng(3)
    runs = made_up(**{
        arm: [{"val_accuracy": v, METRIC: t} for v, t in rng.normal(0.5, 0.01, (10, 2)).tolist()]
        for arm in GRID
    })  # fmt: skip
    found = verdicts.found_by(verdicts.search(than=(), places=GRID), runs, ("lr", "net"))
    assert len(set(found.values())) > 1
    assert word(verdicts.search("lr", "net", than=(), places=GRID, by=0.05), runs) == "fails"


def test_a_search_comes_back_from_its_plain_form_and_knows_its_axes():
    contrast = verdicts.search("lr", than=("net=deep", "lr"), places=GRID)
    assert Contrast(**json.loads(json.dumps(contrast.plain()))) == contrast
    assert contrast.arms() == list(GRID)
    with pytest.raises(ValueError, match="a step is 'width'; axes: lr, net"):
        verdicts.search("width", than=(), places=GRID)


def test_no_search_is_judged_before_its_runs():
    without = made_up(**{arm: [] for arm in GRID})
    contrast = verdicts.search("lr", than=(), places=GRID)
    assert judge("X1", contrast, without, 10).word == "not yet"
