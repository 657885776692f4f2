"""The page of an explained image."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from concept_monitor_cli.report.page.pack import json_for_html


def explanation_page(content: Mapping[str, Any]) -> str:
    """The page as the text of one HTML file.

    Its Content-Security-Policy allows its own script and styles alone, by their hashes, and no connection.

    Args:
        content: what it shows, as `stories/explain_pages.py` puts it together.
    """
    folder = files(__package__) / "template"
    style = (folder / "explanation.css").read_text(encoding="utf-8")
    script = (folder / "explanation.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (folder / "explanation.html").read_text(encoding="utf-8")
    # In one pass, so that nothing that is filled in is searched for places to fill in.
    found = []
    for place, filled in (
        ("@POLICY@", policy),
        ("@TITLE@", html.escape(str(content["image"]))),
        ("@STYLE@", style),
        ("@DATA@", json_for_html(content)),
        ("@SCRIPT@", script),
    ):
        before, page = page.split(place)
        found += [before, filled]
    return "".join([*found, page])


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
