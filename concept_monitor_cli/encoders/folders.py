"""Encoders in folders: of open_clip's hub layout, of Hugging Face's `save_pretrained`, and in hub caches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concept_monitor_cli.encoders.hf_clip import JSONObject, as_open_clip, own_words
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Geometry, Interpolation, Preprocessing

HUB_CONFIG = "open_clip_config.json"
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HF_CONFIG = "config.json"
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HF_IMAGES = "preprocessor_config.json"
HF_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "spiece.model", "tokenizer.model", "vocab.txt",
)  # fmt: skip

# PIL's numbers of filters, as transformers writes them.
_FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_HF_MEAN, _HF_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def model_folder(folder: Path) -> Path:
    """The folder that holds the files: in a hub cache's `models--org--name`, the snapshot that is in use."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    try:
        revision = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        revision = ""
    if revision and (snapshots / revision).is_dir():
        return snapshots / revision
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    return found[-1] if found else folder


def weight_files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The weights in a folder: one file, or the parts that an index names; none where there are none.

    Raises:
        InputError: an index that names files which are not there.
    """
    for name in names:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                listed = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise InputError(f"the index of the weights cannot be read: {error}", where=index) from error
            parts = tuple(folder / Path(str(part)).name for part in listed)
            missing = [part.name for part in parts if not part.is_file()]
            if missing:
                raise InputError(
                    f"{len(missing)} parts of the weights are missing: {missing[0]}", where=folder
                )
            return parts
    return ()


def read_json(path: Path) -> JSONObject:
    """A JSON object.

    Raises:
        InputError: not readable, or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the encoder's config cannot be read: {error}", where=path) from error
    if not isinstance(data, dict):
        raise InputError("the encoder's config is no JSON object", where=path)
    return data


def is_hf_config(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of transformers."""
    return isinstance(config.get("model_type"), str)


def open_clip_config(
    config: Mapping[str, Any], folder: Path, vocabulary: Mapping[str, int]
) -> JSONObject | None:
    """open_clip's config of the model in a folder; None where only transformers can build it.

    Args:
        config: its `config.json`.
        folder: where its tokenizer lies.
        vocabulary: of open_clip's own tokenizer.
    """
    return None if own_words(folder, vocabulary) else as_open_clip(config)


def hf_preprocessing(folder: Path, size: int, source: str) -> Preprocessing:
    """What `preprocessor_config.json` says, CLIP's own where there is none.

    Args:
        folder: of the model.
        size: of its images, by `config.json`.
        source: for messages.

    Raises:
        InputError: steps that are not resize, crop and normalise.
    """
    path = folder / HF_IMAGES
    said = read_json(path) if path.is_file() else {}
    said = said.get("image_processor", said)
    where = path if path.is_file() else folder
    resize = said.get("size", size)
    crop = (
        _side(said.get("crop_size", size))
        if said.get("do_center_crop", "shortest_edge" in _keys(resize))
        else None
    )
    if not path.is_file():
        crop = size
    interpolation = _FILTERS.get(said.get("resample", 3), "bicubic")
    shortest = resize if isinstance(resize, int) else resize.get("shortest_edge")
    if not said.get("do_resize", True):
        geometry = Geometry(size, None, "crop", interpolation)
    elif shortest is not None:
        geometry = Geometry(crop or size, int(shortest), "crop", interpolation)
    else:
        side = _side(resize) or size
        geometry = Geometry(crop or side, side if crop and crop != side else None, "squash", interpolation)
    if geometry.size != size:
        raise InputError(
            f"the images are prepared at {geometry.size} pixels, the network takes {size}", where=where
        )
    normalised = said.get("do_normalize", True)
    mean = said.get("image_mean", _HF_MEAN) if normalised else (0.0,) * 3
    std = said.get("image_std", _HF_STD) if normalised else (1.0,) * 3
    try:
        triples = [tuple(float(value) for value in values) for values in (mean, std)]
    except (TypeError, ValueError):
        triples = []
    if [len(triple) for triple in triples] != [3, 3] or min(triples[1]) <= 0:
        raise InputError(
            f"image_mean and image_std must be three numbers each, not {mean}, {std}", where=where
        )
    (m0, m1, m2), (s0, s1, s2) = triples
    return Preprocessing(geometry, (m0, m1, m2), (s0, s1, s2), f"{geometry}, from {source}")


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, dict) else ("shortest_edge",)


def _side(value: Any) -> int | None:
    if isinstance(value, int):
        return value
    sides = {value.get("height"), value.get("width")} if isinstance(value, dict) else set()
    side = sides.pop() if len(sides) == 1 else None
    return int(side) if isinstance(side, int) else None
