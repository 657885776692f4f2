"""One look for every table that is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def plain_table(title: str = "", **more: Any) -> Table:
    """A table with a line under its heads and no frame.

    Args:
        title: above it, bold and at the left; none where empty.
        more: passed on to `rich.table.Table`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title:
        more = {"title": Text(title, style="bold"), "title_justify": "left", **more}
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, **more)


def with_luck(count: int | None, luck: int | None) -> str:
    """A count as a cell, in brackets how many of it luck gives; `-` where it is not known."""
    if count is None:
        return "-"
    return f"{count}" if luck is None else f"{count} ({luck})"
