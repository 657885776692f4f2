from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.record import (
    MapSpool,
    PooledWriter,
    RecordInfo,
    TopImages,
    UnitQuantile,
    UnitRange,
    record,
)
from concept_monitor_cli.record.forward import is_out_of_memory
from concept_monitor_cli.record.scores import ScoreWriter
from concept_monitor_cli.store import Store

timm = Late("timm")
torchvision = Late("torchvision")


class Pixels:
    """Images in memory, as the store hands them out."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.asked: list[tuple[int, int]] = []
        self.threads: set[str] = set()

    @classmethod
    def random(cls, count: int, size: int) -> Pixels:
        return cls(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, start: int, stop: int) -> np.ndarray:
        self.asked.append((start, stop))
        self.threads.add(threading.current_thread().name)
        return self.images[start:stop]


def preprocessing(size: int, mean: float = 0.0, std: float = 1.0) -> Preprocessing:
    return Preprocessing(Geometry(size), (mean,) * 3, (std,) * 3, "by hand")


class Keep:
    """Keeps everything that it is given."""

    def __init__(self, layer: str, *, needs_maps: bool = False) -> None:
        self.layers = (layer,)
        self.needs_maps = needs_maps
        self.starts: list[int] = []
        self._pooled: list[Tensor] = []
        self._maps: list[Tensor] = []
        self.finished = False

    def start(self, layer: Any, n_images: int) -> None:
        self.n_images = n_images

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        self.starts.append(start)
        self._pooled.append(pooled.clone())
        assert (maps is not None) == self.needs_maps
        if maps is not None:
            self._maps.append(maps.clone())

    def finish(self) -> None:
        self.finished = True

    @property
    def pooled(self) -> Tensor:
        return torch.cat(self._pooled)

    @property
    def maps(self) -> Tensor:
        return torch.cat(self._maps)


class Sums(nn.Module):
    """Units that can be worked out by hand: the channels' sum and the red channel."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.mix.weight.copy_(torch.tensor([[1.0, 1, 1], [1, 0, 0]])[:, :, None, None])
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.mix(x))
        return y


def test_by_hand() -> None:
    images = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    images[0] = 255
    images[1, 0, 0] = (255, 0, 51)
    keep = Keep("mix", needs_maps=True)
    info = record(Sums(), Pixels(images), preprocessing(2, mean=0.5, std=0.25), [keep], batch_size=2)
    # (1 - 0.5) / 0.25 = 2 for white, -2 for black.
    assert torch.allclose(keep.pooled[0], torch.tensor([6.0, 2.0]), atol=1e-5)
    assert torch.allclose(keep.maps[1, :, 0, 0], torch.tensor([2 - 2 - 1.2, 2.0]), atol=1e-5)
    assert torch.allclose(keep.pooled[2], torch.tensor([-6.0, -2.0]), atol=1e-5)
    assert keep.starts == [0, 2]
    assert keep.finished
    assert keep.n_images == info.images == 3


def test_what_is_known_of_layers_is_not_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from concept_monitor_cli.models.layers import describe_layers
    from concept_monitor_cli.record import forward

    pixels = Pixels.random(3, 4)
    known = describe_layers(Sums(), ["mix", "act"], 4)
    monkeypatch.setattr(forward, "describe_layers", None)
    keep = Keep("act")
    info = record(Sums(), pixels, preprocessing(4), [keep], known=known)
    assert info.layers == {"act": known["act"]}
    assert keep.pooled.shape == (3, 2)


def test_normalisation_is_torchvisions() -> None:
    pixels = Pixels.random(3, 8)
    network = nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 1))
    keep = Keep("0", needs_maps=True)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    record(network, pixels, Preprocessing(Geometry(8), mean, std, ""), [keep], batch_size=2)
    scaled = torch.from_numpy(pixels.images).permute(0, 3, 1, 2).float() / 255
    expected = torchvision.transforms.functional.normalize(scaled, list(mean), list(std))
    assert torch.allclose(keep.maps, expected, atol=1e-6)


def test_a_layer_before_one_that_works_in_place() -> None:
    pixels = Pixels.random(4, 4)
    network = nn.Sequential(Sums(), nn.Conv2d(2, 2, 1))
    mix, act = Keep("0.mix", needs_maps=True), Keep("0.act", needs_maps=True)
    record(network, pixels, preprocessing(4, 0.5, 0.2), [mix, act, Keep("1")], batch_size=3)
    assert (mix.maps < 0).any()
    assert torch.equal(mix.maps.relu(), act.maps)
    assert torch.allclose(mix.pooled, mix.maps.mean((2, 3)), atol=1e-6)


