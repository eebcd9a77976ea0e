"""What a page shows beside plots: verdicts, the top card, the board, the symptom table, sliders.

Everything here is read from records, `claims.yml` and the pages' own front matter, so that no
number is typed. Needs no torch.
"""

import ast
import html
import inspect
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from IPython.display import HTML, Markdown

from course_lib import records
from course_lib.records import CHAPTERS, Runs
from course_lib.verdicts import (
    Contrast,
    Verdict,
    alarm_above,
    combine,
    costly_runs,
    is_share,
    judge,
    repaired,
    revealed,
)

ROOMS = (  # in the order of the imports
    "standin", "data", "tasks", "models", "diagnostics", "graphs", "training", "replicas",
    "faults", "zoo", "checks", "speedrun", "measures", "records", "verdicts", "experiments",
    "plots", "pages",
)  # fmt: skip


# --- numbers as words -------------------------------------------------------------------------


def percent(fraction: float, digits: int = 1) -> str:
    """0.4853 -> '48.5 %'."""
    return f"{100 * fraction:.{digits}f} %"


def points(fraction: float, digits: int = 1) -> str:
    """A difference of two shares: 0.032 -> '+3.2 points'."""
    return f"{100 * fraction:+.{digits}f} points".replace("-", "−")


def level(value: float, metric: str) -> str:
    """A value of `metric` with its unit: shares in per cent, the rest bare."""
    return percent(value) if is_share(metric) else f"{value:.3g}"


def difference(value: float, verdict: Verdict) -> str:
    """A difference in the unit of the verdict's metric."""
    value = value or 0.0  # no minus before a zero
    if verdict.relative:
        return f"{100 * value:+.1f} %".replace("-", "−")
    if is_share(verdict.metric):
        return points(value)
    return f"{value:+.3g}".replace("-", "−")


def mean(runs: Runs, arm: str, metric: str) -> str:
    """The mean of a metric over an arm's runs, with its unit; '–' while there are no runs."""
    values = runs.finite(arm, metric)
    return level(statistics.fmean(values), metric) if values else "–"


def effect(verdict: Verdict) -> str:
    """The measured effect, in the unit that fits the kind of claim; '–' without one."""
    if verdict.word == "not yet":
        return "–"
    if verdict.kind in ("event", "diagnostic", "repairs", "exact", "text"):
        return verdict.detail
    if verdict.effect is None:
        return verdict.detail or "–"
    if _is_level(verdict):
        return level(verdict.effect, verdict.metric)
    return difference(verdict.effect, verdict)


def _is_level(verdict: Verdict) -> bool:
    """Whether the effect is a value of the metric, not a difference of two arms."""
    return verdict.kind == "number" or (verdict.kind == "always" and not verdict.than)


def interval(verdict: Verdict, *, named: bool = False) -> str:
    """The 95 % interval of the effect, with its name if asked; '–' where there is none."""
    if verdict.word == "not yet" or verdict.interval95 is None:
        return "–"
    if named:
        kind = "prediction interval" if verdict.kind == "number" else "interval"
        return f"95 % {kind} {interval(verdict)}"
    low, high = verdict.interval95
    if verdict.kind in ("event", "diagnostic", "repairs"):
        return f"{percent(low, 0)} to {percent(high, 0)}"
    if _is_level(verdict):
        return f"{level(low, verdict.metric)} to {level(high, verdict.metric)}"
    return f"{difference(low, verdict)} to {difference(high, verdict)}"


def runs_done(verdict: Verdict) -> str:
    """'n = 20', or 'k of n runs made' while some are missing."""
    if verdict.needed == 0:
        return "no runs needed"
    if verdict.word == "not yet":
        return f"{min(verdict.n, verdict.needed)} of {verdict.needed} runs made"
    return f"n = {verdict.n}"


