"""From what the user writes after `--encoder` to the files of a model."""

from __future__ import annotations

import math
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from concept_monitor_cli.checkpoints.paths import in_utf8
from concept_monitor_cli.encoders import hub
from concept_monitor_cli.encoders.base import Encoder, EncoderRequest, refuse_files, register_encoder
from concept_monitor_cli.encoders.clip import ClipEncoder, ClipFiles, import_open_clip, model_names
from concept_monitor_cli.encoders.folders import (
    HF_CONFIG,
    HF_IMAGES,
    HF_TOKENIZER,
    HF_WEIGHTS,
    HUB_CONFIG,
    HUB_WEIGHTS,
    hf_preprocessing,
    is_hf_config,
    model_folder,
    open_clip_config,
    read_json,
    weight_files,
)
from concept_monitor_cli.encoders.hf_clip import JSONObject
from concept_monitor_cli.encoders.names import openai_name, respelt, same_weights
from concept_monitor_cli.encoders.torchscript import is_torchscript
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Geometry, Interpolation, Preprocessing

# open_clip's own defaults for configs that say nothing (open_clip.constants, open_clip.transform).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMAGE_SIZE = 224
_FOLDER_HINT = (
    "a folder with open_clip_config.json, or with config.json and model.safetensors (save_pretrained)"
)
#: For the encoder that photos get by default, after the command that fills the hub's cache.
_FETCHED = "; or cmon fetch clip there, and --encoder ViT-B/16 --encoder-weights ViT-B-16.pt here"


@register_encoder("open_clip")
def open_named(request: EncoderRequest) -> Encoder:
    """A folder, `NAME/PRETRAINED`, or `NAME` (with or without a tag) and `--encoder-weights`."""
    text = request.spec.removeprefix("open_clip:")
    if request.weights is None and request.config is not None:
        raise InputError(
            "a config without weights", where="--encoder-config", hint="add --encoder-weights FILE"
        )
    known = _known_name(text, request)
    if known is None and request.weights is None:
        path = Path(text).expanduser()
        if path.is_dir():
            return open_folder(request, path)
        if path.is_file():
            raise InputError(
                "--encoder names a file; which model is it?",
                where=f"--encoder {request.spec}",
                hint=f"--encoder embeddings:{text}, where it holds embeddings"
                if path.suffix in (".h5", ".hdf5")
                else f"--encoder NAME --encoder-weights {text}, such as --encoder ViT-B-16",
            )
        if text.count("/") == 1 and not text.startswith((".", "/", "~")) and not _misspelt(text):
            return _open_hub(request, text)
    name, tag = known or (text.partition("/")[0], text.partition("/")[2])
    config_file = request.config
    if config_file is None and request.weights is not None and not tag and known is None:
        config_file = _config_beside(request.weights, name)
    if config_file is None:
        return _open_listed(request, name, tag)
    assert request.weights is not None
    if tag:
        raise InputError(
            "a tag of open_clip and a config of one's own exclude each other",
            where=f"--encoder {request.spec}",
            hint=f"--encoder {name}",
        )
    if is_hf_config(found := read_json(config_file)):
        return _open_hf(request, request.spec, found, config_file.parent, (request.weights,))
    model, cfg = _read_config(config_file)
    source = f"{config_file.name}, what it leaves out from open_clip's defaults"
    return _encoder(
        request, request.spec, name, model, request.weights, _preprocessing(model, cfg, request.spec, source)
    )


def _misspelt(text: str) -> bool:
    """Whether the first part of `A/B` is nearly a model of open_clip, and so no organisation of the hub."""
    models = model_names()
    return bool(get_close_matches(text.partition("/")[0], models, n=1, cutoff=0.8))


def _known_name(text: str, request: EncoderRequest) -> tuple[str, str] | None:
    """(model, tag) in open_clip's spelling, tag `""` for none; None where open_clip has no such model."""
    models = model_names()
    of_openai = openai_name(text)
    if of_openai is not None:
        request.progress.notice(f"{text} is OpenAI's name: the encoder is {of_openai}/openai")
        return of_openai, "openai"
    name, _, tag = text.partition("/")
    if name not in models and openai_name(text.rpartition("/")[0]) is not None:  # ViT-B/16/openai
        name, tag = str(openai_name(text.rpartition("/")[0])), text.rpartition("/")[2]
    model = respelt(name, models)
    if model is None:
        return None
    # The package takes most of a second to import, and is asked only where it must be.
    tags = import_open_clip().list_pretrained_tags_by_model(model) if tag else []
    found = (respelt(tag, tags) or tag) if tag else ""
    if (model, found) != tuple(text.partition("/")[::2]):
        request.progress.notice(f"{text} is read as {model}{'/' * bool(found)}{found}")
    return model, found


