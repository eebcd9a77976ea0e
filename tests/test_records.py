"""Records: what is written is what is read, nothing is lost, and only the right runs count."""

import json
import math
import os
import tempfile
from pathlib import Path

import pytest

from course_lib import records
from course_lib.records import RecordError, Runs
from course_lib.verdicts import better

CONFIGS = {"as posted": {"lr": 0.02 / 255, "input_scale": 255.0}, "half": {"lr": 0.01}}
CONTRASTS = {"S1": better("as posted", "test_accuracy", than="half", by=1 / 300).plain()}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch) -> Path:
    """A book without records."""
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    return tmp_path / "results"


def a_run(arm: str = "as posted", seed: int = 0, **changes) -> dict:
    return {
        "arm": arm,
        "seed": seed,
        "phase": "judge",
        "config": CONFIGS[arm],
        "data": {"name": "CIFAR-10", "identity": "0123456789abcdef"},
        "metrics": {"test_accuracy": 0.48531234, "test_loss": 1.4, "diverged_step": None},
        "history": {"epoch": [1, 2], "train_loss": [2.00000123, 1.8]},
        "probes": {"step": [0, 1], "loss": [2.3025851, 1e-12 / 3]},
        "device": "cpu",
        "seconds": 41.23456,
        **changes,
    }


def a_record(*runs: dict, **analysis) -> dict:
    """A record of these runs, under keys made as the queue makes them."""
    plan = {"arms": CONFIGS, "contrasts": CONTRASTS, "seeds": 2, "tune": {}, "tuned": {}}
    record = records.empty("tiny", {**plan, **analysis})
    record["canaries"] = {"half": [2.3026, 2.1]}
    for run in runs:
        key = records.run_key(run["config"], run["seed"], run["data"]["identity"])
        record["runs"][f"{run['arm']} {key}"] = run
    return record