def sentence(verdict: Verdict) -> str:
    """One line of Markdown: the word, the effect, the interval, n, and where it would flip."""
    parts = [f"**{verdict.claim}: {verdict.word}**"]
    if verdict.word != "not yet":
        parts.append(effect(verdict))
    if interval(verdict) != "–":
        parts.append(interval(verdict, named=True))
    parts.append(runs_done(verdict))
    notes = [flips(verdict)]
    if verdict.word == "open" and effect(verdict) != verdict.detail:
        notes.append(f"{verdict.detail[0].upper()}{verdict.detail[1:]}." if verdict.detail else "")
    return ". ".join([" · ".join(parts), " ".join(filter(None, notes))]).removesuffix(". ")


def flips(verdict: Verdict) -> str:
    """What the word rests on, and the margin at which another would stand here."""
    if verdict.flips_at is None or verdict.word == "not yet":
        return ""
    if verdict.kind == "number":
        return _place_of_figure(verdict)
    if verdict.kind == "event":
        low, high = (percent(end, 0) for end in verdict.interval99)
        asked = f"{100 * verdict.threshold:.6g} %"  # so that 99.99 % does not read as 100 %
        return f"The 99 % interval, {low} to {high}, is held against {asked}."
    if verdict.kind in ("better", "same"):
        low, high = (difference(end, verdict) for end in verdict.interval99)
        asked = difference(verdict.threshold, verdict).lstrip("+")
        flip = difference(verdict.flips_at, verdict).lstrip("+")
        beyond = f"; at {flip} the word would change" if verdict.flips_at > 0 else ""
        return f"The 99 % interval, {low} to {high}, is held against a margin of {asked}{beyond}."
    return ""


def _place_of_figure(verdict: Verdict) -> str:
    """Where the text's figure lies, as loosely as it is taken, by the prediction interval."""
    ends = (verdict.threshold - verdict.about, verdict.threshold + verdict.about)
    low, high = (level(end, verdict.metric) for end in ends)
    figure = f"figure, taken as {low} to {high}," if verdict.about else low
    missed_by = verdict.flips_at - verdict.about
    if missed_by > 0:
        return f"The text's {figure} lies {difference(missed_by, verdict).lstrip('+')} outside."
    return f"The text's {figure} {'reaches' if verdict.about else 'lies'} inside."


def ready(*studies) -> bool:
    """Whether every arm of these studies has all its judged runs."""
    return all(len(s.runs().of(arm)) >= s.seeds for s in studies for arm in s.arms)


def show(verdict: Verdict) -> Markdown:
    """The verdict as a cell displays it."""
    return Markdown(sentence(verdict))


def pill(word: str) -> str:
    """A verdict word as a small HTML label."""
    return f'<span class="verdict verdict-{word.replace(" ", "-")}">{word}</span>'


# --- the top card -----------------------------------------------------------------------------


def recorded(study: str) -> dict[str, Verdict]:
    """The verdicts on every claim of a study, by claim, from the record that pages show."""
    return _verdicts(records.shown(study))


def _verdicts(record: dict) -> dict[str, Verdict]:
    runs = Runs(record)
    return {
        claim: judge(claim, Contrast(**plain), runs, record["analysis"]["seeds"])
        for claim, plain in record["analysis"]["contrasts"].items()
    }


