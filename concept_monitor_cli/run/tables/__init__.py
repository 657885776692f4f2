"""Every table of a run, by the stem of its file."""

from concept_monitor_cli.run.schema import TableSchema
from concept_monitor_cli.run.tables import judged, names, pictures, structure, used
from concept_monitor_cli.run.tables.names import BESIDE_COUNTS

TABLES: dict[str, TableSchema] = {
    **names.TABLES,
    **structure.TABLES,
    **pictures.TABLES,
    **used.TABLES,
    **judged.TABLES,
}

__all__ = ["BESIDE_COUNTS", "TABLES"]
