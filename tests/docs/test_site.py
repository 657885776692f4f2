"""The documents become a site without a warning, and nothing in it leads nowhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from scripts.site import CONFIG, REPOSITORY, build, lay_out

needs_mkdocs = pytest.mark.skipif(
    find_spec("material") is None, reason="the extra [docs] (mkdocs-material) is not installed"
)


class Page(HTMLParser):
    """What a page of the site links to, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := values.get(name)) is not None]
        self.places |= {value for name in ("id", "name") if (value := values.get(name)) is not None}


def dangling(site: Path) -> tuple[int, list[str]]:
    """How many links within the site there are, and those that lead nowhere."""
    pages = {path: Page(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    lost, count = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            count += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path not in ("", ".") else path
            target = target / "index.html" if target.is_dir() else target
            anchor = parts.fragment
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].places):
                lost.append(f"{path.relative_to(site)}: {link}")
    return count, lost


@needs_mkdocs
def test_the_site_builds_strictly_and_its_links_hold(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build(site)
    count, lost = dangling(site)
    assert lost == []
    assert count > 1000
    assert {path.stem for path in (REPOSITORY / "docs").glob("*.md")} <= {
        path.stem for path in (site / "docs").glob("*.html")
    }
    # It can be read without network: nothing is asked of another host to show a page.
    text = (site / "index.html").read_text("utf-8")
    assert re.findall(r"<(?:script|img|link rel=\"stylesheet\")[^>]*=\"?https?:", text) == []
    assert "<table>" in text
    # What is code in the repository is code here.
    assert "<code>python -m venv .venv" in text


@needs_mkdocs
def test_what_is_broken_ends_the_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = tmp_path / "documents"
    lay_out(documents)
    page = documents / "docs" / "settings.md"
    page.write_text(page.read_text("utf-8") + "\n[a](nowhere.md) [b](outputs.md#no-such-place)\n", "utf-8")
    (documents / "docs" / "forgotten.md").write_text("# Not in `nav`\n", "utf-8")
    with pytest.raises(SystemExit, match="strict"):
        build(tmp_path / "site", documents)
    for said in ("nowhere.md", "no-such-place", "forgotten.md"):
        assert said in caplog.text


def test_a_link_into_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there"></a><a href="#x"></a><img src="no.png">', "utf-8"
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="https://example.org"></a></p>', "utf-8")
    assert dangling(tmp_path) == (3, ["a.html: #x", "a.html: no.png"])


def test_the_configuration_has_a_place_for_every_page() -> None:
    """Said here too, so that it is seen where MkDocs is not installed."""
    named = set(re.findall(r"docs/[\w-]+\.md", CONFIG.read_text("utf-8")))
    assert named == {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")}
