"""Numbers in sentences."""

from __future__ import annotations

import pytest

from concept_monitor_cli.wording import counted, sum_terms, sum_text


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


def test_a_sum_is_read_as_it_is_printed() -> None:
    terms = ((-0.6, "dog"), (0.3, "black - white cat"), (0.04, "snow + ice"))
    assert sum_terms(sum_text(terms)) == terms
    assert sum_terms("a dog") is None
    assert sum_terms("0.6 ") is None
    assert sum_terms("") is None
    # A name that holds a sign and a number is known only to who knows the names.
    text = sum_text([(0.5, "top + 2 more"), (-0.2, "sea")])
    assert sum_terms(text) == ((0.5, "top"), (2.0, "more"), (-0.2, "sea"))
    names = ("top + 2 more", "sea")

    def known(of: str, at: int) -> str | None:
        return next((name for name in names if of.startswith(name, at)), None)

    assert sum_terms(text, known) == ((0.5, "top + 2 more"), (-0.2, "sea"))
    assert sum_terms("0.5 river", known) is None
