"""A finished run on the terminal: per layer, an epoch a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from concept_monitor_cli.monitor.summary import LayerSummary

# More lines than this say less: the epochs in between are in the tables.
_MOST_LINES = 12


def run_tables(summaries: Sequence[LayerSummary]) -> list[Any]:
    """A rich table per layer and detector, 80 columns wide or less."""
    return [
        _layer_table(list(group))
        for _, group in groupby(summaries, key=lambda summary: (summary.layer, summary.detector))
    ]


def agreement_lines(rows: pd.DataFrame) -> list[str]:
    """How far the detectors agree, a line per layer.

    Args:
        rows: of `agreement.csv`, one epoch of each layer.
    """
    lines = []
    for layer, pairs in rows.groupby("layer", sort=True):
        said = []
        for row in pairs.to_dict("records"):
            one = f"{row['detector_a']} and {row['detector_b']} {row['same']:.0%} of {row['units']}"
            cosine = row["cosine"]
            said.append(one if math.isnan(cosine) else f"{one} (cosine {cosine:.2f})")
        epoch = pairs["epoch"].iloc[0]
        lines.append(f"{layer}, epoch {epoch}, units with the same concept: {'; '.join(said)}")
    return lines


def _layer_table(epochs: list[LayerSummary]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = epochs[0]
    dead = f", up to {max(e.dead for e in epochs)} dead" if any(e.dead for e in epochs) else ""
    table = Table(
        title=Text(f"{first.layer}: {first.units} units{dead} ({first.detector})", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("epoch", "interpretable", "concepts", "changed"):
        table.add_column(heading, justify="right", no_wrap=True)
    # The only column that may be cut where the terminal is narrow: its cells end in an ellipsis.
    table.add_column("most certain (unit concept)")
    for epoch in _chosen(epochs):
        if epoch is None:
            table.add_row("...", "", "", "", "")
            continue
        share = f"{epoch.interpretable} ({epoch.interpretable / max(epoch.units, 1):.0%})"
        best = ", ".join(f"{unit} {concept}" for unit, concept, _ in epoch.best) or "-"
        changed = "-" if epoch.changed is None else str(epoch.changed)
        best_ones = Text(best, no_wrap=True, overflow="ellipsis")
        table.add_row(str(epoch.epoch), share, str(epoch.distinct), changed, best_ones)
    return table


def _chosen(epochs: list[LayerSummary]) -> list[LayerSummary | None]:
    if len(epochs) <= _MOST_LINES:
        return list(epochs)
    half = _MOST_LINES // 2
    return [*epochs[:half], None, *epochs[-half:]]