def card(symptom: str, *studies: str, fix: str, tested: str, not_tested: str) -> HTML:
    """The card that opens a page: symptom, verdicts, a fix to copy, tested and not tested on.

    `studies` are the names of the page's records; verdicts stand in the order of `claims.yml`, and
    those on a claim in another setting than its own ("S2 @ …") are shown where there is no other.
    `fix` is at most three lines of code; a longer one raises ValueError.
    """
    found = [v for name in studies for v in recorded(name).values()]
    verdicts = [v for v in found if " @ " not in v.claim] or found
    if len(fix.strip().splitlines()) > 3:
        raise ValueError(f"fix has {len(fix.strip().splitlines())} lines; a card takes three")
    claimed = _claim_texts()
    texts = {v.claim: claimed[v.claim.split(" @ ")[0]] for v in verdicts}
    verdicts.sort(key=lambda v: list(claimed).index(v.claim.split(" @ ")[0]))
    lines = "".join(
        f"<li>{pill(v.word)} <b>{v.claim}</b> {html.escape(texts[v.claim])} "
        f'<span class="numbers">{html.escape(_numbers(v))}</span></li>'
        for v in verdicts
    )
    answer = "\n".join(f"- {sentence(v)}: {texts[v.claim]}" for v in verdicts) or fix
    answer = f"Training Folklore on Trial: {symptom}\n\n{answer}\n\n{{url}}"
    return HTML(
        f'<div class="trial-card" data-answer="{html.escape(answer, quote=True)}">'
        f'<p class="symptom">{html.escape(symptom)}</p><ul>{lines}</ul>'
        f"{_legend(verdicts)}"
        f"<p>To copy:</p><pre><code>{html.escape(fix.strip())}</code></pre>"
        f'<p class="scope"><i>Tested on</i> {html.escape(tested)} '
        f"<i>Not tested on</i> {html.escape(not_tested)}</p></div>"
    )


def _legend(verdicts: list[Verdict]) -> str:
    """What readers took wrongly: which interval decides, and what a sign means."""
    kinds = {verdict.kind for verdict in verdicts}
    if not kinds & {"better", "same"}:
        return ""
    rests = "“Better” and “the same” rest on a 99 % interval, held against a margin set beforehand."
    sign = " Of what is claimed to be better, quicker or smaller, a plus speaks for it."
    return f'<p class="scope">{rests}{sign if "better" in kinds else ""}</p>'


def _numbers(verdict: Verdict) -> str:
    shown = [effect(verdict), interval(verdict, named=True), runs_done(verdict)]
    return " · ".join(text for text in shown if text != "–")


# --- claims and the board ---------------------------------------------------------------------


def load_claims() -> list[dict]:
    """The 70 rows of `claims.yml`, in order."""
    return yaml.safe_load((CHAPTERS / "claims.yml").read_text(encoding="utf-8"))


def _claim_texts() -> dict[str, str]:
    """Claim id -> text, each row before its parts."""
    items = (item for row in load_claims() for item in (row, *row.get("parts", [])))
    return {item["id"]: item["claim"] for item in items}


@dataclass(frozen=True)
class Row:
    """One line of the board."""

    claim: dict  # its row of claims.yml
    word: str
    verdicts: list[Verdict]  # on the claim, or on its parts
    boundaries: list[Verdict]  # in other settings
    runs: list[dict]  # that the verdicts rest on, each once


def judged() -> dict[str, tuple[Verdict, list[dict]]]:
    """Every contrast of every record, judged now: claim id -> (verdict, the runs it rests on).

    Where a CPU and a GPU made all runs of a study, the CPU's verdict stands under the claim, and
    the GPU's beside it under "S1 @ GPU".
    """
    found, everything = {}, records.load_all()
    for name, record in everything.items():
        mark, runs = _device_mark(name, everything), Runs(record)
        for claim, verdict in _verdicts(record).items():
            if mark and verdict.word == "not yet":
                continue
            arms = Contrast(**record["analysis"]["contrasts"][claim]).arms()
            claim = claim + mark.replace(" @", ",") if " @ " in claim else claim + mark
            used = [run for arm in arms for run in runs.of(arm)]
            found[claim] = (replace(verdict, claim=claim), used)
    return found


def _device_mark(name: str, everything: Mapping) -> str:
    """What to add to the claims of a record that is not the one shown of its study."""
    study = name.removesuffix(records.GPU)
    alone = not {study, study + records.GPU} <= everything.keys()
    if alone or records.shown(study)["study"] == name:
        return ""
    return " @ CPU" if name == study else " @ GPU"


def board_rows() -> list[Row]:
    """The 70 rows with their verdicts, recomputed from the records."""
    found = judged()
    return [_row(claim, found) for claim in load_claims()]


