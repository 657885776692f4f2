"""One version everywhere, and a citation that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import concept_monitor_cli

REPOSITORY = Path(__file__).resolve().parents[2]


def test_one_version_everywhere() -> None:
    version = concept_monitor_cli.__version__
    headings = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == version
    assert len(headings) == len(set(headings))
    assert citation()["version"] == version
    # The package's own is the one that is built.
    assert (
        'version = { attr = "concept_monitor_cli.__version__" }'
        in (REPOSITORY / "pyproject.toml").read_text()
    )


def citation() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    return found


def test_the_citation_has_what_the_format_asks_for_and_the_papers_of_the_readme() -> None:
    found = citation()
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= found.keys()
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    titles = {
        re.sub(r"[{}]", "", title) for title in re.findall(r"^  title +=\s*\{(.+)\},$", readme, re.MULTILINE)
    }
    assert titles == {reference["title"] for reference in found["references"]}  # type: ignore[attr-defined]
