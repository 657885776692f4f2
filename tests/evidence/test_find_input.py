"""Running statistics are planted by showing photos in training mode: then it is known what must be found."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from concept_monitor_cli.evidence import InputEvidence, Presentation, find_input
from concept_monitor_cli.models.batch_norm import input_moments, running_layers
from concept_monitor_cli.models.build import constructor, resolve_model
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


def find(
    probe: ProbeSet,
    mean: float,
    std: float,
    *,
    swapped: bool = False,
    train: bool = True,
    shown: ProbeSet | None = None,
    usual_size: int | None = None,
    **more,
):
    """What is found of a network whose statistics are of images presented so."""
    torch.manual_seed(0)
    maker = constructor("cmon", "cifar_resnet20")
    assert maker is not None
    network = maker.factory(num_classes=3).train()
    pixels = np.stack([np.asarray(probe.image(row).resize((32, 32))) for row in range(0, len(probe))])
    images = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(60 if train else 0):
            network(images.flip(1) if swapped else images)
    weights = network.state_dict()
    source = resolve_model(None, weights)
    prepare = partial(target_preprocessing) if usual_size is None else sized(usual_size)
    usual = Presentation(source, prepare(source))
    device = torch.device("cpu")
    found = find_input(weights, usual, [source], prepare, probe=shown or probe, device=device, **more)
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


def test_few_images_say_nothing(probe: ProbeSet) -> None:
    assert find(probe.subset(range(5)), 0.5, 0.5).status == "too few images"


def test_the_evidence_has_the_same_words_as_its_file(tmp_path: Path) -> None:
    nothing = InputEvidence("no statistics", "the network has none")
    assert InputEvidence.from_json(nothing.to_json()) == nothing
