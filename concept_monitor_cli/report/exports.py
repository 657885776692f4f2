"""A run in the formats of other programs: TensorBoard, CSV, Parquet."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.report.images import sheet, thumbnail
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.store import atomic_write, write_text_atomic

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.probe import ProbeSet

# The projector holds all points and their picture in a browser's memory: pictures of more than 8,192 pixels a
# side are refused there.
MOST_POINTS = 8192
_SPRITE_SIDE = 8192
_SPRITE = 64
# Ends the name of every event file that is written here, so that a rerun replaces its own and no other.
_SUFFIX = ".cmon"


# -- TensorBoard ---------------------------------------------------------------------------------


def require_tensorboard() -> ModuleType:
    """TensorBoard's own package.

    Raises:
        CmonError: it is not installed.
    """
    try:
        import tensorboard  # type: ignore[import-untyped]
    except ImportError as error:
        raise CmonError(
            "TensorBoard is not installed",
            where="--tensorboard",
            hint="pip install 'concept-monitor-cli[tensorboard]'",
        ) from error
    module: ModuleType = tensorboard
    return module


def write_scalars(folder: Path, statistics: pd.DataFrame, *, time: float) -> list[Path]:
    """Statistics as scalars over epochs, a TensorBoard run per detector.

    Tags: `interpretable/LAYER/CATEGORY`, and per layer `interpretable/LAYER`, `distinct_concepts/LAYER`,
    `dead/LAYER`, `spread/LAYER`, `anchor_distance/LAYER`. The step is the epoch.

    Args:
        folder: TensorBoard's `--logdir`.
        statistics: rows of `statistics.csv`.
        time: of all points, in seconds since 1970.

    Returns:
        the event files.

    Raises:
        CmonError: TensorBoard is not installed.
    """
    require_tensorboard()
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

    written = []
    for detector, rows in statistics.groupby("detector", sort=True):
        logdir = folder / str(detector)
        for old in logdir.glob(f"events.out.tfevents.*{_SUFFIX}"):
            old.unlink()
        writer = event_file_writer.EventFileWriter(str(logdir), filename_suffix=_SUFFIX)
        for epoch in sorted(set(rows["epoch"].tolist())):
            now = rows[rows["epoch"] == epoch]
            values = [
                Summary.Value(tag=tag, simple_value=value)
                for row in now.to_dict("records")
                for tag, value in _scalars(row)
            ]
            writer.add_event(Event(wall_time=time, step=int(epoch), summary=Summary(value=values)))
        writer.close()
        written += sorted(logdir.glob(f"events.out.tfevents.*{_SUFFIX}"))
    return written


def _scalars(row: Mapping[Any, Any]) -> list[tuple[str, float]]:
    """Tags and values of one row; what is not known has no point."""
    layer = row["layer"]
    if row["category"] != "all":
        return [(f"interpretable/{layer}/{row['category']}", float(row["interpretable"]))]
    names = ("interpretable", "distinct_concepts", "dead", "spread", "anchor_distance")
    found = [(f"{name}/{layer}", row[name]) for name in names]
    return [(tag, float(value)) for tag, value in found if value is not None and not np.isnan(value)]


@dataclass(frozen=True)
class Points:
    """Units of one layer for TensorBoard's projector.

    Attributes:
        name: of the tensor, e.g. `layer4`.
        vectors: `n x D`.
        labels: `n` rows: what is known of each.
        images: for each the number of its favourite image, -1 for none; `None` where images are unknown.
    """

    name: str
    vectors: NDArray[np.float32]
    labels: pd.DataFrame
    images: NDArray[np.int64] | None = None


def write_projector(folder: Path, layers: Sequence[Points], probe: ProbeSet | None = None) -> list[Path]:
    """Units at their places in the space of words, for TensorBoard's projector.

    Args:
        folder: TensorBoard's `--logdir`; the files go into `projector/`, which is replaced.
        layers: a tensor each.
        probe: the images, for small pictures beside the points; `None` for points alone.

    Returns:
        the files.

    Raises:
        CmonError: TensorBoard is not installed.
    """
    require_tensorboard()
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tensorboard.plugins.projector import projector_config_pb2  # type: ignore[import-untyped]

    target = folder / "projector"
    if (target / "projector_config.pbtxt").is_file():
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    config, written = projector_config_pb2.ProjectorConfig(), []
    for number, points in enumerate(layers):
        # Layers' names are no file names; numbers are.
        stem = f"{number:02d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', points.name)[:80]}"
        vectors, labels = target / f"{stem}.vectors.tsv", target / f"{stem}.labels.tsv"
        lines = ("\t".join(f"{value:.6g}" for value in row) for row in points.vectors)
        write_text_atomic(vectors, "\n".join(lines) + "\n")
        write_text_atomic(labels, _labels_tsv(points.labels))
        written += [vectors, labels]
        entry = config.embeddings.add()
        entry.tensor_name = points.name
        entry.tensor_path, entry.metadata_path = vectors.name, labels.name
        entry.tensor_shape.extend(points.vectors.shape)
        if probe is not None and points.images is not None:
            sprite = target / f"{stem}.sprite.png"
            side = _write_sprite(sprite, points.images, probe)
            entry.sprite.image_path = sprite.name
            entry.sprite.single_image_dim.extend([side, side])
            written.append(sprite)
    path = target / "projector_config.pbtxt"
    write_text_atomic(path, text_format.MessageToString(config))
    return [*written, path]


def _labels_tsv(labels: pd.DataFrame) -> str:
    """A line of names and a line per point. Tabs and line ends inside a name would start the next cell."""
    lines = [[str(column) for column in labels.columns], *labels.astype(str).to_numpy().tolist()]
    return "\n".join("\t".join(re.sub(r"\s+", " ", cell) for cell in line) for line in lines) + "\n"


def _write_sprite(path: Path, images: NDArray[np.int64], probe: ProbeSet) -> int:
    """One picture of all points' images, as many across as down. Returns the side of each."""
    columns = max(1, int(np.ceil(np.sqrt(len(images)))))
    side = min(_SPRITE, _SPRITE_SIDE // columns)
    blank = Image.new("RGB", (side, side), (128, 128, 128))
    drawn: dict[int, Image.Image] = {-1: blank}
    for number in np.unique(images).tolist():
        if number < 0:
            continue
        try:
            drawn[number] = thumbnail(probe.image(number), side)
        except CmonError:
            drawn[number] = blank
    with atomic_write(path) as temporary:
        sheet([drawn[number] for number in images.tolist()], columns, side).save(temporary, format="png")
    return side


# -- tables --------------------------------------------------------------------------------------


def write_tables(
    run: RunFolder, concepts: pd.DataFrame, folder: Path, kind: Literal["csv", "parquet"]
) -> list[Path]:
    """Every table of a run in one format, e.g. for R, Excel or a database.

    Args:
        run: whose.
        concepts: its concept table, or the part of it to write.
        folder: where to.
        kind: the format.

    Returns:
        the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in TABLES.items():
        source = run.tables / f"{name}.csv"
        if name == "concepts":
            frame = concepts
        elif source.is_file():
            frame = schema.read_csv(source)
        else:
            continue
        path = folder / f"{name}.{kind}"
        if kind == "csv":
            write_text_atomic(path, schema.to_csv(frame))
        else:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                schema.frame(frame).to_parquet(file, index=False, compression="zstd")
        written.append(path)
    return written
