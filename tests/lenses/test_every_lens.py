"""Every detector through the same trials, plug-ins too: a small network looks at photos with masks."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.lenses import Detector, Findings, make_detector
from concept_monitor_cli.lenses.names import compositional, ranges
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.probe import ProbeSet, decode_probe
from concept_monitor_cli.record import record
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.run.traits import Traits
from concept_monitor_cli.store import Entry
from concept_monitor_cli.study import Context

from .worlds import SIDE, make_world

EXAMPLE = f"{Path(__file__).resolve().parents[2] / 'docs/examples/auc.py'}:Area"
EVERY = pytest.mark.parametrize("name", [*detectors(), EXAMPLE], ids=lambda name: name.rpartition(":")[2])
UNITS = 12


class Seeing(Context):
    """A context whose encoder is a table: what it says of images and words is given."""

    @property
    def digests(self) -> dict[str, str]:
        return {"words": "given", "images": "given", "groups": self.groups_digest}

    def embed_words(self, words: Any, progress: Any = None) -> Tensor:
        """The same vector for the same word."""
        rows = [
            torch.randn(16, generator=torch.Generator().manual_seed(sum(map(ord, word)))) for word in words
        ]
        return nn.functional.normalize(torch.stack(rows)).to(self.device)


@dataclass
class World:
    """Photos with masks, words, and a network to look at."""

    context: Context
    probe: ProbeSet
    made: int = 0
    kept: dict[str, Findings] = field(default_factory=dict)

    def look(self, detector: Detector, model: nn.Module, *, batch_size: int = 16) -> Entry:
        """What the detector asks for, recorded."""
        preprocessing = Preprocessing(Geometry(SIDE, mode="squash"), (0.5,) * 3, (0.25,) * 3, "test")
        store = self.context.store
        _, (pixels,) = decode_probe(store, self.probe, [preprocessing.geometry], workers=1)
        layer = describe_layers(model, ["1"], SIDE)["1"]
        request = detector.recording(self.context)
        self.made += 1
        key = store.key(request.kind, trial=self.made, **request.settings())
        with ExitStack() as stack:
            passes = [request.begin(stack, store, key, layer, len(pixels))]
            while passes:
                consumers = [consumer for each in passes for consumer in each.consumers]
                info = record(model, pixels, preprocessing, consumers, batch_size=batch_size)
                passes = [more for each in passes if (more := each.complete(info)) is not None]
        entry = store.get(key)
        assert entry is not None
        return entry

    def find(self, detector: Detector, model: nn.Module, **more: Any) -> Findings:
        with self.look(detector, model, **more) as entry:
            return detector.find(entry, self.context)

    def usual(self, name: str) -> Findings:
        """What a detector says of the ordinary network, found once."""
        if name not in self.kept:
            self.kept[name] = self.find(detector_of(name), network())
        return self.kept[name]


def make(root: Path, photos: int = 60) -> World:
    made = make_world(root, photos).context
    concepts = made.probe.concepts
    assert concepts is not None
    context = Seeing(made.store, made.probe, None, concepts, _Table())  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(1)
    texts = context.embed_words(concepts.concepts)
    images = nn.functional.normalize(torch.randn(photos, 16, generator=rng) + 0.1)
    context.__dict__.update(
        image_embeddings=images,
        text_embeddings=texts,
        activations=ConceptActivations.from_embeddings(images, texts),
    )
    return World(context, made.probe)


class _Table:
    """Stands for an encoder where only its being there is asked."""

    preprocessing = None


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here does not hang on the number of draws, and each draw of formulas is a search."""
    for lens in (compositional, ranges):
        monkeypatch.setattr(lens, "MOST_DRAWS", 3)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(tmp_path_factory.mktemp("world"))


