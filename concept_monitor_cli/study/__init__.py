"""A study: what is looked at, opened, and what is seen of it."""

from concept_monitor_cli.study.context import Context
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.study import BUILTIN, DEFAULT_ENCODER, FEW_IMAGES, LostEntryError, Study
from concept_monitor_cli.study.training import StudyFile, Unreadable, UnusableCheckpointError

__all__ = [
    "BUILTIN",
    "DEFAULT_ENCODER",
    "FEW_IMAGES",
    "Architecture",
    "Context",
    "LostEntryError",
    "Study",
    "StudyFile",
    "Unreadable",
    "UnusableCheckpointError",
]
