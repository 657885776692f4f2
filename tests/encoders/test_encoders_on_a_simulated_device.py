"""Embeddings made on a simulated device: those of the host, with the same number of waits for every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from encoder_helpers import NoisePixels, TinyClip

from concept_monitor_cli.encoders import ClipEncoder, embed_images, embed_texts, load_encoder
from concept_monitor_cli.store import Store
from tests.simulated import DEVICE, simulated_device, waits

WORDS = [f"{adjective} {noun}" for adjective in ("red", "small") for noun in ("car", "dog", "tree")]
IMAGES = 12


def test_images_and_words_are_embedded_as_on_the_host(tiny_clip: TinyClip, tmp_path: Path) -> None:
    here = load_encoder("tiny", weights=tiny_clip.weights, config=tiny_clip.config)
    assert isinstance(here, ClipEncoder)
    images = embed_images(Store(tmp_path / "here"), here, NoisePixels(IMAGES), batch_size=4)
    words = embed_texts(Store(tmp_path / "here"), here, WORDS)
    counted = []
    for batch_size in (4, 2):
        with simulated_device() as counts:
            there = ClipEncoder(here.files, device=DEVICE)
            store = Store(tmp_path / f"there{batch_size}")
            found = embed_images(store, there, NoisePixels(IMAGES), batch_size=batch_size)
            batches = sum(many for (_, how, _), many in counts.items() if how == "to, without waiting")
            counted.append((batches, waits(counts)))
            np.testing.assert_allclose(embed_texts(store, there, WORDS), words, atol=1e-5)
        np.testing.assert_allclose(found, images, atol=1e-5)
    (few, waited), (many, waited_more) = counted
    # Of each batch whether all are numbers, and the copy to the host.
    assert many > few >= IMAGES // 4
    assert waited_more - waited == 2 * (many - few)
