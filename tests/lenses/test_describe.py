"""Descriptions: planted words are found by the builtin encoder, blind units are not called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from concept_monitor_cli.builtin import VOCABULARY, render
from concept_monitor_cli.builtin.broden import PROBE_SEED
from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.concepts.phrases import phrases_of
from concept_monitor_cli.encoders import load_encoder
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.lenses.captions import view
from concept_monitor_cli.lenses.names.describe import Describe
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.store import Entry, Store
from concept_monitor_cli.study import Context

PICTURES = 240
PLANTED = 60


class Pictures:
    """Pictures in memory as a probing set."""

    def __init__(self, pixels: list[np.ndarray[Any, Any]]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class World(Context):
    """A context whose embeddings are given."""

    @property
    def digests(self) -> dict[str, str]:
        return {"world": "rendered"}


@dataclass
class Planted:
    """Rendered pictures, how much of each word is on each, and the context of both."""

    context: World
    coverage: Tensor
    made: int = 0

    def entry(self, Q: Tensor) -> Entry:
        """A recording of a layer without maps, with these activations."""
        values, top = Q.T.sort(dim=1, descending=True, stable=True)
        arrays: dict[str, Any] = {
            "pooled": Q.float().numpy(),
            "live": (Q.amax(0) > Q.amin(0)).numpy(),
            "top_images": top[:, :60].numpy(),
            "top_values": values[:, :60].float().numpy(),
            "lowest": Q.amin(0).float().numpy(),
            "thresholds": values[:, 3].float().numpy(),
            "regions": np.ones((Q.shape[1], min(60, len(Q)), 1, 1), dtype=bool),
        }
        self.made += 1
        geometry = {"size": 64, "resize": None, "mode": "squash", "interpolation": "bilinear"}
        return self.context.store.put(
            self.context.store.key("exemplars", test=self.made), arrays, {"geometry": geometry, "notes": []}
        )

    def find(self, Q: Tensor, **options: Any) -> Findings:
        with self.entry(Q) as entry:
            return Describe(**options).find(entry, self.context)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    encoder = load_encoder("builtin")
    pictures = [render(index, PROBE_SEED) for index in range(PICTURES)]
    pixels = [picture.image for picture in pictures]
    words, kinds = zip(*VOCABULARY, strict=True)
    probe = Pictures(pixels)
    context = World(
        Store(tmp_path_factory.mktemp("store")),
        probe,  # type: ignore[arg-type]
        None,
        ConceptSet.clean("builtin", list(words), list(kinds)),
        encoder,
    )
    side = encoder.preprocessing.geometry.size  # type: ignore[union-attr]
    shown = np.stack([np.asarray(probe.image(i).resize((side, side))) for i in range(PICTURES)])
    context.__dict__.update(
        groups=ImageGroups.single(PICTURES), image_embeddings=encoder.image(torch.from_numpy(shown))
    )
    coverage = torch.from_numpy(np.stack([picture.coverage() for picture in pictures])).double()
    return Planted(context, coverage)


@pytest.fixture(scope="module")
def planted(world: Planted) -> tuple[Tensor, list[str]]:
    """Units that fire by how much of a word is on a picture, with noise; the words with most pictures."""
    shown = (world.coverage > 0.01).sum(0)
    words = shown.argsort(descending=True, stable=True)[:PLANTED]
    signal = world.coverage[:, words] / world.coverage[:, words].std(0)
    noise = torch.rand(signal.shape, generator=torch.Generator().manual_seed(0)).double()
    return signal + 0.2 * noise, [VOCABULARY[word][0] for word in words.tolist()]


def hits(found: Findings, words: list[str], turned: int = 0) -> int:
    """Units whose first phrase has their word, or that of another unit."""
    return sum(
        words[(unit + turned) % len(words)] in str(found.concepts[unit, 0]).split()
        for unit in range(len(words))
    )


def test_planted_words_are_in_the_first_phrase_of_most_units(
    world: Planted, planted: tuple[Tensor, list[str]]
) -> None:
    Q, words = planted
    found = world.find(Q)
    own, chance = hits(found, words), np.mean([hits(found, words, turned) for turned in range(1, PLANTED)])
    print(f"the planted word is in the first phrase of {own} of {PLANTED} units, by chance of {chance:.1f}")
    assert own >= PLANTED / 2
    assert chance < 6
    assert found.interpretable.sum() >= PLANTED / 2
    table = found.more["descriptions"]
    np.testing.assert_allclose(table["score"], table["log_given"] - table["log_prior"], atol=1e-9)
    first = table["rank"] == 1
    np.testing.assert_array_equal(table["description"][first], found.concepts[:, 0])
    assert set(table["captioner"]) == {"phrases"}


def test_without_the_prior_the_likelihood_decides(world: Planted, planted: tuple[Tensor, list[str]]) -> None:
    Q, words = planted
    plain = world.find(Q, lam=0.0)
    table = plain.more["descriptions"]
    np.testing.assert_array_equal(table["score"], table["log_given"])
    assert (table["score"] < 0).all()
    own = hits(plain, words)
    print(f"without the prior {own} of {PLANTED}")
    other = world.find(Q)
    assert (plain.concepts[:, 0] != other.concepts[:, 0]).any()


def test_texts_of_one_half_predict_the_other(world: Planted, planted: tuple[Tensor, list[str]]) -> None:
    Q, words = planted
    blind = torch.randn(PICTURES, 40, generator=torch.Generator().manual_seed(7)).double()
    with world.entry(torch.cat([Q, blind], 1)) as entry:
        found = Describe().halves(entry, world.context)
    assert found is not None
    assert found.unit.tolist() == list(range(PLANTED + 40))
    for texts in (found.concept_a, found.concept_b):
        assert sum(word in text.split() for word, text in zip(words, texts[:PLANTED], strict=True)) >= 30
    own, chance = found.held_out, found.chance
    print(f"held out {own[:PLANTED].mean():.2f}, chance {chance[:PLANTED].mean():.2f}")
    assert own[:PLANTED].mean() > chance[:PLANTED].mean() + 0.15
    assert abs(own[PLANTED:].mean() - 0.5) < 0.05
    assert (found.distance[:PLANTED].mean()) < found.distance[PLANTED:].mean() - 0.2
    with world.entry(Q[:, :2]) as entry:
        context = replace(world.context, encoder=None)
        context.__dict__.update(groups=world.context.groups)
        assert Describe("hf:nowhere").halves(entry, context) is None


@pytest.mark.parametrize("kind", ["independent", "sparse"])
def test_blind_units_are_not_called(world: Planted, kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    Q = torch.randn(PICTURES, 200, generator=generator).double()
    if kind == "sparse":  # fires on nine pictures each
        Q = torch.where(Q.topk(9, dim=0).values[-1] <= Q, Q, 0.0)
    found = world.find(Q)
    assert found.live.all()
    assert found.interpretable.sum() <= 2
    low = (found.p_values <= 0.05).mean()
    assert low <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_copies_are_no_evidence(world: Planted, tmp_path: Path) -> None:
    of = np.repeat(np.arange(40), 4)
    context = World(Store(tmp_path), world.context.probe, None, world.context.concepts, world.context.encoder)
    context.__dict__.update(
        groups=ImageGroups.read(of), image_embeddings=world.context.image_embeddings[torch.from_numpy(of)]
    )
    few = Planted(context, world.coverage)
    Q = torch.rand(40, 80, generator=torch.Generator().manual_seed(1)).double()[of]
    found = few.find(Q + 0.001 * torch.rand(Q.shape, generator=torch.Generator().manual_seed(2)))
    assert found.live.all()
    assert found.interpretable.sum() <= 2


def test_units_that_fire_on_few_pictures_are_sparse(world: Planted) -> None:
    Q = torch.zeros(PICTURES, 2).double()
    Q[:3, 0] = 1.0
    Q[:9, 1] = torch.arange(9) + 1.0
    found = world.find(Q)
    assert found.state.tolist() == ["sparse", "live"]
    assert "1 unit" in found.notes[-1]


def test_untrained_units_stand_in_for_chance(world: Planted, planted: tuple[Tensor, list[str]]) -> None:
    Q, _ = planted
    random = torch.randn(PICTURES, 100, generator=torch.Generator().manual_seed(8)).double()
    with world.entry(Q) as entry, world.entry(random) as other, world.entry(Q) as same:
        told = Describe().find(entry, world.context, untrained=[other])
        alike = Describe().find(entry, world.context, untrained=[same])
    assert told.interpretable.sum() >= PLANTED / 2
    assert not alike.interpretable.any()  # no unit beats units like itself


def test_phrases_are_concepts_and_pairs_of_attribute_and_thing() -> None:
    words = ConceptSet.clean(
        "test", ["car", "red", "striped", "sea", "red sea"], ["object", "color", "texture", "scene", "scene"]
    )
    found = phrases_of(words)
    assert found.texts == (
        *("car", "red", "striped", "sea", "red sea"),
        *("red car", "red red sea", "striped car", "striped sea", "striped red sea"),
    )
    assert found.categories[5] == "object"
    assert phrases_of(words, 7).texts == found.texts[:7]
    assert phrases_of(words, 7).left_out == 3
    assert phrases_of(ConceptSet.clean("plain", ["a", "b"], ["", ""])).texts == ("a", "b")


# -- captioners -------------------------------------------------------------------------------------


COLOURS = ("red", "green", "blue")
SQUARE = Geometry(12, None, "squash")


class ColourCaptioner:
    """Says one of three colours by how much of each it sees, then ends: 0 starts, 4 ends."""

    name, start, end, never = "toy", 0, 4, ()
    device = torch.device("cpu")
    digest = "toy"

    def look(self, image: Image.Image) -> Any:
        share = np.asarray(image, dtype=np.float64).reshape(-1, 3).mean(0) / 255
        first = torch.tensor([-50.0, *(8 * share), -50.0]).log_softmax(0)
        after = torch.tensor([-50.0, -2.0, -3.0, -4.0, 3.0]).log_softmax(0)

        def following(tokens: Tensor) -> Tensor:
            found = after.expand(*tokens.shape, 5).clone()
            found[:, 0] = first
            return found

        return following

    def words(self, tokens: Any) -> str:
        return " ".join(COLOURS[token - 1] for token in tokens)

    def tokens(self, text: str) -> list[int]:
        return [COLOURS.index(word) + 1 for word in text.split()]


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Pictures of one colour left and another right, and a captioner that names colours."""
    monkeypatch.setattr("concept_monitor_cli.lenses.captions.BEAMS", 3)
    monkeypatch.setattr("concept_monitor_cli.lenses.captions.TOKENS", 2)
    monkeypatch.setattr(
        "concept_monitor_cli.lenses.names.describe.load_captioner", lambda spec: ColourCaptioner()
    )
    pixels = []
    for left in range(3):
        for right in range(3):
            for shade in range(4):
                picture = np.zeros((12, 20, 3), dtype=np.uint8)
                picture[:, :10, left], picture[:, 10:, right] = 200 + 10 * shade, 200 + 10 * shade
                pixels.append(picture)
    context = World(Store(tmp_path), Pictures(pixels), None, None, None)  # type: ignore[arg-type]
    context.probe.digest = "halves"  # type: ignore[misc]
    context.__dict__.update(groups=ImageGroups.single(len(pixels)))
    return context


