"""Running statistics are planted by showing photos in training mode: then it is known what must be found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from concept_monitor_cli.evidence import InputEvidence, Presentation, Shown, find_input, variants
from concept_monitor_cli.evidence.look import Eye, Photos
from concept_monitor_cli.models.batch_norm import input_moments, running_layers
from concept_monitor_cli.models.build import ModelSource, constructor, resolve_model
from concept_monitor_cli.models.preprocess import target_preprocessing
from concept_monitor_cli.probe import ProbeSet, load_probe


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ProbeSet:
    """Redder than blue, as photos are."""
    return photos(tmp_path_factory.mktemp("photos"), colours=(150, 110, 70))


def photos(folder: Path, colours: tuple[int, int, int]) -> ProbeSet:
    """Smooth images of these colours on average."""
    random = np.random.default_rng(0)
    for number in range(48):
        small = random.normal(colours, (60, 45, 30), (6, 6, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(small).resize((40, 40), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return load_probe(str(folder), cache_dir=folder / "cache")


class Broken(nn.Module):
    """A module that fails."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Fails."""
        raise ZeroDivisionError


class Unused:
    """The source of a network that must not be run."""

    label, library, name, in_chans, recognised, alternatives = "user/own", "user", "own", 3, False, ()
    config = None
    kwargs: ClassVar[dict[str, object]] = {}

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        network.register_forward_pre_hook(self.fail)

    def fail(self, *_: object) -> None:
        """The network is run."""
        raise AssertionError("the network is run")

    def restore(self, *_: object) -> nn.Module:
        """The network."""
        return self.network


