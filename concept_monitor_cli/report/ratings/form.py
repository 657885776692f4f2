"""The form in which people rate labels."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from concept_monitor_cli.report.page.pack import json_for_html

#: The scale of a rating.
LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True)
class Question:
    """One label to be rated.

    Attributes:
        pictures: the place of the unit's images among the pictures of the form.
        label: the text. Nothing says where it comes from.
    """

    pictures: int
    label: str


def rating_form(
    form: str, questions: Sequence[Question], pictures: Sequence[str], alts: Sequence[str]
) -> str:
    """The form as the text of one HTML file.

    Its Content-Security-Policy allows its own script and styles alone, by their hashes, and no connection.

    Args:
        form: what tells this form from others; stands in the answers.
        questions: in the order in which they are asked.
        pictures: `data:` addresses, the images of a unit each.
        alts: what each picture shows, for who does not see it.
    """
    folder = files(__package__) / "template"
    style = (folder / "form.css").read_text(encoding="utf-8")
    script = (folder / "form.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    content = {
        "form": form,
        "scale": [LOWEST, HIGHEST],
        "questions": [[question.pictures, question.label] for question in questions],
        "pictures": list(pictures),
        "alts": list(alts),
    }
    page = (folder / "form.html").read_text(encoding="utf-8")
    # In one pass, so that nothing that is filled in is searched for places to fill in.
    head, page = page.split("@POLICY@")
    middle, page = page.split("@STYLE@")
    body, page = page.split("@DATA@")
    between, foot = page.split("@SCRIPT@")
    return "".join((head, policy, middle, style, body, json_for_html(content), between, script, foot))


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
