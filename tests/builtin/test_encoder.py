"""The shipped encoder: loads with open_clip as it is, and names held-out renderings with bare words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from late import Late
from PIL import Image

import concept_monitor_cli._torchvision  # noqa: F401 - before open_clip

# isort: split

from concept_monitor_cli.builtin import BY_CATEGORY, VOCABULARY, Rendering, builtin_encoder_files, render
from concept_monitor_cli.builtin.broden import PROBE_IMAGES, PROBE_SEED
from concept_monitor_cli.builtin.quality import concept_ranks, dominant, zero_shot_accuracy
from concept_monitor_cli.builtin.renderer import CYCLE

open_clip = Late("open_clip")

HELD_OUT_SEED = 4004  # neither a training series nor the one that was looked at while training
HELD_OUT = 3 * len(CYCLE)
WORDS = [word for word, _ in VOCABULARY]


class Loaded:
    """The encoder by open_clip's own functions."""

    def __init__(self) -> None:
        name, config, weights = builtin_encoder_files()
        open_clip.add_model_config(config)
        self.model, _, self.transform = open_clip.create_model_and_transforms(name, pretrained=str(weights))
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def images(self, pictures: list[Rendering]) -> np.ndarray:
        batch = torch.stack([self.transform(Image.fromarray(picture.image)) for picture in pictures])
        encoded = torch.cat([self.model.encode_image(part, normalize=True) for part in batch.split(128)])
        return encoded.numpy()

    @torch.no_grad()
    def texts(self, texts: list[str]) -> np.ndarray:
        encoded: np.ndarray = self.model.encode_text(self.tokenizer(texts), normalize=True).numpy()
        return encoded


@pytest.fixture(scope="module")
def encoder() -> Loaded:
    return Loaded()


@pytest.fixture(scope="module")
def words(encoder: Loaded) -> np.ndarray:
    return encoder.texts(WORDS)


def test_package_data() -> None:
    name, config, weights = builtin_encoder_files()
    assert name == config.stem == weights.stem
    assert weights.stat().st_size <= 15_000_000
    assert json.loads(config.read_text())["vision_cfg"]["image_size"] == 64
    assert (weights.parent / "README.md").is_file()


def test_held_out_zero_shot_accuracy(encoder: Loaded, words: np.ndarray) -> None:
    pictures = [render(index, HELD_OUT_SEED) for index in range(HELD_OUT)]
    coverage = np.stack([picture.coverage() for picture in pictures])
    for category, members in BY_CATEGORY.items():
        truth = dominant(coverage, category)
        # every word has its turn, so that the accuracy is of the category and not of a few words
        assert set(truth[truth >= 0]) == set(range(len(members))), category
    accuracy = zero_shot_accuracy(encoder.images(pictures), words, coverage)
    print(accuracy)
    assert min(accuracy.values()) >= 0.9, accuracy


def test_words_of_all_categories_compete_fairly(encoder: Loaded, words: np.ndarray) -> None:
    """A unit that fires on what a word covers most is given that word, out of the whole vocabulary."""
    pictures = [render(index, PROBE_SEED) for index in range(PROBE_IMAGES)]
    coverage = np.stack([picture.coverage() for picture in pictures])
    ranks = concept_ranks(encoder.images(pictures), words, coverage)
    behind = {word: rank for word, rank in ranks.items() if rank > 0}
    print(behind)
    assert len(behind) <= 0.2 * len(WORDS), behind


def test_words_are_told_apart(words: np.ndarray) -> None:
    cosines = words @ words.T
    np.fill_diagonal(cosines, 0)
    assert cosines.max() < 0.7


@pytest.mark.parametrize(
    ("phrase", "parts"),
    [
        ("a photo of a windmill", ["windmill"]),
        ("red car", ["red", "car"]),
        ("striped balloon", ["striped", "balloon"]),
        ("a boat in the sea", ["boat", "sea"]),
        ("house with chimney", ["house", "chimney"]),
    ],
)
def test_a_phrase_lies_between_its_words(
    encoder: Loaded, words: np.ndarray, phrase: str, parts: list[str]
) -> None:
    nearest = np.argsort(-(words @ encoder.texts([phrase])[0]))[: len(parts)]
    assert {WORDS[i] for i in nearest} == set(parts)


def test_dominant() -> None:
    coverage = np.zeros((4, len(VOCABULARY)))
    index = {word: i for i, word in enumerate(WORDS)}
    coverage[0, index["car"]] = 0.2
    coverage[1, index["car"]], coverage[1, index["tree"]] = 0.2, 0.15  # not clear
    coverage[2, index["car"]] = 0.01  # too small
    assert dominant(coverage, "object").tolist() == [BY_CATEGORY["object"].index("car"), -1, -1, -1]


def test_concept_ranks_on_a_known_answer() -> None:
    """With one-hot embeddings the right word comes first; with two of them swapped it does not."""
    size = len(VOCABULARY)
    coverage = np.repeat(np.eye(size), 3, axis=0)
    assert set(concept_ranks(coverage, np.eye(size), coverage, top=3).values()) == {0}
    swapped = np.eye(size)[[1, 0, *range(2, size)]]
    ranks = concept_ranks(coverage, swapped, coverage, top=3)
    assert ranks[WORDS[0]] > 0
    assert ranks[WORDS[1]] > 0
    assert ranks[WORDS[2]] == 0
