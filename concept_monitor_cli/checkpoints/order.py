"""Put checkpoints in the order of training."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from concept_monitor_cli.checkpoints.find import CheckpointFile, stem
from concept_monitor_cli.checkpoints.load import Checkpoint, EpochSource

# Copies of some epoch rather than an epoch of their own.
_COPY = re.compile(r"(best|last|latest|final|current|newest|resume)", re.IGNORECASE)


@dataclass(frozen=True)
class Dated:
    """A checkpoint and what is known of its time.

    Attributes:
        file: the file.
        epoch: its epoch, None where unknown.
        step: its training step, where the file tells.
        source: where the epoch was found.
        digest: of its weights, where known: tells a copy from another training state.
    """

    file: CheckpointFile
    epoch: int | None
    step: int | None = None
    source: EpochSource | None = None
    digest: str | None = None

    @classmethod
    def of(cls, file: CheckpointFile, loaded: Checkpoint, digest: str | None = None) -> Dated:
        """From a loaded checkpoint; the names of folders count where the file itself tells nothing."""
        epoch, source = loaded.epoch, loaded.epoch_source
        explicit = file.named is not None and file.named.kind == "epoch"
        if file.named is not None and (epoch is None or (source == "step" and explicit)):
            epoch, source = file.named.value, "name"
        return cls(file, epoch, loaded.step, source, digest)


@dataclass(frozen=True)
class LeftOut:
    """A checkpoint that has no place in the order.

    Attributes:
        file: the file.
        reason: why, as the end of a sentence that begins with its name.
    """

    file: CheckpointFile
    reason: str


@dataclass(frozen=True)
class Order:
    """Checkpoints in the order of training, one per epoch.

    Attributes:
        kept: with their epochs, ascending; all epochs are set and differ.
        left_out: those that repeat an epoch, or tell none.
        notes: sentences for the user: what was assumed.
    """

    kept: tuple[Dated, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def order_by_epoch(checkpoints: Sequence[Dated]) -> Order:
    """Put checkpoints of one training in order.

    - Several checkpoints within an epoch are told apart by their steps, where all tell different ones; the
      steps are the epochs then.
    - Of several with one epoch one is kept: a numbered file before `best` and `last`, else the first.
    - Where none tells an epoch they count from 0 in the given order. Where only some tell, the rest is left
      out: it has no place among them.

    Args:
        checkpoints: in natural order of their names.

    Returns:
        The order, what is left out and why.
    """
    notes: list[str] = []
    left_out: list[LeftOut] = []
    known = [item for item in checkpoints if item.epoch is not None]
    unknown = [item for item in checkpoints if item.epoch is None]
    if not known:
        if len(unknown) > 1:
            notes.append(
                "no checkpoint tells its epoch: they are counted from 0 in the order of their names "
                f"({unknown[0].file.name} first)"
            )
        kept = [replace(item, epoch=index) for index, item in enumerate(unknown)]
        return Order(tuple(kept), (), tuple(notes))
    left_out += [LeftOut(item.file, _unplaced(item, known)) for item in unknown]
    if {item.source for item in known} == {"step"}:
        notes.append("the checkpoints tell steps, no epochs: steps are used as epochs")
    elif "step" in {item.source for item in known}:
        by_step = ", ".join(item.file.name for item in known if item.source == "step")
        notes.append(f"some checkpoints tell a step and no epoch, the step was taken: {by_step}")

    groups = _grouped(known, lambda item: item.epoch)
    originals = [item for item in known if not _is_copy(item)]
    repeated = any(len(group) > 1 for group in _grouped(originals, lambda item: item.epoch).values())
    if repeated and all(item.step is not None for item in known):
        by_step_groups = _grouped(known, lambda item: item.step)
        if all(sum(not _is_copy(item) for item in group) <= 1 for group in by_step_groups.values()):
            groups = by_step_groups
            known = [replace(item, epoch=item.step) for item in known]
            groups = _grouped(known, lambda item: item.epoch)
            notes.append("several checkpoints of an epoch: their steps are used as epochs")
    kept = []
    for epoch in sorted(key for key in groups if key is not None):
        group = groups[epoch]
        chosen = next((item for item in group if not _is_copy(item)), group[0])
        kept.append(chosen)
        left_out += [LeftOut(item.file, _repeats(item, chosen)) for item in group if item is not chosen]
    return Order(tuple(kept), tuple(left_out), tuple(notes))


def _grouped(items: Iterable[Dated], key: Callable[[Dated], int | None]) -> dict[int | None, list[Dated]]:
    groups: dict[int | None, list[Dated]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _is_copy(item: Dated) -> bool:
    """Whether the name says best, last or the like, and no epoch of its own."""
    said = item.file.named is not None and item.file.named.kind != "number"
    return bool(_COPY.search(stem(item.file.path))) and not said


def _repeats(item: Dated, chosen: Dated) -> str:
    if item.digest is None or chosen.digest is None:
        relation = "is of the same epoch as"
    elif item.digest == chosen.digest:
        relation = "holds the same weights as"
    else:
        relation = "has other weights, but the same epoch as"
    return f"{relation} {chosen.file.name} (epoch {chosen.epoch})"


def _unplaced(item: Dated, known: Sequence[Dated]) -> str:
    for other in known:
        if item.digest is not None and item.digest == other.digest:
            return f"holds the same weights as {other.file.name} (epoch {other.epoch})"
    return "tells no epoch, while others do; give it by its own name to dissect it"