class Variant:
    """The source of the same network, but for what its first layer sees beyond the border."""

    label = "cmon/reflecting"

    def __init__(self, source: ModelSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def restore(self, *arguments: Any) -> nn.Module:
        """The network."""
        return reflecting(self._source.restore(*arguments))


def reflecting(network: nn.Module) -> nn.Module:
    """The network, whose first layer sees the image mirrored beyond its border."""
    network.conv1.padding_mode = "reflect"
    network.conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    return network


def find(
    probe: ProbeSet,
    mean: float,
    std: float,
    *,
    swapped: bool = False,
    train: bool = True,
    shown: ProbeSet | None = None,
    usual_size: int | None = None,
    variant: bool = False,
    trained_as_variant: bool = False,
    named_variant: bool = False,
    **more,
):
    """What is found of a network whose statistics are of images presented so."""
    torch.manual_seed(0)
    maker = constructor("cmon", "cifar_resnet20")
    assert maker is not None
    network = maker.factory(num_classes=3).train()
    pixels = np.stack([np.asarray(probe.image(row).resize((32, 32))) for row in range(0, len(probe))])
    images = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of what is shown, after one pass
    if trained_as_variant:
        reflecting(network)
    if train:
        with torch.no_grad():
            network(images.flip(1) if swapped else images)
    weights = network.state_dict()
    plain = resolve_model(None, weights)
    source, other = (Variant(plain), plain) if named_variant else (plain, Variant(plain))
    prepare = partial(target_preprocessing) if usual_size is None else sized(usual_size)
    usual = Presentation(source, prepare(source))
    device = torch.device("cpu")
    sources = [source, other] if variant else [source]
    found = find_input(weights, usual, sources, prepare, probe=shown or probe, device=device, **more)
    assert InputEvidence.from_json(found.to_json()) == found
    assert found.sentence
    return found


def sized(size: int):
    """The usual preprocessing at another size."""

    def prepare(source, **given):
        return target_preprocessing(source, **{"input_size": size, **given})

    return prepare


def test_the_planted_normalisation_and_channel_order_are_taken(probe: ProbeSet) -> None:
    found = find(probe, 0.0, 1.0, swapped=True)
    assert found.status == "taken"
    assert found.chosen is not None
    assert (found.chosen.normalisation, found.chosen.channels, found.chosen.size) == ("0..1", "bgr", 32)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("mean", [0.5, 0.0])
def test_the_architecture_that_was_trained_is_found_whichever_is_usual(
    probe: ProbeSet, swap: bool, mean: float
) -> None:
    names = ["cmon/cifar_resnet20", "cmon/reflecting"]
    for truth in (0, 1):
        found = find(probe, mean, 1 - mean, variant=True, named_variant=swap, trained_as_variant=truth == 1)
        assert found.status == "taken"
        assert found.usual is not None
        assert found.chosen is not None
        assert (found.usual.model, found.chosen.model) == (names[swap], names[truth])
        assert found.chosen.normalisation == ("mean and std 0.5" if mean else "0..1")
        (rival,) = found.rivals
        assert rival.model == names[1 - truth]
        assert rival.place < 0.5
        assert f"their statistics are those of {names[truth]}" in found.sentence
        assert "architecture" not in found.open_parts
        known = found.parts["architecture"]
        assert ("statistics agree" in known) == (truth == swap)
        assert ("instead of" in known) == (truth != swap)


def test_an_architecture_that_the_user_named_stays_and_is_warned_of(probe: ProbeSet) -> None:
    given = {"variant": True, "fixed": ("architecture",)}
    found = find(probe, 0.5, 0.5, trained_as_variant=True, **given)
    assert found.chosen is not None
    assert found.chosen.model == "cmon/cifar_resnet20"
    assert found.against == ("architecture",)
    assert "cmon/reflecting agrees with them" in (found.warning or "")
    agreeing = find(probe, 0.5, 0.5, **given)
    assert agreeing.warning is None
    assert "statistics agree" in agreeing.parts["architecture"]


def test_an_architecture_is_left_open_where_too_few_layers_tell(
    probe: ProbeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "LEAST_LAYERS", 100)
    found = find(probe, 0.5, 0.5, variant=True, trained_as_variant=True)
    assert found.status == "taken"
    assert found.chosen is not None
    assert found.chosen.model == "cmon/cifar_resnet20"
    assert found.variants == ("cmon/reflecting",)
    assert "architecture" in found.open_parts
    assert "the weights fit cmon/cifar_resnet20, cmon/reflecting" in found.sentence
    assert "the statistics do not tell which" in found.sentence
    assert "left open" in found.parts["architecture"]
    named = find(probe, 0.5, 0.5, variant=True, fixed=("architecture",))
    assert "architecture" not in named.open_parts
    assert "do not tell which" not in named.sentence
    assert not find(probe, 0.5, 0.5).variants


def test_other_architectures_are_named_with_their_figures() -> None:
    own = Shown("timm/a", "0..1", (0.0,) * 3, (1.0,) * 3, "rgb", 64, 0.5, 0.4, 0.6, 32)
    others = (replace(own, model="timm/b", divergence=0.25), replace(own, model="timm/c", size=32))
    found = InputEvidence(
        "confirmed",
        usual=own,
        chosen=own,
        others=others,
        open_parts=("architecture",),
        variants=("timm/b", "timm/c"),
    )
    assert "the weights fit timm/a, timm/b (0.25), timm/c, and" in found.sentence
    assert "left open" not in found.sentence
    assert "left open" in found.parts["architecture"]


def test_a_photo_is_shown_once_in_each_way(probe: ProbeSet) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    ).eval()
    for layer in (network[1], network[3]):
        nn.init.normal_(layer.running_mean)
    images: list[int] = []
    source = Unused(network)
    network._forward_pre_hooks.clear()  # this one is used
    network.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    shown = Presentation(source, target_preprocessing(source, input_size=32))  # type: ignore[arg-type]
    eye, whole = (Eye({}, Photos(probe), torch.device("cpu")) for _ in range(2))
    for photos, first in ((8, 1), (8, None), (8, 1), (32, None), (20, 1), (12, None)):
        eye.moments(shown, photos, first=first)
    assert sum(images) == 8 + 8 + 24
    assert eye.passes == 8 * 0.5 + 8 + 24
    for one, other in zip(eye.moments(shown, 32), whole.moments(shown, 32), strict=True):
        assert one.means.shape == (32, len(one.layer.mean))
        assert torch.allclose(one.means, other.means, atol=1e-6)
        assert torch.allclose(one.squares, other.squares, atol=1e-6)