def _row(claim: dict, found: dict) -> Row:
    same_as = claim.get("same_as", claim["id"])
    ids = [part["id"] for part in claim.get("parts", [])] or [same_as]
    known = [found[i] for i in ids if i in found]
    boundaries = [v for i, (v, _) in found.items() if re.match(rf"{same_as}[a-z]? @ ", i)]
    words = {i: found[i][0].word if i in found else "not yet" for i in ids}
    main = next((p["id"] for p in claim.get("parts", []) if p["main"]), same_as)
    runs = {id(run): run for _, used in known for run in used}
    return Row(claim, combine(words, main), [v for v, _ in known], boundaries, list(runs.values()))


def board() -> HTML:
    """The verdict board: 70 rows, filtered in the page by text, part and verdict."""
    rows = board_rows()
    head = "Claim", "Verdict", "Effect", "95 % interval", "n", "Budget", "Where it ends"
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(_board_row(row, head) for row in rows)
    table = f'<table class="board"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    return HTML(f'<div class="board-frame">{table}</div>')


def _board_row(row: Row, head: tuple) -> str:
    claim = row.claim
    there = (CHAPTERS / f"{claim['page']}.md").exists()
    link = f'<a href="{claim["page"]}.html">{claim["id"]}</a>' if there else claim["id"]
    mains = {part["id"] for part in claim.get("parts", []) if part["main"]}
    parts = "".join(
        f"<br><small>{v.claim}{' (main)' * (v.claim in mains)} {pill(v.word)} "
        f"{html.escape(_numbers(v))}</small>"
        for v in (row.verdicts if len(claim.get("parts", [])) > 1 else [])
    )
    single = row.verdicts[0] if row.verdicts and not parts else None
    columns = (
        f"<b>{link}</b> {html.escape(claim['claim'])}{parts}",
        pill(row.word),
        html.escape(effect(single)) if single else "–",
        html.escape(interval(single)) if single else "–",
        ", ".join(sorted({runs_done(v) for v in row.verdicts})) or "–",
        _budget(row.runs),
        "; ".join(f"{_condition(v, claim['id'])}: {pill(v.word)}" for v in row.boundaries) or "–",
    )
    data = "".join(
        f'<td data-label="{name}"{" class=none" * (text == "–")}>{text}</td>'
        for name, text in zip(head, columns, strict=True)
    )
    return (
        f'<tr id="{claim["id"]}" data-part="{claim["id"][0]}" data-verdict="{row.word}">{data}</tr>'
    )


def _condition(verdict: Verdict, row: str) -> str:
    """Under which condition a claim was judged once more, and which part of it: "b, 20 epochs"."""
    claim, condition = verdict.claim.split(" @ ", 1)
    part = claim.removeprefix(row)
    return html.escape(f"{part}, {condition}" if len(part) == 1 else condition)


def _budget(runs: list[dict]) -> str:
    """How many runs, their time, and with what and when they were made."""
    if not runs:
        return "–"
    seconds = sum(run["seconds"] for run in runs)
    minutes = f", {seconds / 60:.0f} core-min" if seconds >= 60 else ""
    versions = ", ".join(sorted({run["torch"] for run in runs}))
    made = f"torch {versions}, {max(run['date'] for run in runs)}"
    return f"{len(runs)} runs{minutes}<br><small>{made}</small>"


def board_summary() -> Markdown:
    """How many rows are decided, and how many of those would err by chance at 99 %."""
    rows = board_rows()
    tally = Counter(row.word for row in rows)  # in the order of their first rows
    counts = ", ".join(f"{count} *{word}*" for word, count in tally.items())
    decided = [v for row in rows for v in row.verdicts if _rests_on_runs(v)]
    elsewhere = [v for row in rows for v in row.boundaries if _rests_on_runs(v)]
    return Markdown(
        f"{len(rows)} claims: {counts}. {len(decided)} decided claims or parts rest on runs. Even "
        f"with perfect runs, chance alone would make about {sum(map(_risk, decided)):.1f} of these "
        f"words wrong, and about {sum(map(_risk, elsewhere)):.1f} of the {len(elsewhere)} under "
        "*Where it ends*. That does not cover a figure that holds: a figure nearby would hold as "
        "well; nor the luck in choosing learning rates."
    )


