"""Image-text encoders of open_clip: by name and tag, from the hub, or from a local checkpoint.

What is built is exactly what the digest covers: the model config is read and completed here, and open_clip
builds from that config and the weights file, not from a name.
"""

from __future__ import annotations

import json
import math
import pickle
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from concept_monitor_cli.encoders import hub
from concept_monitor_cli.encoders.base import (
    Encoder,
    EncoderRequest,
    Precision,
    refuse_files,
    register_encoder,
)
from concept_monitor_cli.encoders.digests import file_digest
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.geometry import Geometry, Interpolation, Preprocessing
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import JSONValue
from concept_monitor_cli.store.keys import canonical_json

# open_clip's own defaults for configs that say nothing (open_clip.constants, open_clip.transform).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_IMAGE_SIZE = 224
_CONTEXT_LENGTH = 77

_HUB_CONFIG = "open_clip_config.json"
_HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

JSONObject = dict[str, Any]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ClipFiles:
    """All that an open_clip model is made of.

    Attributes:
        label: what the user called it, for messages.
        model_name: open_clip's name; only its spelling matters (`siglip` in it chooses a tokenizer).
        model_config: open_clip's model config, complete: `embed_dim`, `vision_cfg`, `text_cfg`, ...
        weights: the checkpoint.
        preprocessing: what it expects of images.
    """

    label: str
    model_name: str
    model_config: JSONObject
    weights: Path
    preprocessing: Preprocessing


class ClipEncoder:
    """An open_clip model that is built when the first image or word comes.

    Args:
        files: config, weights, preprocessing.
        device: where it computes.
        precision: under autocast for bf16 and fp16; the weights stay fp32, as open_clip evaluates with `amp`.
        progress: told when the network is built and when texts are cut.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        files: ClipFiles,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        progress: Progress = SILENT,
    ):
        self.files = files
        self.name = files.label
        self.preprocessing = files.preprocessing
        self.device = torch.device(device)
        self.precision: Precision = precision
        self.dim = int(files.model_config["embed_dim"])
        self._progress = progress

    @cached_property
    def digest(self) -> str:
        """Of weights, config (tokenizer and context length in it), mean, std, precision, open_clip's version.

        Of the version only the major number counts. The geometry is in the digest of the pixels instead.
        """
        payload: dict[str, JSONValue] = {
            "kind": "open_clip",
            "weights": file_digest(self.files.weights),
            "config": self.files.model_config,
            "tokenizer": _tokenizer_rule(self.files),
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "precision": self.precision,
            "open_clip": version("open_clip_torch").split(".")[0],
        }
        return sha256(canonical_json(payload).encode()).hexdigest()

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 `(B, S, S, 3)` -> fp32 `(B, D)`, rows normalised, on the encoder's device.

        Raises:
            ValueError: another dtype or shape.
            CmonError: an embedding that is not finite, or zero.
        """
        size = self.preprocessing.geometry.size
        if batch.dtype != torch.uint8 or batch.shape[1:] != (size, size, 3):
            raise ValueError(f"expected uint8 (B, {size}, {size}, 3), got {batch.dtype} {tuple(batch.shape)}")
        network, _ = self._network
        mean, std = self._statistics
        # The operations of torchvision's ToTensor and Normalize in their order, so that no bit differs.
        pixels = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        x = pixels.float().div_(255).sub_(mean).div_(std)
        with torch.no_grad(), self._autocast():
            return self._unit(network.encode_image(x), "images")

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        """`M` texts -> fp32 `(M, D)`, rows normalised, on the encoder's device.

        Every text is padded to the context length, so its row does not depend on its neighbours.

        Raises:
            CmonError: an embedding that is not finite, or zero.
        """
        if not texts:
            return torch.empty(0, self.dim, device=self.device)
        network, tokenizer = self._network
        self._say_if_cut(tokenizer, texts)
        tokens = tokenizer(list(texts)).to(self.device)
        with torch.no_grad(), self._autocast():
            return self._unit(network.encode_text(tokens), "texts")

    def _unit(self, raw: torch.Tensor, what: str) -> torch.Tensor:
        values = raw.float()
        norms = values.norm(dim=-1, keepdim=True)
        bad = ~(torch.isfinite(norms) & (norms > 0))
        if bool(bad.any()):
            hint = "the weights hold NaN, or are not those of this model"
            raise CmonError(
                f"{int(bad.sum())} of {len(values)} {what} got an embedding that is not finite, or zero",
                where=f"{self.name} with precision {self.precision}",
                hint=hint if self.precision == "fp32" else "--precision fp32",
            )
        return values.div_(norms)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    @cached_property
    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        both = (self.preprocessing.mean, self.preprocessing.std)
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in both)
        return mean, std

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        self._progress.detail(f"building the encoder {self.name} on {self.device}")
        return _build(self.files, self.device)

    def _say_if_cut(self, tokenizer: Any, texts: Sequence[str]) -> None:
        limit = int(getattr(tokenizer, "context_length", None) or _CONTEXT_LENGTH)
        # A text has at most as many tokens as bytes, plus start and end.
        long = [t for t in texts if len(t.encode()) + 2 > limit and _count_tokens(tokenizer, t) > limit]
        if long:
            self._progress.warning(
                f"{len(long)} text{'' if len(long) == 1 else 's'} cut to the encoder's {limit} tokens, "
                f"the first is {long[0]!r}"
            )


