"""The 70 claims, the contents, the glossary and the bibliography agree with one another."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from course_lib import records

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = ROOT / "chapters"
NUM_ROWS = {"S": 15, "C": 26, "T": 20, "K": 9}
TEXTS = {"S": "puzzle", "C": "thread", "T": "article", "K": "article"}
FOLDERS = {"S": "scaling", "C": "cnn", "T": "tips", "K": "tips"}
KINDS = {"number", "better", "same", "always", "event", "diagnostic", "exact", "text"}
SPEAKERS = {"asker", "answer 1", "answer 2", "answer 3", "comment", "the article"}
ROW_FIELDS = {"id", "text", "who", "kind", "page", "claim", "parts", "same_as"}
PART_FIELDS = {"id", "who", "kind", "page", "claim", "main"}
MAX_CLAIM = 280  # characters: two short sentences, and a card stays a card

ROWS = yaml.safe_load((CHAPTERS / "claims.yml").read_text(encoding="utf-8"))
PARTS = [(row, part) for row in ROWS for part in row.get("parts", [])]
STATEMENTS = ROWS + [part for _, part in PARTS]


def ids(items):
    return [item["id"] for item in items]


def test_the_seventy_ids_are_complete_and_in_order():
    expected = [f"{letter}{k}" for letter, n in NUM_ROWS.items() for k in range(1, n + 1)]
    assert len(expected) == 70
    assert ids(ROWS) == expected


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_a_row_has_known_fields_its_text_and_a_kind_in_one_place(row):
    letter = row["id"][0]
    assert set(row) <= ROW_FIELDS
    assert row["text"] == TEXTS[letter]
    assert set(row["who"].split(", ")) <= SPEAKERS
    assert ("kind" in row) != ("parts" in row), "the kind stands in the row or in its parts"
    assert row.get("kind", "number") in KINDS
    assert row.get("same_as", "S1") in ids(ROWS)


@pytest.mark.parametrize("row", [r for r in ROWS if "parts" in r], ids=lambda row: row["id"])
def test_parts_are_lettered_in_order_and_one_is_the_main_part(row):
    parts = row["parts"]
    assert len(parts) >= 2
    assert ids(parts) == [row["id"] + letter for letter in "abcdefgh"[: len(parts)]]
    assert [part["main"] for part in parts].count(True) == 1
    for part in parts:
        assert set(part) <= PART_FIELDS
        assert part["kind"] in KINDS
        assert part.get("who", "asker") in SPEAKERS
        assert isinstance(part["main"], bool)


@pytest.mark.parametrize("item", STATEMENTS, ids=ids(STATEMENTS))
def test_a_claim_is_one_short_statement(item):
    claim = item["claim"]
    assert claim == claim.strip() and "\n" not in claim
    assert not set("`*<>{}") & set(claim), "the board shows claims as plain text, not Markdown"
    assert 10 <= len(claim) <= MAX_CLAIM, f"{item['id']} has {len(claim)} characters"
    assert claim[0].isupper() or claim[0].isdigit()
    assert claim[-1] in ".)"


def test_no_claim_is_stated_twice():
    repeated = [c for c, n in Counter(item["claim"] for item in STATEMENTS).items() if n > 1]
    assert repeated == []


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_the_page_slug_is_well_formed(row):
    # only _toc.yml orders pages, so no slug carries a number
    assert re.fullmatch(FOLDERS[row["id"][0]] + r"/[a-z]+(_[a-z]+)*", row["page"])


def test_every_tip_has_a_page_of_its_own():
    pages = [row["page"] for row in ROWS if row["id"][0] == "T"]
    assert len(set(pages)) == NUM_ROWS["T"]


def toc_files(node):
    """All pages that a table of contents names, however deep."""
    if isinstance(node, list):
        return {page for child in node for page in toc_files(child)}
    if isinstance(node, dict):
        own = {str(node[key]).removesuffix(".md") for key in ("file", "root") if key in node}
        return own.union(*(toc_files(child) for child in node.values()))
    return set()


def test_toc_files_finds_pages_at_every_depth():
    toc = {
        "root": "chapters/intro",
        "parts": [{"chapters": [{"file": "a", "sections": [{"file": "b.md"}]}]}],
    }
    assert toc_files(toc) == {"chapters/intro", "a", "b"}


def test_every_claim_page_that_exists_is_in_the_table_of_contents():
    written = {f"chapters/{r['page']}" for r in ROWS if (CHAPTERS / f"{r['page']}.md").exists()}
    toc = ROOT / "_toc.yml"
    listed = toc_files(yaml.safe_load(toc.read_text(encoding="utf-8"))) if toc.exists() else set()
    assert written - listed == set(), "written, but not in _toc.yml: readers cannot reach them"


def glossary_entries(source):
    """Term → definition of the glossary directives in a MyST page; a repeated term raises."""
    blocks = re.findall(r"^```\{glossary\}\n(.*?)^```$", source, re.DOTALL | re.MULTILINE)
    entries, term = {}, None
    for line in "".join(blocks).splitlines():
        if line.startswith(" "):
            entries[term] += line
        elif line and not line.startswith(":"):
            term = line.casefold()
            if term in entries:
                raise ValueError(f"the glossary defines {line!r} twice; keep one entry")
            entries[term] = ""
    return entries


def marked_terms(source):
    """Targets of the {term} roles in a MyST page, as Sphinx compares them: without case."""
    marks = re.findall(r"\{term\}`([^`]+)`", source)
    targets = (re.sub(r".*<([^<>]+)>$", r"\1", mark, flags=re.DOTALL) for mark in marks)
    return {" ".join(target.split()).casefold() for target in targets}


def pages():
    return records.chapter_pages()


def glossary():
    return glossary_entries((CHAPTERS / "back" / "glossary.md").read_text(encoding="utf-8"))


def test_a_marked_term_without_an_entry_is_noticed():
    source = "A {term}`Run` and two {term}`trials\n<trial>`."
    assert marked_terms(source) == {"run", "trial"}
    known = glossary_entries("```{glossary}\nrun\n  One.\n```\n")
    assert marked_terms(source) - set(known) == {"trial"}


def test_a_term_defined_twice_is_noticed():
    block = "```{{glossary}}\n:sorted:\n\n{}\n  A definition.\n```\n"
    assert set(glossary_entries(block.format("run") + block.format("trial"))) == {"run", "trial"}
    with pytest.raises(ValueError, match="twice"):
        glossary_entries(block.format("run") + "Text.\n" + block.format("Run"))


def test_every_term_has_a_definition():
    entries = glossary()
    assert entries
    assert [term for term, definition in entries.items() if not definition.strip()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(CHAPTERS).as_posix())
def test_every_marked_term_is_in_the_glossary(page):
    missing = marked_terms(page.read_text(encoding="utf-8")) - set(glossary())
    assert missing == set(), "add an entry to chapters/back/glossary.md"


def cited_keys(source):
    """Keys of the {cite} roles in a MyST page, of whatever flavour."""
    marks = re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", source)
    return {key.strip() for mark in marks for key in mark.split(",")}


def test_citation_keys_are_unique_and_every_cited_key_exists():
    source = (CHAPTERS / "back" / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,\s]+),", source, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert set(TEXTS.values()) <= set(keys), "each text on trial has an entry under its own key"
    cited = set().union(*(cited_keys(page.read_text(encoding="utf-8")) for page in pages()))
    assert cited - set(keys) == set(), "add an entry to chapters/back/references.bib"
