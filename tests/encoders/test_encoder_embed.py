"""Embeddings are computed once, kept by content, and the same whichever way they came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import NoisePixels, TinyClip

from concept_monitor_cli.encoders import (
    ClipEncoder,
    Listed,
    check_templates,
    embed,
    embed_images,
    embed_listed,
    embed_texts,
    load_encoder,
)
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.store import Store


class Counting(ClipEncoder):
    """Counts what goes through the network."""

    images = 0
    words: tuple[str, ...] = ()

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        self.images += len(batch)
        return super().image(batch)

    def text(self, texts: Any) -> torch.Tensor:
        self.words += tuple(texts)
        return super().text(texts)


class Bars(Silent):
    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.done = 0

    def task(self, description: str, total: int | None, unit: str = "images") -> Any:
        @contextmanager
        def bar() -> Iterator[Callable[[int], None]]:
            self.totals.append(total)

            def advance(n: int) -> None:
                self.done += n

            yield advance

        return bar()


@pytest.fixture
def encoder(tiny_clip: TinyClip) -> Counting:
    opened = load_encoder("tiny", weights=tiny_clip.weights, config=tiny_clip.config)
    assert isinstance(opened, ClipEncoder)
    return Counting(opened.files)


def test_images_are_embedded_once_and_in_order(encoder: Counting, encoder_store: Store) -> None:
    pixels, bars = NoisePixels(13), Bars()
    first = embed_images(encoder_store, encoder, pixels, batch_size=4, progress=bars)
    assert first.shape == (13, 24)
    assert first.dtype == np.float32
    assert (encoder.images, bars.totals, bars.done) == (13, [13], 13)
    np.testing.assert_allclose(first, encoder.image(torch.from_numpy(pixels.values)).numpy(), atol=1e-6)

    fresh = Counting(encoder.files)
    read = pixels.read
    again = embed_images(Store(encoder_store.root), fresh, pixels, batch_size=3, progress=bars)
    assert np.array_equal(first, again)
    assert (fresh.images, pixels.read, bars.totals) == (0, read, [13])
    assert "_network" not in vars(fresh)  # not even built


def test_only_new_blocks_are_embedded(encoder: Counting, encoder_store: Store) -> None:
    embed_images(encoder_store, encoder, NoisePixels(10))
    longer = NoisePixels(10)
    longer.values = np.concatenate([longer.values, NoisePixels(3, seed=1).values])
    bars = Bars()
    encoder.images = 0
    result = embed_images(encoder_store, encoder, longer, progress=bars)
    assert (encoder.images, bars.totals, bars.done) == (3, [3], 3)
    np.testing.assert_allclose(result, encoder.image(torch.from_numpy(longer.values)).numpy(), atol=1e-6)


def test_another_encoder_or_other_pixels_never_share(
    encoder: Counting, tiny_clip: TinyClip, encoder_store: Store
) -> None:
    pixels = NoisePixels(5)
    first = embed_images(encoder_store, encoder, pixels)
    low = load_encoder("tiny", weights=tiny_clip.weights, config=tiny_clip.config, precision="bf16")
    assert not np.array_equal(first, embed_images(encoder_store, low, pixels))
    pixels.values[2, 0, 0, 0] ^= 255
    assert not np.array_equal(first, embed_images(encoder_store, encoder, pixels))


def test_a_failing_block_leaves_nothing_and_the_rest_is_kept(encoder: Counting, encoder_store: Store) -> None:
    pixels = NoisePixels(10)
    good = pixels.rows

    def failing(start: int, stop: int) -> Any:
        if start >= 7:
            raise CmonError("the disk died")
        return good(start, stop)

    pixels.rows = failing  # type: ignore[method-assign]
    with pytest.raises(CmonError, match="the disk died"):
        embed_images(encoder_store, encoder, pixels, batch_size=2)
    pixels.rows = good  # type: ignore[method-assign]
    encoder.images = 0
    result = embed_images(encoder_store, encoder, pixels)
    assert encoder.images == 5
    np.testing.assert_allclose(result, encoder.image(torch.from_numpy(pixels.values)).numpy(), atol=1e-6)


def test_a_processor_takes_few_images_at_a_time(
    encoder: Counting, encoder_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "HOST_BATCH", 4)
    lengths: list[int] = []
    image = encoder.image

    def counted(batch: torch.Tensor) -> torch.Tensor:
        lengths.append(len(batch))
        return image(batch)

    monkeypatch.setattr(encoder, "image", counted)
    embed_images(encoder_store, encoder, NoisePixels(13))
    assert sum(lengths) == 13
    assert max(lengths) == 4


def test_pixels_that_do_not_fit(encoder: Counting, encoder_store: Store) -> None:
    with pytest.raises(ValueError, match="pixels of 16 for an encoder of 32"):
        embed_images(encoder_store, encoder, NoisePixels(2, size=16))
    with pytest.raises(TypeError, match="decoded pixels"):
        embed_images(encoder_store, encoder, range(3))


def test_each_word_once_and_in_the_order_asked(encoder: Counting, encoder_store: Store) -> None:
    words = ["orange", "dog", "orange", "stop sign", "dog"]
    bars = Bars()
    result = embed_texts(encoder_store, encoder, words, progress=bars)
    assert encoder.words == ("orange", "dog", "stop sign")
    assert (bars.totals, bars.done) == ([3], 3)
    assert np.array_equal(result[0], result[2])
    np.testing.assert_allclose(result, encoder.text(words).numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-6)

    fresh = Counting(encoder.files)
    assert np.array_equal(result, embed_texts(Store(encoder_store.root), fresh, words))
    assert fresh.words == ()
    other = embed_texts(encoder_store, fresh, ["dog", "orange", "stop sign"])
    np.testing.assert_allclose(other, result[[1, 0, 3]], atol=1e-6)


def test_words_do_not_depend_on_their_block(encoder: Counting, encoder_store: Store) -> None:
    words = [f"thing {i}" for i in range(300)]
    result = embed_texts(encoder_store, encoder, words)
    assert result.shape == (300, 24)
    for i in (0, 255, 256, 299):
        np.testing.assert_allclose(result[i], embed_texts(encoder_store, encoder, [words[i]])[0], atol=1e-6)


def test_words_of_a_list_are_rows_of_it(encoder: Counting, encoder_store: Store) -> None:
    """Bit by bit, and no network says them again; words that are not of it are embedded by themselves."""
    whole = [f"thing {i}" for i in range(300)] + ["thing 7"]
    rows = embed_texts(encoder_store, encoder, whole)
    fresh, read = Counting(encoder.files), []
    listed = Listed("of the things", lambda: read.append(1) or whole)
    some = ["thing 299", "thing 7", "dog", "thing 299"]
    found = embed_listed(encoder_store, fresh, some, listed)
    assert fresh.words == ("dog",)
    assert np.array_equal(found[[0, 1, 3]], rows[[299, 7, 299]])
    assert np.array_equal(found[2:3], embed_texts(encoder_store, fresh, ["dog"]))
    assert np.array_equal(embed_listed(encoder_store, fresh, some, listed), found)
    assert (read, fresh.words) == ([1], ("dog",))
    # Another list, another template and another encoder are other questions.
    other = embed_listed(encoder_store, fresh, some, Listed("of other things", lambda: ["dog", *whole[:300]]))
    assert "thing 7" in fresh.words
    np.testing.assert_allclose(other, found, atol=1e-6)
    in_a_photo = embed_listed(encoder_store, fresh, some, listed, template="a photo of a {}.")
    assert not np.allclose(in_a_photo, found, atol=1e-3)
    assert embed_listed(encoder_store, fresh, [], listed).shape == (0, 24)


def test_without_the_list_words_are_embedded_by_themselves(encoder: Counting, encoder_store: Store) -> None:
    def gone() -> list[str]:
        raise InputError("the concepts are gone")

    for listed in (None, Listed("gone", gone)):
        found = embed_listed(encoder_store, encoder, ["dog", "orange"], listed)
        assert encoder.words == ("dog", "orange")
        assert np.array_equal(found, embed_texts(encoder_store, encoder, ["dog", "orange"]))


def test_templates(encoder: Counting, encoder_store: Store) -> None:
    one = embed_texts(encoder_store, encoder, ["dog", "{x}"], template="a photo of a {}.")
    assert encoder.words == ("a photo of a dog.", "a photo of a {x}.")
    two = embed_texts(encoder_store, encoder, ["dog", "{x}"], template=["a photo of a {}.", "a {} {{}}"])
    second = encoder.text(["a dog {dog}", "a {x} {{x}}"]).numpy()
    mean = one + second
    np.testing.assert_allclose(two, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    bare = embed_texts(encoder_store, encoder, ["dog", "{x}"])
    assert not np.allclose(bare, one, atol=1e-3)


@pytest.mark.parametrize("template", ["a photo", "", ["a {}", "{ }"]])
def test_templates_without_a_place_for_the_word(template: Any) -> None:
    with pytest.raises(InputError, match="has no"):
        check_templates(template)


def test_no_words(encoder: Counting, encoder_store: Store) -> None:
    assert embed_texts(encoder_store, encoder, []).shape == (0, 24)
    assert encoder.words == ()


def test_nothing_of_a_failed_list_is_kept(tiny_clip: TinyClip, encoder_store: Store, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(tiny_clip.weights)
    state["text_projection"][:] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    broken = load_encoder("tiny", weights=tmp_path / "nan.safetensors", config=tiny_clip.config)
    for _ in range(2):
        with pytest.raises(CmonError, match="not finite"):
            embed_texts(encoder_store, broken, ["dog"])
    assert not list(encoder_store.root.rglob("*.h5"))