@register_encoder("open_clip")
def open_named(request: EncoderRequest) -> Encoder:
    """`NAME/PRETRAINED`, or `NAME` (with or without a tag) and `--encoder-weights`."""
    name, _, tag = request.spec.removeprefix("open_clip:").partition("/")
    label = request.spec
    if request.weights is None and request.config is not None:
        raise InputError(
            "a config without weights", where="--encoder-config", hint="add --encoder-weights FILE"
        )
    config_file = request.config
    if config_file is None and request.weights is not None and not tag and not _is_known(name):
        config_file = _config_beside(request.weights, name)
    if config_file is not None:
        assert request.weights is not None
        if tag:
            raise InputError(
                "a tag of open_clip and a config of one's own exclude each other",
                where=f"--encoder {label}",
                hint=f"--encoder {name}",
            )
        model, cfg = _read_config(config_file)
        source = f"{config_file.name}, what it leaves out from open_clip's defaults"
        return _encoder(
            request, label, name, model, request.weights, _preprocessing(model, cfg, label, source)
        )
    return _open_listed(request, name, tag)


def _open_listed(request: EncoderRequest, name: str, tag: str) -> Encoder:
    open_clip = _open_clip()
    label = request.spec
    model: JSONObject | None = open_clip.get_model_config(name)
    if model is None:
        close = get_close_matches(name, open_clip.list_models(), n=3)
        raise InputError(
            f"open_clip has no model {name!r}",
            where=f"--encoder {label}",
            hint=f"nearest: {', '.join(close)}"
            if close
            else "python -c 'import open_clip; print(open_clip.list_models())'",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tag and request.weights is None:
        raise InputError(
            f"which weights of {name}?",
            where=f"--encoder {label}",
            hint=f"--encoder {name}/TAG with one of {', '.join(tags)}, or --encoder-weights FILE"
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
            progress=request.progress,
        )
    return _encoder(request, label, name, model, weights, preprocessing)


@register_encoder("hf-hub")
def open_hub(request: EncoderRequest) -> Encoder:
    """`hf-hub:ORG/MODEL`: a repository with `open_clip_config.json`."""
    refuse_files(request, "the hub repository has its own config and weights")
    label, repo = request.spec, request.spec.partition(":")[2].strip("/")
    if repo.count("/") != 1:
        raise InputError("a hub repository is ORG/MODEL", where=f"--encoder {label}")
    command = f"python -c \"import open_clip; open_clip.create_model('hf-hub:{repo}')\""
    files = [
        hub.fetch(repo, names, what=f"{what} of {label}", command=command, progress=request.progress)
        for names, what in (((_HUB_CONFIG,), "the config and weights"), (_HUB_WEIGHTS, "the weights"))
    ]
    model, cfg = _read_config(files[0])
    preprocessing = _preprocessing(model, cfg, label, f"{_HUB_CONFIG} of {repo}")
    return _encoder(request, label, repo.replace("/", "-"), model, files[1], preprocessing)


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


def _open_clip() -> Any:
    # Not at the top: it takes seconds, and a run that finds all its embeddings in the store needs none of it.
    import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come first
    import open_clip

    return open_clip


def _is_known(name: str) -> bool:
    return _open_clip().get_model_config(name) is not None


def _config_beside(weights: Path, name: str) -> Path | None:
    for candidate in (weights.with_name(f"{name}.json"), weights.with_name(_HUB_CONFIG)):
        if candidate.is_file():
            return candidate
    return None


def _with_safetensors(filename: str) -> list[str]:
    """Names to look for, in open_clip's order: it prefers safetensors where a repository has both."""
    if not filename:
        return list(_HUB_WEIGHTS)
    stem, dot, suffix = filename.rpartition(".")
    return [f"{stem}.safetensors", filename] if dot and suffix in ("bin", "pth") else [filename]


def _read_config(path: Path) -> tuple[JSONObject, JSONObject]:
    """(model config, preprocessing config) of a bare model config, or of a hub's with `model_cfg` in it."""
    hint = "an open_clip model config: embed_dim, vision_cfg and text_cfg"
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"the encoder's config cannot be read: {error}", where=path, hint=hint) from error
    model = data.get("model_cfg", data) if isinstance(data, dict) else None
    cfg = data.get("preprocess_cfg") or {} if isinstance(data, dict) else {}
    if not (
        isinstance(model, dict)
        and isinstance(model.get("embed_dim"), int)
        and isinstance(model.get("vision_cfg"), dict)
        and isinstance(model.get("text_cfg"), dict)
    ):
        raise InputError("the encoder's config is none of open_clip", where=path, hint=hint)
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