def _rests_on_runs(verdict: Verdict) -> bool:
    return verdict.word in ("holds", "fails") and bool(verdict.needed)


def _risk(verdict: Verdict) -> float:
    """How often chance gives this word: one end of a 99 % interval, or a figure outside 95 %."""
    if verdict.kind == "number":
        return 0.05 if verdict.word == "fails" else 0.0
    return 0.0 if verdict.kind == "exact" else 0.005


# --- symptoms ---------------------------------------------------------------------------------


def front_matter(page: Path) -> dict:
    """The YAML block that opens a MyST page."""
    match = re.match(r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(match.group(1)) if match else {}


def symptom_table() -> Markdown:
    """What a reader sees, the likely cause, how to tell: from the pages themselves.

    Every page lists its own rows under `symptoms:` in its front matter; each links to its page. The
    order is that of the contents.
    """
    toc = CHAPTERS.parent / "_toc.yml"
    contents = toc.read_text(encoding="utf-8") if toc.exists() else ""
    lines = ["| You see | Likely cause | How to tell |", "|---|---|---|"]
    for page in sorted(records.chapter_pages(), key=lambda page: contents.find(_slug(page))):
        for row in front_matter(page).get("symptoms", []):
            link = f"[{row['see']}]({_slug(page)}.md)"
            lines.append(f"| {link} | {row['cause']} | {row['test']} |")
    return Markdown("\n".join(lines))


def _slug(page: Path) -> str:
    return page.relative_to(CHAPTERS).with_suffix("").as_posix()


# --- a tip on the bug zoo ---------------------------------------------------------------------


def zoo_reading(study, found: str, mended: str, expected: Mapping[str, str]) -> Markdown:
    """What a tip reveals and repairs of the judging faults, beside what was foretold.

    `study` asks both on the zoo, by its contrasts `found` and `mended`; `expected` maps every
    judging fault to words, "found" or "repaired" among them.
    """
    if not ready(study):
        return Markdown("*The runs on the bug zoo are still to come.*")
    alarm, runs = study.claims[found], study.runs()
    seen, false = revealed(alarm, runs)
    costly, back = (read(study.claims[mended], runs) for read in (costly_runs, repaired))
    said = [{k for k, text in expected.items() if word in text} for word in ("found", "repaired")]
    return Markdown(
        f"It reveals **{len(seen)} of {len(alarm.faults)}** judging faults ({codes(seen)}), with "
        f"false alarms in {len(false)} of {len(alarm.controls)} healthy scripts; the alarm is "
        f"raised above {alarm_above(alarm, runs):.3g}. Of {len(costly)} faults that cost something "
        f"it repairs **{len(back)}** ({codes(back)}). Foretold as revealed: {codes(said[0])}; as "
        f"repaired: {codes(said[1])}. A fault counts if at least half of its runs do, over all nets"
        " together; a dot below is one net, and may be one run."
    )


def fault_names(faults: Mapping) -> HTML:
    """What the names of `faults.FAULTS` mean: a list that opens at a click."""
    rows = "".join(
        f"<dt><code>{name}</code></dt><dd>{html.escape(inspect.getdoc(fault.plant))}</dd>"
        for name, fault in sorted(faults.items())
    )
    summary = f"What the names of the {len(faults)} faults mean"
    return HTML(
        f'<details class="fault-names"><summary>{summary}</summary><dl>{rows}</dl></details>'
    )


def codes(names: Iterable[str]) -> str:
    """Names of faults, in order, as code."""
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


# --- the library --------------------------------------------------------------------------------


def course_lib_rooms() -> Markdown:
    """Rooms and public names of course_lib with the first sentence of each docstring, by ast."""
    package = Path(__file__).parent
    return Markdown("\n".join(line for room in ROOMS for line in _room(package / f"{room}.py")))


def _room(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    rows = [
        f"| `{node.name}` | {_first_sentence(node)} |"
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and ast.get_docstring(node)
    ]
    table = ["| name | what it is |", "|---|---|", *rows]
    return [f"## `{path.stem}`", "", _first_sentence(tree), "", *table, ""]


def _first_sentence(node: ast.AST) -> str:
    paragraph = ast.get_docstring(node).split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=\.)\s", paragraph)[0].removesuffix(":")
    return sentence.replace("|", "\\|")


# --- the explorer: five sliders over the recorded runs of a net of two layers --------------------

SLIDERS = {  # what is multiplied -> the factors on offer, as powers of two
    "inputs": (0, 2, 4, 6, 8),
    "starting weights of layer 1": (-8, -6, -4, -2, 0, 2),
    "starting weights of layer 2": (-8, -6, -4, -2, 0, 2),
    "learning rate of layer 1": (-16, -12, -8, -4, 0, 4),
    "learning rate of layer 2": (-16, -12, -8, -4, 0, 4),
}
# On powers of two, products are sums: from the five sliders to the three numbers that decide a run
# (a, d1, d2 on the page), and from these to the setting whose inputs are as posted.
INVARIANTS = ((1, 1, 1, 0, 0), (2, 0, 2, 1, 0), (2, 2, 0, 0, 1))
UNSCALED = ((0, 0, 0), (0.5, 0, 0), (0.5, 0, 0), (-1, 1, 0), (-1, 0, 1))


def invariants(setting: Sequence[int]) -> tuple[int, ...]:
    """log2 of a, d1 and d2 for log2 of the five factors, in the order of `SLIDERS`."""
    return tuple(sum(w * f for w, f in zip(row, setting, strict=True)) for row in INVARIANTS)


def explorer(grid: Sequence[Runs], presets: Mapping[str, Sequence[int]]) -> HTML:
    """Sliders over the runs of `grid`, one an arm, with a button for each of `presets`.

    Script and data stand in the page, so that it works from a file and without a network. A
    setting that is no arm of `grid` shows no curve. Raises ValueError for an arm whose factors are
    no powers of two.
    """
    rows = {name: row for runs in grid for name, row in _explorer_rows(runs).items()}
    data = {
        "sliders": list(SLIDERS.items()), "invariants": INVARIANTS, "unscaled": UNSCALED,
        "presets": list(presets.items()), "runs": rows,
        "epochs": max((len(row) - 3 for row in rows.values() if row), default=20),
    }  # fmt: skip
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = (CHAPTERS / "_static" / "explore.js").read_text(encoding="utf-8")
    done = sum(1 for row in rows.values() if row)
    return HTML(
        '<figure class="chart explore"><noscript><p>The sliders of this figure need JavaScript.'
        f"</p></noscript><figcaption>{done} of {len(rows)} settings are run, one seed each. Thick "
        "grey line: the net as posted. Loss: mean over an epoch, on a logarithmic axis; a cross "
        "marks a run that stopped.</figcaption>"
        f'<script type="application/json">{plain}</script><script>{script}</script></figure>'
    )


def _explorer_rows(runs: Runs) -> dict[str, list | int]:
    """Per arm, under its invariants: accuracy and dead share in 1/10,000, the step at which it
    diverged, the loss of each epoch to four digits. 0 for an arm without a run."""
    rows = {}
    for arm, config in runs.configs.items():
        factors = [config.get("input_scale", 1.0), *config["init_scale"], *config["lr_scale"]]
        powers = [int(math.log2(factor)) for factor in factors]
        if factors != [2.0**power for power in powers]:
            raise ValueError(f"arm {arm!r} has factors {factors}; use powers of two")
        name = ",".join(str(power) for power in invariants(powers))
        rows[name] = next((_explorer_row(run) for run in runs.of(arm)), 0)
    return rows


def _explorer_row(run: Mapping) -> list:
    metrics, losses = run["metrics"], records.rounded(run["history"]["train_loss"])
    shares = [round(1e4 * metrics[name]) for name in ("test_accuracy", "dead_share")]
    short = [loss if loss is None else float(f"{loss:.4g}") for loss in losses]
    return [*shares, metrics["diverged_step"], *short]
