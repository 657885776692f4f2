"""What both kinds of similarity conclude about the units of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from concept_monitor_cli.functional.stability import CANDIDATES, Stability
from concept_monitor_cli.functional.topk import top_rows


@dataclass(frozen=True)
class Named:
    """The named units of a layer, `U` of them: live and not sparse.

    Attributes:
        scores: `(U, M)`, what is printed and saved.
        order: `(U, M)`, what sorts a unit's concepts as `scores` do, and does not saturate.
        p_values: `(U,)` float64, of the first concept.
        effect: `(U,)`, how far what speaks for the first concept is beyond what luck gives for its own first
            concept, in standard deviations of that.
        draws: size of the null distribution.
        notes: what the user should know.
    """

    scores: Tensor
    order: Tensor
    p_values: Tensor
    effect: Tensor
    draws: int
    notes: tuple[str, ...] = ()

    def candidates(self) -> tuple[Tensor, Tensor]:
        """The concepts of each unit that compete in bootstrap draws, first one first, and what sorts them."""
        return top_rows(self.order, CANDIDATES)

    def without_tables(self) -> Named:
        """Without scores and order, which of a wide layer and many concepts are hundreds of megabytes."""
        nothing = self.order.new_empty(0, 0)
        return replace(self, scores=nothing, order=nothing)


def joined_stability(parts: list[tuple[Tensor, Stability]], units: int) -> Stability:
    """The stability of a layer from that of some of its units each; their numbers come first."""
    shares = torch.zeros(units, max(part.shares.shape[1] for _, part in parts), dtype=torch.float64)
    for rows, part in parts:
        shares[rows] = part.shares
    return Stability(shares)
