"""The map behind "Explore it yourself": five factors, three numbers, one recorded run."""

import itertools
import json
import math
import random
import re
from dataclasses import replace

import pytest
import torch

from course_lib import experiments, pages, records, training
from course_lib.data import Dataset, Split
from course_lib.records import Runs
from course_lib.training import TrainConfig

PAGE = records.CHAPTERS / "scaling" / "explore.md"
STUDIES = experiments.studies_of(PAGE)
POSTED = (0, 0, 0, 0, 0)


def as_config(base: TrainConfig, setting: tuple[int, ...]) -> TrainConfig:
    """`base` with the five factors of a slider setting, straight from their definition."""
    scale, first, second, lr_first, lr_second = (2.0**power for power in setting)
    return replace(
        base, input_scale=scale, init_scale=(first, second), lr_scale=(lr_first, lr_second)
    )


def recorded_arms() -> dict[tuple[int, ...], TrainConfig]:
    """The runs of the page, by their three numbers as powers of two."""
    arms = {}
    for config in (config for study in STUDIES for config in study.arms.values()):
        powers = (math.log2(factor) for factor in (1.0, *config.init_scale, *config.lr_scale))
        arms[pages.invariants([int(power) for power in powers])] = config
    return arms


ARMS = recorded_arms()
ON_GRID = [s for s in itertools.product(*pages.SLIDERS.values()) if pages.invariants(s) in ARMS]


def make_record(study: experiments.Study, *, share: float = 1.0) -> dict:
    """A record whose runs are made up: ten losses of nine digits, ten that are large."""
    record = records.empty(study.name, {**study.plan(), "tuned": {}})
    losses = [1.23456789 + epoch / 97 for epoch in range(10)] + [1.23456789e19] * 10
    part = {"epoch": list(range(1, 21)), "train_loss": losses, "train_accuracy": losses[:10] * 2}
    for number, (arm, config) in enumerate(study.arms.items()):
        record["canaries"][arm] = [1234567.89] * experiments.CANARY_STEPS
        if number >= share * len(study.arms):
            continue
        names = ("train_loss", "train_accuracy", "max_abs_logit", "test_loss", "grad_norm")
        metrics = {"test_accuracy": 0.43215, "dead_share": 0.123333, "logits_digest": 2**48 - 1}
        record["runs"][records.run_key(config.plain(), 0, "x" * 16)] = {
            "arm": arm, "phase": "judge", "seed": 0, "config": config.plain(),
            "data": {"name": "CIFAR-10, JPEG copy", "identity": "x" * 16},
            "metrics": {**dict.fromkeys(names, 1.2345678e-9), **metrics, "diverged_step": None},
            "history": part, "probes": {}, "device": "cpu", "precision": "fp32", "threads": 1,
            "torch": "2.13.0", "source": "0" * 12, "seconds": 12.345678, "date": "2026-11-21",
        }  # fmt: skip
    return record


def inline_data(figure) -> dict:
    """The data that the figure's script reads."""
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', figure.data)[1])


# ------------------------------------------------------------------------------------- the map


@pytest.fixture(scope="module")
def small() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(320, 24, generator=generator)
    split = Split(inputs, (inputs[:, :10] + 0.1 * inputs[:, 10:20]).argmax(dim=1))
    empty = Split(inputs[:0], split.targets[:0])
    return Dataset("made up", "0" * 16, train=split, val=empty, test=split)


def trained(config: TrainConfig, dataset: Dataset) -> tuple[list, torch.Tensor]:
    """The losses of 30 steps, read on the way and by epoch, and the logits after the last one."""
    options = {"widths": (24, 16, 10), "bias": False}
    tiny = replace(config, model_options=options, batch_size=32, epochs=3, probe_until=29)
    result = training.train(tiny, 0, dataset)
    prepare = training.make_prepare(tiny, dataset)
    losses = result.probes["loss"] + result.history["train_loss"]
    return losses, result.model(prepare(dataset.train.inputs)).detach()