@register_encoder("local-dir")
def open_local(request: EncoderRequest) -> Encoder:
    """`local-dir:FOLDER`, as open_clip writes it."""
    path = Path(request.spec.partition(":")[2]).expanduser()
    if not path.is_dir():
        raise InputError("there is no such folder", where=f"--encoder {request.spec}", hint=_FOLDER_HINT)
    return open_folder(request, path)


def open_folder(request: EncoderRequest, folder: Path) -> Encoder:
    """A folder of open_clip's hub layout, of `save_pretrained`, or of the hub's cache.

    Raises:
        InputError: none of these.
    """
    refuse_files(request, "the folder has its own config and weights")
    place = in_utf8(model_folder(folder))
    label = request.spec
    if (place / HUB_CONFIG).is_file():
        model, cfg = _read_config(place / HUB_CONFIG)
        weights = weight_files(place, HUB_WEIGHTS)
        if not weights:
            raise InputError(
                "the folder has a config and no weights", where=folder, hint=f"add {HUB_WEIGHTS[0]}"
            )
        preprocessing = _preprocessing(model, cfg, label, f"{HUB_CONFIG} in the folder")
        return _encoder(request, label, folder.resolve().name, model, weights[0], preprocessing)
    if not (place / HF_CONFIG).is_file():
        raise InputError("no image-text encoder in this folder", where=folder, hint=_FOLDER_HINT)
    config = read_json(place / HF_CONFIG)
    if not is_hf_config(config):
        raise InputError("no image-text encoder in this folder", where=place / HF_CONFIG, hint=_FOLDER_HINT)
    weights = weight_files(place, HF_WEIGHTS)
    if not weights:
        raise InputError("the folder has a config and no weights", where=folder, hint=f"add {HF_WEIGHTS[0]}")
    return _open_hf(request, label, config, place, weights)


def _open_hf(
    request: EncoderRequest, label: str, config: JSONObject, folder: Path, weights: tuple[Path, ...]
) -> Encoder:
    """A model of transformers: built by open_clip where it is a `CLIPModel`, which is the same network."""
    kind = str(config["model_type"])
    open_clip = import_open_clip()
    model = open_clip_config(config, folder, open_clip.tokenizer.SimpleTokenizer().encoder)
    vision = config.get("vision_config") or {}
    size = vision.get("image_size", 224) if model is None else model["vision_cfg"]["image_size"]
    if not isinstance(size, int):
        raise InputError(f"an encoder with images that are not square ({size}) is not supported", where=label)
    preprocessing = hf_preprocessing(folder, size, f"{HF_IMAGES} of {label}")
    name = folder.resolve().name
    if model is not None:
        request.progress.detail(f"{label}: a CLIPModel, built by open_clip with its own tokenizer")
        files = ClipFiles(label, name, model, weights[0], preprocessing, weights[1:])
        return ClipEncoder(
            files, device=request.device, precision=request.precision, progress=request.progress
        )
    if find_spec("transformers") is None:
        other = same_weights(request.spec.removeprefix("hf-hub:"))
        raise InputError(
            f"a {kind} model needs the package transformers, which is not installed",
            where=f"--encoder {label}",
            hint="pip install transformers sentencepiece" + (f"; or --encoder {other}" if other else ""),
        )
    text = config.get("text_config") or {}
    dim = config.get("projection_dim") or text.get("projection_size") or vision.get("hidden_size")
    if not isinstance(dim, int):
        raise InputError(
            f"a {kind} model is no image-text encoder: its config names no image tower",
            where=label,
            hint=_FOLDER_HINT,
        )
    described = {
        "embed_dim": dim,
        "text_cfg": {"context_length": int(text.get("max_position_embeddings", 64))},
        "vision_cfg": {"image_size": size},
        "config": config,
    }
    tokenizer = tuple(folder / name for name in HF_TOKENIZER if (folder / name).is_file())
    files = ClipFiles(label, name, described, weights[0], preprocessing, (*weights[1:], *tokenizer), True)
    return ClipEncoder(files, device=request.device, precision=request.precision, progress=request.progress)