def test_an_option_stays_and_is_warned_of(probe: ProbeSet) -> None:
    found = find(probe, 0.5, 0.5, fixed=("normalisation",))
    assert found.chosen is not None
    assert found.chosen.normalisation == "CIFAR-10"
    assert "normalisation" in found.against
    assert "0.5" in (found.warning or "")
    assert "agree" not in found.sentence


def test_an_untrained_network_says_nothing(probe: ProbeSet) -> None:
    assert find(probe, 0.5, 0.5, train=False).status == "untrained"


def test_swapped_colours_are_left_open_where_the_photos_are_not_redder_than_blue(tmp_path: Path) -> None:
    found = find(photos(tmp_path, colours=(70, 110, 150)), 0.5, 0.5)
    assert found.chosen is not None
    assert (found.chosen.normalisation, found.chosen.channels) == ("mean and std 0.5", "rgb")
    assert "channel order" in found.open_parts


def test_another_domain_is_not_guessed_at(probe: ProbeSet, tmp_path: Path) -> None:
    """Statistics of photos, and noise as the probing set."""
    random = np.random.default_rng(1)
    for number in range(20):
        noise = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number:02d}.png")
    noise_probe = load_probe(str(tmp_path), cache_dir=tmp_path / "cache")
    found = find(probe, 0.5, 0.5, shown=noise_probe)
    assert found.status in ("far off", "undecided")
    assert found.chosen == found.usual


def test_a_network_without_batch_normalisation_is_never_run(probe: ProbeSet) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    source = Unused(network)
    usual = Presentation(source, target_preprocessing(source, input_size=32))  # type: ignore[arg-type]
    found = find_input(
        network.state_dict(),
        usual,
        [source],  # type: ignore[list-item]
        target_preprocessing,
        probe=probe,
        device=torch.device("cpu"),
    )
    assert found.status == "no statistics"
    assert not found.compared


def test_size_is_reported_and_not_followed(probe: ProbeSet) -> None:
    found = find(probe, 0.5, 0.5, usual_size=128)
    assert found.chosen is not None
    assert found.chosen.size == 128
    assert found.chosen.normalisation == "mean and std 0.5"
    assert found.better is not None
    assert found.better.size < 128
    assert "--input-size" in found.sentence


def test_hooks_are_gone_after_an_exception_in_the_network() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), Broken())
    with pytest.raises(ZeroDivisionError), input_moments(network, running_layers(network)) as read:
        read(torch.zeros(1, 3, 4, 4))
    assert not network[0]._forward_pre_hooks


def test_moments_are_those_of_the_layers_input() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    images = torch.randn(2, 3, 8, 8)
    with input_moments(network, running_layers(network)) as read:
        (moments,) = read(images.to(memory_format=torch.channels_last))
    seen = network[0](images).detach().double()
    assert torch.allclose(moments.means, seen.mean((2, 3)), atol=1e-5)
    assert torch.allclose(moments.squares, seen.square().mean((2, 3)), atol=1e-5)


def test_a_matched_layer_hands_on_its_running_mean_and_variance() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Identity(), nn.BatchNorm2d(3)).eval()
    for number, layer in enumerate((network[0], network[2])):
        layer.running_mean += torch.tensor([1.0, -2.0, 0.5]) * (number + 1)
        layer.running_var *= torch.tensor([4.0, 0.25, 1.0])
    images = 7 + 3 * torch.randn(5, 3, 8, 8)
    with input_moments(network, running_layers(network), matched=True) as read:
        first, second = read(images)
    assert torch.allclose(first.means, images.double().mean((2, 3)), atol=1e-5)
    # The first layer takes off its own mean and variance from what has them.
    mean = second.means.mean(0)
    assert torch.allclose(mean, torch.zeros(3).double(), atol=1e-4)
    assert torch.allclose(second.squares.mean(0) - mean.square(), torch.ones(3).double(), atol=1e-3)
    assert not network[0]._forward_pre_hooks


def test_few_images_say_nothing(probe: ProbeSet) -> None:
    assert find(probe.subset(range(5)), 0.5, 0.5).status == "too few images"


def test_the_evidence_has_the_same_words_as_its_file(tmp_path: Path) -> None:
    nothing = InputEvidence("no statistics", "the network has none")
    assert InputEvidence.from_json(nothing.to_json()) == nothing
