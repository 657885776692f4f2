"""The story of a `report`: from the tables of a run to one page, and to the formats of other programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import DynamicsOptions, ReadingOptions, ReportOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.exports import (
    MOST_POINTS,
    Points,
    require_tensorboard,
    write_projector,
    write_scalars,
    write_tables,
)
from concept_monitor_cli.report.page import (
    SHARE,
    Beside,
    Pictures,
    Structure,
    UnitPictures,
    draw_pictures,
    known_images,
    page_content,
    read_structure,
    read_tables,
    record_notes,
    render,
    unit_pictures,
)
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Key, Store, write_text_atomic
from concept_monitor_cli.stories.compare import told_apart, two_names
from concept_monitor_cli.stories.dynamics import convergence, in_words
from concept_monitor_cli.stories.findings import findings_of
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import statistics_of

if TYPE_CHECKING:
    from concept_monitor_cli.probe import ProbeSet


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
    if options.tensorboard is not None:
        require_tensorboard()
    structure = _structure(opened)
    made = _made(opened, options, progress)
    pictures = _pictures(opened, options, structure.images_of_panels(), made.bytes, progress)
    tables = read_tables(opened.run, opened.table)
    content = page_content(
        opened.run,
        opened.histories,
        tables,
        pictures,
        findings=findings_of(opened),
        tracked=options.units,
        structure=structure,
        beside=None if options.other is None else _beside(opened, options.other, options, progress),
        made=made,
        progress=progress,
    )
    page = render(content, [*pictures.sheets.uris, *made.sheets.uris])
    result = ReportResult(opened.run.root / "report.html")
    write_text_atomic(result.page, page)
    result.bytes = len(page.encode("utf-8"))
    result.units = sum(len(history.units) for history in opened.histories)
    result.epochs = len(content["epochs"])
    result.units_with_images, result.images = pictures.units, len(pictures.names)
    result.left_out = [*content["leftOut"], *([pictures.missing] if pictures.missing else [])]
    result.exports = _export(opened, options, progress)
    return result


def _check_units(options: ReportOptions, opened: OpenRun) -> None:
    known = set(opened.table["unit"].unique().tolist())
    missing = [unit for unit in options.units if unit not in known]
    if missing:
        raise InputError(
            f"there is no unit {missing[0]}", where="--units", hint=f"units count from 0 to {max(known)}"
        )


def _structure(opened: OpenRun) -> Structure:
    """What `cmon dynamics` and `cmon factors` found of this run, when its layers came near their end, and
    what units say at ranges of their activation."""
    ranges = {(each.layer, each.detector): opened.ranges(each) for each in opened.histories}
    found = read_structure(opened.run)
    found = replace(found, ranges={place: rows for place, rows in ranges.items() if rows is not None})
    names = [] if found.similarity is None else [opened.name, str(opened.run.root)]
    for name in names:
        assert found.similarity is not None
        own = found.similarity[found.similarity["run"] == name]
        if len(own):
            threshold = DynamicsOptions().threshold
            return replace(found, name=name, words=tuple(in_words(convergence(own, threshold), threshold)))
    return found


def _beside(opened: OpenRun, root: Path, options: ReportOptions, progress: Progress) -> Beside:
    """Another run, for the charts beside those of the page.

    Raises:
        InputError: there is no such run, or the two have no layer and detector in common.
    """
    # All that it has: what is shown is chosen by the layers of the page.
    other = OpenRun(root, ReadingOptions.of(options), progress)
    twins = {(history.layer, history.detector): history for history in other.histories}
    return Beside(
        two_names(opened, other)[1],
        [twins.get((history.layer, history.detector)) for history in opened.histories],
        read_tables(other.run, other.table),
        record_notes(other.run),
        told_apart(opened, other),
    )


def _made(opened: OpenRun, options: ReportOptions, progress: Progress) -> UnitPictures:
    """The pictures that `cmon picture` made of the units of a page."""
    if not options.images:
        return UnitPictures()
    return unit_pictures(
        opened.run,
        opened.histories,
        tracked=options.units,
        max_bytes=int(SHARE * options.image_megabytes * 1_000_000),
        progress=progress,
    )


def _pictures(
    opened: OpenRun, options: ReportOptions, before: Sequence[str], taken: int, progress: Progress
) -> Pictures:
    """The images of a page; where they cannot be had, the page says why.

    Args:
        opened: the run.
        options: how many, and in how many bytes.
        before: names of images that come first.
        taken: bytes that other pictures take of them.
        progress: told what happens.
    """
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
    number = {name: place for place, name in enumerate(probe.ids)}
    return draw_pictures(
        opened.histories,
        known,
        probe,
        tracked=options.units,
        before=[number[name] for name in before if name in number],
        max_bytes=int(options.image_megabytes * 1_000_000) - taken,
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


# -- exports -------------------------------------------------------------------------------------


def _export(opened: OpenRun, options: ReportOptions, progress: Progress) -> list[Path]:
    written: list[Path] = []
    if options.csv is not None:
        written += write_tables(opened.run, opened.whole_table(), options.csv, "csv")
    if options.parquet is not None:
        written += write_tables(opened.run, opened.whole_table(), options.parquet, "parquet")
    if options.tensorboard is not None:
        written += write_scalars(options.tensorboard, statistics_of(opened), time=time.time())
        layers = _projector_points(opened, progress)
        if layers:
            written += write_projector(options.tensorboard, layers, _probe_or_none(opened, progress))
    return written


def _projector_points(opened: OpenRun, progress: Progress) -> list[Points]:
    """The live units of every layer, of as many epochs as TensorBoard's projector can hold."""
    top = RecordedTopImages(opened.run, opened.store)
    layers = []
    several = len({history.detector for history in opened.histories}) > 1
    for history in opened.histories:
        placed = opened.placed(history)
        if placed is None:
            progress.notice(f"{history.layer} ({history.detector}) has no places in concept space")
            continue
        # First and last, and an even choice in between.
        count = min(len(history.epochs), max(1, MOST_POINTS // len(history.units)))
        epochs = history.epochs[np.linspace(0, len(history.epochs) - 1, count).round().astype(int)]
        if count < len(history.epochs):
            epochs = np.unique([*epochs[: count - 1], history.epochs[-1]])
            progress.notice(
                f"{history.layer}: {len(epochs)} of {len(history.epochs)} epochs in the projector"
            )
        chosen = np.flatnonzero(placed.units["epoch"].isin(epochs).to_numpy())[:MOST_POINTS]
        rows = placed.units.iloc[chosen].reset_index(drop=True)
        columns = ["unit", "epoch", "concept", "category", "score", "interpretable"]
        name = f"{history.layer}.{history.detector}" if several else history.layer
        images = _first_images(history, rows["epoch"].to_numpy(), rows["unit"].to_numpy(), top)
        layers.append(Points(name, placed.vectors[chosen], rows[columns], images))
    return layers


def _first_images(
    history: History, epochs: NDArray[np.int64], units: NDArray[np.int64], top: RecordedTopImages
) -> NDArray[np.int64] | None:
    """For units at some epochs the image that excites each most; `None` where none is known."""
    images = np.full(len(units), -1, dtype=np.int64)
    for column, epoch in enumerate(history.epochs.tolist()):
        here = epochs == epoch
        array = top(history, column) if here.any() else None
        if array is not None:
            images[here] = array[units[here].astype(np.int64), 0]
    return images if (images >= 0).any() else None


def _probe_or_none(opened: OpenRun, progress: Progress) -> ProbeSet | None:
    try:
        return opened.probe
    except CmonError as error:
        progress.warning(f"the projector has no pictures: {error.what}")
        return None
