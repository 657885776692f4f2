"""Which concepts survive pruning? (Concept-Monitor 4.1, figures 5 and 9)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.monitor.history import History

#: The x of the curve: the x % most interpretable units.
PERCENTS: tuple[float, ...] = tuple(range(5, 101, 5))


def retention_curve(history: History, percents: Sequence[float] = PERCENTS) -> pd.DataFrame:
    """Of the x % most interpretable units, the share that keeps its concept through every stage.

    Units are ranked by the score of their best concept at the first stage, highest first, level scores by
    unit; units that are dead there have no concept to keep and are not ranked. A unit that is dead at a later
    stage has lost its concept.

    Args:
        history: one layer; its epochs are the stages of the pruning, in order.
        percents: the x, above 0 and at most 100. At least one unit is always taken.

    Returns:
        columns `layer`, `detector`, `percent`, `units` (how many are x %), `kept`, `retention` (kept / units;
        NaN where all units are dead at the first stage), `by_chance` (the share that is expected where the
        labels of each later stage are dealt out anew among the units of the layer).

    Raises:
        InputError: fewer than two stages, or an x that is no percentage.
    """
    import pandas as pd

    if len(history.epochs) < 2:
        raise InputError(
            "retention needs at least two stages of pruning",
            where=history.layer,
            hint="dissect more checkpoints into the run, or name several runs",
        )
    if any(not 0 < percent <= 100 for percent in percents):
        raise InputError("a percentage lies above 0 and at most at 100", where="--percents")
    ranked = most_interpretable(history)
    kept = np.concatenate([[0], np.cumsum(keeps(history)[ranked])])
    lucky = np.concatenate([[0], np.cumsum(keeps_by_chance(history)[ranked])])
    share = np.asarray(percents, dtype=float)
    # Rounded first: 7 % of 100 is 7 units, whatever 0.07 * 100 is in binary.
    count = np.clip(np.ceil(np.round(share / 100 * len(ranked), 9)).astype(np.int64), 1, None)
    count = np.minimum(count, len(ranked))
    none = np.full(len(share), np.nan)
    return pd.DataFrame(
        {
            "layer": history.layer,
            "detector": history.detector,
            "percent": share,
            "units": count,
            "kept": kept[count],
            "retention": np.divide(kept[count], count, out=none.copy(), where=count > 0),
            "by_chance": np.divide(lucky[count], count, out=none, where=count > 0),
        }
    )


def most_interpretable(history: History) -> NDArray[np.int64]:
    """Rows of the units that are live at the first stage, the best score first."""
    rows = np.flatnonzero(history.live[:, 0])
    order = np.lexsort((history.units[rows], -history.scores[rows, 0]))
    ranked: NDArray[np.int64] = rows[order]
    return ranked


def keeps(history: History) -> NDArray[np.bool_]:
    """`(C,)`: whether a unit is live with the same label at every stage."""
    first = history.labels[:, :1]
    same: NDArray[np.bool_] = ((history.labels == first) & (first >= 0)).all(axis=1)
    return same


def keeps_by_chance(history: History) -> NDArray[np.float64]:
    """`(C,)`: how probable that is where the labels of each later stage are dealt out among the units."""
    first, later = history.labels[:, 0], history.labels[:, 1:]
    shares = np.stack([(stage[None, :] == first[:, None]).mean(axis=1) for stage in later.T])
    chance: NDArray[np.float64] = np.where(first >= 0, shares.prod(axis=0), 0.0)
    return chance


def stage_counts(
    history: History, sparsity: Sequence[float | None], accuracy: Sequence[float | None] | None = None
) -> pd.DataFrame:
    """Live and interpretable units at every stage.

    Args:
        history: one layer; its epochs are the stages.
        sparsity: of every stage; None where it was not recorded.
        accuracy: of every stage, as its checkpoint states it; None where it does not.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "stage": np.arange(len(history.epochs)),
            "layer": history.layer,
            "detector": history.detector,
            "epoch": history.epochs,
            "checkpoint": list(history.checkpoints),
            "sparsity": _or_nan(sparsity),
            "units": history.live.sum(axis=0),
            "interpretable": history.interpretable.sum(axis=0),
            "accuracy": _or_nan(accuracy or [None] * len(history.epochs)),
        }
    )


def _or_nan(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
