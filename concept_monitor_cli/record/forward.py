"""One forward pass over all probe images, feeding every consumer of every layer."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.clock import Clock
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import LayerInfo, describe_layers, evaluation
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.pooling import Kind, Pooling, pool, resolve_pooling, spatial_maps
from concept_monitor_cli.models.taps import tap
from concept_monitor_cli.options import split_name
from concept_monitor_cli.probe.batches import PixelRows, batches
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.consumers import Consumer
from concept_monitor_cli.record.scores import ScoreConsumer, score_reader

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Captured = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class RecordInfo:
    """What a forward pass was like.

    Args:
        images: how many.
        seconds: of the whole call.
        seconds_forward: inside the network, without pooling and copying of what the taps gave.
        seconds_reading: waiting for pixels, bringing them to the device and normalising them.
        seconds_consuming: pooling, and what the consumers did.
        layers: what is known of each layer.
        pooling: what each layer really got.
        non_finite: pooled activations per layer that are infinite or NaN, out of images x units.
        assumptions: per layer, sentences for the user: what was taken for granted.
        geometry: which part of each image the network saw.
        batch_size: images per step at the end; fewer than were asked for where the memory did not suffice.
    """

    images: int
    seconds: float
    seconds_forward: float
    seconds_reading: float
    seconds_consuming: float
    layers: Mapping[str, LayerInfo]
    pooling: Mapping[str, Pooling]
    non_finite: Mapping[str, int]
    assumptions: Mapping[str, tuple[str, ...]]
    geometry: Geometry
    batch_size: int = 0

    def notes(self, layer: str) -> tuple[str, ...]:
        """What the user should know of a layer's outputs: what was taken for granted, what looks wrong."""
        layer, _ = split_name(layer)
        count = self.non_finite[layer]
        wrong = (f"{layer}: {count} activations are infinite or not a number",) if count else ()
        return (*self.assumptions[layer], *wrong)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or the machine has no memory left."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        phrase in text for phrase in ("out of memory", "can't allocate memory", "not enough memory")
    )