def test_twenty_settings_are_their_twins_to_the_bit(small):
    base = ARMS[0, 0, 0]
    healthy = [s for s in ON_GRID if max(pages.invariants(s)) <= 4]  # losses that still fall
    draw = random.Random(2026)
    seen = set()
    for setting in draw.sample(ON_GRID, 10) + draw.sample(healthy, 10):
        losses, logits = trained(as_config(base, setting), small)
        twin_losses, twin_logits = trained(ARMS[pages.invariants(setting)], small)
        for ours, theirs in ((losses, twin_losses), (logits, twin_logits)):
            ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        seen.add((pages.invariants(setting), tuple(losses)))
    assert len({losses for _, losses in seen}) == len({key for key, _ in seen}) > 12


def test_the_three_numbers_are_needed(small):
    posted, _ = trained(ARMS[0, 0, 0], small)
    for other in ((2, 0, 0), (0, 4, 0), (0, 0, 4)):
        assert trained(ARMS[other], small)[0] != posted


def test_a_twin_has_its_inputs_as_posted_and_the_same_numbers():
    for numbers, config in ARMS.items():
        twin = [sum(w * n for w, n in zip(r, numbers, strict=True)) for r in pages.UNSCALED]
        assert pages.invariants(twin) == numbers and twin[0] == 0
        assert as_config(ARMS[0, 0, 0], tuple(twin)) == config


def test_the_grid_holds_the_posted_net_and_every_button():
    assert ARMS[0, 0, 0] == as_config(ARMS[0, 0, 0], POSTED)
    assert len(ARMS) == sum(len(study.arms) for study in STUDIES)
    block = re.search(r"^presets = \{.*?^\}", PAGE.read_text(encoding="utf-8"), re.M | re.S)[0]
    namespace: dict = {}
    exec(block, namespace)
    for setting in namespace["presets"].values():
        assert setting in ON_GRID
    for name, setting in namespace["presets"].items():
        exact = name.endswith("exact") or name == "as posted"
        assert (pages.invariants(setting) == (0, 0, 0)) == exact, name


# ------------------------------------------------------------------------------- page and record


def test_records_and_the_inline_data_of_a_full_grid_are_small(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    for study in STUDIES:
        assert records.save(make_record(study)).stat().st_size <= records.MAX_BYTES
    figure = pages.explorer([study.runs() for study in STUDIES], {"as posted": POSTED})
    assert len(figure.data.encode()) <= 300_000
    assert f"{len(ARMS)} of {len(ARMS)} settings" in figure.data
    rows = inline_data(figure)["runs"]
    assert rows["0,0,0"][:4] == [4322, 1233, None, 1.235]
    assert set(rows) == {",".join(map(str, numbers)) for numbers in ARMS}


def test_missing_runs_are_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    figure = pages.explorer([study.runs() for study in STUDIES], {"as posted": POSTED})
    assert f"0 of {len(ARMS)} settings" in figure.data
    assert set(inline_data(figure)["runs"].values()) == {0}
    records.save(make_record(STUDIES[0], share=0.5))
    figure = pages.explorer([study.runs() for study in STUDIES], {"as posted": POSTED})
    done = math.ceil(0.5 * len(STUDIES[0].arms))
    assert f"{done} of {len(ARMS)} settings" in figure.data


def test_a_run_that_diverged_ends_early():
    study = STUDIES[-1]
    record = make_record(study)
    run = next(iter(record["runs"].values()))
    run["metrics"]["diverged_step"] = 51
    run["history"] = {"epoch": [1, 2], "train_loss": [1e30, math.nan], "train_accuracy": [0.1, 0.1]}
    rows = inline_data(pages.explorer([Runs(record)], {"as posted": POSTED}))["runs"]
    assert rows["8,-16,-16"] == [4322, 1233, 51, 1e30, None]


def test_factors_that_are_no_powers_of_two_are_named():
    arms = {"odd": replace(ARMS[0, 0, 0], init_scale=(3.0, 1.0))}
    runs = experiments.Study("odd", arms, seeds=1).plan()
    with pytest.raises(ValueError, match="arm 'odd' has factors"):
        pages.explorer([Runs(records.empty("odd", runs))], {})


def test_the_figure_loads_nothing_and_no_other_page_holds_its_script():
    script = (records.CHAPTERS / "_static" / "explore.js").read_text(encoding="utf-8")
    assert not re.search(r"</script|fetch\(|import\s*\(|XMLHttpRequest|getElementById", script)
    config = (records.CHAPTERS.parent / "_config.yml").read_text(encoding="utf-8")
    assert "explore.js" not in config
