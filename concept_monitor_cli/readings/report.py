"""The story of a `report`: from the tables of a run to one page, and to the formats of other programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import ReportOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.readings.opened import OpenRun
from concept_monitor_cli.report.page import (
    Pictures,
    draw_pictures,
    known_images,
    page_content,
    read_tables,
    render,
)
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Key, Store, write_text_atomic


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
        exports: files written for other programs.
    """

    page: Path
    bytes: int = 0
    units: int = 0
    epochs: int = 0
    units_with_images: int = 0
    images: int = 0
    left_out: list[str] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)


def report(options: ReportOptions, progress: Progress = SILENT) -> ReportResult:
    """Write `report.html` into a run: one file that works without a network.

    Args:
        options: which layers, epochs and units, how many images, and what to export.
        progress: told what happens.

    Raises:
        InputError: there is no run, or no such layer, detector, unit or epoch in it.
        CmonError: an export needs a library that is not installed.
    """
    opened = OpenRun(options.out, options, progress)
    _check_units(options, opened)
    pictures = _pictures(opened, options, progress)
    tables = read_tables(opened.run, opened.table)
    content = page_content(
        opened.run, opened.histories, tables, pictures, tracked=options.units, progress=progress
    )
    page = render(content, pictures.sheets.uris)
    result = ReportResult(opened.run.root / "report.html")
    write_text_atomic(result.page, page)
    result.bytes = len(page.encode("utf-8"))
    result.units = sum(len(history.units) for history in opened.histories)
    result.epochs = len(content["epochs"])
    result.units_with_images, result.images = pictures.units, len(pictures.names)
    result.left_out = [*content["leftOut"], *([pictures.missing] if pictures.missing else [])]
    return result


def _check_units(options: ReportOptions, opened: OpenRun) -> None:
    known = set(opened.table["unit"])
    missing = [unit for unit in options.units if unit not in known]
    if missing:
        raise InputError(
            f"there is no unit {missing[0]}", where="--units", hint=f"units count from 0 to {max(known)}"
        )


def _pictures(opened: OpenRun, options: ReportOptions, progress: Progress) -> Pictures:
    """The images of a page; where they cannot be had, the page says why."""
    none = Pictures([None] * len(opened.histories))
    if not options.images or options.image_megabytes <= 0:
        none.missing = "This page was made without images."
        return none
    top = RecordedTopImages(opened.run, opened.store)
    known = [known_images(history, top, options.images) for history in opened.histories]
    if all(array is None for array in known):
        none.missing = (
            "The cache does not know which images excite which unit: run “cmon dissect” again with the same "
            "settings, then “cmon report”."
        )
        progress.warning("the report has no images: the cache does not know which excite which unit")
        return none
    try:
        probe = opened.probe
    except CmonError as error:
        none.missing = f"The probing images are not accessible: {error.what}."
        progress.warning(f"the report has no images: {error.what}")
        return none
    return draw_pictures(
        opened.histories,
        known,
        probe,
        tracked=options.units,
        max_bytes=int(options.image_megabytes * 1_000_000),
        progress=progress,
    )


class RecordedTopImages:
    """The favourite images of units, from the recordings in the store.

    They are the network's, whatever a detector makes of them: where one detector's recording does not hold
    them, another's of the same layer and checkpoint may.

    Args:
        run: whose.
        store: with the recordings.
    """

    def __init__(self, run: RunFolder, store: Store) -> None:
        self._store = store
        self._keys: dict[tuple[int, str, str], list[Key]] = {}
        for _, record in run.table_records():
            kind, _, digest = record.recording.partition("/")
            if digest:
                place = (record.epoch, record.checkpoint, record.layer)
                self._keys.setdefault(place, []).append(Key(kind, digest, {}))

    def __call__(self, history: History, column: int) -> NDArray[np.int64] | None:
        """`C x K` numbers of images at one epoch, strongest first; `None` where the store does not know."""
        place = (int(history.epochs[column]), history.checkpoints[column], history.layer)
        for key in self._keys.get(place, []):
            entry = self._store.get(key)
            if entry is None:
                continue
            with entry:
                if "top_images" in entry.names():
                    return entry.read("top_images").astype(np.int64)
        return None
