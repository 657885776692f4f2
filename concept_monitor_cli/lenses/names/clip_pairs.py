"""Labels of two concepts for clip-dissect (CLIP-Dissect, A.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.pairs import BestPairs, distinct_pairs
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.kinds import READ, Shown

if TYPE_CHECKING:
    from concept_monitor_cli.study.context import Context

# The best texts of two concepts of every unit.
PAIRS = TableSchema.of_units(
    "pairs",
    {
        "rank": "int",
        "concept": "str",
        "first": "str",
        "second": "str",
        "score": "float",
        "single_score": "float",
    },
    ("rank",),
    shown=Shown("names", why_not=READ),
)

# Texts are embedded by tiles of this many by this many concepts. Where at least this share of all pairs is
# needed, whole tiles are, so that other layers and epochs, with other pairs of a tile, find it in the store.
_SIDE = 16
_DENSE = 0.25


def pair_labels(
    order: Tensor,
    scores: Tensor,
    named: Tensor,
    context: Context,
    score: Callable[[Tensor], Tensor],
    *,
    candidates: int,
    keep: int,
) -> dict[str, NDArray[Any]]:
    """The best pairs of every named unit, as columns of the table `pairs`.

    Args:
        order: `(U, M)`, what sorts the single concepts of the named units; the first are paired.
        scores: `(U, M)`, their scores.
        named: `(C,)` bool.
        context: concepts and encoder.
        score: embeddings `(n, D)` of the texts of pairs -> scores `(U, n)`.
        candidates: how many of a unit's best single concepts are paired.
        keep: how many pairs to keep.
    """
    words = context.concepts.concepts
    singles, _ = top_rows(order, min(candidates, len(words)))
    best_single = scores.gather(1, singles[:, :1])
    pairs = distinct_pairs(singles, len(words))
    best = BestPairs(singles, len(words), keep)
    with context.progress.task("scoring pairs of concepts", len(pairs), "pairs") as advance:
        for block, texts in _embedded(pairs, context):
            best.update(block, score(texts))
            advance(len(block))
    given = best.pairs[:, :, 0] >= 0
    row, rank = (each.numpy() for each in given.nonzero(as_tuple=True))
    names = np.asarray(words, dtype=object)
    first, second = (names[best.pairs[given][:, side].numpy()] for side in (0, 1))
    return {
        "unit": named.nonzero()[:, 0].numpy()[row],
        "rank": rank + 1,
        "concept": np.array([_text(a, b) for a, b in zip(first, second, strict=True)], dtype=object),
        "first": first,
        "second": second,
        "score": best.scores[given].double().numpy(),
        "single_score": best_single[:, 0].cpu().double().numpy()[row],
    }


def _text(first: str, second: str) -> str:
    return f"{first} {second}"


def _embedded(pairs: Tensor, context: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """Some pairs at a time `(n, 2)`, with the embeddings of their texts `(n, D)`."""
    words = context.concepts.concepts
    count = len(words)
    if len(pairs) < _DENSE * count * (count - 1) / 2:
        for start in range(0, len(pairs), _SIDE * _SIDE):
            block = pairs[start : start + _SIDE * _SIDE]
            texts = [_text(words[a], words[b]) for a, b in block.tolist()]
            yield block, context.embed_words(texts, SILENT)
        return
    tile = pairs[:, 0] // _SIDE * count + pairs[:, 1] // _SIDE
    for each in torch.unique(tile).tolist():
        block = pairs[tile == each]
        rows, columns = (
            range(_SIDE * start, min(_SIDE * (start + 1), count)) for start in divmod(each, count)
        )
        whole = [(a, b) for a in rows for b in columns if a < b]
        place = {pair: number for number, pair in enumerate(whole)}
        vectors = context.embed_words([_text(words[a], words[b]) for a, b in whole], SILENT)
        yield block, vectors[[place[a, b] for a, b in block.tolist()]]
