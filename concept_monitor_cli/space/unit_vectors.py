"""Every unit's place in the concept space, from the concept tables (eq. 1 of Concept-Monitor)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional import neuron_embedding_from_top
from concept_monitor_cli.functional.embedding import TOP_CONCEPTS

if TYPE_CHECKING:
    import pandas as pd

_UNIT = ["epoch", "checkpoint", "layer", "detector", "unit"]


@dataclass(frozen=True)
class UnitVectors:
    """Units and their vectors, row by row.

    Attributes:
        units: a row per live unit, layer, checkpoint and detector, with `concept` and `category` of rank 1,
            its `score` and `interpretable`.
        vectors: `n x D`, float32, in the same order.
    """

    units: pd.DataFrame
    vectors: NDArray[np.float32]


def concept_words(table: pd.DataFrame) -> list[str]:
    """The distinct concepts of a concept table, sorted."""
    return sorted(set(table["concept"].unique()) - {""})


def unit_vectors(table: pd.DataFrame, words: list[str], embeddings: NDArray[np.float32]) -> UnitVectors:
    """Place every live unit of a concept table.

    Args:
        table: a concept table. Units without a concept (dead ones, and those that meet no label) have no
            place and are left out; of the others the first five concepts count, however many there are.
        words: the words of `embeddings`; all concepts of the table are among them.
        embeddings: `len(words) x D`, rows of unit length.
    """
    placed = (table["state"] == "live") & (table["concept"] != "") & (table["rank"] <= TOP_CONCEPTS)
    table = table[placed].sort_values([*_UNIT, "rank"], kind="stable")
    index = {word: row for row, word in enumerate(words)}
    counts = table.groupby(_UNIT, sort=False, observed=True).size().to_numpy()
    starts = np.cumsum(counts) - counts
    k = int(counts.max(initial=1))
    # Units may have fewer than k concepts (a small concept set, a detector that finds few): the rest of
    # the row is not a number, and has no weight.
    scores = np.full((len(counts), k), np.nan)
    chosen = np.zeros((len(counts), k), dtype=np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    column = np.arange(len(table)) - np.repeat(starts, counts)
    scores[row, column] = table["score"].to_numpy()
    codes, concepts = table["concept"].factorize()
    chosen[row, column] = np.array([index[concept] for concept in concepts], dtype=np.int64)[codes]
    vectors = neuron_embedding_from_top(
        torch.from_numpy(scores), torch.from_numpy(chosen), torch.from_numpy(embeddings)
    )
    first = table.iloc[starts].reset_index(drop=True)
    return UnitVectors(first, vectors.numpy())
