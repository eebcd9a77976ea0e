"""What pages show: numbers with units, the card, the board, the symptom table."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from course_lib import pages, records
from course_lib.verdicts import Verdict

HOLDS = Verdict(
    *("S1", "holds", "better", 10, 10),
    effect=0.032,
    interval95=(0.02, 0.044),
    interval99=(0.015, 0.049),
    threshold=0.01,
    flips_at=0.015,
    metric="test_accuracy",
)


def make_record(study: str, *, accuracy: float, seeds: int = 3, claim: str = "S1") -> dict:
    contrast = {"kind": "number", "arm": "a", "metric": "test_accuracy", "threshold": 0.5}
    plan = {"arms": {"a": {}}, "contrasts": {claim: contrast}, "seeds": 3, "tune": {}}
    record = records.empty(study, plan)
    for seed in range(seeds):
        record["runs"][f"{seed:016d}"] = {
            "arm": "a", "seed": seed, "phase": "judge", "config": {}, "seconds": 40.0,
            "torch": "2.13.0", "date": "2026-11-21", "device": "cpu",
            "data": {"name": "CIFAR-10", "identity": "x"},
            "metrics": {"test_accuracy": accuracy + 0.001 * seed}, "history": {}, "probes": {},
        }  # fmt: skip
    return record


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


def test_numbers_carry_their_unit():
    assert pages.percent(0.4853) == "48.5 %"
    assert pages.points(-0.0321) == "−3.2 points"
    assert pages.level(0.25, "dead_share") == "25.0 %"
    assert pages.level(2.302585, "train_loss") == "2.3"


def test_studies_are_ready_once_no_arm_lacks_a_run():
    def study(seeds):
        runs = records.Runs(make_record("made_up", accuracy=0.5, seeds=seeds))
        return SimpleNamespace(arms={"a": {}}, seeds=3, runs=lambda: runs)

    assert pages.ready() and pages.ready(study(3), study(3))
    assert not pages.ready(study(3), study(2)) and not pages.ready(study(0))


def test_a_verdict_as_a_sentence():
    assert pages.sentence(HOLDS) == (
        "**S1: holds** · +3.2 points · 95 % interval +2.0 points to +4.4 points · n = 10. "
        "The 99 % interval, +1.5 points to +4.9 points, is held against a margin of 1.0 points; "
        "at 1.5 points the word would change."
    )


def test_not_yet_shows_how_many_runs_there_are():
    verdict = replace(HOLDS, word="not yet", n=4)
    assert pages.sentence(verdict) == "**S1: not yet** · 4 of 10 runs made"


def test_every_kind_and_word_makes_a_sentence():
    for kind in (
        "number",
        "better",
        "same",
        "always",
        "event",
        "diagnostic",
        "repairs",
        "exact",
        "text",
    ):
        for word in ("not yet", "holds", "fails", "open"):
            verdict = replace(HOLDS, kind=kind, word=word, detail="3 of 4 runs")
            assert f"S1: {word}" in pages.sentence(verdict)


@pytest.mark.parametrize(
    ("about", "distance", "said"),
    [
        (0.0, 0.0, "The text's 77.5 % lies inside."),
        (0.0, 0.055, "The text's 77.5 % lies 5.5 points outside."),
        (0.025, 0.055, "The text's figure, taken as 75.0 % to 80.0 %, lies 3.0 points outside."),
        (0.025, 0.006, "The text's figure, taken as 75.0 % to 80.0 %, reaches inside."),
    ],
)
def test_a_figure_is_taken_as_loosely_as_the_text_says_it(about, distance, said):
    figure = replace(HOLDS, kind="number", threshold=0.775, about=about, flips_at=distance)
    assert pages.sentence(figure).endswith(said)


def test_a_lead_over_the_best_is_a_difference_and_a_bar_a_level():
    refuted = replace(HOLDS, kind="always", word="fails", effect=0.032)
    assert pages.effect(refuted) == "3.2 %"
    assert pages.effect(replace(refuted, than="ReLU")) == "+3.2 points"
    assert pages.effect(replace(refuted, than="ReLU", effect=-0.0)) == "+0.0 points"
    assert pages.interval(replace(refuted, than="ReLU")) == "+2.0 points to +4.4 points"


def test_the_board_has_70_rows_and_follows_the_records(results):
    rows = pages.board_rows()
    assert len(rows) == 70 and {row.word for row in rows} == {"not yet"}
    records.save(make_record("made_up", accuracy=0.5))
    html = pages.board().data
    assert len(re.findall("<tr id=", html)) == 70
    assert re.search(r'<tr id="S1" data-part="S" data-verdict="holds">', html)
    assert "50.1 %" in html and "torch 2.13.0, 2026-11-21" in html and "3 runs, 2 core-min" in html
    (results / "made_up.json").unlink()
    records.save(make_record("made_up", accuracy=0.9))
    assert '<tr id="S1" data-part="S" data-verdict="fails">' in pages.board().data


def test_a_record_with_missing_runs_is_not_yet(results):
    records.save(make_record("made_up", accuracy=0.5, seeds=2))
    (row,) = [row for row in pages.board_rows() if row.claim["id"] == "S1"]
    assert row.word == "not yet"
    assert "2 of 3 runs" in pages.board().data


def test_a_row_that_equals_another_shares_its_verdict(results):
    records.save(make_record("made_up", accuracy=0.5, claim="S3"))
    words = {row.claim["id"]: row.word for row in pages.board_rows()}
    assert words["S3"] == words["S10"] == "holds"


def test_where_two_devices_judged_a_claim_both_are_shown(results):
    ours = make_record("made_up", accuracy=0.5)
    records.save(ours)
    records.save({**make_record("made_up", accuracy=0.9), "study": "made_up.gpu"})
    (row,) = [row for row in pages.board_rows() if row.claim["id"] == "S1"]
    assert row.word == "holds"
    assert [(v.claim, v.word) for v in row.boundaries] == [("S1 @ GPU", "fails")]


def test_a_setting_is_shown_as_a_boundary(results):
    records.save(make_record("made_up", accuracy=0.5, claim="S1 @ batch 50"))
    (row,) = [row for row in pages.board_rows() if row.claim["id"] == "S1"]
    assert row.word == "not yet" and [v.word for v in row.boundaries] == ["holds"]
    assert "batch 50: " in pages.board().data


def test_the_summary_counts_what_rests_on_runs(results):
    records.save(make_record("made_up", accuracy=0.5))
    text = pages.board_summary().data
    assert text.startswith(
        "70 claims: 1 *holds*, 69 *not yet*. 1 decided claims or parts rest on runs"
    )
    assert "make about 0.0 of these words wrong, and about 0.0 of the 0 under" in text


def test_the_summary_counts_boundaries_apart(results):
    records.save(make_record("made_up", accuracy=0.5, claim="S1 @ batch 50"))
    assert "and about 0.0 of the 1 under *Where it ends*" in pages.board_summary().data


def test_an_open_verdict_says_why():
    verdict = replace(
        HOLDS, word="open", effect=None, interval95=None, detail="2 of 10 lack a value"
    )
    assert "2 of 10 lack a value" in pages.sentence(verdict)


def test_the_card_carries_its_answer_and_a_short_fix(results):
    records.save(make_record("made_up", accuracy=0.5))
    scope = {"tested": "this.", "not_tested": "that."}
    card = pages.card("Loss < 1 & stuck", "made_up", fix="x = x / 255", **scope).data
    assert "Loss &lt; 1 &amp; stuck" in card and "{url}" in card and "verdict-holds" in card
    with pytest.raises(ValueError, match="fix has 4 lines; a card takes three"):
        pages.card("x", "made_up", fix="a\nb\nc\nd", **scope)


def test_a_card_shows_other_settings_only_where_there_is_nothing_else(results):
    record = make_record("made_up", accuracy=0.5)
    stated = record["analysis"]["contrasts"]
    claim = next(iter(stated))
    scope = {"fix": "x = x / 255", "tested": "this.", "not_tested": "that."}
    records.save(record | {"analysis": record["analysis"] | {"contrasts": stated | {
        f"{claim} @ batch 1": stated[claim]}}})  # fmt: skip
    assert "@ batch 1" not in pages.card("x", "made_up", **scope).data
    records.save(record | {"analysis": record["analysis"] | {"contrasts": {
        f"{claim} @ batch 1": stated[claim]}}})  # fmt: skip
    assert f"<b>{claim} @ batch 1</b>" in pages.card("x", "made_up", **scope).data


def test_a_card_has_its_verdicts_in_the_order_of_the_claims(results):
    record = make_record("made_up", accuracy=0.5)
    contrast = next(iter(record["analysis"]["contrasts"].values()))
    out_of_order = {"contrasts": dict.fromkeys(("K9a", "T20", "K1"), contrast)}
    records.save(record | {"analysis": record["analysis"] | out_of_order})
    card = pages.card("x", "made_up", fix="y = x", tested="this.", not_tested="that.").data
    places = [card.index(f"<b>{claim}</b>") for claim in ("T20", "K1", "K9a")]
    assert places == sorted(places)


def test_symptoms_come_from_the_front_matter(monkeypatch, tmp_path):
    (tmp_path / "scaling").mkdir()
    page = '---\nsymptoms:\n  - {see: "NaN", cause: "lr", test: "halve it"}\n---\n# Title\n'
    (tmp_path / "scaling" / "page.md").write_text(page)
    (tmp_path / "bare.md").write_text("# No front matter\n")
    monkeypatch.setattr(pages, "CHAPTERS", tmp_path)
    monkeypatch.setattr(records, "CHAPTERS", tmp_path)
    assert pages.symptom_table().data.splitlines()[2:] == [
        "| [NaN](scaling/page.md) | lr | halve it |"
    ]


def test_the_library_reference_names_every_room():
    text = pages.course_lib_rooms().data
    assert all(f"## `{room}`" in text for room in pages.ROOMS)
    assert "| `TrainConfig` |" in text and "_Run" not in text
