"""The run folder: what `dissect` writes and every other command reads."""

from concept_monitor_cli.run.folder import UNTRAINED, RunFolder
from concept_monitor_cli.run.records import CheckpointRecord, TableRecord
from concept_monitor_cli.run.schema import SCHEMA_VERSION, TableSchema
from concept_monitor_cli.run.tables import TABLES

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "UNTRAINED",
    "CheckpointRecord",
    "RunFolder",
    "TableRecord",
    "TableSchema",
]
