"""Rows as lines of a terminal and as a table of RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarks.measure import Row

BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"


def number(value: float) -> str:
    """Three digits that matter: 0.05, 0.97, 8.3, 41, 1,234."""
    return f"{value:,.0f}" if abs(value) >= 20 else f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


def _asked(row: Row) -> str:
    if row.asked is None:
        return "-"
    return f"{'at least' if row.at_least else 'at most'} {number(row.asked)}"


def _met(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.met]


def _distance(row: Row) -> str:
    """How many times worse than the limit."""
    if not row.limit or not row.value:
        return "-"
    times = row.limit / row.value if row.at_least else row.value / row.limit
    return f"{number(times)}x"


def as_line(row: Row) -> str:
    """For a terminal."""
    asked = f", asked {_asked(row)}: {_met(row).strip('*')}" if row.asked is not None else ""
    remark = f" ({row.remark})" if row.remark else ""
    return f"{row.benchmark}: {row.case}: {number(row.value)} {row.unit}{asked}{remark}"


def markdown(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The machine and the table."""
    lines = ["; ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items()), ""]
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        lines += [f"### {benchmark.capitalize()}", ""]
        lines += [
            "| case | measured | asked for | met | limit | from the limit | |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row.benchmark != benchmark:
                continue
            limit = "-" if row.limit is None else f"{number(row.limit)}: {row.limit_is}"
            if row.limit is None and row.limit_is:
                limit = row.limit_is
            cells = [
                row.case,
                f"{number(row.value)} {row.unit}",
                _asked(row),
                _met(row),
                limit,
                _distance(row),
                row.remark,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def with_earlier(found: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Results with the rows of earlier ones whose benchmark was not done again, in the earlier order."""
    again = {row["benchmark"] for row in found["rows"]}
    before = list(dict.fromkeys(row["benchmark"] for row in earlier["rows"]))
    rows = [row for row in earlier["rows"] if row["benchmark"] not in again]
    order = {name: place for place, name in enumerate(dict.fromkeys((*before, *again)))}
    rows = sorted([*rows, *found["rows"]], key=lambda row: order[row["benchmark"]])
    return {**found, "rows": rows}


def replace_table(text: str, table: str) -> str:
    """RESULTS.md with this table between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END} in the file")
    return f"{before}{begin}\n\n{table}\n{end}{after}"
