"""Recordings and other passes of a network on a simulated device: as on the host, few waits a batch."""

from __future__ import annotations

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli import record as package
from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.interventions import set_directions, set_units
from concept_monitor_cli.models.layers import LayerInfo, describe_layers
from concept_monitor_cli.record.changed import scores_with_changes, unit_means
from concept_monitor_cli.record.evolved import Side, evolved, scores_set_back
from concept_monitor_cli.record.exemplars import Exemplars
from concept_monitor_cli.record.forward import record
from concept_monitor_cli.record.knocked import Network, measure_edges, weigh_edges
from concept_monitor_cli.record.requests import (
    OUTPUT,
    Activations,
    Contributions,
    Gradients,
    Logits,
    Maps,
    Masks,
    Recording,
)
from concept_monitor_cli.record.sight import looking, usable_side
from concept_monitor_cli.record.soundness import units_without_numbers
from concept_monitor_cli.record.whole_maps import WholeMaps
from concept_monitor_cli.store import Store
from tests.simulated import DEVICE, Remote, simulated_device, uploads, waits

SIDE, BATCH = 12, 4
CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(Geometry(SIDE, SIDE), (0.5,) * 3, (0.25,) * 3, "the test")
CLASSES = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])


class Pixels:
    """Images in memory."""

    def __init__(self, count: int) -> None:
        self.values = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self.values[start:stop]


def network(seed: int = 0) -> nn.Module:
    """Layers `2` and `4` are ReLUs; a head of three classes follows."""
    torch.manual_seed(seed)
    features = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3)]
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]
    return nn.Sequential(*features, *head).eval()


@pytest.fixture(scope="module")
def layers() -> dict[str, LayerInfo]:
    return describe_layers(network(), ["2", "4"], SIDE)


@dataclass(frozen=True)
class Trial:
    """What is recorded or run.

    Attributes:
        device: where.
        layers: of the network.
        images: how many.
    """

    device: torch.device
    layers: dict[str, LayerInfo]
    images: int

    @property
    def pixels(self) -> Pixels:
        return Pixels(self.images)

    @property
    def common(self) -> tuple[nn.Module, Pixels, Preprocessing, LayerInfo]:
        return network(), self.pixels, PREPROCESSING, self.layers["2"]

    @property
    def how(self) -> dict[str, Any]:
        return {"device": self.device, "batch_size": BATCH}


# -- recordings ----------------------------------------------------------------------------------------------

# The request, and the most waits a batch.
RECORDINGS: dict[str, tuple[Recording, int]] = {
    "Activations": (Activations(5), 0),
    "Maps": (Maps(), 0),
    "Logits": (Logits(), 1),  # each batch is written as it comes
    "Gradients": (Gradients(target="loss"), 0),
    "Contributions": (Contributions(classes=(-1, 1) * 24), 0),
    "Masks": (Masks((SIDE, SIDE), 0.05, 3), 0),
    # A second pass: pairs, rows, stretches and pixels that fire are counted in turn.
    "Masks, in two passes": (Masks((SIDE, SIDE), 0.05, 3, spool_bytes=0), 6),
    "Exemplars": (Exemplars(5), 1),  # what peaks highest is kept on the host
    "WholeMaps": (WholeMaps(3), 0),
}