def network(units: int = UNITS, seed: int = 0) -> nn.Module:
    """A convolution of three and one of many channels, whose ReLU is looked at as layer `1`."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, units, 3, padding=1), nn.ReLU()).eval()


def weights(model: nn.Module) -> nn.Conv2d:
    first = next(model.children())
    assert isinstance(first, nn.Conv2d)
    return first


def detector_of(name: str) -> Detector:
    return make_detector(name, DissectOptions(checkpoints=(), layers=(), length=2, beam=4))


def same(one: Findings, other: Findings, units: Any = slice(None)) -> None:
    """Equal to the last bit."""
    for item in fields(Findings):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a[units], b[units], err_msg=item.name)


@EVERY
def test_it_says_what_it_is(name: str) -> None:
    detector = detector_of(name)
    assert detector.summary
    assert detector.paper
    json.dumps(detector.settings())
    assert Traits.from_json(json.loads(json.dumps(detector.traits().to_json()))) == detector.traits()


@EVERY
def test_the_same_recording_gives_the_same_findings_and_a_table(name: str, world: World) -> None:
    detector = detector_of(name)
    first, second = world.usual(name), world.find(detector, network())
    same(first, second)
    place = {"epoch": 3, "checkpoint": "c.pth", "layer": "1", "detector": detector.name}
    table = TABLES["concepts"].frame(first.rows(**place))  # type: ignore[arg-type]
    assert set(table["unit"]) == set(range(UNITS))
    schemas = {schema.name: schema for schema in detector.tables}
    for extra in first.more:
        schemas[extra].frame(first.more_rows(extra, **place))  # type: ignore[arg-type]


@EVERY
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_size_of_batches_decides_nothing(name: str, world: World, batch_size: int) -> None:
    detector = detector_of(name)
    whole, split = world.usual(name), world.find(detector, network(), batch_size=batch_size)
    np.testing.assert_array_equal(whole.concepts[:, 0], split.concepts[:, 0])
    np.testing.assert_allclose(whole.scores, split.scores, rtol=1e-4, atol=1e-5)


@EVERY
def test_units_in_another_order_have_the_same_labels(name: str, world: World) -> None:
    detector, model, other = detector_of(name), network(), network()
    order = torch.randperm(UNITS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        weights(other).weight.copy_(weights(model).weight[order])
        weights(other).bias.copy_(weights(model).bias[order])  # type: ignore[union-attr, index]
    one, two = world.usual(name), world.find(detector, other)
    np.testing.assert_array_equal(one.concepts[order.numpy(), 0], two.concepts[:, 0])


@EVERY
def test_every_rank_has_the_category_of_its_own_concept(name: str, world: World) -> None:
    detector = detector_of(name)
    if detector.traits().labels != "concepts":
        pytest.skip("its labels are made of several concepts")
    words, masks = world.context.concepts, world.context.labels
    kinds: dict[str, set[str]] = {}
    for concept, category in (
        zip(words.concepts, words.categories, strict=True)
        if detector.traits().candidates == "concepts"
        else zip(masks.names, masks.categories, strict=True)
    ):
        kinds.setdefault(concept, set()).add(category)
    found = world.usual(name)
    rows = list(zip(found.concepts, found.categories, strict=True))
    for labels, categories in rows:
        for label, category in zip(labels, categories, strict=True):
            assert category in kinds[label] if label else category == ""
    if found.concepts.shape[1] > 1:  # else a category copied from rank 1 could not be told
        assert any(len(set(categories) - {""}) > 1 for _, categories in rows)


@EVERY
def test_findings_come_back_from_the_store_as_they_were(name: str, world: World) -> None:
    findings = world.usual(name)
    world.made += 1
    key = world.context.store.key("findings", trial=world.made)
    with world.context.store.writer(key) as writer:
        findings.save(writer)
    writer.entry.close()
    entry = world.context.store.get(key)
    assert entry is not None
    with entry:
        back = Findings.load(entry)
    same(findings, back)
    assert back.calibration == findings.calibration
    assert back.notes == findings.notes
    assert {table: sorted(columns) for table, columns in back.more.items()} == {
        table: sorted(columns) for table, columns in findings.more.items()
    }


@EVERY
@pytest.mark.parametrize("damage", ["dead", "nan"])
def test_a_unit_that_says_nothing_has_no_label_and_harms_no_other(
    name: str, world: World, damage: str
) -> None:
    detector, model = detector_of(name), network()
    with torch.no_grad():
        weights(model).weight[4] = 0 if damage == "dead" else torch.nan
        weights(model).bias[4] = 0.5 if damage == "dead" else torch.nan  # type: ignore[index]
    found = world.find(detector, model)
    assert not found.live[4]
    assert found.state[4] == "dead"
    rows = found.rows(epoch=0, checkpoint="c", layer="1", detector=detector.name)
    own = np.asarray(rows["unit"]) == 4
    assert np.asarray(rows["concept"])[own].tolist() == [""]
    assert not np.asarray(rows["interpretable"])[own].any()
    others = np.arange(UNITS) != 4
    assert found.live[others].all()
    assert np.isfinite(found.p_values[others]).all()


@EVERY
def test_a_layer_of_one_unit_and_a_layer_of_dead_ones(name: str, world: World) -> None:
    detector = detector_of(name)
    one = world.find(detector, network(1))
    assert len(one.concepts) == 1
    assert 0 < one.p_values[0] <= 1 or not one.live[0]
    silent = network(3)
    with torch.no_grad():
        weights(silent).weight.zero_()
    none = world.find(detector, silent)
    assert not none.live.any()
    assert not none.interpretable.any()


@EVERY
def test_few_photos_are_enough_to_say_something_without_a_traceback(name: str, tmp_path: Path) -> None:
    few = make(tmp_path, 12)
    found = few.find(detector_of(name), network())
    assert np.isnan(found.p_values[~found.live]).all()
    assert (found.p_values[found.live] > 0).all()
