"""`cmon cache`: the store of intermediate results."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_monitor_cli.cli.app import DONE, FAILED, cmon_app, cmon_command
from concept_monitor_cli.cli.config import Risky
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import Bytes, CacheDir, DryRun, Seconds, duration, size
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import default_cache_dir
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.store import Store


app = cmon_app(
    help="""The cache holds decoded images, embeddings and activations, each under what it depends on, so that
    no run computes them twice. Several runs and machines may share it.""",
    examples=[
        ("cmon cache info", "where it is, and how much of what is in it"),
        ("cmon cache prune --max-size 50GB", "make room"),
    ],
)

_REMOVE = "What to remove"


def _store(cache_dir: Path | None, console: Console) -> Store:
    from concept_monitor_cli.store import Store

    return Store(cache_dir or default_cache_dir(), progress=console)


@cmon_command(app, "info", examples=[("cmon cache info", "where it is, and how much of what is in it")])
def info(console: Console, cache_dir: CacheDir = None) -> None:
    """Show where the cache is and what it holds."""
    found = _store(cache_dir, console).info()
    console.result({**asdict(found), "kinds": {kind.kind: asdict(kind) for kind in found.kinds}})

    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind")
    table.add_column("entries", justify="right")
    table.add_column("size", justify="right")
    for kind in found.kinds:
        table.add_row(kind.kind, str(kind.entries), readable_size(kind.bytes))
    table.add_row("all", str(found.entries), readable_size(found.bytes), style="bold")
    console.print(f"{found.root}{'' if found.writable else ' (read-only)'}", table)
    console.print(f"free on the disk: {readable_size(found.free_bytes)}")
    if found.oldest_use is not None:
        console.print(f"not used for longest: {(time.time() - found.oldest_use) / 86400:.0f} days")
    if found.stale_entries:
        size = readable_size(found.stale_bytes)
        console.print(
            f"{counted(found.stale_entries, 'entries')} ({size}) are of other versions: cmon cache "
            "prune --stale"
        )
    if found.leftover_files:
        size = readable_size(found.leftover_bytes)
        console.print(f"{found.leftover_files} files ({size}) of killed runs: cmon cache prune")
    if found.unreadable:
        console.print(f"{counted(found.unreadable, 'entries are')} damaged: cmon cache verify")


@cmon_command(app, "verify", examples=[("cmon cache verify", "read everything, remove what is damaged")])
def verify(console: Console, cache_dir: CacheDir = None, dry_run: DryRun = False) -> int:
    """Read every entry and compare it with its checksum.

    What is damaged is removed and will be computed again when it is needed; with --dry-run it is only named.
    Exit code 1 where damage is left in place.
    """
    report = _store(cache_dir, console).verify(repair=not dry_run, progress=console)
    console.result(asdict(report))
    for entry in report.damaged:
        console.warning(f"{entry.path}: {entry.reason}{'; removed' if entry.removed else ''}")
    verdict = f"{len(report.damaged)} damaged" if report.damaged else "all whole"
    console.print(f"{report.checked} entries ({readable_size(report.bytes)}) read: {verdict}")
    return DONE if all(entry.removed for entry in report.damaged) else FAILED


@cmon_command(
    app,
    "prune",
    examples=[
        ("cmon cache prune", "only what killed runs left behind"),
        ("cmon cache prune --max-size 50GB", "down to a size, least recently used first"),
        ("cmon cache prune --older-than 30d --stale", "not used for a month, or of another version"),
    ],
)
def prune(
    console: Console,
    max_size: Annotated[
        Bytes | None,
        typer.Option(
            metavar="SIZE",
            parser=size,
            rich_help_panel=_REMOVE,
            help="Least recently used entries, until this much is left: 500MB, 20GB.",
        ),
    ] = None,
    older_than: Annotated[
        Seconds | None,
        typer.Option(
            metavar="TIME",
            parser=duration,
            rich_help_panel=_REMOVE,
            help="Entries that were not used for so long: 12h, 30d, 8w.",
        ),
    ] = None,
    stale: Annotated[
        bool, typer.Option(rich_help_panel=_REMOVE, help="Entries of other versions of cmon.")
    ] = False,
    all: Annotated[bool, typer.Option(rich_help_panel=_REMOVE, help="Everything."), Risky(bool)] = False,
    cache_dir: CacheDir = None,
) -> None:
    """Remove stored results. They will be computed again when they are needed."""
    if all and (max_size is not None or older_than is not None):
        raise InputError("--all already removes everything", where="--max-size, --older-than")
    report = _store(cache_dir, console).prune(
        max_bytes=0 if all else max_size, older_than=older_than, stale=stale
    )
    console.result(asdict(report))
    removed, kept = readable_size(report.removed_bytes), readable_size(report.kept_bytes)
    console.print(f"removed: {report.removed} entries ({removed}), {report.leftovers} files of killed runs")
    console.print(f"kept: {report.kept} entries ({kept})")
