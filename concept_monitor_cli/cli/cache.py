"""`cmon cache`: the store of intermediate results."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import DONE, FAILED, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import PruneOptions, StoreOptions, VerifyOptions
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


def _store(options: StoreOptions, console: Console) -> Store:
    from concept_monitor_cli.store import Store

    return Store(options.cache, progress=console)


@cmon_command(app, "info", examples=[("cmon cache info", "where it is, and how much of what is in it")])
def info(console: Console, options: StoreOptions) -> None:
    """Show where the cache is and what it holds."""
    from concept_monitor_cli.store.keys import MADE_BY

    found = _store(options, console).info()
    console.result({**asdict(found), "kinds": {kind.kind: asdict(kind) for kind in found.kinds}})

    table = plain_table()
    table.add_column("kind")
    table.add_column("entries", justify="right")
    table.add_column("size", justify="right")
    table.add_column("made again by")
    for kind in found.kinds:
        table.add_row(kind.kind, str(kind.entries), readable_size(kind.bytes), MADE_BY.get(kind.kind, ""))
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
def verify(console: Console, options: VerifyOptions) -> int:
    """Read every entry and compare it with its checksum.

    What is damaged is removed and will be computed again when it is needed; with --dry-run it is only named.
    Exit code 1 where damage is left in place.
    """
    report = _store(options, console).verify(repair=not options.dry_run, progress=console)
    console.result(report)
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
def prune(console: Console, options: PruneOptions) -> None:
    """Remove stored results. They will be computed again when they are needed."""
    if options.all and (options.max_size is not None or options.older_than is not None):
        raise InputError("--all already removes everything", where="--max-size, --older-than")
    report = _store(options, console).prune(
        max_bytes=0 if options.all else options.max_size,
        older_than=options.older_than,
        stale=options.stale,
    )
    console.result(report)
    removed, kept = readable_size(report.removed_bytes), readable_size(report.kept_bytes)
    console.print(f"removed: {report.removed} entries ({removed}), {report.leftovers} files of killed runs")
    console.print(f"kept: {report.kept} entries ({kept})")