def _tokenizer_rule(files: ClipFiles) -> str:
    name = files.model_config["text_cfg"].get("hf_tokenizer_name")
    if name:
        return str(name)
    # open_clip.get_tokenizer goes by the model's name here.
    return files.model_name.lower() if "siglip" in files.model_name.lower() else "bpe"


def _count_tokens(tokenizer: Any, text: str) -> int:
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(text).input_ids)


def _build(files: ClipFiles, device: torch.device) -> tuple[Any, Any]:
    """(network in evaluation mode, tokenizer)."""
    open_clip = _open_clip()
    # A name of its own for each config: open_clip's registry is global, and a user's config may be called
    # like one of open_clip's.
    text = canonical_json(files.model_config)
    name = f"{files.model_name}-{sha256(text.encode()).hexdigest()[:16]}"
    if open_clip.get_model_config(name) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(text, encoding="ascii")
            open_clip.add_model_config(path)  # read at once; the file is not needed afterwards
    try:
        # Building draws random weights first; the caller's random numbers must not depend on it.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = open_clip.create_model(
                name, pretrained=str(files.weights), device=device, weights_only=True
            )
        tokenizer = open_clip.get_tokenizer(name)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # safetensors, torch, transformers and the hub each have their own families
        raise _building_error(error, f"{files.weights} as {files.label}") from error
    size = network.visual.image_size
    side = files.preprocessing.geometry.size
    if tuple(size if isinstance(size, (tuple, list)) else (size, size)) != (side, side):
        raise CmonError(f"the encoder takes {size} pixels, its config says {side}", where=files.label)
    network.eval()
    network.requires_grad_(False)
    # Pixels come as (B, H, W, 3), and convolutions that take them so are twice as fast on a CPU.
    network.visual.to(memory_format=torch.channels_last)
    return network, tokenizer


def _building_error(error: Exception, where: str) -> InputError:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words advise to switch the protection off.
        runs_code = "nsupported global" in text
        return InputError(
            "the encoder's weights are a pickle that wants to run code; it was not loaded"
            if runs_code
            else "the encoder's weights are no checkpoint, or a damaged one",
            where=where,
            hint="use the .safetensors file of the same weights",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if "TorchScript" in text:
        hint = "not OpenAI's TorchScript file, but the hub's open_clip_model.safetensors of the same weights"
    else:
        hint = "are these the weights of this model? --encoder, --encoder-weights, --encoder-config"
    return InputError(f"the encoder cannot be built: {' '.join(lines[:2])[:300]}", where=where, hint=hint)
