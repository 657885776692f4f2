"""What the schema of a table is; the tables themselves stand in `run/tables/`.

Columns are written in the order in which they stand there. Users' scripts rely on them: a released column
changes only together with `SCHEMA_VERSION` and a line in the CHANGELOG. New columns are added at the end.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run.csv_text import csv_text
from concept_monitor_cli.run.kinds import ORDINARY, Shown

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Kind = Literal["int", "float", "str", "bool"]

# Where a Parquet file says what it was stacked from.
_PIECES = b"cmon.pieces"
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
        return csv_text(self.frame(rows))

    def with_added(self, frame: pd.DataFrame, columns: Collection[str] | None = None) -> pd.DataFrame:
        """A table of an earlier version with the columns that were added since, without values.

        Args:
            frame: the table.
            columns: those of it that are asked for; `None`: all.
        """
        lacking = [c for c in self.added if c not in frame and (columns is None or c in columns)]
        return frame.assign(**{c: "" if self.columns[c] == "str" else float("nan") for c in lacking})

    def read_csv(self, path: Path, *, columns: Collection[str] | None = None) -> pd.DataFrame:
        """The table read back, with its types.

        A concept may be called `null` or `NA`: only an empty field of a number counts as no value.

        Args:
            path: the file.
            columns: read these alone, their texts as categories as in `read_parquet`; `None`: all of them,
                as texts.

        Raises:
            InputError: the file is not such a table.
        """
        import pandas as pd

        names = [*self.columns, *self.sometimes] if columns is None else list(columns)
        kinds: dict[str, Kind] = {name: self.columns.get(name, "str") for name in names}
        try:
            frame = pd.read_csv(
                path,
                usecols=None if columns is None else kinds.__contains__,
                dtype={c: _DTYPES[k] for c, k in kinds.items() if k != "bool"},
                keep_default_na=False,
                na_values={c: [""] for c, k in kinds.items() if k in ("int", "float")},
            )
            frame = self.with_added(frame, columns)
            return self._typed(frame) if columns is None else self._coded(frame[names])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this file is not a {self.name} table: {error}",
                where=path,
                hint="remove it and run `cmon dissect` again",
            ) from error

    def read_parquet(
        self, path: Path, *, columns: Collection[str] | None = None, only: Mapping[str, int] | None = None
    ) -> pd.DataFrame:
        """A table that is kept as Parquet, its texts as categories in alphabetical order.

        A table of all epochs says the same few texts on every row: as categories each is held once, and a row
        takes a byte or two.

        Args:
            path: the file.
            columns: read these alone; `None`: all of them, and those of `sometimes` that are there.
            only: rows in which these columns, which are read, have these numbers; `None`: all rows.

        Raises:
            InputError: the file is not such a table.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        with path.open("rb") as file:  # pyarrow refuses paths that are no text
            try:
                names = [c for c in pq.read_schema(file).names if columns is None or c in columns]
                texts = [c for c in names if self.columns.get(c, "str") == "str"]
                stored = pq.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True)
                table = stored.read(columns=names).unify_dictionaries()
                for column, number in (only or {}).items():
                    table = table.filter(pc.equal(table[column], number))
                # What pandas noted in the file of its own types would turn the categories into texts again.
                frame = table.replace_schema_metadata(None).to_pandas(
                    types_mapper={pa.int64(): pd.Int64Dtype()}.get
                )
                frame = self.with_added(frame, columns)
                return self._coded(frame if columns is None else frame[list(columns)])
            except (pa.ArrowException, OSError, KeyError) as error:
                raise InputError(
                    f"this file is not a {self.name} table: {error}",
                    where=path,
                    hint="remove it and run `cmon dissect` again",
                ) from error

    def to_parquet(self, rows: pd.DataFrame, file: BinaryIO, pieces: Mapping[str, str]) -> None:
        """Write a table that was stacked from others, and what it was stacked from.

        Args:
            rows: as `frame` gives them.
            file: open for writing.
            pieces: name -> digest of each of the tables, for `pieces_of`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(rows, preserve_index=False)
        made = json.dumps([self.version(), dict(sorted(pieces.items()))])
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _PIECES: made.encode()})
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)

    def pieces_of(self, path: Path) -> dict[str, str] | None:
        """What a table was stacked from; `None` where that is not known, or the columns were others then."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                metadata = pq.read_schema(file).metadata or {}
            version, pieces = json.loads(metadata[_PIECES])
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None
        return dict(pieces) if version == self.version() else None

    def version(self) -> list[list[str]]:
        """What the content depends on beside the rows: columns and their kinds."""
        return [[f"{name}:{kind}" for name, kind in self.columns.items()], list(self.sometimes)]

    def _coded(self, frame: pd.DataFrame) -> pd.DataFrame:
        """With texts as categories; `read_csv` of pandas would make numbers of layers called `1` and `2`."""
        texts = [c for c in frame if self.columns.get(str(c), "str") == "str"]
        return frame.assign(**{str(c): _alphabetical(frame[c]) for c in texts})


def _alphabetical(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Texts as categories that are sorted as the texts are."""
    coded = texts.astype("category")
    return coded.cat.reorder_categories(sorted(coded.cat.categories))
