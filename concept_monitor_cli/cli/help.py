"""`--help`: commands and options in panels that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from concept_monitor_cli.cli.options import Option

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

_WIDEST = 100

# The order of the panels that several commands share; the others come first, as they stand in the code.
_LAST_PANELS = ("Machine", "Output")


def show_help(
    console: RichConsole,
    *,
    usage: str,
    text: str,
    panels: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    examples: Sequence[tuple[str, str]] = (),
    footer: str = "",
) -> None:
    """Print help.

    Args:
        console: where.
        usage: the usage line.
        text: what the command does; paragraphs apart by blank lines.
        panels: title and rows of two cells.
        examples: a command line and what it does.
        footer: the closing paragraph.
    """
    from rich.box import ROUNDED
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    width = min(console.width, _WIDEST)

    def paragraph(content: str | Text) -> None:
        console.print(content if isinstance(content, Text) else Text(content), width=width)

    paragraph(Text.assemble("usage: ", (usage, "bold")))
    for block in text.strip().split("\n\n"):
        console.print()
        paragraph(" ".join(block.split()))
    console.print()
    # One width for the left column of all panels, so that the eye can run down the page.
    left = min(
        max((len(row[0]) for _, rows in panels for row in rows), default=0),
        max(width // 3, 24),
    )
    for title, rows in panels:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        table.add_column(width=left, style="bold cyan", overflow="fold")
        table.add_column(ratio=1)
        for name, description in rows:
            table.add_row(Text(name), Text(description))
        console.print(
            Panel(table, title=Text(title), title_align="left", box=ROUNDED, border_style="dim", width=width)
        )
    if examples:
        console.print()
        paragraph(Text("examples:", style="bold"))
        for command, meaning in examples:
            paragraph(Text(f"  # {meaning}", style="dim"))
            # An example must be one line to be copied, however narrow the terminal.
            console.print(Text(f"  {command}"), soft_wrap=True)
    if footer:
        console.print()
        paragraph(footer)


def option_panels(params: Iterable[click.Parameter]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The options of a command by panel, arguments first."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        if isinstance(param, Option) and not param.hidden:
            panels.setdefault(param.panel, []).append((_left(param), _right(param)))
    if "Output" in panels:
        panels["Output"].sort(key=lambda row: not row[0].startswith("--out"))
    last = [name for name in _LAST_PANELS if name in panels]
    return [(name, panels[name]) for name in [*(n for n in panels if n not in last), *last]]


def long_name(option: click.Parameter) -> str:
    """The name that an option goes by: its first long one."""
    return next((name for name in option.opts if name.startswith("--")), option.opts[0])


def _left(option: Option) -> str:
    long = long_name(option)
    short = "".join(f", {name}" for name in option.opts if name != long)
    if option.is_flag:
        undo = "[no-]" if option.secondary_opts else ""
        return f"--{undo}{long.removeprefix('--')}{short}"
    return f"{long}{short} {option.metavar or 'VALUE'}"


def _right(option: Option) -> str:
    notes = []
    if option.shown_default is not None:
        notes.append(f"default: {option.shown_default}")
    elif not option.is_flag and option.default is not None and not callable(option.default):
        default = option.default
        # click marks "no default" with an object of its own, so only plain values are shown.
        if isinstance(default, list | tuple):
            default = ",".join(map(str, default))
        if isinstance(default, str | int | float) or hasattr(default, "__fspath__"):
            notes.append(f"default: {default}" if str(default) else "")
    if option.multiple:
        notes.append("repeats")
    notes = [note for note in notes if note]
    return (option.help or "") + (f" [{'; '.join(notes)}]" if notes else "")
