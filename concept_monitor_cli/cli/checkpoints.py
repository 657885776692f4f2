"""`cmon checkpoints`: what is there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import DONE, PART_DONE, argument, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import model_option, trust_option
from concept_monitor_cli.cli.sizes import readable_count, readable_size
from concept_monitor_cli.errors import CmonError, InputError

if TYPE_CHECKING:
    from concept_monitor_cli.checkpoints import CheckpointFile


@dataclass(frozen=True)
class _Row:
    """One checkpoint, as it is shown. What is not known is None."""

    name: str
    path: str
    bytes: int
    epoch: int | None = None
    architecture: str | None = None
    alternatives: tuple[str, ...] = ()
    parameters: int | None = None
    where: str | None = None
    stripped: tuple[str, ...] = ()
    ema: bool = False
    problem: str | None = None
    hint: str | None = None


@cmon_command(
    name="checkpoints",
    examples=[
        ("cmon checkpoints ckpts/", "is this what you think it is?"),
        ("cmon checkpoints 'runs/*/epoch_*.pt' --json", "for a script"),
    ],
)
@argument(
    "checkpoints",
    nargs=-1,
    required=True,
    metavar="CKPTS...",
    help="A folder of checkpoints, a file, or a glob. Several may be given.",
)
@model_option
@trust_option
def command(console: Console, checkpoints: tuple[str, ...], model: str | None, trust_pickle: bool) -> int:
    """List checkpoints with their epoch, architecture, size, and how the weights were wrapped.

    Files that cannot be read are named with the reason; the exit code is 3 then, or 2 where none can be read.
    """
    from concept_monitor_cli.checkpoints import find_checkpoints

    files = [file for spec in checkpoints for file in find_checkpoints(spec)]
    rows = []
    with console.task("reading checkpoints", len(files), "files") as advance:
        for file in files:
            rows.append(_row(file, model, trust_pickle))
            advance(1)
    rows.sort(key=lambda row: (row.epoch is None, row.epoch))
    failed = [row for row in rows if row.problem is not None]
    if len(failed) == len(rows) == 1:
        raise InputError(failed[0].problem or "", where=failed[0].path, hint=failed[0].hint)
    console.result({"checkpoints": [asdict(row) for row in rows]})
    if not console.json:
        _show(console, rows)
    return InputError.exit_code if len(failed) == len(rows) else PART_DONE if failed else DONE


def _row(file: CheckpointFile, model: str | None, trust_pickle: bool) -> _Row:
    from concept_monitor_cli.checkpoints import load_checkpoint
    from concept_monitor_cli.models.build import resolve_model

    size = _bytes(file.path)
    try:
        loaded = load_checkpoint(file.path, trust_pickle=trust_pickle)
    except CmonError as error:
        return _Row(file.name, str(file.path), size, problem=error.what, hint=error.hint)
    epoch = loaded.epoch if loaded.epoch is not None else file.epoch_from_name
    row = _Row(
        name=file.name,
        path=str(file.path),
        bytes=size,
        epoch=epoch,
        parameters=sum(tensor.numel() for tensor in loaded.state_dict.values()),
        where=loaded.where,
        stripped=tuple(loaded.stripped),
        ema=loaded.ema,
    )
    try:
        source = resolve_model(model, loaded.state_dict)
    except CmonError as error:
        return replace(row, problem=error.what, hint=error.hint)
    names = tuple(str(name) for name in source.alternatives)
    return replace(row, architecture=f"{source.name} ({source.library})", alternatives=names)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _show(console: Console, rows: list[_Row]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("checkpoint", overflow="fold")
    table.add_column("epoch", justify="right")
    table.add_column("architecture", overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("size", justify="right")
    table.add_column("weights found in", overflow="fold")
    for row in rows:
        wrapped = [row.where or "", *(f"without {prefix}" for prefix in row.stripped)]
        table.add_row(
            Text(row.name),
            "" if row.epoch is None else str(row.epoch),
            Text(row.architecture or ("cannot be read" if row.where is None else "not recognised")),
            "" if row.parameters is None else readable_count(row.parameters),
            readable_size(row.bytes),
            Text(", ".join(part for part in wrapped if part) + (" (EMA)" if row.ema else "")),
        )
    console.print(table)
    for row in rows:
        if row.problem is not None:
            console.warning(f"{row.name}: {row.problem}" + (f"\ntry: {row.hint}" if row.hint else ""))
    for names in dict.fromkeys(row.alternatives for row in rows if row.alternatives):
        console.notice(f"same weights, other architecture: {', '.join(names)} (choose with --model)")