def classes_with(method: str) -> set[str]:
    """The classes of `record/` that have a method, protocols left out."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    return {
        each.__name__
        for module in map(importlib.import_module, names)
        for each in vars(module).values()
        if inspect.isclass(each) and each.__module__ == module.__name__
        if hasattr(each, method) and not getattr(each, "_is_protocol", False)
    }


def test_every_recording_is_tried() -> None:
    assert classes_with("begin") == {name.partition(",")[0] for name in RECORDINGS}


def recorded(root: Path, request: Recording, trial: Trial) -> dict[str, np.ndarray[Any, Any]]:
    """What a recording leaves in the store."""
    store, layer = Store(root), OUTPUT if isinstance(request, Logits) else trial.layers["2"]
    key = store.key(request.kind, images=trial.images, there=str(trial.device), **request.settings())
    with ExitStack() as stack:
        passes = [request.begin(stack, store, key, layer, trial.images)]
        while passes:
            info = record(
                network(),
                trial.pixels,
                PREPROCESSING,
                [consumer for each in passes for consumer in each.consumers],
                scores=[consumer for each in passes for consumer in each.scores],
                known=trial.layers,
                **trial.how,
            )
            assert info.seconds_forward > 0
            passes = [more for each in passes if (more := each.complete(info)) is not None]
    entry = store.get(key)
    assert entry is not None
    with entry:
        return {name: entry.read(name) for name in entry.names()}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_that_of_the_host(name: str, layers: dict[str, LayerInfo], tmp_path: Path) -> None:
    request, most = RECORDINGS[name]
    here = recorded(tmp_path, request, Trial(CPU, layers, 3 * BATCH))
    counted = []
    for count in (3, 6):
        with simulated_device() as counts:
            there = recorded(tmp_path, request, Trial(DEVICE, layers, count * BATCH))
            pinned = sum(many for (_, how, _), many in counts.items() if how == "to, without waiting")
            counted.append((waits(counts), uploads(counts), pinned, counts.most_common(9)))
        if count == 3:
            assert list(here) == list(there)
            for each in here:
                np.testing.assert_array_equal(here[each], there[each], each)
    (waited, sent, pinned, _), (waited_more, sent_more, pinned_more, places) = counted
    assert waited_more - waited <= 3 * most, places
    # Nothing is sent but the images, once for each pass, from pinned memory.
    passes = 2 if "two" in name else 1
    own_classes = 3 if name == "Contributions" else 0
    assert (sent_more - sent, pinned_more - pinned) == (3 * passes + own_classes, 3 * passes), places


# -- passes with changes -------------------------------------------------------------------------------------


def _side(trial: Trial, seed: int) -> Side:
    return Side(network(seed), trial.pixels, PREPROCESSING)


def _classes(trial: Trial) -> Tensor:
    return CLASSES.repeat_interleave(trial.images // len(CLASSES))


def _network(trial: Trial) -> Network:
    return Network(
        network(), trial.pixels, PREPROCESSING, np.arange(1, trial.images - 1), trial.device, BATCH
    )


def _sight(trial: Trial) -> list[Tensor]:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(trial.device)
    leaf = images.requires_grad_()
    with looking(network(), trial.layers["2"], PREPROCESSING, device=trial.device) as sight:
        slope = torch.autograd.grad(sight.pooled(leaf).square().sum(), leaf)[0]
        pooled, channels = sight.pooled_and_channels(leaf)
        found = [slope, pooled, channels, sight.maps(leaf), sight.activations(leaf)]
    assert all(isinstance(each, Remote) == (trial.device == DEVICE) for each in found)
    return [each.detach().cpu() for each in found]


def _unsound(trial: Trial) -> list[int]:
    model = network()
    with torch.no_grad():
        model[0].weight[3] = torch.nan
    return units_without_numbers(model.to(trial.device), [trial.layers["2"]], SIDE)["2"]


def _changes(trial: Trial) -> list[Tensor]:
    directions = torch.linalg.qr(torch.arange(16.0).view(8, 2).cos()).Q
    edits = [set_units([1, 3], 0.5), set_directions(directions, 0.0)]
    return scores_with_changes(*trial.common, edits, lambda scores, _: scores, **trial.how)


def _edges(trial: Trial) -> Any:
    return measure_edges(_network(trial), trial.layers["2"], trial.layers["4"], draws=3)


def _weighed(trial: Trial) -> Tensor:
    means = torch.ones(8, dtype=torch.float64)
    return weigh_edges(_network(trial), trial.layers["2"], trial.layers["4"], means)


# What is run, and the most waits a batch.
PASSES: dict[str, tuple[Callable[[Trial], Any], int]] = {
    "unit_means": (lambda trial: unit_means(*trial.common, **trial.how), 1),
    "scores_with_changes": (_changes, 1),
    "evolved": (
        lambda trial: evolved(
            *(_side(trial, seed) for seed in (0, 1)),
            trial.layers["2"],
            range(trial.images),
            _classes(trial),
            steps=3,
            **trial.how,
        ),
        1,
    ),
    "scores_set_back": (
        lambda trial: scores_set_back(
            *(_side(trial, seed) for seed in (0, 1)),
            trial.layers["2"],
            range(trial.images),
            _classes(trial),
            [[0, 1], [5]],
            **trial.how,
        ),
        1,
    ),
    "measure_edges": (_edges, 2),  # means of both layers as they are, then those without a unit
    "weigh_edges": (_weighed, 0),
    "looking": (_sight, 0),
    "usable_side": (lambda trial: usable_side(network(), 3, [1, SIDE], trial.device), 0),
    "units_without_numbers": (_unsound, 0),
}
# They run inside of the others.
PARTS = {"prepared", "network_images", "record", "score_reader"}


def passes() -> set[str]:
    """The public functions of `record/` that run a network."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    return {
        name
        for module in map(importlib.import_module, names)
        for name, each in vars(module).items()
        if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_")
        if {"nn.Module", "Network", "Side"} & {str(kind) for kind in each.__annotations__.values()}
        if name != "class_scores"  # reads what a network returned
    }


def test_every_pass_is_tried() -> None:
    assert passes() == PASSES.keys() | PARTS


def numbers(found: Any) -> Iterator[np.ndarray[Any, Any]]:
    """The numbers of a result; tensors must be on the host by now."""
    if isinstance(found, Tensor | int | float):
        yield np.asarray(found)
    elif isinstance(found, list | tuple):
        for each in found:
            yield from numbers(each)
    elif not isinstance(found, str):
        yield from numbers(list(vars(found).values()))


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_gives_what_it_gives_on_the_host(name: str, layers: dict[str, LayerInfo]) -> None:
    run, most = PASSES[name]
    here = list(numbers(run(Trial(CPU, layers, 2 * BATCH))))
    counted = []
    for count in (2, 4):
        with simulated_device() as counts:
            there = run(Trial(DEVICE, layers, count * BATCH))
            counted.append((waits(counts), counts.most_common(12)))
        if count == 2:
            for one, other in zip(here, numbers(there), strict=True):
                np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    (waited, _), (waited_more, places) = counted
    assert waited_more - waited <= 2 * most, places
