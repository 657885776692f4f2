"""A command that is asked for a part of a run: what it writes, and what stays of the rest.

With `--layer`, `--epochs` or `--detector` a command shows a part. Tables of the run keep their other rows, as
far as the run still has what they are of, and figures of all layers stay beside those of the part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.stories.opened import MOMENT, OpenRun

if TYPE_CHECKING:
    import pandas as pd

# What a row is of, in tables that tell of all epochs of a layer.
_LAYER = ("layer", "detector")


def with_rest(opened: OpenRun, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that were made now of all epochs of some layers, and `rest_of` the table that is there.

    Args:
        opened: the run, as it was asked for.
        name: of the table.
        rows: made now.
    """
    import pandas as pd

    rest = rest_of(opened, name)
    return rows if rest is None else pd.concat([rows, rest], ignore_index=True)


def rest_of(opened: OpenRun, name: str) -> pd.DataFrame | None:
    """The rows of a table about layers, as detectors see them, that the run has and was not asked for now.

    Args:
        opened: the run, as it was asked for.
        name: of the table.

    Returns:
        The rows; `None` where the whole run was asked for, or no table is there.
    """
    before = earlier(opened.run, name) if opened.is_part else None
    if before is None:
        return None
    known = [column for column in MOMENT if column in before]
    has, asked = places(opened.all_moments, known), places(opened.moments, _LAYER)
    return before[is_among(before, known, has) & ~is_among(before, _LAYER, asked)]


def earlier(run: RunFolder, name: str) -> pd.DataFrame | None:
    """A table that is there; `None` where none is, or what is there cannot be read, and is written anew."""
    try:
        return run.table(name)
    except InputError:
        return None


def places(rows: pd.DataFrame, columns: Sequence[str]) -> set[tuple[object, ...]]:
    """What some columns of rows say, each combination once."""
    return set(_tuples(rows, columns))


def is_among(
    rows: pd.DataFrame, columns: Sequence[str], known: Collection[tuple[object, ...]]
) -> pd.Series[bool]:
    """For every row whether what these columns say is known."""
    import pandas as pd

    return pd.Series([each in known for each in _tuples(rows, columns)], index=rows.index, dtype=bool)


def _tuples(rows: pd.DataFrame, columns: Sequence[str]) -> Iterable[tuple[object, ...]]:
    return zip(*(rows[column].tolist() for column in columns), strict=True)


def figure_path(opened: OpenRun, stem: str, of: str, *, part: bool | None = None) -> Path:
    """Where a figure of all layers goes; one of a part of the run goes beside it.

    Args:
        opened: the run.
        stem: what the figure shows.
        of: the detector or run that it is of.
        part: whether a part is shown; `None`: of this run.
    """
    shown = opened.is_part if part is None else part
    return opened.run.plots / f"{stem}.{'part.' if shown else ''}{of}"
