"""Studies, their queue and their canaries, on tiny runs."""

import json
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import TINY, InProcess, compute, made_up

from course_lib import data, experiments, records, tasks
from course_lib.experiments import Study
from course_lib.records import RecordError
from course_lib.training import TrainConfig
from course_lib.verdicts import better, event
from course_lib.zoo import Case

ARMS = {"plain": TINY, "scaled": replace(TINY, input_scale=2.0)}
CLAIMS = {"S1": better("plain", "test_accuracy", than="scaled", by=0.01)}


def numbers(record: dict) -> dict:
    """What training decides; seconds and dates aside."""
    return {key: (r["metrics"], r["history"]) for key, r in sorted(record["runs"].items())}


def test_a_study_is_computed_and_judged(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    assert study.verdict("S1").word == "not yet"
    compute(study)
    assert study.verdict("S1").word in ("holds", "fails", "open")
    assert [run["seed"] for run in study.runs().of("plain")] == [0, 1]
    record = records.load("tiny")
    assert set(record["canaries"]) == set(ARMS)
    one = next(iter(record["runs"].values()))
    assert one["data"] == {"name": "CIFAR-10", "identity": "CIFAR-10"}
    assert {"torch", "device", "precision", "threads", "source", "seconds", "date"} <= set(one)


def test_a_plan_without_runs_keeps_no_old_canary(base):
    old = records.empty("tiny", {}) | {"canaries": dict.fromkeys(ARMS, [9.0, 9.0])}
    records.save(old)
    assert [9.0, 9.0] not in compute(Study("tiny", ARMS, CLAIMS, seeds=2))["canaries"].values()


def test_an_arm_that_a_page_changes_gets_a_canary_of_its_own(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    before = compute(study)["canaries"]
    changed = replace(study, arms={**ARMS, "plain": replace(ARMS["plain"], lr=0.5)})
    after = compute(changed)["canaries"]
    assert after["scaled"] == before["scaled"] and after["plain"] != before["plain"]
    assert after["plain"] == experiments.canary(changed.arms["plain"])


def test_renewed_canaries_are_as_long_as_before(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    record = compute(study)
    arm, losses = next(iter(record["canaries"].items()))
    assert len(losses) > 2
    records.save(record | {"canaries": record["canaries"] | {arm: [9.0, 9.0]}})
    monkeypatch.setattr(experiments, "all_studies", lambda: {"tiny": study})
    experiments.main(["tiny", "--renew-canaries"])
    assert records.load("tiny")["canaries"] == record["canaries"] | {arm: losses[:2]}


def test_a_killed_recompute_goes_on_to_the_same_record(base, tmp_path, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=2)
    whole = numbers(json.loads(compute_and_read(study)))
    monkeypatch.setattr(records, "RESULTS", tmp_path / "again")

    class Dying(InProcess):
        """Dies once two results are in the record."""

        def submit(self, function, /, *arguments):
            self.count += 1
            future = Future()
            if self.count > 2:
                future.set_exception(KeyboardInterrupt())
            else:
                future.set_result(function(*arguments))
            return future

    with pytest.raises(KeyboardInterrupt):
        compute(study, Dying())
    assert len(records.load("tiny")["runs"]) <= 2
    assert numbers(json.loads(compute_and_read(study))) == whole


def test_each_result_is_saved_before_the_next_is_awaited(base):
    saved = []

    def say(line):
        saved.append(len(records.load("tiny")["runs"]))

    experiments.compute(Study("tiny", ARMS, CLAIMS, seeds=2), InProcess(), say=say)
    assert saved == [0, 1, 2, 3, 4]


def test_after_an_error_the_rest_of_the_queue_is_not_computed(base, monkeypatch):
    study, begun = Study("tiny", ARMS, CLAIMS, seeds=10), []

    def work(jobs, device):
        begun.append(jobs)
        time.sleep(0.2 * (len(begun) > 1))  # time enough to take the rest back
        raise OSError("no space left")

    monkeypatch.setattr(experiments, "work", work)
    with pytest.raises(OSError, match="no space"), ThreadPoolExecutor(1) as executor:
        compute(study, executor)
    assert len(begun) <= 3


def compute_and_read(study: Study) -> str:
    compute(study)
    return records.path_of(study.name).read_text()


def test_nothing_pending_runs_nothing(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    compute(study)
    executor = InProcess()
    compute(study, executor)
    assert executor.count == 0


def test_an_arm_or_a_seed_more_invalidates_nothing(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=1))
    executor = InProcess()
    arms = {**ARMS, "third": replace(TINY, lr=0.1)}
    compute(Study("tiny", arms, CLAIMS, seeds=2), executor)
    assert executor.count == 4  # one more seed for two arms, two seeds for the new one


def test_a_page_that_differs_from_its_record_is_told(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=1))
    with pytest.raises(RecordError, match="arms of study 'tiny' differ"):
        Study("tiny", {**ARMS, "plain": replace(TINY, lr=0.5)}, CLAIMS, seeds=1).record()
    with pytest.raises(RecordError, match="contrasts of study 'tiny' differ"):
        Study("tiny", ARMS, {"S1": event("plain", "test_loss", at_most=9.0)}, seeds=1).record()
    with pytest.raises(RecordError, match="seeds of study 'tiny' differ"):
        Study("tiny", ARMS, CLAIMS, seeds=3).record()


def test_a_changed_arm_does_not_count_its_old_runs(base):
    compute(Study("tiny", ARMS, CLAIMS, seeds=2))
    changed = Study("tiny", {**ARMS, "plain": replace(TINY, lr=0.5)}, CLAIMS, seeds=2)
    record = compute(changed)
    assert len(record["runs"]) == 6
    assert [run["config"]["lr"] for run in changed.runs().of("plain")] == [0.5, 0.5]


def test_other_data_is_refused(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    compute(study)
    monkeypatch.setattr(data, "load_cifar10", lambda: made_up("CIFAR-10, JPEG copy"))
    with pytest.raises(
        RecordError, match=r"made on CIFAR-10 \(.*\), here lies CIFAR-10, JPEG copy \("
    ):
        compute(study)


def test_a_run_on_other_data_than_the_start_is_thrown_away(base, monkeypatch):
    study = Study("tiny", ARMS, CLAIMS, seeds=1)
    honest = experiments.work

    def without_the_images(jobs, device):
        gone = {"name": "stand-in", "identity": "f00"}
        return [run | {"data": gone} for run in honest(jobs, device)]

    monkeypatch.setattr(experiments, "work", without_the_images)
    with pytest.raises(RecordError, match=r"made on stand-in \(f00\), not on the data found"):
        compute(study)
    assert not study.record()["runs"]


def test_tuning_uses_validation_images_and_its_own_seeds(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune={"lr": (0.0, 0.02)})
    record = compute(study)
    by_phase = {"tune": [], "judge": []}
    for run in record["runs"].values():
        by_phase[run["phase"]].append(run)
    assert len(by_phase["tune"]) == 12 and len(by_phase["judge"]) == 2
    assert all("test_accuracy" not in run["metrics"] for run in by_phase["tune"])
    assert {run["seed"] for run in by_phase["tune"]} == {2000, 2001, 2002}
    chosen = record["analysis"]["tuned"]["plain"]
    assert chosen["num_val"] == experiments.TUNING_VAL
    means = {}
    for run in by_phase["tune"]:
        if run["arm"] == "plain":
            lr = run["config"].get("lr", TrainConfig().lr)
            means.setdefault(lr, []).append(run["metrics"]["val_accuracy"])
    assert chosen.get("lr", TrainConfig().lr) == max(means, key=lambda lr: sum(means[lr]))
    assert len(study.runs().of("plain")) == 1
    values, rows = study.tuning_curve("plain")
    assert values == [0.0, 0.02] and len(rows) == 3
    assert [sum(column) for column in zip(*rows, strict=True)] == pytest.approx(
        [sum(means[lr]) for lr in values]
    )
    assert not any(run["history"] or run["probes"] for run in by_phase["tune"])
    assert all(run["history"]["val_accuracy"] for run in by_phase["judge"])


def test_an_arm_that_stays_as_it_is_is_not_tuned_but_keeps_the_same_images(base):
    tune = {"lr": (0.0, 0.03)}
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune=tune, as_is=("scaled",))
    record = compute(study)
    assert {run["arm"] for run in record["runs"].values() if run["phase"] == "tune"} == {"plain"}
    tuned = record["analysis"]["tuned"]
    assert tuned["scaled"] == replace(ARMS["scaled"], num_val=experiments.TUNING_VAL).plain()
    assert tuned["plain"]["lr"] in tune["lr"]
    assert study.plan()["as_is"] == ["scaled"] and "as_is" not in replace(study, as_is=()).plan()
    assert len(study.runs().pair("plain", "scaled", "test_accuracy")[0]) == 1
    with pytest.raises(ValueError, match="as_is is"):
        replace(study, as_is=("other",))


def test_arms_that_tuning_makes_one_share_their_runs(base):
    arms = {"as it is": ARMS["plain"], "tuned": replace(ARMS["plain"], lr=0.5)}
    lr = ARMS["plain"].lr
    study = Study("tiny", arms, seeds=2, tune={"lr": (lr, 1e30)}, as_is=("as it is",))
    record = compute(study)
    assert record["analysis"]["tuned"]["as it is"] == record["analysis"]["tuned"]["tuned"]
    assert [run["phase"] for run in record["runs"].values()].count("judge") == 2
    assert study.runs().metric("as it is", "test_accuracy") == study.runs().metric(
        "tuned", "test_accuracy"
    )
    assert len(study.runs().of("tuned")) == 2


def test_a_regression_is_tuned_by_its_validation_loss(base):
    config = replace(TINY, task="teacher", loss="mse", model_options={"widths": (20, 4, 1)})
    tune = {"lr": (0.0, 0.05, 1e30)}  # stands still, learns, diverges
    study = Study("tiny", {"teacher": config}, {}, seeds=1, tune=tune)
    record = experiments.compute(study, InProcess(), say=lambda _: None)
    assert record["analysis"]["tuned"]["teacher"]["lr"] == 0.05
    values, rows = study.tuning_curve("teacher")
    assert values == [0.0, 0.05, 1e30] and len(rows) == 3
    for still, learned, diverged in rows:
        assert 0 < learned < still and diverged is None


def test_a_tuning_curve_shows_runs_to_come_as_none_and_needs_one_field(base):
    study = Study("tiny", ARMS, CLAIMS, seeds=1, tune={"lr": (0.0, 0.02)})
    assert study.tuning_curve("plain") == ([0.0, 0.02], [[None, None]] * 3)
    with pytest.raises(ValueError, match=r"tunes \[\]; tune one for a curve"):
        replace(study, tune={}).tuning_curve("plain")


def test_half_decades_include_both_ends():
    assert experiments.half_decades(-2, 0) == (0.01, 0.03, 0.1, 0.3, 1.0)


def test_run_key_depends_on_configuration_seed_and_data_alone():
    def key(config=TINY, seed=0, identity="a"):
        return experiments.Job("arm", config, seed, "judge").key(identity)

    assert key() == key(replace(TINY))
    assert len({key(), key(replace(TINY, lr=1.0)), key(seed=1), key(identity="b")}) == 4


def test_live_runs_are_cut_down(base):
    study = Study("tiny", ARMS, CLAIMS, live={"epochs": 2, "num_train": 32})
    assert study.run_live("plain").history["epoch"] == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Study("Not a name", ARMS), "study name is 'Not a name'"),
        (lambda: Study("tiny", {"plain": TINY}, CLAIMS), "S1 names arm 'scaled'"),
        (lambda: Study("tiny", {"plain": TINY, "copy": replace(TINY)}), "two arms .* the same"),
        (lambda: Study("tiny", ARMS, CLAIMS).verdict("S9"), "claim is 'S9'"),
        (lambda: Study("tiny", ARMS).run_live("other"), "arm is 'other'"),
        (lambda: tasks.load("mnist", made_up("x")), "task is 'mnist'; known: images"),
    ],
)
def test_wrong_names_are_named_with_what_there_is(base, make, message):
    with pytest.raises(ValueError, match=message):
        make()


