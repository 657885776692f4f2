"""The map of a page: the cells of an activation atlas with their pictures, where `cmon atlas` made some."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from concept_monitor_cli.monitor.epochs import evenly
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.run.made import picture_file

#: Pictures that a page has room for, 2 to 3 kB each; of more epochs, evenly chosen ones.
MOST_TILES = 600
#: Photos beside cells that a page has room for: those of the cells with most samples.
MOST_PHOTOS = 120
_SIDE, _QUALITY = 64, 82


def atlas_json(run: RunFolder) -> dict[str, Any] | None:
    """The atlas of a run; `None` where there is none, or one without pictures.

    A cell whose picture has gone has none; its words stay.

    Raises:
        InputError: a file is there and is no such table.
    """
    table = run.on_page("atlas").get("atlas")
    if table is None or table.empty:
        return None
    table = table[table["file"].fillna("") != ""]
    if table.empty:
        return None
    said = run.on_page("atlas").get("atlas-epochs")
    side = 1 + int(table[["cell_x", "cell_y"]].to_numpy().max())
    epochs = sorted(int(epoch) for epoch in table["epoch"].unique())
    each = int(table.groupby("epoch").size().max())
    kept = evenly(epochs, max(1, MOST_TILES // each))
    first = table.iloc[0]
    classes = [str(first[name]) for name in ("target", "against") if pd.notna(first[name]) and first[name]]
    return {
        "layer": str(first["layer"]),
        "classes": classes,
        "side": side,
        "epochs": [
            {
                "epoch": epoch,
                **_numbers(said, epoch),
                "cells": [_cell(run, row) for _, row in table[table["epoch"] == epoch].iterrows()],
            }
            for epoch in kept
        ],
    }


def atlas_photos(atlas: Mapping[str, Any] | None) -> list[str]:
    """The photos beside the cells that have most samples, each once.

    Args:
        atlas: what `atlas_json` gives.
    """
    if atlas is None:
        return []
    cells = [cell for each in atlas["epochs"] for cell in each["cells"]]
    order = sorted(cells, key=lambda cell: -cell["count"])
    return list(dict.fromkeys(cell["photo"] for cell in order))[:MOST_PHOTOS]


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else round(float(value), 3)


# What the page says of an epoch: its name there, and its column, which has a floor beside it.
_OF_EPOCHS = {"coherence": "coherence", "nearest": "nearest", "purity": "epoch_purity", "drift": "drift"}


def _numbers(said: pd.DataFrame | None, epoch: int) -> dict[str, float | None]:
    """What an atlas is worth at an epoch, beside chance; nothing where nobody knows."""
    rows = [] if said is None else said[said["epoch"] == epoch].to_dict("records")
    row = rows[0] if rows else {}
    return {
        name + more: _number(row.get(column + ending))
        for name, column in _OF_EPOCHS.items()
        for more, ending in (("", ""), ("Floor", "_floor"))
    }


def _cell(run: RunFolder, row: pd.Series[Any]) -> dict[str, Any]:
    def number(name: str) -> float | None:
        return _number(row[name])

    return {
        "x": int(row["cell_x"]),
        "y": int(row["cell_y"]),
        "count": int(row["count"]),
        "concept": "" if pd.isna(row["concept"]) else str(row["concept"]),
        "correlation": number("correlation"),
        "correlationFloor": number("correlation_floor"),
        "class": "" if pd.isna(row["class"]) else str(row["class"]),
        "share": number("class_share"),
        "shareFloor": number("class_share_floor"),
        "drift": number("drift"),
        "photo": str(row["photo"]),
        "tile": _tile(run, str(row["file"])),
    }


def _tile(run: RunFolder, file: str) -> str:
    """A picture as the page carries it; empty where its file has gone or lies outside the run."""
    from PIL import Image

    path = picture_file(run, file)
    if path is None:
        return ""
    held = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        small.save(held, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")