def half_entry(context: Context, regions: np.ndarray[Any, Any], Q: Tensor) -> Entry:
    values, top = Q.T.sort(dim=1, descending=True, stable=True)
    arrays: dict[str, Any] = {
        "pooled": Q.float().numpy(),
        "live": np.ones(Q.shape[1], dtype=bool),
        "top_images": top.numpy(),
        "top_values": values.float().numpy(),
        "lowest": Q.amin(0).float().numpy(),
        "thresholds": np.zeros(Q.shape[1], dtype=np.float32),
        "regions": np.repeat(regions[:, None], len(Q), 1),
    }
    geometry = {"size": 12, "resize": None, "mode": "squash", "interpolation": "bilinear"}
    key = context.store.key("exemplars", units=Q.shape[1])
    return context.store.put(key, arrays, {"geometry": geometry, "notes": []})


def test_a_captioner_says_what_the_region_of_a_unit_shows(halves: Context) -> None:
    place = np.arange(36)
    left, right = place // 12, place // 4 % 3
    rng = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.rand(36, 4, generator=rng).double()
    fires = np.stack([left == 0, left == 2, right == 1, right == 2], 1)
    regions = np.zeros((4, 1, 2), dtype=bool)
    regions[:2, :, 0], regions[2:, :, 1] = True, True
    with half_entry(halves, regions, torch.from_numpy(fires).double() + noise) as entry:
        found = Describe("toy").find(entry, halves)
        plain = Describe("toy", lam=0.0).find(entry, halves)
    assert [str(text).split()[0] for text in found.concepts[:, 0]] == ["red", "blue", "green", "blue"]
    assert found.interpretable.sum() >= 3
    table = plain.more["descriptions"]
    np.testing.assert_array_equal(table["score"], table["log_given"])
    # By hand, unit 0 and the text of one word: softmax over colours, then the end after a word.
    shown = torch.from_numpy(fires).double() + noise
    top = shown[:, 0].argsort(descending=True)[:15].tolist()
    ends = 3.0 - np.log(sum(np.exp(each) for each in (-50.0, -2.0, -3.0, -4.0, 3.0)))
    log_p = []
    for image in top:
        seen = np.asarray(view(halves.probe.image(image), SQUARE, regions[0]), dtype=float)
        share = [seen[:, :, colour].mean() / 255 for colour in range(3)]
        log_p.append(8 * share[0] - np.log(sum(np.exp(8 * each) for each in share)) + ends)
    own = (table["unit"] == 0) & (table["description"] == "red")
    assert table["log_given"][own][0] == pytest.approx(np.mean(log_p), abs=1e-6)


