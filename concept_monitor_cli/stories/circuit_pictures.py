"""Circuits as pictures: for some units of each layer what feeds them and what they feed, with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.options import CircuitsOptions
from concept_monitor_cli.report.circuit_figures import Circuit, Edge, Node, Shown, unit_circuits
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.units import looks_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Neighbours on either side of a unit.
SIDES = 4
_MOST_IMAGES = 3


def draw(
    opened: OpenRun, record: CheckpointRecord, table: pd.DataFrame, options: CircuitsOptions
) -> dict[str, Figure]:
    """A figure for each layer that is fed by another: stem of the file -> figure.

    Args:
        opened: the run.
        record: the checkpoint that the table is of.
        table: rows of `circuit.csv` at one epoch.
        options: which units.
    """
    figures = {}
    for layer in dict.fromkeys(table["to_layer"]):
        wanted = drawn_units(opened, record.epoch, layer, table, options)
        before = table[(table["to_layer"] == layer) & table["to_unit"].isin(wanted)]
        after = table[(table["from_layer"] == layer) & table["from_unit"].isin(wanted)]
        chosen = {
            unit: (
                _strongest(before[before["to_unit"] == unit]),
                _strongest(after[after["from_unit"] == unit]),
            )
            for unit in wanted
        }
        nodes = _nodes(opened, record, layer, chosen, options)
        if nodes is None:
            continue
        circuits = [
            Circuit(
                nodes[layer, unit],
                [_edge(nodes, row, "from") for row in feeds.to_dict("records")],
                [_edge(nodes, row, "to") for row in fed.to_dict("records")],
            )
            for unit, (feeds, fed) in chosen.items()
        ]
        if circuits:
            figures[f"circuits.{layer}"] = unit_circuits(circuits, layer=layer, epoch=record.epoch)
    return figures


def drawn_units(
    opened: OpenRun, epoch: int, layer: str, table: pd.DataFrame, options: CircuitsOptions
) -> list[int]:
    """The units of a layer whose circuits are drawn: those asked for, else the surest of other concepts."""
    there = set(table[table["to_layer"] == layer]["to_unit"])
    if options.units:
        return [unit for unit in options.units if unit in there]
    rows = opened.first_labels(epoch, layer)
    own = rows[rows["unit"].isin(there) & (rows["state"] == "live")].sort_values(
        ["interpretable", "p_value", "score", "unit"], ascending=[False, True, False, True], kind="stable"
    )
    first = own.drop_duplicates("concept")
    ranked = [*first["unit"].tolist(), *own["unit"].tolist()]
    return [int(unit) for unit in dict.fromkeys(ranked)][: options.top]


def _strongest(rows: pd.DataFrame) -> pd.DataFrame:
    order = rows["effect"].abs().sort_values(ascending=False, kind="stable").index
    return rows.loc[order][:SIDES]


def _edge(nodes: dict[tuple[str, int], Node], row: Mapping[Any, Any], end: str) -> Edge:
    node = nodes[str(row[f"{end}_layer"]), int(row[f"{end}_unit"])]
    return Edge(node, float(row["effect"]), bool(row["confident"]))


def _nodes(
    opened: OpenRun,
    record: CheckpointRecord,
    layer: str,
    chosen: dict[int, tuple[pd.DataFrame, pd.DataFrame]],
    options: CircuitsOptions,
) -> dict[tuple[str, int], Node] | None:
    """Every unit of some circuits with its concept and images."""
    wanted: dict[str, list[int]] = {layer: list(chosen)}
    for feeds, fed in chosen.values():
        for rows, end in ((feeds, "from"), (fed, "to")):
            for name, unit in zip(rows[f"{end}_layer"], rows[f"{end}_unit"].tolist(), strict=True):
                wanted.setdefault(str(name), []).append(int(unit))
    found: dict[tuple[str, int], Node] = {}
    for name, units in wanted.items():
        different = list(dict.fromkeys(units))
        named = _named(opened, record, name, different, options)
        found.update({(name, unit): node for unit, node in zip(different, named, strict=True)})
    return found or None


def _named(
    opened: OpenRun, record: CheckpointRecord, layer: str, units: Sequence[int], options: CircuitsOptions
) -> list[Node]:
    rows = opened.first_labels(record.epoch, layer)
    names = dict(zip(rows["unit"].tolist(), rows["concept"], strict=True))
    sure = dict(zip(rows["unit"].tolist(), rows["interpretable"], strict=True))
    images = _images(opened, record, layer, units, opened.detector)
    return [
        Node(layer, unit, str(names.get(unit, "")), bool(sure.get(unit)), images.get(unit, ()))
        for unit in units
    ]


def _images(
    opened: OpenRun, record: CheckpointRecord, layer: str, units: Sequence[int], detector: str
) -> dict[int, Shown]:
    """The images of each unit with where in them it fires; none, said why, where they are not to be had."""
    of_layer = (each for each in opened.histories if each.layer == layer and each.detector == detector)
    history = next(of_layer, None)
    if history is None:  # the layer is only looked at in another basis
        return {}
    column = history.epochs.tolist().index(record.epoch)
    try:
        looks = looks_of(opened, history, column, units, _MOST_IMAGES)
    except CmonError as error:
        opened.progress.warning(f"no images beside the units of {layer}: {error.what}")
        return {}
    return {
        look.unit: tuple(zip(look.images, look.masks or [None] * len(look.images), strict=True))
        for look in looks
    }