def _open_listed(request: EncoderRequest, name: str, tag: str) -> Encoder:
    open_clip = import_open_clip()
    label = request.spec
    model: JSONObject | None = open_clip.get_model_config(name)
    if model is None:
        close = get_close_matches(name, open_clip.list_models(), n=3)
        raise InputError(
            f"open_clip has no model {name!r}",
            where=f"--encoder {label}",
            hint=(f"nearest: {', '.join(close)}. " if close else "")
            + f"For a model of your own: --encoder {name} --encoder-weights FILE, with {name}.json beside it "
            "or --encoder-config JSON",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag and request.weights is None:
        raise InputError(
            f"which weights of {name}?",
            where=f"--encoder {label}",
            hint=f"--encoder {name}/TAG with one of "
            f"{', '.join(sorted(tags, key=lambda tag: tag != 'openai'))}, or --encoder-weights FILE"
            if tags
            else "--encoder-weights FILE",
        )
    listed: JSONObject = open_clip.pretrained.get_pretrained_cfg(name, tag) if tag else {}
    if tag and not listed:
        close = get_close_matches(tag, tags, n=1)
        raise InputError(
            f"{name} has no pretrained weights called {tag!r}",
            where=f"--encoder {label}",
            hint=(f"nearest: {close[0]}; " if close else "") + f"there are {', '.join(tags) or 'none'}",
        )
    if listed.get("quick_gelu") and not model.get("quick_gelu"):
        # open_clip >= 3 only warns here and computes with the wrong activation; the weights decide.
        model["quick_gelu"] = True
        request.progress.detail(f"{label}: QuickGELU, as these weights were trained with")
    if tag:
        source = f"open_clip's entry for {name}/{tag}"
    elif request.weights is not None and is_torchscript(request.weights) and not model.get("quick_gelu"):
        # Only OpenAI gave out such archives, and all their models have this activation.
        model["quick_gelu"] = True
        source = f"OpenAI's, as {request.weights.name} is a TorchScript archive"
        request.progress.notice(f"{label}: mean, std and activation (QuickGELU) are {source}")
    else:
        source = f"open_clip's defaults for {name}: a local file does not say"
        request.progress.notice(
            f"{label}: mean, std and activation are {source}; name the tag it was trained from to be sure"
            f" (--encoder {name}/TAG)"
        )
    preprocessing = _preprocessing(model, listed, label, source)
    if request.weights is not None:
        weights = request.weights
    else:
        repo, _, filename = str(listed.get("hf_hub", "")).rpartition("/")
        if not repo:
            raise InputError(
                f"open_clip does not keep {label} on the hub",
                where=f"--encoder {label}",
                hint="--encoder-weights FILE",
            )
        weights = hub.fetch(
            repo,
            _with_safetensors(filename),
            what=f"the weights of {label}",
            command=f"python -c \"import open_clip; open_clip.create_model('{name}', pretrained='{tag}')\"",
            instead=_FETCHED if (name, tag) == ("ViT-B-16", "openai") else "",
            progress=request.progress,
        )
    return _encoder(request, label, name, model, weights, preprocessing)


@register_encoder("hf-hub")
def open_hub(request: EncoderRequest) -> Encoder:
    """`hf-hub:ORG/MODEL`: a repository with `open_clip_config.json`, or a model of transformers."""
    repo = request.spec.partition(":")[2].strip("/")
    if repo.count("/") != 1:
        raise InputError("a hub repository is ORG/MODEL", where=f"--encoder {request.spec}")
    return _open_hub(request, repo)


def _open_hub(request: EncoderRequest, repo: str) -> Encoder:
    refuse_files(request, "the hub repository has its own config and weights")
    label = request.spec
    command = f"python -c \"import open_clip; open_clip.create_model('hf-hub:{repo}')\""
    other = same_weights(repo)

    def fetch(names: tuple[str, ...], what: str) -> Path:
        return hub.fetch(repo, names, what=f"{what} of {label}", command=command, progress=request.progress)

    try:
        config_file = fetch((HUB_CONFIG, HF_CONFIG), "the config and weights")
    except InputError as error:
        if other is not None:
            hint = f"--encoder {other}, the same weights in open_clip"
        elif ":" not in label:
            hint = f"NAME/TAG of open_clip, or a folder; {label!r} was taken for a repository of the hub"
        else:
            raise
        raise InputError(error.what, where=error.where, hint=hint) from error
    if config_file.name == HUB_CONFIG:
        model, cfg = _read_config(config_file)
        preprocessing = _preprocessing(model, cfg, label, f"{HUB_CONFIG} of {repo}")
        weights = fetch(HUB_WEIGHTS, "the weights")
        return _encoder(request, label, repo.replace("/", "-"), model, weights, preprocessing)
    config = read_json(config_file)
    if not is_hf_config(config):
        raise InputError("no image-text encoder in this repository", where=repo)
    parts = weight_files(config_file.parent, HF_WEIGHTS) or (fetch(HF_WEIGHTS, "the weights"),)
    for name in (HF_IMAGES, *HF_TOKENIZER):
        with suppress(InputError):  # not every model has each of them
            fetch((name,), name)
    return _open_hf(request, label, config, config_file.parent, parts)


@register_encoder("builtin")
def open_builtin(request: EncoderRequest) -> Encoder:
    """`builtin`: the small encoder that comes with the package, for renderings, not for photographs."""
    refuse_files(request, "the builtin encoder comes with the package")
    from concept_monitor_cli.builtin import builtin_encoder_files

    name, config, weights = builtin_encoder_files()
    model, cfg = _read_config(config)
    preprocessing = _preprocessing(model, cfg, "builtin", "the builtin encoder's config")
    return _encoder(request, "builtin", name, model, weights, preprocessing)


def _encoder(
    request: EncoderRequest,
    label: str,
    name: str,
    model: JSONObject,
    weights: Path,
    preprocessing: Preprocessing,
) -> ClipEncoder:
    text = model["text_cfg"]
    if (text.get("hf_tokenizer_name") or text.get("hf_model_name")) and find_spec("transformers") is None:
        raise InputError(
            f"{label} reads text with a tokenizer of the package transformers, which is not installed",
            where=f"--encoder {label}",
            hint="pip install transformers sentencepiece",
        )
    files = ClipFiles(label, name, model, weights, preprocessing)
    return ClipEncoder(files, device=request.device, precision=request.precision, progress=request.progress)


def _config_beside(weights: Path, name: str) -> Path | None:
    for candidate in (weights.with_name(f"{name}.json"), weights.with_name(HUB_CONFIG)):
        if candidate.is_file():
            return candidate
    return None


def _with_safetensors(filename: str) -> list[str]:
    """Names to look for, in open_clip's order: it prefers safetensors where a repository has both."""
    if not filename:
        return list(HUB_WEIGHTS)
    stem, dot, suffix = filename.rpartition(".")
    return [f"{stem}.safetensors", filename] if dot and suffix in ("bin", "pth") else [filename]


def _read_config(path: Path) -> tuple[JSONObject, JSONObject]:
    """(model config, preprocessing config) of a bare model config, or of a hub's with `model_cfg` in it."""
    data = read_json(path)
    model = data.get("model_cfg", data)
    cfg = data.get("preprocess_cfg") or {}
    if not (
        isinstance(model, dict)
        and isinstance(model.get("embed_dim"), int)
        and isinstance(model.get("vision_cfg"), dict)
        and isinstance(model.get("text_cfg"), dict)
    ):
        raise InputError(
            "the encoder's config is none of open_clip",
            where=path,
            hint="embed_dim, vision_cfg and text_cfg, as open_clip writes it; or config.json of a CLIPModel",
        )
    return model, cfg


def _preprocessing(model: JSONObject, cfg: JSONObject, label: str, source: str) -> Preprocessing:
    """open_clip's evaluation transform as ours: `open_clip.transform.image_transform(is_train=False)`."""
    # open_clip takes the network's own size, whatever the preprocessing config says.
    size = model["vision_cfg"].get("image_size", _IMAGE_SIZE)
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise InputError(f"an encoder with images that are not square ({size}) is not supported", where=label)
    mode = cfg.get("resize_mode") or "shortest"
    # open_clip knows two filters; "random" means bicubic outside of training.
    interpolation: Interpolation = "bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic"
    side = int(sides[0])
    if mode == "shortest":
        geometry = Geometry(side, side, "crop", interpolation)
    elif mode == "squash":
        geometry = Geometry(side, None, "squash", interpolation)
    else:
        raise InputError(
            f"an encoder with resize_mode {mode!r} is not supported",
            where=label,
            hint="its preprocessing must be `shortest` or `squash`",
        )
    mean = _three(cfg.get("mean") or CLIP_MEAN, "mean", label)
    std = _three(cfg.get("std") or CLIP_STD, "std", label)
    return Preprocessing(geometry, mean, std, f"{geometry}, from {source}")


def _three(value: Any, what: str, label: str) -> tuple[float, float, float]:
    values = [float(value)] * 3 if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != 3 or not all(map(math.isfinite, values)) or (what == "std" and min(values) <= 0):
        raise InputError(f"the encoder's {what} must be three numbers, not {value}", where=label)
    return values[0], values[1], values[2]
