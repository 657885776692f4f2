"""One spelling for one word."""

from __future__ import annotations

import unicodedata


def tidy(text: str) -> str:
    """Unicode NFC, runs of white space as one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())
