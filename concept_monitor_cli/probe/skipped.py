"""What was left out of a probing set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from concept_monitor_cli.progress import Progress
from concept_monitor_cli.wording import counted


@dataclass(frozen=True)
class Skipped:
    """An image that was left out, and why."""

    id: str
    reason: str


def warn_of(skipped: Sequence[Skipped], what: str, progress: Progress) -> None:
    """Say how many were left out, and name the first. `what`: `images left out` and the like."""
    if skipped:
        first = skipped[0]
        progress.warning(f"{counted(len(skipped), what)}, the first: {first.id} ({first.reason})")
