"""The story of a `report`: from the tables of a run to one page, and to other programs' formats."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli import __version__
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import ReportOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.images import (
    PER_SHEET,
    SHEET_COLUMNS,
    THUMBNAIL,
    RecordedTopImages,
    Sheets,
    TopImages,
    make_sheets,
    run_probe,
)
from concept_monitor_cli.report.page.contents import (
    Vocabulary,
    affordable_ranks,
    anchors_json,
    categories_json,
    histories_of,
    read_tables,
    record_notes,
    series_json,
)
from concept_monitor_cli.report.page.pack import integers, json_for_html
from concept_monitor_cli.report.style import TRACK_COLOURS
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Store, write_text_atomic

# Joined in this order into one script.
_SCRIPTS = ("core.js", "charts.js", "space.js", "tables.js", "unit.js", "main.js")


@dataclass
class ReportResult:
    """What a `report` did.

    Attributes:
        page: `report.html`.
        bytes: its size.
        units: units in it, over all layers and detectors.
        epochs: epochs in it.
        units_with_images: units that show their images.
        images: images in it.
        left_out: what is not in it, each one sentence.
    """

    page: Path
    bytes: int = 0
    units: int = 0
    epochs: int = 0
    units_with_images: int = 0
    images: int = 0
    left_out: list[str] = field(default_factory=list)


def report(
    options: ReportOptions, progress: Progress = SILENT, *, top: TopImages | None = None
) -> ReportResult:
    """Write `report.html` into a run: one file that works without a network.

    Args:
        options: which layers, epochs and units, and how many images.
        progress: told what happens.
        top: where the top images are known from; the store's recordings by default.

    Raises:
        InputError: there is no run, or no such layer, detector, unit or epoch in it.
    """
    run = RunFolder.open(options.out)
    info = run.info()
    concepts = run.concepts(layers=options.layers, detector=options.detector)
    if options.epochs is not None:
        chosen = options.epochs.select(concepts["epoch"].tolist())
        concepts = concepts[concepts["epoch"].isin(chosen)].reset_index(drop=True)
    _check_units(options.units, concepts["unit"].max())
    tables = read_tables(run, concepts)
    all_series = histories_of(concepts)
    result = ReportResult(run.root / "report.html", epochs=concepts["epoch"].nunique())
    result.units = sum(len(history.units) for history in all_series)

    ranks = affordable_ranks(tables)
    if ranks < concepts["rank"].max():
        result.left_out.append(
            f"Only the best of {concepts['rank'].max()} concepts per unit is shown, to keep this page small; "
            "the others are in tables/concepts.parquet. With --layer or --epochs fewer units come with all."
        )
    vocabulary, notes = Vocabulary.of(concepts), record_notes(run)
    with progress.task("packing tables", len(all_series), "layers") as advance:
        series = []
        for history in all_series:
            series.append(series_json(history, tables, vocabulary, ranks, notes))
            advance(1)

    pictures = _pictures(options, info, all_series, _top(options, run, progress, top), progress)
    for one, shown in zip(series, pictures.series, strict=True):
        one["images"] = shown
    result.units_with_images, result.images = pictures.units, len(pictures.sheets.numbers)
    result.left_out += pictures.left_out
    content = {
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cmon": __version__,
        "title": run.root.resolve().name,
        "run": _shown_info(info),
        "epochs": sorted(concepts["epoch"].unique().tolist()),
        "categories": categories_json(vocabulary.categories),
        "labels": vocabulary.to_json(),
        "series": series,
        "anchors": anchors_json(tables),
        "tracked": list(options.units),
        "trackColours": list(TRACK_COLOURS),
        "remarks": tables.remarks,
        "leftOut": result.left_out,
        "images": {
            "size": THUMBNAIL,
            "columns": SHEET_COLUMNS,
            "perSheet": PER_SHEET,
            "names": pictures.names,
            "sheets": len(pictures.sheets.uris),
            "missing": pictures.missing,
        },
    }
    page = render(content, pictures.sheets.uris)
    write_text_atomic(result.page, page)
    result.bytes = len(page.encode("utf-8"))
    return result


def render(content: dict[str, Any], sheets: Sequence[str] = ()) -> str:
    """The page as text.

    Everything that comes from a run is JSON that no browser executes, and the page's Content-Security-Policy
    allows this script and these styles alone, by their hashes, and no connection at all.

    Args:
        content: what the page shows.
        sheets: `data:` addresses of thumbnails.
    """
    folder = files(__package__) / "template"
    style = (folder / "style.css").read_text(encoding="utf-8")
    # One closed scope: the files of the script share names, the page's console sees none.
    code = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{code}\n}})();\n'
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = [("cmon-data", content), *((f"cmon-sheet-{i}", uri) for i, uri in enumerate(sheets))]
    data = "\n".join(
        f'<script type="application/json" id="{name}">{json_for_html(value)}</script>'
        for name, value in blocks
    )
    page = (folder / "page.html").read_text(encoding="utf-8")
    # In one pass, so that nothing that is filled in is searched for places to fill in.
    parts = {"@POLICY@": policy, "@STYLE@": style, "@DATA@": data, "@SCRIPT@": script}
    for mark in parts:
        page = page.replace(mark, f"\0{mark}\0")
    return "".join(parts.get(piece, piece) for piece in page.split("\0"))


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _check_units(units: Sequence[int], largest: int) -> None:
    beyond = [unit for unit in units if unit > largest]
    if beyond:
        raise InputError(
            f"there is no unit {beyond[0]}", where="--units", hint=f"units count from 0 to {largest}"
        )


def _shown_info(info: dict[str, Any]) -> dict[str, Any]:
    """`run.json` with a bound on the list of skipped images, which may be as long as the probing set."""
    probe = dict(info.get("probe", {}))
    skipped = probe.get("skipped", [])
    if len(skipped) > 50:
        probe["skipped"] = [*skipped[:50], f"and {len(skipped) - 50} more, see run.json"]
    return {**info, "probe": probe}


# -- images --------------------------------------------------------------------------------------


@dataclass
class Pictures:
    """The images of a page.

    Attributes:
        sheets: the thumbnails.
        names: of the images, by place.
        series: per layer and detector, which units show which images; `None` where none does.
        units: how many units show images.
        missing: why there are none, for the reader; empty where there are some.
        left_out: what did not fit.
    """

    sheets: Sheets
    names: list[str]
    series: list[dict[str, Any] | None]
    units: int = 0
    missing: str = ""
    left_out: list[str] = field(default_factory=list)


def _top(options: ReportOptions, run: RunFolder, progress: Progress, top: TopImages | None) -> TopImages:
    return top or RecordedTopImages(run, Store(options.cache, progress=progress))


def _pictures(
    options: ReportOptions,
    info: dict[str, Any],
    all_series: Sequence[History],
    top: TopImages,
    progress: Progress,
) -> Pictures:
    """Thumbnails for as many units as the budget allows, the most certain ones first."""
    none: list[dict[str, Any] | None] = [None] * len(all_series)

    def without(reason: str) -> Pictures:
        return Pictures(Sheets(), [], none, missing=reason)

    if not options.images or options.image_megabytes <= 0:
        return without("This page was made without images.")
    known = [_known_images(history, top, options.images) for history in all_series]
    if not any(array is not None for array in known):
        return without(
            "The cache does not know which images excite which unit. Run “cmon dissect” again with the "
            "same settings, then “cmon report”."
        )
    try:
        probe = run_probe(info, cache_dir=options.cache_dir, progress=progress)
    except (CmonError, KeyError) as error:
        reason = error.what if isinstance(error, CmonError) else f"run.json does not say {error}"
        progress.warning(f"the report has no images: {reason}")
        return without(f"The probing images are not accessible: {reason}.")
    order = [_by_certainty(history, options.units) for history in all_series]
    sheets = make_sheets(
        probe,
        _in_turn(order, known),
        max_bytes=int(options.image_megabytes * 1_000_000),
        progress=progress,
    )
    result = Pictures(sheets, [probe.ids[number] for number in sheets.numbers], none)
    lookup = np.zeros(len(probe) + 1, dtype=np.int64)
    for number, place in sheets.places.items():
        lookup[number] = place + 1
    without_images = 0
    for i, (history, array) in enumerate(zip(all_series, known, strict=True)):
        if array is None:
            without_images += len(history.units)
            continue
        # -1, "no image", finds the last entry, which is 0.
        places = lookup[array]
        shown = (places > 0).any(axis=(0, 2))
        rows = np.flatnonzero(shown)
        result.series[i] = {
            "rows": integers(rows),
            "per": int(places.shape[2]),
            # Units x epochs x images, 0 for none.
            "places": integers(places[:, rows].transpose(1, 0, 2)),
        }
        result.units += len(rows)
        without_images += len(history.units) - len(rows)
    total = sum(len(history.units) for history in all_series)
    if without_images:
        result.left_out.append(
            f"{without_images:,} of {total:,} units are shown without their images, to keep this page small: "
            "the most certain units of every layer and those of --units come first (--image-megabytes)."
        )
    elif sheets.left_out:
        result.left_out.append("Some images of less certain units are left out (--image-megabytes).")
    if sheets.unreadable:
        result.left_out.append(f"{sheets.unreadable} images cannot be read any more; they are grey.")
    if not sheets.numbers:
        result.missing = "No image fits into the space given with --image-megabytes."
    return result


def _known_images(history: History, top: TopImages, per_unit: int) -> NDArray[np.int64] | None:
    """`T x C x K` numbers of images, -1 for none; `None` where nothing is known at any epoch."""
    result = np.full((len(history.epochs), len(history.units), per_unit), -1, dtype=np.int64)
    found = False
    for place, epoch in enumerate(history.epochs.tolist()):
        array = top.top_images(epoch, history.layer)
        if array is None or len(array) <= history.units.max():
            continue
        found = True
        array = array[history.units, :per_unit]
        result[place, :, : array.shape[1]] = array
    # The images of a dead unit are the first of the set: they say nothing.
    result[~history.live.T] = -1
    return result if found else None


def _by_certainty(history: History, tracked: Iterable[int]) -> list[int]:
    """Rows of a layer: tracked units, then those interpretable at most epochs, then by score at the end."""
    score = np.nan_to_num(history.scores[:, -1], nan=-np.inf)
    order = np.lexsort((history.units, -score, -history.interpretable.sum(axis=1)))
    wanted = np.isin(history.units[order], list(tracked))
    rows: list[int] = [*order[wanted].tolist(), *order[~wanted].tolist()]
    return rows


def _in_turn(orders: Sequence[list[int]], known: Sequence[NDArray[np.int64] | None]) -> Iterator[int]:
    """Images in the order in which they are wanted: a unit of each layer in turn, with all its epochs."""
    for turn in range(max(map(len, orders), default=0)):
        for order, array in zip(orders, known, strict=True):
            if array is not None and turn < len(order):
                yield from array[:, order[turn]].reshape(-1).tolist()
