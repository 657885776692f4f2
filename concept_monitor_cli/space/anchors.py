"""Anchors: words that mark places in the concept space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from concept_monitor_cli.concepts import read_concepts
from concept_monitor_cli.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


# How alike a slip and the word that was meant are.
_SLIP = 0.85


def parse_anchors(values: Sequence[str]) -> tuple[str, ...]:
    """The anchor words named on the command line.

    Args:
        values: words; or the path of a `.txt` file of words, in any form that `--concepts` reads, for lists
            too long to type.

    Returns:
        The distinct words in the order given.

    Raises:
        InputError: no word is left, or the file cannot be read.
    """
    words: list[str] = []
    for value in values:
        path = Path(value).expanduser()
        if path.suffix == ".txt":
            words.extend(_words_of(path))
        else:
            words.append(value)
    anchors = tuple(dict.fromkeys(" ".join(word.split()) for word in words if word.strip()))
    if not anchors:
        raise InputError(
            "the list of anchors is empty",
            where="--anchors",
            hint="name some words: --anchors windmill,field",
        )
    return anchors


def _words_of(path: Path) -> tuple[str, ...]:
    try:
        return read_concepts(path).concepts
    except InputError as error:
        what = error.what.replace("concept file", "anchor file")
        raise InputError(what, where=path, hint=error.hint or "give a text file, a word a line") from error


def misspelt(anchors: Sequence[str], concepts: Iterable[str]) -> dict[str, str]:
    """Anchors that are nearly a concept, with the concept that was meant.

    Args:
        anchors: as given. Any word may be an anchor, so only those that look like a slip are found.
        concepts: of the run.
    """
    known = {concept.casefold(): concept for concept in concepts}
    found = {}
    for word in anchors:
        if word.casefold() in known:
            continue
        near = get_close_matches(word.casefold(), known, n=1, cutoff=_SLIP)
        # A plural is a word of its own.
        if near and word.casefold().rstrip("s") != near[0].rstrip("s"):
            found[word] = known[near[0]]
    return found


def default_anchors(table: pd.DataFrame, count: int) -> tuple[str, ...]:
    """Anchors where none are named: concepts that many units of the last epoch have, far from chance.

    A concept's weight is the sum of its units' effects (how far the evidence is beyond chance, in standard
    deviations); without that column every unit counts 1. Codes of data sets and formulas are passed over
    where there are words.

    Args:
        table: the stacked concept table, of one detector.
        count: how many anchors at most.
    """
    last = table[(table["rank"] == 1) & (table["epoch"] == table["epoch"].max()) & (table["state"] == "live")]
    interpretable = last[last["interpretable"]]
    if len(interpretable):
        last = interpretable
    weight = last["effect"].clip(lower=0).fillna(0) if "effect" in last else last["rank"] * 0.0
    if not (weight > 0).any():
        weight = last["rank"] * 0.0 + 1.0
    weights = weight.groupby(last["concept"], observed=True).sum().sort_values(ascending=False, kind="stable")
    words = [str(word) for word in weights.index]
    plain = [word for word in words if _is_plain(word)]
    return tuple((plain or words)[:count])


def _is_plain(word: str) -> bool:
    """Whether a concept is an ordinary word or phrase, no code and no formula."""
    return word.replace(" ", "").replace("-", "").replace("'", "").isalpha() and not any(
        operator in word.split() for operator in ("AND", "OR", "NOT")
    )