def test_a_short_last_batch_and_reading_ahead() -> None:
    pixels = Pixels.random(10, 4)
    keep = Keep("mix")
    record(Sums(), pixels, preprocessing(4), [keep], batch_size=4)
    assert pixels.asked == [(0, 4), (4, 8), (8, 10)]
    assert keep.starts == [0, 4, 8]
    assert keep.pooled.shape == (10, 2)
    assert threading.current_thread().name not in pixels.threads
    assert not [t for t in threading.enumerate() if t.name.startswith("cmon-pixels")]


NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(), ["layer1.0.relu", "layer4", "fc"], 64),
    "convnext": (lambda: timm.create_model("convnext_atto"), ["stages.0", "stages.3", "head"], 64),
    "torchvision convnext_tiny": (
        lambda: torchvision.models.convnext_tiny(),
        ["features.3", "features.3.0.block.3"],
        64,
    ),
    "swin_t": (lambda: torchvision.models.swin_t(), ["features.1", "features.7", "head"], 64),
    "timm vit_tiny": (
        lambda: timm.create_model("vit_tiny_patch16_224"),
        ["blocks.3", "blocks.11", "head"],
        224,
    ),
    "timm deit distilled": (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), ["blocks.3"], 224),
}


def build(name: str) -> tuple[nn.Module, list[str], int]:
    make, layers, size = NETWORKS[name]
    torch.manual_seed(0)
    return make(), layers, size