def written(record: dict, path: Path) -> Path:
    """A record file that `save` did not check."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


# --- writing and reading ----------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_but_for_five_digits():
    record = a_record(a_run(), a_run("half"))
    path = records.save(record)
    back = records.load("tiny")
    assert {part: back[part] for part in back if part != "runs"} == {
        part: record[part] for part in record if part != "runs"
    }
    (one, _), original = back["runs"].values(), a_run()
    assert one["metrics"] == {"test_accuracy": 0.48531, "test_loss": 1.4, "diverged_step": None}
    assert one["history"] == {"epoch": [1, 2], "train_loss": [2.0, 1.8]}
    assert one["probes"] == {"step": [0, 1], "loss": [2.3026, 3.3333e-13]}
    assert one["seconds"] == 41.235
    measured = {"metrics", "history", "probes", "seconds"}
    assert {k: v for k, v in one.items() if k not in measured} == {
        k: v for k, v in original.items() if k not in measured
    }
    records.save(back)
    assert records.read(path) == back, "a second writing changes nothing"


def test_configurations_and_margins_keep_all_their_digits():
    # 0.02 / 255 rounded to five digits is another learning rate: the page would no longer know
    # its own record, nor the record its own runs
    record = a_record(a_run())
    records.save(record)
    back = records.load("tiny")
    assert back["analysis"]["arms"]["as posted"]["lr"] == 0.02 / 255
    assert back["analysis"]["contrasts"]["S1"]["threshold"] == 1 / 300
    assert len(Runs(back).of("as posted")) == 1


def test_what_is_not_finite_becomes_null():
    metrics = {"test_loss": math.nan, "grad_norm": math.inf, "test_accuracy": 0.1}
    probes = {"loss": [1.0, -math.inf]}
    record = a_record(a_run(metrics=metrics, probes=probes))
    record["canaries"] = {"half": [math.nan]}
    text = records.save(record).read_text()
    assert "NaN" not in text and "Infinity" not in text
    (run,) = records.load("tiny")["runs"].values()
    assert run["metrics"] == {"test_loss": None, "grad_norm": None, "test_accuracy": 0.1}
    assert run["probes"] == {"loss": [1.0, None]}
    assert records.load("tiny")["canaries"] == {"half": [None]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.123456, 0.12346),
        (123456.7, 123460.0),
        (-1.5e-9, -1.5e-9),
        (1234567, 1234567),
        (True, True),
        (None, None),
        ("cpu", "cpu"),
        ((1.000001, [math.nan]), [1.0, [None]]),
    ],
)
def test_rounding(value, expected):
    assert records.rounded(value) == expected
    assert records.rounded(expected) == expected


@pytest.mark.parametrize("num_runs", [0, 1, 3])
def test_every_run_has_a_line_of_its_own(num_runs):
    runs = [a_run(seed=seed) for seed in range(num_runs)]
    lines = records.save(a_record(*runs)).read_text().splitlines()
    with_a_run = [line for line in lines if '"metrics"' in line]
    assert len(with_a_run) == num_runs
    assert [json.loads(f"{{{line.rstrip(',')}}}").popitem()[1]["seed"] for line in with_a_run] == [
        *range(num_runs)
    ]


def test_one_more_run_adds_one_line_to_the_diff():
    before = records.save(a_record(a_run(), a_run("half"))).read_text().splitlines()
    after = (
        records.save(a_record(a_run(), a_run("half"), a_run("half", 1))).read_text().splitlines()
    )
    assert len(after) == len(before) + 1
    changed = [line for line in before if line not in after]
    assert len(changed) == 1, "the last run's line gains its comma"


def test_a_record_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(RecordError, match=r"no record of study 'tiny' \(records: none\)"):
        records.load("tiny")
    records.save(a_record())
    with pytest.raises(RecordError, match=r"'other' \(records: tiny\); run `make results`"):
        records.load("other")


def test_all_records_are_found_by_study(results):
    assert records.load_all() == {}
    records.save(a_record(a_run()))
    records.save({**a_record(), "study": "tiny.gpu"})
    assert set(records.load_all()) == {"tiny", "tiny.gpu"}
    assert {path.name for path in results.iterdir()} == {"tiny.json", "tiny.gpu.json"}


def test_the_key_depends_on_configuration_seed_and_data():
    keys = {
        records.run_key(config, seed, identity)
        for config in CONFIGS.values()
        for seed in (0, 1)
        for identity in ("a", "b")
    }
    assert len(keys) == 8
    turned = dict(reversed(CONFIGS["as posted"].items()))
    assert records.run_key(turned, 0, "a") == records.run_key(CONFIGS["as posted"], 0, "a")


# --- damaged and newer files ------------------------------------------------------------------


def damaged() -> dict[str, str]:
    whole = json.dumps(a_record(a_run()))
    part = {name: json.loads(whole) for name in ("runs", "analysis", "study", "format", "run")}
    part["runs"]["runs"] = []
    part["analysis"]["analysis"] = None
    part["study"]["study"] = 7
    part["format"]["format"] = "one"
    for run in part["run"]["runs"].values():
        del run["seed"]
    lacking = {
        f"no {lost}": {name: value for name, value in json.loads(whole).items() if name != lost}
        for lost in ("runs", "analysis", "study", "format")
    }
    return {
        "empty": "",
        "truncated": whole[: len(whole) // 2],
        "merge conflict": f"<<<<<<< HEAD\n{whole}",
        "list": "[1, 2]",
        "number": "3",
        "run is a number": whole.replace('"runs": {', '"runs": {"0": 1, '),
        **{f"wrong {name}": json.dumps(record) for name, record in part.items()},
        **{name: json.dumps(record) for name, record in lacking.items()},
    }


@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_record_is_named_and_left_alone(kind, results):
    results.mkdir()
    path = results / "tiny.json"
    path.write_text(damaged()[kind], encoding="utf-8")
    for use in (lambda: records.load("tiny"), records.load_all, lambda: records.save(a_record())):
        with pytest.raises(RecordError, match=r"tiny.json is not a whole record .* from git"):
            use()
    assert path.read_text(encoding="utf-8") == damaged()[kind]


def test_bytes_that_are_no_text_are_named(results):
    results.mkdir()
    (results / "tiny.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(RecordError, match="not a whole record"):
        records.load("tiny")


@pytest.mark.parametrize("layout", [a_record(), {"trials": []}])
def test_a_newer_format_is_told_from_damage_whatever_its_layout(layout, results):
    written({**layout, "format": 2}, results / "tiny.json")
    with pytest.raises(RecordError, match=r"tiny.json has format 2, newer than 1; run `git pull`"):
        records.load("tiny")


# --- nothing is lost --------------------------------------------------------------------------


def test_runs_are_added_and_never_dropped_or_changed():
    first, second = a_run(), a_run("half")
    path = records.save(a_record(first))
    records.save(a_record(first, second))
    before = path.read_text()
    with pytest.raises(RecordError, match="tiny.json has 1 runs that this would drop or change"):
        records.save(a_record(second))
    better_luck = {**first, "metrics": {**first["metrics"], "test_accuracy": 0.6}}
    with pytest.raises(RecordError, match="has 1 runs that this would drop or change"):
        records.save(a_record(better_luck, second))
    assert path.read_text() == before


def test_the_plan_may_change_while_the_runs_stay():
    records.save(a_record(a_run(), a_run("half")))
    records.save(a_record(a_run(), a_run("half"), seeds=20, contrasts={}))
    back = records.load("tiny")
    assert (back["analysis"]["seeds"], len(back["runs"])) == (20, 2)


def full_disk(monkeypatch, full: Path, *, from_the_start: bool) -> None:
    """No room left under `full`, found out when writing, or when the file takes its name."""
    write_text, rename = Path.write_text, os.replace

    def no_room(path):
        raise OSError(28, "No space left on device", str(path))

    def write(path, text, **options):
        if from_the_start and path.is_relative_to(full):
            write_text(path, text[:10], **options)
            no_room(path)
        return write_text(path, text, **options)

    def replace(source, target):
        return no_room(target) if Path(target).is_relative_to(full) else rename(source, target)

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("from_the_start", [True, False])
def test_without_room_the_old_record_stays_and_a_rescue_copy_is_named(
    results, tmp_path, monkeypatch, from_the_start
):
    path = records.save(a_record(a_run()))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        full_disk(patch, results, from_the_start=from_the_start)
        with pytest.raises(OSError, match="No space left") as caught:
            records.save(a_record(a_run(), a_run("half")))
    assert path.read_bytes() == before
    assert [p.name for p in results.iterdir()] == ["tiny.json"], "no partial file is left"
    rescue = tmp_path / "elsewhere" / "tiny.json"
    (note,) = caught.value.__notes__
    assert f"`make results MERGE={rescue}`" in note
    assert len(records.read(rescue)["runs"]) == 2
    records.merge(rescue)  # what the note says to do
    assert len(records.load("tiny")["runs"]) == 2


def test_without_room_anywhere_the_error_says_nothing_untrue(tmp_path, monkeypatch):
    path = records.save(a_record(a_run()))
    before = path.read_bytes()
    full_disk(monkeypatch, tmp_path, from_the_start=True)
    with pytest.raises(OSError, match="No space left") as caught:
        records.save(a_record(a_run(), a_run("half")))
    assert getattr(caught.value, "__notes__", []) == []
    assert Path(caught.value.filename).parent == path.parent, "the record's place, not the copy's"
    assert path.read_bytes() == before


# --- merging ----------------------------------------------------------------------------------


def test_merging_joins_the_runs_and_keeps_ours(tmp_path):
    ours = a_record(a_run(), a_run("half"), tuned={"half": {"lr": 0.01}})
    theirs = a_record(
        a_run("half", 1),
        a_run(metrics={"test_accuracy": 0.9}),
        tuned={"half": {"lr": 0.9}, "as posted": {"lr": 0.3}},
    )
    records.save(ours)
    path = records.merge(written(theirs, tmp_path / "copy.json"))
    assert path == records.path_of("tiny")
    merged = records.load("tiny")
    assert [(run["arm"], run["seed"]) for run in merged["runs"].values()] == [
        ("as posted", 0),
        ("half", 0),
        ("half", 1),  # ours keep their places, so that the diff shows what came
    ]
    assert next(iter(merged["runs"].values()))["metrics"]["test_accuracy"] == 0.48531
    assert merged["analysis"]["tuned"] == {"half": {"lr": 0.01}, "as posted": {"lr": 0.3}}
    before = path.read_bytes()
    records.merge(tmp_path / "copy.json")
    assert path.read_bytes() == before, "merging twice changes nothing"


def test_merging_where_there_is_no_record_yet_makes_one(tmp_path):
    records.merge(written(a_record(a_run()), tmp_path / "copy.json"))
    assert len(records.load("tiny")["runs"]) == 1


OTHER_DATA = {"name": "CIFAR-10, JPEG copy", "identity": "fedcba9876543210"}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (a_record(a_run(), arms={**CONFIGS, "half": {"lr": 0.03}}), "has other arms than ours"),
        (a_record(a_run(), contrasts={}), "has other contrasts than ours; make both from the same"),
        (a_record(a_run(), tune={"lr": [0.1, 0.3]}), "has other tune than ours"),
        (a_record(a_run(seed=1, device="NVIDIA H200")), "has device cpu, the new runs have NVIDIA"),
        (
            a_record(a_run(seed=1, data=OTHER_DATA)),
            "has data 0123456789abcdef, the new runs have fedcba9876543210; keep them in a record",
        ),
    ],
)
def test_merging_refuses_what_was_made_otherwise(tmp_path, theirs, message):
    path = records.save(a_record(a_run()))
    before = path.read_bytes()
    with pytest.raises(RecordError, match=message):
        records.merge(written(theirs, tmp_path / "copy.json"))
    assert path.read_bytes() == before


def test_runs_on_one_copy_of_the_data_are_joined_whatever_their_tasks_call_it(tmp_path):
    generated = {"name": "generated by its task", "identity": "0123456789abcdef"}
    records.save(a_record(a_run()))
    records.merge(written(a_record(a_run("half", data=generated)), tmp_path / "copy.json"))
    assert len(records.load("tiny")["runs"]) == 2


def test_merging_a_damaged_copy_names_the_copy(tmp_path):
    records.save(a_record(a_run()))
    copy = tmp_path / "copy.json"
    copy.write_text("{")
    with pytest.raises(RecordError, match="copy.json is not a whole record"):
        records.merge(copy)


# --- which runs count -------------------------------------------------------------------------


def seeds_of(record: dict, arm: str = "half") -> list[int]:
    return [run["seed"] for run in Runs(record).of(arm)]


def test_runs_come_by_arm_in_order_of_seed():
    record = a_record(a_run("half", 1), a_run("as posted", 0), a_run("half", 0))
    assert seeds_of(record) == [0, 1]
    assert seeds_of(record, "as posted") == [0]


@pytest.mark.parametrize(
    "other",
    [
        a_run("half", 1, config={"lr": 0.03}),  # a former page's
        a_run("half", 1, config={}),
        a_run("half", 1, phase="tune"),
        a_run("half", 2),  # beyond the study's seeds
    ],
)
def test_other_runs_stay_in_the_record_and_say_nothing(other):
    assert seeds_of(a_record(a_run("half", 0), other)) == [0]


def test_an_arm_that_is_renamed_keeps_its_runs():
    assert seeds_of(a_record({**a_run("half", 1), "arm": "its former name"})) == [1]


def test_a_seed_counts_once_even_if_it_ran_on_two_copies_of_the_data():
    again = a_run("half", 0, data={"name": "CIFAR-10", "identity": "decoded elsewhere"})
    record = a_record(a_run("half", 0), again)
    assert len(record["runs"]) == 2
    (run,) = Runs(record).of("half")
    assert run["data"]["identity"] == "0123456789abcdef", "the one that was filed first"


def test_a_study_that_tunes_counts_the_tuned_runs_alone():
    tuned = {"lr": 0.3, "num_val": 5000}
    runs = [a_run("half", 0), a_run("half", 1, config=tuned), a_run("half", 0, config=tuned)]
    assert seeds_of(a_record(*runs, tune={"lr": [0.1, 0.3]}, tuned={"half": tuned})) == [0, 1]
    assert seeds_of(a_record(*runs, tune={"lr": [0.1, 0.3]}, tuned={})) == [], "tuning not done"
    assert seeds_of(a_record(*runs)) == [0]


def test_a_value_tuned_to_the_default_is_left_out_of_the_configuration():
    # plain configurations name what differs from the defaults, and lr 0.02 does not
    tuned = {"num_val": 5000}
    record = a_record(a_run("half", config=tuned), tune={"lr": [0.02, 0.3]}, tuned={"half": tuned})
    assert seeds_of(record) == [0]


def test_an_unknown_arm_is_named_with_those_there_are():
    runs = Runs(a_record(a_run()))
    for ask in (
        lambda: runs.of("third"),
        lambda: runs.metric("third", "test_loss"),
        lambda: runs.pair("half", "third", "test_loss"),
        lambda: runs.series("third", "loss"),
    ):
        with pytest.raises(ValueError, match="arm is 'third'; the record has as posted, half"):
            ask()


def test_an_unknown_metric_is_named_with_those_there_are():
    runs = Runs(a_record(a_run()))
    known = "metric is 'accuracy'; runs have test_accuracy, test_loss, diverged_step"
    with pytest.raises(ValueError, match=known):
        runs.metric("as posted", "accuracy")
    assert runs.metric("half", "accuracy") == [], "without runs nothing is known to be wrong"


def test_metrics_read_the_same_before_and_after_they_are_saved():
    values = [0.123456789, math.nan, math.inf, None, 3]
    made = [a_run("half", seed, metrics={"x": value}) for seed, value in enumerate(values)]
    record = a_record(*made, seeds=5)
    expected = [0.12346, None, None, None, 3]
    assert Runs(record).metric("half", "x") == expected
    assert Runs(record).finite("half", "x") == [0.12346, 3]
    records.save(record)
    assert Runs(records.load("tiny")).metric("half", "x") == expected


def test_a_run_without_the_metric_has_no_value():
    record = a_record(a_run("half", 0, metrics={"x": 1.0}), a_run("half", 1, metrics={"y": 1.0}))
    assert Runs(record).metric("half", "x") == [1.0, None]


def test_series_are_rows_by_seed_beside_the_longest_x():
    short, long = {"step": [0], "loss": [2.3]}, {"step": [0, 1], "loss": [2.3, 2.0]}
    runs = Runs(a_record(a_run("half", 1, probes=long), a_run("half", 0, probes=short)))
    assert runs.series("half", "loss") == ([0, 1], [[2.3], [2.3, 2.0]])
    assert runs.series("as posted", "loss") == ([], [])
    epochs = runs.series("half", "train_loss", part="history", x="epoch")
    assert epochs[0] == [1, 2]


# --- pairs ------------------------------------------------------------------------------------


def pair_of(a: dict, b: dict, values_a: dict, values_b: dict):
    """`pair` for two arms of these configurations, with {seed: value}."""
    made = [
        a_run("half", seed, config=config, metrics={"x": value}) | {"arm": arm}
        for arm, config, values in (("a", a, values_a), ("b", b, values_b))
        for seed, value in values.items()
    ]
    return Runs(a_record(*made, arms={"a": a, "b": b}, seeds=9)).pair("a", "b", "x")


def test_pairs_are_of_one_seed_and_need_both_values():
    a, b = {0: 1.0, 1: 2.0, 2: None, 4: 5.0}, {4: 50.0, 1: 20.0, 2: 30.0, 3: 40.0}
    assert pair_of({"lr": 1.0}, {"lr": 2.0}, a, b) == ([2.0, 5.0], [20.0, 50.0], True)


@pytest.mark.parametrize("draws", records.DRAWS)
def test_arms_that_draw_otherwise_are_not_paired(draws):
    a, b = {0: 1.0, 1: 2.0, 2: None}, {0: 10.0}
    assert pair_of({draws: 1}, {draws: 2}, a, b) == ([1.0, 2.0], [10.0], False)
    assert pair_of({draws: 1}, {}, a, b)[2] is False
    assert pair_of({draws: 1}, {draws: 1, "lr": 0.1}, a, b)[2] is True


def test_a_seed_run_in_two_precisions_is_no_pair_where_the_machine_chose():
    auto = {"precision": "auto"}
    used = {("a", 0): "bf16", ("a", 1): "fp32", ("b", 0): "bf16", ("b", 1): "bf16"}
    made = []
    for (arm, seed), precision in used.items():
        lr = {"a": 1.0, "b": 2.0}[arm]
        run = a_run("half", seed, config=auto | {"lr": lr}, metrics={"x": lr}, precision=precision)
        made.append(run | {"arm": arm})
    arms = {"a": auto | {"lr": 1.0}, "b": auto | {"lr": 2.0}}
    assert Runs(a_record(*made, arms=arms, seeds=9)).pair("a", "b", "x") == ([1.0], [2.0], True)


def test_reading_needs_neither_torch_nor_numpy():
    import subprocess
    import sys

    code = "import sys, course_lib.records; print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "set()"


def test_pages_show_the_gpu_where_it_alone_has_every_run(results):
    half, whole = a_record(a_run()), a_record(*(a_run(arm, n) for arm in CONFIGS for n in (0, 1)))
    records.save(half)
    assert records.shown("tiny")["study"] == "tiny"
    records.save({**whole, "study": "tiny.gpu"})
    assert records.shown("tiny")["study"] == "tiny.gpu"
    records.save({**whole, "runs": {**half["runs"], **whole["runs"]}})
    assert records.shown("tiny")["study"] == "tiny"
    with pytest.raises(RecordError, match="no record of study 'other'"):
        records.shown("other")
