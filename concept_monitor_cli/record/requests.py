"""What detectors ask of the forward pass, as entries of the store.

A recording says which consumers listen to a layer and where they leave what they heard. Everything that is
missing at a checkpoint, for all layers and detectors, is recorded in one forward pass.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.dissection import QUANTILE, UnitMasks, unit_masks
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record import (
    Consumer,
    MapSpool,
    PooledWriter,
    RecordInfo,
    TopImages,
    UnitQuantile,
    UnitRange,
)
from concept_monitor_cli.record.consumers import RowWriter
from concept_monitor_cli.record.parts import EntryWriter, PartRows, Place, Put, SeenPart
from concept_monitor_cli.record.scores import GradientWriter, ScoreConsumer, ScoreWriter, Target
from concept_monitor_cli.store import Entry, Key

# Maps of a layer up to this size are kept on the disk between threshold and masks; of a larger layer they
# are made a second time. Maps of ResNet-18's layer4 for the 63,000 images of Broden take 6 GB.
SPOOL_BYTES = 8 << 30


@dataclass(frozen=True)
class Pass:
    """What one forward pass is to do for a recording.

    Attributes:
        consumers: listen to the layer.
        complete: to be called after the last image with what the pass was like; returns another pass if one
            is needed.
        scores: listen to what the network says in the end, and to gradients of it.
    """

    consumers: Sequence[Consumer]
    complete: Callable[[RecordInfo], Pass | None]
    scores: Sequence[ScoreConsumer] = ()


@dataclass(frozen=True)
class Cost:
    """What a recording will take.

    Attributes:
        passes: forward passes over all images.
        bytes: of its entry; of masks no more than about so many.
        spool: bytes on the disk while it is made, and free again afterwards.
    """

    passes: int
    bytes: int
    spool: int = 0


class Recording(Protocol):
    """What to keep of one layer's outputs.

    Every entry has `notes` in its meta: what the user should know of the layer's outputs, whenever they are
    used.

    Attributes:
        kind: of the store's entry.
    """

    kind: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """Every constant that the entry depends on besides network, weights, images and pooling."""

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """What it will take for a layer, known beforehand."""

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """Open the entry for writing.

        Args:
            stack: closes the entry: whole when all went well, not at all otherwise.
            store: where it goes; of a part of the images, a `PartStore`.
            key: its address.
            layer: the layer.
            n_images: how many images will come.
        """


@dataclass(frozen=True)
class Activations:
    """Pooled activations and the top images of every unit.

    The entry holds `pooled` (`N x C`, float32), `top_images` (`C x K`, image numbers, -1 where there are
    fewer), `top_values` (`C x K`, float32), `live` (`C`, bool).

    Attributes:
        top_k: `K`; 100 is what SoftWPMI asks for, the most of all similarities that work on few images.
    """

    top_k: int = 100

    kind: ClassVar[str] = "activations"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {"top_k": self.top_k}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        return Cost(passes=1, bytes=layer.units * (4 * n_images + 12 * self.top_k + 1))

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        top, extent = TopImages(layer.name, self.top_k), UnitRange(layer.name)

        def complete(info: RecordInfo) -> None:
            writer.put("top_images", top.indices.numpy())
            writer.put("top_values", top.values.numpy())
            writer.put("live", (~extent.dead).numpy())
            writer.meta["notes"] = info.notes(layer.name)

        return Pass([PooledWriter(layer.name, writer), top, extent], complete)


@dataclass(frozen=True)
class Maps:
    """The activation maps themselves. The entry holds `maps` (`N x C x h x w`, float32)."""

    kind: ClassVar[str] = "maps"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        return Cost(passes=1, bytes=MapSpool.nbytes(layer, n_images))

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))

        def complete(info: RecordInfo) -> None:
            writer.meta["notes"] = info.notes(layer.name)

        return Pass([MapSpool(layer.name, writer)], complete)


@dataclass(frozen=True)
class Logits:
    """The scores of all classes. The entry holds `logits` (`N x K`, float32).

    They belong to the network, not to a layer: see `OUTPUT`.
    """

    kind: ClassVar[str] = "logits"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        return Cost(passes=1, bytes=4 * n_images * layer.units)

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        writer.meta["notes"] = []
        return Pass([], lambda _: None, [ScoreWriter(writer, n_images)])


@dataclass(frozen=True)
class Gradients:
    """The gradient of the score of each image's class at a layer.

    The entry holds `gradients` (`N x C`, float32: with respect to a shift of each unit at all positions that
    are pooled) and `classes` (`N`, int64: the class of each image).

    Attributes:
        classes: the class of each image, -1 where the class that the network predicts is to be taken; `None`:
            for all.
        target: of which number: the class's `logit`, or its log-probability, which is minus the `loss`.
    """

    classes: tuple[int, ...] | None = None
    target: Target = "logit"

    kind: ClassVar[str] = "gradients"
    weighted: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        # Left out for the ordinary one, so that older entries are found.
        more = {} if self.target == "logit" else {"target": self.target}
        if self.classes is None:
            return {"classes": None, **more}
        return {**more, "classes": hashlib.sha256(np.array(self.classes, dtype="<i8").tobytes()).hexdigest()}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        return Cost(passes=1, bytes=n_images * (4 * layer.units + 8))

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        classes = None if self.classes is None else torch.tensor(self.classes)

        def complete(info: RecordInfo) -> None:
            writer.meta["notes"] = info.notes(layer.name)

        consumer = GradientWriter(layer, writer, n_images, classes, self.target, self.weighted)
        return Pass([], complete, [consumer])


@dataclass(frozen=True)
class Contributions(Gradients):
    """What each unit adds to the score of each image's class: gradient times output, summed over positions.

    As `Gradients`, but `gradients` holds these products (the channel attribution of Olah et al. 2018, to
    first order). Before mean pooling and a linear head it is exact: the unit's weight times its activation.
    """

    kind: ClassVar[str] = "contributions"
    weighted: ClassVar[bool] = True


#: Stands for the layer of recordings that belong to the network as a whole.
OUTPUT = LayerInfo("", "", (), Layout("flat"), 0, 0)


def needs_whole_network(request: Recording) -> bool:
    """Whether a recording depends on all weights, not only on those up to its layer."""
    return isinstance(request, (Logits, Gradients))


@dataclass(frozen=True)
class Masks:
    """Where each unit fires above its threshold, at the resolution of the labels.

    The entry holds `thresholds` (`C`, float32), `live` (`C`, bool), `top_images` and `top_values` (`C x K`:
    the images in which a map peaks highest, for pictures) and the arrays of `UnitMasks`, which `read_masks`
    reads. Thresholds are known only after the last image, so the maps are kept on the disk until then; where
    they would take more than `spool_bytes`, a second forward pass makes the masks.

    Attributes:
        size: height and width of the label masks.
        fraction: of all positions, above the threshold.
        top_k: `K`.
        spool_bytes: see above. No result depends on it.
    """

    size: tuple[int, int]
    fraction: float = QUANTILE
    top_k: int = 20
    spool_bytes: int = SPOOL_BYTES

    kind: ClassVar[str] = "masks"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {"size": list(self.size), "fraction": self.fraction, "top_k": self.top_k}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        height, width = layer.map_size or (1, 1)
        above = self.fraction * n_images * height * width * layer.units
        # Of every position above the threshold upsampling makes a spot, a run of pixels in each of its rows.
        rows = 2 * -(-self.size[0] // height)
        entry = layer.units * (12 * self.top_k + 5) + int(above * (16 + 4 * rows))
        spool = MapSpool.nbytes(layer, n_images)
        return Cost(1, entry, spool) if spool <= self.spool_bytes else Cost(2, entry)

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        quantile, extent = UnitQuantile(layer.name, self.fraction), UnitRange(layer.name)
        peaks = PeakImages(layer.name, self.top_k)
        listeners: list[Consumer] = [quantile, extent, peaks]
        fits = MapSpool.nbytes(layer, n_images) <= self.spool_bytes
        # A part of the images keeps its maps with all else until the other parts are there.
        kept_with_part = isinstance(writer, PartRows)
        spool = _SpoolFile(stack, store) if fits and not kept_with_part else None

        def thresholds(info: RecordInfo) -> Tensor:
            writer.meta["notes"] = info.notes(layer.name)
            found = quantile.threshold()
            writer.put("thresholds", found.numpy())
            writer.put("live", (~extent.dead).numpy())
            writer.put("top_images", peaks.top.indices.numpy())
            writer.put("top_values", peaks.top.values.numpy())
            return found

        def masks_from_spool(info: RecordInfo) -> None:
            assert spool is not None
            limits = thresholds(info)
            _put(writer, UnitMasks.join([unit_masks(maps, limits, self.size) for maps in spool.blocks()]))

        def second_pass(info: RecordInfo) -> Pass:
            maker = _MaskMaker(layer.name, thresholds(info), self.size)
            return Pass([maker], lambda _: _put(writer, UnitMasks.join(maker.parts)))

        if not fits:
            return Pass(listeners, second_pass)
        rows: RowWriter = writer if spool is None else spool
        return Pass([*listeners, MapSpool(layer.name, rows)], masks_from_spool)


def _put(writer: EntryWriter, masks: UnitMasks) -> None:
    for name in ("image", "unit", "offsets", "edges"):
        writer.put(name, getattr(masks, name))
    writer.meta.update(n_images=masks.n_images, n_units=masks.n_units, size=list(masks.size))


def read_masks(entry: Entry) -> UnitMasks:
    """The unit masks of an entry that `Masks` made."""
    height, width = entry.meta["size"]
    return UnitMasks(
        n_images=entry.meta["n_images"],
        n_units=entry.meta["n_units"],
        size=(height, width),
        image=entry.read("image"),
        unit=entry.read("unit"),
        offsets=entry.read("offsets"),
        edges=entry.read("edges"),
    )


class PeakImages:
    """The images in which each unit's map peaks highest, whatever the pooling."""

    needs_maps = True

    def __init__(self, layer: str, k: int) -> None:
        self.layers = (layer,)
        self.top = TopImages(layer, k)

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Forgets everything."""
        self.top.start(layer, n_images)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        assert maps is not None
        self.top.update(layer, start, maps.flatten(2).amax(2).float(), None)

    def finish(self) -> None:
        """Nothing more comes."""
        self.top.finish()

    def save(self, put: Put) -> None:
        """See `parts.Joinable`."""
        self.top.save(put)

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        self.top.join(part)


class _MaskMaker:
    """Makes unit masks of maps as they come, with thresholds that are known."""

    needs_maps = True

    def __init__(self, layer: str, thresholds: Tensor, size: tuple[int, int]) -> None:
        self.layers = (layer,)
        self.parts: list[UnitMasks] = []
        self._thresholds = thresholds
        self._size = size

    def start(self, layer: LayerInfo, n_images: int) -> None:
        self.parts = []

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        assert maps is not None
        self._thresholds = self._thresholds.to(maps.device)
        self.parts.append(unit_masks(maps, self._thresholds, self._size))

    def finish(self) -> None:
        pass


class _SpoolFile:
    """Rows on the disk, in a file that has no name: nothing is left of it when the process ends.

    Read and written, not mapped: mapped pages would count as the process's memory.
    """

    def __init__(self, stack: ExitStack, store: Place) -> None:
        store.root.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=store.root)  # noqa: SIM115 - the stack closes it
        stack.callback(self._file.close)
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)

    def write(self, name: str, start_row: int, array: NDArray[Any]) -> None:
        rows = np.ascontiguousarray(array, dtype=self._dtype)
        self._file.seek(start_row * self._row_bytes)
        self._file.write(rows.data)

    def blocks(self, block_bytes: int = 32 << 20) -> Iterator[Tensor]:
        """All rows in order, some at a time."""
        self._file.flush()
        step = max(1, block_bytes // self._row_bytes)
        for first in range(0, self._shape[0], step):
            count = min(step, self._shape[0] - first)
            data = os.pread(self._file.fileno(), count * self._row_bytes, first * self._row_bytes)
            rows = np.frombuffer(data, dtype=self._dtype).reshape(count, *self._shape[1:])
            yield torch.from_numpy(rows.copy())

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self._shape[1:])) * self._dtype.itemsize
