"""Every table holds findings of a kind, comes back as it was written, and is shown where it is said to be."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.lenses import detector_class
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.run.kinds import KINDS, SHOWN, on_page
from concept_monitor_cli.stories import evaluate

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "concept_monitor_cli"

#: Of a detector's own tables, which say it in their schemas.
OF_DETECTORS = {
    schema.name: schema.shown
    for name in detectors()
    for schema in detector_class(name).tables
    if schema.shown
}

# Two rows of values that are hard to write: missing numbers, a text of digits, one with commas and quotes.
HARD = {
    "int": [7, None],
    "float": [0.125, None],
    "str": ['NA, "null"\n', "007"],
    "bool": [True, False],
}


def test_every_table_says_what_it_holds() -> None:
    assert list(TABLES) == [name for name in TABLES if name in SHOWN], "give each a line in run/kinds.py"
    assert set(SHOWN) == set(TABLES)
    assert {shown.kind for shown in SHOWN.values()} == set(KINDS)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    schema = TABLES[name]
    rows = pd.DataFrame({column: pd.array(HARD[kind]) for column, kind in schema.columns.items()})
    run = RunFolder(tmp_path)
    assert run.table(name) is None
    path = run.write_csv(name, rows)
    found = run.table(name)
    assert found is not None
    pd.testing.assert_frame_equal(found, schema.frame(rows))
    assert list(found) == list(schema.columns)
    assert schema.to_csv(found) == path.read_text(encoding="utf-8")
    for column, kind in schema.columns.items():
        if kind != "bool":
            missing = found[column].isna()
            assert int(missing.sum()) == (kind in ("int", "float")), column


@pytest.mark.parametrize("name", [*SHOWN, *OF_DETECTORS])
def test_a_table_is_drawn_and_has_a_place_or_says_why_not(name: str) -> None:
    shown = {**SHOWN, **OF_DETECTORS}[name]
    assert bool(shown.why_not) == (not shown.figure or not shown.page)
    if shown.figure:
        module, _, function = shown.figure.rpartition(".")
        assert callable(getattr(import_module(f"concept_monitor_cli.report.{module}"), function))
        stories = (PACKAGE / "stories").glob("*.py")
        assert any(re.search(rf"\b{function}\b", path.read_text("utf-8")) for path in stories)


@pytest.mark.parametrize(
    "part", sorted({shown.page for shown in (*SHOWN.values(), *OF_DETECTORS.values()) if shown.page})
)
def test_a_part_of_the_page_is_made_and_drawn(part: str) -> None:
    assert on_page(part) or part in {shown.page for shown in OF_DETECTORS.values()}  # type: ignore[arg-type]
    contents = (PACKAGE / "report/page/contents.py").read_text("utf-8")
    assert f'        "{part}": ' in contents
    scripts = "".join(path.read_text("utf-8") for path in (PACKAGE / "report/page/template").glob("*.js"))
    assert re.search(rf"\bDATA\.{part}\b", scripts)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "judgements"])
def test_findings_of_every_kind_have_a_figure_and_a_place_on_the_page(kind: str) -> None:
    own = [shown for shown in SHOWN.values() if shown.kind == kind]
    assert any(shown.figure for shown in own)
    assert any(shown.page for shown in own)


def test_measures_draw_what_is_said_here() -> None:
    drawn = {**evaluate._FIGURES, **evaluate._PICTURES}
    for name, (_, function) in drawn.items():
        assert SHOWN[name].figure.rpartition(".")[2] == function.__name__
    others = {"evaluation-grid"}
    said = {name for name, shown in SHOWN.items() if name.startswith("evaluation") and shown.figure}
    assert said == set(drawn) | others


def test_the_documents_say_the_same() -> None:
    text = (ROOT / "docs/outputs.md").read_text("utf-8")
    section = text.partition("## Kinds of findings\n")[2].partition("\n## ")[0]
    for kind in KINDS:
        (row,) = (line for line in section.splitlines() if line.startswith(f"| {kind} |"))
        _, _, _, named, on_the_page, _ = row.split("|")
        own = {name: shown for name, shown in SHOWN.items() if shown.kind == kind}
        assert re.findall(r"`([\w-]+)`", named) == list(own)
        assert re.findall(r"`([\w-]+)`", on_the_page) == [name for name, shown in own.items() if shown.page]
