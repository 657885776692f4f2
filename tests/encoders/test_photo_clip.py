"""A real encoder on real photos: open_clip's own pipeline gives the same, and the labels make sense."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from encoder_helpers import open_clip
from PIL import Image

from concept_monitor_cli.encoders import Encoder, embed_images, embed_texts, load_encoder
from concept_monitor_cli.probe import Pixels, decode_probe, load_probe
from concept_monitor_cli.store import Store

N_PHOTOS = 24


class Photos(NamedTuple):
    paths: list[Path]
    names: list[str]
    encoder: Encoder
    pixels: Pixels
    store: Store


@pytest.fixture(scope="module")
def photos(shared_data: Path, imagenet_samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = shared_data / "photo-clip"
    if not folder.is_dir():
        pytest.skip(f"no photo-clip: {folder} is not there")
    with (imagenet_samples / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[20 :: 1000 // N_PHOTOS][:N_PHOTOS]
    chosen = tmp_path_factory.mktemp("photos")
    for row in rows:
        shutil.copy(imagenet_samples / row["file"], chosen)
    encoder = load_encoder("photo-clip", weights=folder / "photo-clip.safetensors")
    store = Store(tmp_path_factory.mktemp("store"))
    assert encoder.preprocessing is not None
    probe, [pixels] = decode_probe(
        store, load_probe(str(chosen)), [encoder.preprocessing.geometry], workers=1
    )
    assert len(probe) == N_PHOTOS
    # Probing images come in the order of their content, not of their names.
    by_file = {Path(row["file"]).name: open_clip.IMAGENET_CLASSNAMES[int(row["index"])] for row in rows}
    names = [by_file[image] for image in probe.ids]
    return Photos([chosen / image for image in probe.ids], names, encoder, pixels, store)


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Any:
    folder = shared_data / "photo-clip"
    open_clip.add_model_config(folder / "photo-clip.json")
    network, _, transform = open_clip.create_model_and_transforms(
        "photo-clip", pretrained=str(folder / "photo-clip.safetensors")
    )
    return network.eval(), transform, open_clip.get_tokenizer("photo-clip")


def test_photos_and_words_equal_open_clips_own_pipeline(photos: Photos, reference: Any) -> None:
    network, transform, tokenizer = reference
    ours = embed_images(photos.store, photos.encoder, photos.pixels)
    words = ["dog", "stop sign", "a photo of a coffee cup."]
    batch = torch.stack([transform(Image.open(path)) for path in photos.paths[:8]])
    with torch.no_grad():
        images = network.encode_image(batch, normalize=True).numpy()
        texts = network.encode_text(tokenizer(words), normalize=True).numpy()
    np.testing.assert_allclose(ours[:8], images, atol=1e-5)
    np.testing.assert_allclose(embed_texts(photos.store, photos.encoder, words), texts, atol=1e-6)
    # The input of the network itself does not differ in a single bit.
    expected = photos.encoder.preprocessing
    assert expected is not None
    mean, std = np.float32(expected.mean), np.float32(expected.std)
    pixels = torch.from_numpy(photos.pixels.rows(0, 8)).float().div(255).numpy()
    assert np.array_equal(((pixels - mean) / std).transpose(0, 3, 1, 2), batch.numpy())


def test_most_photos_get_their_own_name(photos: Photos) -> None:
    images = embed_images(photos.store, photos.encoder, photos.pixels)
    texts = embed_texts(photos.store, photos.encoder, photos.names, template="a photo of a {}.")
    right = (images @ texts.T).argmax(axis=1) == np.arange(N_PHOTOS)
    assert right.mean() >= 0.85  # 90 % of top-5 among 1,000 names