def test_a_view_is_the_region_with_a_quarter_around_it() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (40, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    region = np.zeros((4, 8), dtype=bool)
    region[1:3, 2:4] = True  # rows 10 to 30, columns 20 to 40 of the whole frame
    seen = np.asarray(view(image, SQUARE, region))
    assert seen.shape == (30, 30, 3)  # 5 pixels more on each side
    np.testing.assert_array_equal(seen[5:25, 5:25], pixels[10:30, 20:40])
    outside = np.abs(seen[:5].astype(int) - pixels[5:10, 15:45].astype(int)).mean()
    assert outside > 20  # blurred noise
    centre = view(image, Geometry(40), region)  # the network saw columns 20 to 60
    assert centre.size == (14, 30)  # from column 8 to 22 of the 40 that were seen
    np.testing.assert_array_equal(np.asarray(centre)[5:25, 2:12], pixels[10:30, 30:40])
    whole = view(image, SQUARE, np.zeros((4, 8), dtype=bool))
    np.testing.assert_array_equal(np.asarray(whole), pixels)


def test_random_exemplars_are_not_called(halves: Context) -> None:
    Q = torch.rand(36, 40, generator=torch.Generator().manual_seed(3)).double()
    regions = np.random.default_rng(0).random((40, 1, 2)) < 0.5
    with half_entry(halves, regions, Q) as entry:
        found = Describe("toy").find(entry, halves)
    assert found.live.all()
    assert (found.p_values <= 0.05).mean() <= 0.05 + 3 * (0.05 * 0.95 / 40) ** 0.5
    assert found.interpretable.sum() <= 1