def record(
    model: nn.Module,
    pixels: PixelRows,
    preprocessing: Preprocessing,
    consumers: Sequence[Consumer],
    *,
    scores: Sequence[ScoreConsumer] = (),
    layers: Sequence[str] | None = None,
    known: Mapping[str, LayerInfo] | None = None,
    pooling: Pooling = "auto",
    kinds: Mapping[str, Kind] | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    batch_size: int = 32,
    compile: bool = False,
    images: slice | None = None,
    progress: Progress = SILENT,
) -> RecordInfo:
    """Runs a network once over all images and hands the outputs of its layers to the consumers.

    The network is moved to `device` and its convolution weights into channels-last memory, and stay there;
    its training mode comes back after the call. Nothing of a batch is kept but what the consumers keep.

    Args:
        model: the network, with its weights.
        pixels: N decoded images (S, S, 3), uint8.
        preprocessing: S, mean and std.
        consumers: who gets what.
        scores: who gets what the network says in the end, and gradients of it. With any of them the network
            runs to its end, and where a gradient is asked for, back again: once for all layers.
        layers: names to tap; by default all that the consumers want.
        known: what `describe_layers` says of layers, for this network and size. Where it lacks one of them,
            or `kinds` are given, it is asked here, which takes seconds the first time.
        pooling: see `models.pooling.Pooling`.
        kinds: axis orders set by the user, by layer.
        device: where the network runs.
        precision: of the network's arithmetic (autocast); pooled activations and maps are float32 in any
            case.
        batch_size: images per step; results do not depend on it beyond rounding. Where the memory does not
            suffice, half as many from there on; not where scores are asked for.
        compile: run the network through `torch.compile`; not where gradients are asked for.
        images: only these, `start` and `stop`, out of all; they keep their numbers. `None`: all.
        progress: told how many images are done.

    Raises:
        InputError: for layers that do not exist or cannot be read, or a precision that the device lacks.
        CmonError: where the device's memory does not suffice for one image, or the network fails.
    """
    begin = time.perf_counter()
    if batch_size < 1:
        raise InputError(f"the batch size must be at least 1, not {batch_size}", where="--batch-size")
    if precision not in _DTYPES:
        raise InputError(f"unknown precision {precision!r}", where="--precision", hint="fp32, bf16 or fp16")
    device = torch.device(device)
    listened = [*(each.layers for each in consumers), *(each.layers for each in scores)]
    wanted = list(dict.fromkeys(name for names in listened for name in names))
    names = wanted if layers is None else list(layers)
    size = preprocessing.geometry.size
    if known is not None and not kinds and all(name in known for name in names):
        infos = {name: known[name] for name in names}
    else:
        infos = describe_layers(model, names, size, kinds=kinds)
    by_layer = {name: [c for c in consumers if name in c.layers] for name in infos}
    foreign = [name for name in wanted if name not in by_layer]
    if foreign:
        raise ValueError(f"a consumer wants layer {foreign[0]!r}, which is not recorded")

    poolings, assumptions = _assumptions(infos, pooling, device, precision)
    total = len(pixels)
    shown = slice(0, total) if images is None else images
    n_shown = shown.stop - shown.start
    for name, info in infos.items():
        for consumer in by_layer[name]:
            consumer.start(info, total)

    preparing, forward, capturing, consuming = (Clock(device) for _ in range(4))
    reading = Clock(torch.device("cpu"))
    bad = {name: torch.zeros((), dtype=torch.int64, device=device) for name in infos}

    def capture(name: str, output: Tensor) -> Captured:
        layout = infos[name].layout
        pooled = pool(output, layout, poolings[name])
        if not any(consumer.needs_maps for consumer in by_layer[name]) or layout.grid is None:
            return pooled, None
        maps = spatial_maps(output, layout)
        # The next layer may work in place on what the maps are a view of.
        shared = maps.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
        return pooled, maps.clone() if shared else maps

    def timed_capture(name: str, output: Tensor) -> Captured:
        with capturing():
            return capture(name, output)

    calls = {name: info.calls for name, info in infos.items()}
    most = batch_size
    try:
        model.to(device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        channels = next((info.channels for info in (*infos.values(), *(known or {}).values())), 3)
        normalise = Normaliser(preprocessing, min(batch_size, max(1, total)), device, dtype, channels)
        with (
            evaluation(model),
            _autocast(device, precision),
            (
                score_reader(model, infos, poolings, scores, timed_capture)
                if scores
                else tap(
                    model,
                    names,
                    capture=timed_capture,
                    calls=calls,
                    run=torch.compile(model) if compile else None,
                )
            ) as taps,
            contextlib.closing(batches(pixels, batch_size, size, device, shown)) as read,
            progress.task("forward pass", n_shown) as advance,
        ):
            for start, batch in _timed(read, reading):
                done = 0
                while done < len(batch):
                    part = batch if len(batch) <= most else batch[done : done + most]
                    try:
                        with preparing():
                            shown_batch = normalise(part.to(device, non_blocking=True))
                        with forward():
                            outputs = taps(shown_batch)
                    except (RuntimeError, MemoryError) as error:
                        # What listens to scores may have heard of a part of the images already.
                        if scores or len(part) == 1 or not is_out_of_memory(error):
                            raise
                        most = len(part) // 2
                        outputs = None
                    if outputs is None:  # after the error: it holds what the network had kept
                        _free_memory(device)
                        short = f"out of memory on {device} with {len(part)} images at a time"
                        progress.notice(f"{short}: {most} from here on")
                        continue
                    with consuming(), torch.no_grad():
                        for name, (pooled, maps) in outputs.items():
                            bad[name] += (~pooled.isfinite()).sum()
                            for consumer in by_layer[name]:
                                own = maps if consumer.needs_maps else None
                                consumer.update(name, start + done, pooled, own)
                        del outputs
                    done += len(part)
                    advance(len(part))
        with consuming(), torch.no_grad():
            for consumer in consumers:
                consumer.finish()
            for listener in scores:
                listener.finish()
    except CmonError:
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            smaller = f"--batch-size {most // 2}" if most > 1 else "a device with more memory"
            raise CmonError(
                f"out of memory on {device} with {most} images at a time",
                where=type(model).__name__,
                hint=smaller,
            ) from error
        raise
    overhead = capturing.seconds()
    return RecordInfo(
        images=n_shown,
        seconds_forward=forward.seconds() - overhead,
        seconds_reading=reading.seconds() + preparing.seconds(),
        seconds_consuming=consuming.seconds() + overhead,
        layers=infos,
        pooling=poolings,
        non_finite={name: int(count) for name, count in bad.items()},
        assumptions=assumptions,
        seconds=time.perf_counter() - begin,
        geometry=preprocessing.geometry,
        batch_size=most,
    )


def _free_memory(device: torch.device) -> None:
    """Give back what torch keeps for later: it may be in pieces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _timed(batches: Iterator[tuple[int, Tensor]], clock: Clock) -> Iterator[tuple[int, Tensor]]:
    while True:
        with clock():
            item = next(batches, None)
        if item is None:
            return
        yield item


def _assumptions(
    infos: Mapping[str, LayerInfo], pooling: Pooling, device: torch.device, precision: Precision
) -> tuple[dict[str, Pooling], dict[str, tuple[str, ...]]]:
    poolings: dict[str, Pooling] = {}
    assumptions: dict[str, tuple[str, ...]] = {}
    for name, info in infos.items():
        poolings[name], sentence = resolve_pooling(info.layout, pooling, name)
        said = [info.layout.note, sentence]
        if info.calls > 1:
            said.append(f"{name}: is called {info.calls} times in a forward pass; its last output counts")
        if device.type == "cuda" and precision == "fp32" and torch.backends.cudnn.allow_tf32:
            said.append("convolutions run in TF32 on this GPU (PyTorch's default for fp32)")
        assumptions[name] = tuple(sentence for sentence in said if sentence)
    return poolings, assumptions


@contextlib.contextmanager
def _autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    dtype = _DTYPES[precision]
    if dtype is None:
        yield
        return
    with warnings.catch_warnings():
        # torch warns and goes on in fp32; this is an error here.
        warnings.simplefilter("ignore")
        context = torch.autocast(device.type, dtype=dtype)
    with context:
        if not torch.is_autocast_enabled(device.type):
            hint = "--precision fp32"
            raise InputError(f"{device} does not compute in {precision}", where="--precision", hint=hint)
        yield