PAGE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
---
# A page
```{code-cell}
:tags: [study, hide-input]
from course_lib.experiments import Study
from course_lib.training import TrainConfig
```
```{code-cell}
raise RuntimeError("not a study cell")
```
```{code-cell} ipython3
---
tags: [study]
---
one = Study("one", arms={"a": TrainConfig()})
```
"""


def test_study_cells_are_read_without_jupytext(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (study,) = experiments.studies_of(page)
    assert study.name == "one"
    monkeypatch.setattr(records, "CHAPTERS", tmp_path)
    assert list(experiments.all_studies()) == ["one"]
    (tmp_path / "other.md").write_text(PAGE)
    with pytest.raises(ValueError, match="stands on two pages"):
        experiments.all_studies()


def test_the_runner_needs_only_torch_and_numpy():
    others = "scipy matplotlib yaml jupytext IPython torchvision PIL"  # torch itself takes tqdm
    code = (
        "import sys; import course_lib.experiments; "
        f"print([m for m in '{others}'.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_finds_the_studies_of_the_book():
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.experiments", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "noise_floor" in done.stderr and "scaling_puzzle" in done.stderr


def test_an_unknown_study_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(experiments, "all_studies", lambda: {"tiny": SimpleNamespace()})
    with pytest.raises(SystemExit):
        experiments.main(["nothing"])
    assert "known studies: tiny" in capsys.readouterr().err


SMALL = TrainConfig(
    task="images_pca", num_train=300, num_test=100, model="mlp", batch_size=100, epochs=2,
    model_options={"widths": (256, 12, 10), "bias": False},
)  # fmt: skip


def test_small_nets_of_one_seed_are_done_together(base, monkeypatch):
    monkeypatch.setitem(experiments.WEIGHTS_TOGETHER, "cpu", 5 * 256 * 12)
    arms = {f"lr {k}": replace(SMALL, lr=0.01 * k) for k in range(1, 11)}
    study = Study("tiny", arms, seeds=2)
    groups = experiments.bundles(experiments.planned(study, compute(study), base.identity))
    assert sorted(len(group) for group in groups) == [2, 2, 8, 8]
    assert all(len({job.seed for job in group}) == 1 for group in groups)
    runs = records.load("tiny")["runs"].values()
    assert sorted({run["replicas"] for run in runs}) == [2, 8]
    alone = experiments.run(arms["lr 3"], 1)
    ours = next(run for run in runs if (run["arm"], run["seed"]) == ("lr 3", 1))
    assert ours["metrics"]["train_loss"] == pytest.approx(alone["metrics"]["train_loss"], rel=1e-4)
    assert ours["config"] == json.loads(json.dumps(alone["config"]))


def test_the_smaller_the_nets_the_more_of_them_side_by_side():
    width = {
        hidden: replace(SMALL, model_options={"widths": (3072, hidden, 10)}) for hidden in (8, 300)
    }
    assert experiments.side_by_side(width[8]) == 24
    assert experiments.side_by_side(width[300]) == experiments.side_by_side(TrainConfig()) == 8
    assert experiments.side_by_side(TrainConfig(), "cuda") > 1000


def test_a_gpu_takes_wide_nets_together_too_and_its_runs_into_a_record_of_its_own(
    base, monkeypatch
):
    wide = replace(SMALL, model_options={"widths": (256, 400, 10), "bias": False})
    arms = {f"lr {k}": replace(wide, lr=0.01 * k) for k in range(1, 4)}
    study = Study("tiny", arms, seeds=1)
    compute(study)
    planned = experiments.planned(study, study.record(), base.identity)
    sizes = {
        device: [len(group) for group in experiments.bundles(planned, device)]
        for device in ("cpu", "cuda")
    }
    assert sizes == {"cpu": [1, 1, 1], "cuda": [3]}
    monkeypatch.setattr(experiments, "_device_name", lambda device: "a GPU")
    record = experiments._open_record(study, base, "cuda")
    experiments._adopt(study, record, base.identity, "cuda")
    assert record["study"] == "tiny.gpu" and not record["runs"]  # none of the CPU's runs


def test_a_gpu_leaves_the_zoo_to_the_cpu(monkeypatch):
    known = {"tiny": Study("tiny", ARMS), "zoo": Study("zoo", {"healthy": Case("mlp")})}
    done = []
    monkeypatch.setattr(experiments, "all_studies", lambda: known)
    monkeypatch.setattr(experiments.training, "check_device", torch.device)
    monkeypatch.setattr(experiments, "compute", lambda study, *_, **__: done.append(study.name))
    experiments.main(["--device", "cuda"])
    assert done == ["tiny"]


def test_a_device_that_is_not_there_is_named(base, capsys):
    with pytest.raises(ValueError, match="device is 'cuda', but this machine has no CUDA device"):
        experiments.main(["--device", "cuda"])


def test_a_run_keeps_its_company_when_the_queue_is_taken_up_again(base):
    arms = {f"lr {k}": replace(SMALL, lr=0.01 * k) for k in range(1, 4)}
    study = Study("tiny", arms, seeds=1)
    whole = compute(study)
    part = json.loads(records.path_of("tiny").read_text())
    part["runs"].pop(next(iter(part["runs"])))
    records.path_of("tiny").write_text(json.dumps(part))
    again = compute(study)
    assert {run["replicas"] for run in again["runs"].values()} == {3}
    metrics = [{run["arm"]: run["metrics"] for run in r["runs"].values()} for r in (whole, again)]
    assert records.rounded(metrics[0]) == records.rounded(metrics[1])


def test_a_run_that_another_record_has_is_taken_over(base, monkeypatch):
    compute(Study("tiny", ARMS, CLAIMS, seeds=2))
    monkeypatch.setattr(experiments, "run", None)  # no run may be made
    arm, config = next(iter(ARMS.items()))
    other = compute(Study("other", {f"again {arm}": config}, seeds=2))
    assert {run["arm"] for run in other["runs"].values()} == {f"again {arm}"}
    assert len(other["runs"]) == 2