@pytest.mark.parametrize("name", NETWORKS)
def test_two_batch_sizes_agree_and_equal_the_plain_network(name: str) -> None:
    network, layers, size = build(name)
    pixels = Pixels.random(5, size)
    results = []
    for batch_size in (2, 5):
        consumers = [c for x in layers for c in (Keep(x, needs_maps=True), TopImages(x, 4))]
        info = record(network, pixels, preprocessing(size, 0.5, 0.25), consumers, batch_size=batch_size)
        results.append(consumers)
    for first, second in zip(*results, strict=True):
        if isinstance(first, TopImages):
            assert torch.allclose(first.values, second.values, atol=1e-5, rtol=1e-5)
            assert (first.indices == second.indices).float().mean() > 0.99
        else:
            assert torch.allclose(first.pooled, second.pooled, atol=1e-5, rtol=1e-5)
    # Independently: hooks of our own, and the pooling written out.
    network.eval()
    x = (torch.from_numpy(pixels.images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    for layer, keep in zip(layers, results[0][::2], strict=True):
        seen: list[Tensor] = []
        handle = network.get_submodule(layer).register_forward_hook(
            lambda m, i, o, s=seen: s.append(o.clone())
        )
        with torch.no_grad():
            network(x)
        handle.remove()
        expected = seen[-1]
        units = info.layers[layer].units
        if expected.ndim == 4:
            expected = expected.mean([a for a in (1, 2, 3) if expected.shape[a] != units])
        elif expected.ndim == 3:
            expected = expected[:, 0]
        assert torch.allclose(keep.pooled, expected, atol=2e-5, rtol=1e-4)


def test_the_training_mode_comes_back_and_statistics_stay() -> None:
    network = torchvision.models.resnet18().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    record(network, Pixels.random(2, 64), preprocessing(64), [Keep("layer1")], batch_size=2)
    assert network.training
    assert network.layer1[0].bn1.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(not m._forward_hooks for m in network.modules())


def test_the_pass_ends_after_the_last_layer() -> None:
    class Tail(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.device.type != "meta":
                raise AssertionError("reached")
            return x

    record(nn.Sequential(Sums(), Tail()), Pixels.random(3, 4), preprocessing(4), [Keep("0")], batch_size=2)


def test_streaming_into_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pixels = Pixels.random(7, 64)
    network = torchvision.models.resnet18()
    keep = Keep("layer3", needs_maps=True)
    pooled_key, maps_key = (store.key(kind, test="forward") for kind in ("activations", "masks"))
    with store.writer(pooled_key) as pooled_writer, store.writer(maps_key) as maps_writer:
        consumers = [PooledWriter("layer3", pooled_writer), MapSpool("layer3", maps_writer), keep]
        info = record(network, pixels, preprocessing(64), consumers, batch_size=3)
    pooled, maps = store.get(pooled_key), store.get(maps_key)
    assert pooled is not None
    assert maps is not None
    assert np.array_equal(pooled.read("pooled"), keep.pooled.numpy())
    assert pooled.dtype("pooled") == np.float32
    assert np.array_equal(maps.read("maps"), keep.maps.numpy())
    assert maps.shape("maps") == (7, 256, 4, 4)
    assert MapSpool.nbytes(info.layers["layer3"], 7) == maps.read("maps").nbytes


def test_a_failure_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.key("activations", test="failure")

    class Broken(Pixels):
        def rows(self, start: int, stop: int) -> np.ndarray:
            if start >= 4:
                raise OSError("disk gone")
            return super().rows(start, stop)

    network = Sums()

    def attempt() -> None:
        with store.writer(key) as writer:
            consumers = [PooledWriter("mix", writer)]
            record(network, Broken(Pixels.random(9, 4).images), preprocessing(4), consumers, batch_size=2)

    with pytest.raises(OSError, match="disk gone"):
        attempt()
    assert store.get(key) is None
    assert all(not m._forward_hooks for m in network.modules())
    assert not [t for t in threading.enumerate() if t.name.startswith("cmon-pixels")]


def test_spooled_maps_are_the_networks_own_numbers(tmp_path: Path) -> None:
    """Around an offset and beyond what float16 holds: thresholds and masks see what the network computed."""
    store, keep = Store(tmp_path), Keep("mix", needs_maps=True)
    key = store.key("masks", test="wide")
    with store.writer(key) as writer:
        listeners = [MapSpool("mix", writer), keep]
        record(Sums(), Pixels.random(2, 4), preprocessing(4, 0.0, 1e-6), listeners, batch_size=2)
    entry = store.get(key)
    assert entry is not None
    assert entry.read("maps").max() > 65504
    assert np.array_equal(entry.read("maps"), keep.maps.numpy())


def test_threshold_of_a_real_layer() -> None:
    pixels = Pixels.random(6, 64)
    network = torchvision.models.resnet18()
    keep, histogram = Keep("layer2", needs_maps=True), UnitQuantile("layer2", 0.005)
    record(network, pixels, preprocessing(64), [keep, histogram], batch_size=4)
    values = keep.maps.transpose(0, 1).flatten(1).sort(1, descending=True).values
    assert torch.equal(histogram.threshold(), values[:, int(0.005 * values.shape[1])])


def test_values_that_are_no_numbers_are_counted() -> None:
    network = Sums()
    with torch.no_grad():
        network.mix.weight[1] = torch.nan
    top, ranges = TopImages("mix", 2), UnitRange("mix")
    info = record(network, Pixels.random(5, 4), preprocessing(4), [top, ranges], batch_size=2)
    assert info.non_finite == {"mix": 5}
    assert any("5 activations are infinite or not a number" in sentence for sentence in info.notes("mix"))
    assert top.non_numbers == 5
    assert ranges.dead.tolist() == [False, True]


def test_what_was_assumed_is_said() -> None:
    with torch.device("cpu"):
        network, _, _ = build("resnet18")
    info = record(
        network, Pixels.random(2, 64), preprocessing(64), [Keep("layer1.0.relu")], batch_size=2, pooling="cls"
    )
    said = info.notes("layer1.0.relu")
    assert any("called 2 times" in sentence for sentence in said)
    assert any("no tokens" in sentence for sentence in said)
    assert info.pooling == {"layer1.0.relu": "mean"}


def test_times_add_up() -> None:
    network, _, _ = build("resnet18")
    info: RecordInfo = record(
        network, Pixels.random(16, 64), preprocessing(64), [Keep("layer4")], batch_size=8
    )
    parts = info.seconds_forward + info.seconds_reading + info.seconds_consuming
    assert 0 < info.seconds_forward < info.seconds
    assert parts <= info.seconds


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_on_the_cpu(precision: str) -> None:
    network, _, _ = build("resnet18")
    pixels = Pixels.random(4, 64)
    full, low = Keep("layer4"), Keep("layer4")
    record(network, pixels, preprocessing(64), [full], batch_size=4)
    try:
        record(network, pixels, preprocessing(64), [low], batch_size=4, precision=precision)  # type: ignore[arg-type]
    except InputError as error:
        assert precision in str(error)  # noqa: PT017 (a machine may lack the type; then it must say so)
        return
    assert low.pooled.dtype == torch.float32
    assert not torch.equal(low.pooled, full.pooled)
    assert torch.nn.functional.cosine_similarity(low.pooled, full.pooled).min() > 0.999


class Greedy(nn.Module):
    """Runs out of memory with more than two images."""

    least = 2

    def __init__(self) -> None:
        super().__init__()
        self.inner = Sums()

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "meta" and len(x) > self.least:
            torch.empty(1 << 60)
        y: Tensor = self.inner(x)
        return y


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    pixels, heard, small, halved = Pixels.random(13, 4), Heard(), Keep("inner"), Keep("inner")
    record(Greedy(), pixels, preprocessing(4), [small], batch_size=2)
    info = record(Greedy(), pixels, preprocessing(4), [halved], batch_size=8, progress=heard)
    assert heard.notices == [
        f"out of memory on cpu with {size} images at a time: {size // 2} from here on" for size in (8, 4)
    ]
    assert halved.starts == [0, 2, 4, 6, 8, 10, 12]
    assert torch.equal(halved.pooled, small.pooled)
    assert info.images == 13
    assert info.batch_size == 2


def test_out_of_memory_with_one_image_or_with_scores_is_an_error(tmp_path: Path) -> None:
    class Greediest(Greedy):
        least = 0

    with pytest.raises(CmonError, match="out of memory on cpu with 1 images") as error:
        record(Greediest(), Pixels.random(8, 4), preprocessing(4), [Keep("inner")], batch_size=8)
    assert error.value.hint == "a device with more memory"
    # What listens to scores may have heard of a part of a batch.
    store, images, inner = Store(tmp_path), Pixels.random(8, 4), [Keep("inner")]
    with pytest.raises(CmonError, match="8 images") as error, store.writer(store.key("logits")) as writer:
        record(Greedy(), images, preprocessing(4), inner, scores=[ScoreWriter(writer, 8)], batch_size=8)
    assert error.value.hint == "--batch-size 4"


def test_which_errors_are_about_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_bad_input() -> None:
    pixels, prep = Pixels.random(2, 4), preprocessing(4)
    with pytest.raises(InputError, match="no layer 'mixx'"):
        record(Sums(), pixels, prep, [Keep("mixx")])
    with pytest.raises(InputError, match="batch size"):
        record(Sums(), pixels, prep, [Keep("mix")], batch_size=0)
    with pytest.raises(InputError, match="precision"):
        record(Sums(), pixels, prep, [Keep("mix")], precision="fp8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not recorded"):
        record(Sums(), pixels, prep, [Keep("act")], layers=["mix"])
    with pytest.raises(CmonError, match="expected"):
        record(Sums(), pixels, preprocessing(8), [Keep("mix")])


@pytest.mark.slow
def test_compiled_networks_give_the_same() -> None:
    network, _, _ = build("resnet18")
    layers = ["bn1", "layer1.0.relu", "layer3"]
    pixels = Pixels.random(5, 64)
    results = []
    for compiled in (False, True):
        consumers = [Keep(layer, needs_maps=True) for layer in layers]
        record(network, pixels, preprocessing(64, 0.5, 0.25), consumers, batch_size=2, compile=compiled)
        results.append(consumers)
    assert (results[1][0].maps < 0).any()
    for first, second in zip(*results, strict=True):
        assert torch.allclose(first.pooled, second.pooled, atol=1e-4)
        assert torch.allclose(first.maps, second.maps, atol=1e-3)


def test_no_images() -> None:
    keep, top, ranges = Keep("mix"), TopImages("mix", 2), UnitRange("mix")
    info = record(Sums(), Pixels.random(0, 4), preprocessing(4), [keep, top, ranges])
    assert info.images == 0
    assert keep.finished
    assert (top.indices == -1).all()
    assert ranges.dead.all()


def test_progress_counts_the_images() -> None:
    counted: list[int] = []

    class Count:
        def notice(self, message: str) -> None: ...
        def warning(self, message: str) -> None: ...
        def detail(self, message: str) -> None: ...

        @contextlib.contextmanager
        def task(self, description: str, total: int | None, unit: str = "images") -> Iterator[Any]:
            counted.append(-(total or 0))
            yield counted.append

    record(Sums(), Pixels.random(5, 4), preprocessing(4), [Keep("mix")], batch_size=2, progress=Count())
    assert counted == [-5, 2, 2, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    network, layers, size = build("resnet18")
    pixels = Pixels.random(40, size)
    results = []
    for device in ("cpu", "cuda"):
        consumers = [c for x in layers for c in (Keep(x), TopImages(x, 5), UnitRange(x), UnitQuantile(x))]
        info = record(network, pixels, preprocessing(size), consumers, batch_size=16, device=device)
        assert info.seconds_forward > 0
        results.append(consumers)
    for first, second in zip(*results, strict=True):
        if isinstance(first, Keep):
            assert torch.allclose(first.pooled, second.pooled.cpu(), atol=2e-2, rtol=2e-2)
        elif isinstance(first, UnitQuantile):
            assert torch.allclose(first.threshold(), second.threshold(), atol=2e-2, rtol=2e-2)
