"""Every relative link and anchor in the documents leads somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "scripts").rglob("*.md")),
    *sorted((REPOSITORY / "sample_configs").rglob("*.md")),
]

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def links(text: str) -> list[str]:
    """The targets of the links in a document, those in code left out."""
    lines = [line for line in _FENCE.sub("", text).splitlines() if not line.startswith("    ")]
    # A link's own words may be code, so code becomes a letter and does not go.
    return [match[1] for match in _LINK.finditer(_CODE.sub("x", "\n".join(lines)))]


@cache
def anchors(path: Path) -> frozenset[str]:
    """The names under which GitHub finds the headings of a document."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", path.read_text("utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.append(f"{name}-{same}" if same else name)
    return frozenset(found)


def broken(path: Path, within: Path = REPOSITORY) -> list[str]:
    """What the links of a document lead to that is not there, or not in the repository."""
    missing = []
    for target in links(path.read_text("utf-8")):
        if _ELSEWHERE.match(target):
            continue
        file, _, anchor = target.partition("#")
        place = path if not file else (path.parent / file).resolve()
        if (
            not place.is_relative_to(within)
            or not place.exists()
            or (anchor and anchor not in anchors(place))
        ):
            missing.append(target)
    return missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert broken(path) == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [REPOSITORY / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        files = [target.partition("#")[0] for target in links(page.read_text("utf-8"))]
        todo += [(page.parent / file).resolve() for file in files if file and not _ELSEWHERE.match(file)]
    assert set((REPOSITORY / "docs").glob("*.md")) - reached == set()


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c\n\n## Twice\n\n## Twice\n\n[one](#a-b-c) [two](#twice-1) [`x`](page.md#twice) <!-- -->\n"
        "`[code](nowhere.md)`\n\n    [block](nowhere.md)\n\n```\n[fence](nowhere.md)\n```\n"
        "[web](https://example.org/#x) [bad](nowhere.md) ![bad](no.png) [bad](#a-b) [bad](page.md#twice-2)\n",
        "utf-8",
    )
    assert broken(page, within=tmp_path) == ["nowhere.md", "no.png", "#a-b", "page.md#twice-2"]
    assert "page.md#twice" in broken(page, within=tmp_path / "elsewhere")


def test_the_readme_is_read_to_the_end() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 150
