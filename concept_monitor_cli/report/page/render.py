"""From the content of a page to its text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from concept_monitor_cli.report.page.pack import json_for_html

# Joined in this order into one script.
_SCRIPTS = (
    "core.js",
    "keep.js",
    "charts.js",
    "structure.js",
    "atlas.js",
    "space.js",
    "space_file.js",
    "tables.js",
    "unit.js",
    "main.js",
)


def render(content: dict[str, Any], sheets: Sequence[str] = ()) -> str:
    """The page as text.

    Everything that comes from a run is JSON that no browser executes, and the page's Content-Security-Policy
    allows this script and these styles alone, by their hashes, and no connection at all.

    Args:
        content: what the page shows.
        sheets: `data:` addresses of thumbnails.
    """
    folder = files(__package__) / "template"
    style = (folder / "style.css").read_text(encoding="utf-8")
    # One closed scope: the files of the script share names, and the browser's console sees none.
    code = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{code}\n}})();\n'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = [("cmon-data", content), *((f"cmon-sheet-{i}", uri) for i, uri in enumerate(sheets))]
    data = "\n".join(
        f'<script type="application/json" id="{name}">{json_for_html(value)}</script>'
        for name, value in blocks
    )
    # In one pass, so that nothing that is filled in is searched for places to fill in.
    page = (folder / "page.html").read_text(encoding="utf-8")
    head, page = page.split("@POLICY@")
    middle, page = page.split("@STYLE@")
    body, page = page.split("@DATA@")
    between, foot = page.split("@SCRIPT@")
    return "".join((head, policy, middle, style, body, data, between, script, foot))


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
