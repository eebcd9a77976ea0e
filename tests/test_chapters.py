"""Table of contents, claims, records and pages agree; pages keep the house form."""

import ast
import sys
from pathlib import Path

import pytest
import yaml

from course_lib import experiments, pages, records

ROOT = Path(__file__).parents[1]
PAGES = records.chapter_pages()
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CELL_LINES = 25


def toc_files(node) -> list[str]:
    """Every page that the table of contents names, in order."""
    if isinstance(node, list):
        return [file for item in node for file in toc_files(item)]
    if isinstance(node, dict):
        own = [node[key] for key in ("root", "file") if key in node]
        below = (node.get(key) for key in ("parts", "chapters", "sections"))
        return own + [file for part in below for file in toc_files(part)]
    return []


def cells(page: Path) -> list[str]:
    """The code of every cell of a page, without options."""
    text = page.read_text(encoding="utf-8")
    bodies = [match.group(1) for match in experiments.CELL.finditer(text)]
    return [body[len(experiments.OPTIONS.match(body).group(0)) :] for body in bodies]


def test_every_page_is_in_the_table_of_contents_and_back():
    on_disk = {page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES}
    assert sorted(toc_files(TOC)) == sorted(on_disk)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_cells_are_short(page):
    lengths = [len(cell.strip().splitlines()) for cell in cells(page)]
    assert max(lengths, default=0) <= CELL_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_imports_nothing_of_its_own_but_course_lib(page):
    allowed = {"course_lib", "torch", "numpy", "matplotlib", "IPython", *sys.stdlib_module_names}
    for cell in cells(page):
        for node in ast.walk(ast.parse(cell)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            assert {name.split(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_not_pin_jupytext(page):
    assert "jupytext_version" not in page.read_text(encoding="utf-8")


def test_every_record_belongs_to_a_study_and_every_contrast_to_a_claim():
    studies = experiments.all_studies()
    known = {row["id"] for row in pages.load_claims()}
    known |= {part["id"] for row in pages.load_claims() for part in row.get("parts", [])}
    for name in records.load_all():
        assert name.removesuffix(".gpu") in studies
    for study in studies.values():
        assert {claim.split(" @ ")[0] for claim in study.claims} <= known
        study.record()  # raises where page and record differ


def test_a_study_stands_on_the_page_that_judges_its_claims():
    where = {}
    for row in pages.load_claims():
        where |= {
            item["id"]: item.get("page", row["page"]) for item in [row, *row.get("parts", [])]
        }
    for page in PAGES:
        slug = page.relative_to(records.CHAPTERS).with_suffix("").as_posix()
        for study in experiments.studies_of(page):
            for claim in study.claims:  # in another setting, a claim may be taken up elsewhere
                assert " @ " in claim or where[claim] == slug, claim


def test_kinds_of_contrasts_are_those_of_the_claims():
    """The bug zoo asks every tip the same two questions, whatever its own claim is."""
    kinds = {}
    for row in pages.load_claims():
        for item in [row, *row.get("parts", [])]:
            kinds[item["id"]] = item.get("kind")
    for study in experiments.all_studies().values():
        for claim, contrast in study.claims.items():
            own, _, setting = claim.partition(" @ ")
            asked = {"diagnostic", "repairs"} if "bug zoo" in setting else {kinds[own]}
            assert contrast.kind in asked, claim


@pytest.mark.parametrize("path", sorted(records.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_records_are_small_and_whole(path):
    assert path.stat().st_size <= records.MAX_BYTES
    record = records.read(path)
    assert record["study"] == path.stem
    needed = {"arm", "seed", "phase", "config", "data", "metrics", "device", "precision", "threads",
              "torch", "source", "seconds", "date"}  # fmt: skip
    for key, run in record["runs"].items():
        assert needed <= set(run)
        assert key == records.run_key(run["config"], run["seed"], run["data"]["identity"])


def test_symptoms_are_whole():
    rows = [row for page in PAGES for row in pages.front_matter(page).get("symptoms", [])]
    assert rows and all(set(row) == {"see", "cause", "test"} for row in rows)
