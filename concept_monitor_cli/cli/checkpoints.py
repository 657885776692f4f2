"""`cmon checkpoints`: what is there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_count, readable_size
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.options import CheckpointsOptions

if TYPE_CHECKING:
    from concept_monitor_cli.checkpoints import Checkpoint, CheckpointFile, Resolved
    from concept_monitor_cli.evidence import InputEvidence
    from concept_monitor_cli.models.build import ModelSource

app = cmon_app()

# Other ways of showing the images that are listed beside the one that is used.
_RUNNERS_UP = 8

# In a state dict but not learnt.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class _Row:
    """One checkpoint, as it is shown. What is not known is None.

    `left_out` says why `cmon dissect` would not take it although it can be read.
    """

    name: str
    path: str
    bytes: int
    epoch: int | None = None
    step: int | None = None
    architecture: str | None = None
    alternatives: tuple[str, ...] = ()
    parameters: int | None = None
    where: str | None = None
    stripped: tuple[str, ...] = ()
    ema: bool = False
    averages: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    left_out: str | None = None
    problem: str | None = None
    hint: str | None = None


@cmon_command(
    app,
    "checkpoints",
    examples=[
        ("cmon checkpoints ckpts/", "is this what you think it is?"),
        ("cmon checkpoints 'runs/*/epoch_*.pt' --json", "for a script"),
        ("cmon checkpoints ckpts/ --probe photos/", "how did the images of the training look?"),
    ],
)
def list_checkpoints(console: Console, options: CheckpointsOptions) -> int:
    """List checkpoints with their epoch, architecture, size, and how the weights were wrapped.

    Files, epochs and their order are those that `cmon dissect` takes. Files that cannot be used are named
    with the reason; the exit code is 3 then, or 2 where none can be used.

    With --probe, photos are shown to the last checkpoint as each known normalisation, size and architecture
    would have it: batch normalisation remembers how the images of the training looked.
    """
    from concept_monitor_cli.checkpoints import NoneUsableError, resolve
    from concept_monitor_cli.models.pretrained import pretrained_files
    from concept_monitor_cli.study.training import reader_of

    specs, model = pretrained_files(options.checkpoints, options.model)
    loading = {**options.loading, "model": model}
    reader = reader_of(**loading)
    try:
        found = resolve(specs, reader, order=options.order, series=options.series)
    except NoneUsableError as error:
        found = error.found
    rows = _rows(console, found, _Describer(**loading))
    failed = [row for row in rows if row.problem is not None]
    if len(failed) == len(rows) == 1:
        raise InputError(failed[0].problem or "", where=failed[0].path, hint=failed[0].hint)
    said = [*found.notes, *found.warnings]
    if found.question is not None:
        said.append(f"{found.question.what} {found.question.where}: {found.question.hint}")
    evidence = None
    if options.probe is not None and found.question is None and found.kept:
        evidence = _evidence(console, options)
    shown = {} if evidence is None else {"input_evidence": {**evidence.to_json(), "parts": evidence.parts}}
    console.result({"checkpoints": [asdict(row) for row in rows], "notes": said, **shown})
    if not console.json:
        _show(console, rows)
        if evidence is not None:
            _show_evidence(console, evidence)
    for left in found.left_out:
        if not left.grouped:
            console.notice(f"{left.file.name} {left.reason}; dissect leaves it out")
    for note in found.notes:
        console.notice(note)
    for warning in found.warnings:
        console.warning(warning)
    if found.question is not None:
        raise found.question
    return InputError.exit_code if len(failed) == len(rows) else PART_DONE if failed else DONE


def _evidence(console: Console, options: CheckpointsOptions) -> InputEvidence:
    """What the last checkpoint shows of its images; all that is said of checkpoints is said already."""
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.stories.inputs import WithoutNotices
    from concept_monitor_cli.study import Study
    from concept_monitor_cli.study.presented import input_of

    asked = DissectOptions(
        checkpoints=options.checkpoints,
        layers=(),
        order=options.order,
        series=options.series,
        **options.loading,
        probe=options.probe,
        evidence=True,
        cache_dir=options.cache_dir,
    )
    return input_of(Study(asked, WithoutNotices(console)))


def _show_evidence(console: Console, evidence: InputEvidence) -> None:
    """A line per part of the presentation, then the runners-up."""
    console.print(evidence.sentence)
    for part, text in evidence.parts.items():
        console.print(f"  {part}: {text}")
    if evidence.chosen is None:
        return
    console.print("divergence, with the middle 95 % of resamples of the photos:")
    for each in (evidence.chosen, *evidence.others[:_RUNNERS_UP]):
        console.print(
            f"  {each.figure} ({each.low:.3g} to {each.high:.3g}, {each.photos} photos): {each}"
            + (" - used" if each is evidence.chosen else "")
        )


def _rows(console: Console, found: Resolved, describer: _Describer) -> list[_Row]:
    """What there is to say about every file: those that are taken by epoch, then the others."""
    rows = []
    asked = found.question is not None
    files = [(placed.file, None if asked else placed.epoch, None) for placed in found.kept]
    left_out = [(left.file, None, left.reason) for left in found.left_out]
    with console.task("reading checkpoints", len(files) + len(left_out), "files") as advance:
        for file, epoch, reason in (*files, *left_out):
            rows.append(replace(describer.row(file, quick=reason is not None), epoch=epoch, left_out=reason))
            advance(1)
    for item in found.unusable:
        row = describer.row(item.file, quick=True)
        rows.append(replace(row, problem=item.error.what, hint=item.error.hint))
    return rows


class _Describer:
    """Reads checkpoints one after the other; only one is in memory at a time."""

    def __init__(self, model: str | None, **loading: Any) -> None:
        self.model = model
        self.loading = {**loading, "model": model}
        self._known: dict[Any, ModelSource] = {}

    def row(self, file: CheckpointFile, *, quick: bool = False) -> _Row:
        """What there is to say about one file. A problem ends up in its row, not in an error.

        Args:
            file: the file.
            quick: leave the weights on disk: then it is not known whether all are numbers.
        """
        from concept_monitor_cli.checkpoints import load_checkpoint

        row = _Row(file.name, str(file.path), _bytes(file.path))
        try:
            loaded = load_checkpoint(file.path, lazy=quick, **self.loading)
            row = replace(
                row,
                step=loaded.step,
                parameters=_parameters(loaded),
                where=loaded.where,
                stripped=tuple(loaded.stripped),
                ema=loaded.ema,
                averages=loaded.averages,
                said=loaded.notes,
            )
            source = self._source(loaded)
            row = replace(row, architecture=source.label, alternatives=source.alternatives)
            if not quick:
                loaded.require_finite()
        except CmonError as error:
            return row if quick else replace(row, problem=error.what, hint=error.hint)
        return row

    def _source(self, loaded: Checkpoint) -> ModelSource:
        from concept_monitor_cli.models.build import resolve_model

        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(loaded.state_dict.items()))
        if shapes not in self._known:
            self._known[shapes] = resolve_model(
                self.model, loaded.state_dict, said=loaded.arch, family=loaded.family, config=loaded.config
            )
        return self._known[shapes]


def _parameters(loaded: Checkpoint) -> int:
    learnt = (value for name, value in loaded.state_dict.items() if not name.endswith(_STATISTICS))
    return sum(value.numel() for value in learnt)


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _show(console: Console, rows: list[_Row]) -> None:
    from rich.text import Text

    table = plain_table()
    table.add_column("checkpoint", overflow="fold")
    table.add_column("epoch", justify="right")
    table.add_column("architecture", overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("size", justify="right")
    for row in rows:
        table.add_row(
            Text(row.name),
            "" if row.epoch is None else str(row.epoch),
            Text(row.architecture or _unknown(row)),
            "" if row.parameters is None else readable_count(row.parameters),
            readable_size(row.bytes),
        )
    console.print(table)
    # Mostly the same for all, and then worth a line rather than a column.
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.where is not None:
            places.setdefault(_place(row), []).append(row.name)
    for place, names in places.items():
        some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        console.print(f"weights {place}" + (f": {some}" if len(places) > 1 else ""))
    for row in rows:
        if row.problem is not None:
            console.warning(f"{row.name}: {row.problem}" + (f"\ntry: {row.hint}" if row.hint else ""))
    for note in dict.fromkeys(note for row in rows for note in row.said):
        console.notice(note)
    for others in dict.fromkeys(row.alternatives for row in rows if row.alternatives):
        console.notice(f"the same names and shapes: {', '.join(others)} (choose with --model)")


def _unknown(row: _Row) -> str:
    """What is said in the place of an architecture."""
    if row.where is not None:
        return "not recognised"
    return "cannot be read" if row.left_out is None else "no checkpoint by itself"


def _place(row: _Row) -> str:
    """Where in the file the weights were, and what was taken off their names."""
    if row.where is None:
        return ""
    place = f"in {row.where!r}" if row.where else "at the top level"
    stripped = f", prefix {''.join(row.stripped)!r} taken off" if row.stripped else ""
    ema = ", a running average" if row.ema else ""
    beside = f"; running averages beside them: {', '.join(map(repr, row.averages))}" if row.averages else ""
    return place + stripped + ema + beside
