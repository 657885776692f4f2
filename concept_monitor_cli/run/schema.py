"""What the schema of a table is; the tables themselves stand in `run/tables/`.

Columns are written in the order in which they stand there. Users' scripts rely on them: a released column
changes only together with `SCHEMA_VERSION` and a line in the CHANGELOG. New columns are added at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run.kinds import ORDINARY, Shown

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Kind = Literal["int", "float", "str", "bool"]

# Pandas types that know "no value" without turning integers into floats.
_DTYPES: dict[Kind, str] = {"int": "Int64", "float": "float64", "str": "str", "bool": "bool"}


@dataclass(frozen=True)
class TableSchema:
    """Names, types and order of a table's columns.

    Attributes:
        name: the file's stem, for messages.
        columns: column name -> kind.
        order: columns by which the rows are sorted, so that equal content gives equal bytes.
        added: columns that tables of earlier versions lack; they are read as no value.
        sometimes: columns of text that stand last, and only in tables that have a value there.
        shown: what a detector's own table holds and where people see it; for other tables `run/kinds.py` says
            that.
    """

    name: str
    columns: dict[str, Kind]
    order: tuple[str, ...]
    added: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    shown: Shown | None = None

    @classmethod
    def of_units(
        cls,
        name: str,
        columns: dict[str, Kind],
        order: tuple[str, ...] = (),
        shown: Shown = ORDINARY,
    ) -> TableSchema:
        """A table that stands beside a concept table: more about the units of one layer, by one detector.

        Args:
            name: of the table; the file is `LAYER.DETECTOR.NAME.csv`.
            columns: besides `epoch, checkpoint, layer, unit, detector`, which are filled in.
            order: of the rows of one unit.
            shown: what the table holds, and where people see it.
        """
        first: dict[str, Kind] = {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "detector": "str",
        }
        return cls(
            name, first | columns, ("epoch", "checkpoint", "layer", "detector", "unit", *order), shown=shown
        )

    def frame(self, rows: pd.DataFrame | dict[str, object]) -> pd.DataFrame:
        """`rows` with exactly these columns, these types, in this order, sorted.

        Columns of `added` that they lack are empty.

        Raises:
            KeyError: a column is missing (a bug of the caller).
        """
        import pandas as pd

        frame = self.with_added(pd.DataFrame(rows))
        missing = [column for column in self.columns if column not in frame]
        if missing:
            raise KeyError(f"table {self.name} lacks the columns {missing}")
        frame = self._typed(frame)
        return frame.sort_values(list(self.order), kind="stable", ignore_index=True)

    def _typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns in their order, with their types; of `sometimes` those that have a value."""
        extra = {c: frame[c].fillna("").astype(str) for c in self.sometimes if c in frame}
        own = frame[list(self.columns)]
        # Those of a table that was just read are right, and pandas would copy them one by one.
        wanted = {c: _DTYPES[kind] for c, kind in self.columns.items()}
        others = {c: dtype for c, dtype in wanted.items() if own.dtypes[c].name != dtype}
        typed = own.astype(others) if others else own
        said = {c: values for c, values in extra.items() if (values != "").any()}
        return typed.assign(**said) if said else typed

    def to_csv(self, rows: pd.DataFrame | dict[str, object]) -> str:
        """The table as CSV text; equal content gives equal text.

        Floats carry seven significant digits, as much as the float32 arithmetic behind them holds.
        """
        text: str = self.frame(rows).to_csv(index=False, float_format="%.7g", lineterminator="\n")
        return text

    def with_added(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table of an earlier version with the columns that were added since, without values."""
        lacking = [column for column in self.added if column not in frame]
        return frame.assign(**{c: "" if self.columns[c] == "str" else float("nan") for c in lacking})

    def read_csv(self, path: Path) -> pd.DataFrame:
        """The table read back, with its types.

        A concept may be called `null` or `NA`: only an empty field of a number counts as no value.

        Raises:
            InputError: the file is not such a table.
        """
        import pandas as pd

        numbers = [column for column, kind in self.columns.items() if kind in ("int", "float")]
        dtypes = {c: _DTYPES[k] for c, k in self.columns.items() if k != "bool"}
        dtypes |= dict.fromkeys(self.sometimes, _DTYPES["str"])
        try:
            frame = pd.read_csv(
                path, dtype=dtypes, keep_default_na=False, na_values={column: [""] for column in numbers}
            )
            return self._typed(self.with_added(frame))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this file is not a {self.name} table: {error}",
                where=path,
                hint="remove it and run `cmon dissect` again",
            ) from error
