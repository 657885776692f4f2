"""One concept on most units: a sign that the images or the words cannot tell units apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

SHARE = 0.5
# Of very few units, two that agree are no sign of anything.
FEWEST = 4


def crowded(rows: Mapping[str, Any], *, layer: str, detector: str, epoch: int) -> str | None:
    """A sentence where one concept is the best of more than half of a layer's live units, else None.

    Args:
        rows: of one concept table: `rank`, `concept`, `state`.
        layer: for the sentence.
        detector: for the sentence.
        epoch: for the sentence.
    """
    best = [
        concept
        for rank, concept, state in zip(rows["rank"], rows["concept"], rows["state"], strict=True)
        if rank == 1 and state == "live" and concept
    ]
    if len(best) < FEWEST:
        return None
    concept, count = Counter(best).most_common(1)[0]
    if count <= SHARE * len(best):
        return None
    return (
        f"{layer} at epoch {epoch}: {count:,} of {len(best):,} live units have the concept {concept!r} "
        f"({detector}); such a label says little of a single unit. More, and more varied, probing images or "
        "other words tell units apart"
    )
