"""Numbers in sentences."""

from __future__ import annotations

import pytest

from concept_monitor_cli.wording import counted


@pytest.mark.parametrize(
    ("number", "what", "sentence"),
    [
        (1, "images are left out", "1 image is left out"),
        (2, "images are left out", "2 images are left out"),
        (0, "images", "0 images"),
        (12345, "images have greys", "12,345 images have greys"),
        (1, "files that look like images are left out", "1 file that looks like images are left out"),
        (1, "entries", "1 entry"),
        (1, "classes", "1 class"),
        (1, "arrays", "1 array"),
        (1, "names differ only in case", "1 name differs only in case"),
        (1, "passes", "1 pass"),
    ],
)
def test_one_and_many(number: int, what: str, sentence: str) -> None:
    assert counted(number, what) == sentence
