"""Image-text encoders of open_clip, and of transformers where only that can build one.

What is built is exactly what the digest covers: the model config is completed by `openers`, and open_clip
builds from that config and the weights file, not from a name.
"""

from __future__ import annotations

import pickle
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from concept_monitor_cli.encoders import transformers_model
from concept_monitor_cli.encoders.base import Precision
from concept_monitor_cli.encoders.causal_text import encode_text
from concept_monitor_cli.encoders.digests import file_digest
from concept_monitor_cli.encoders.fusing import fuse_batch_norms
from concept_monitor_cli.encoders.hf_clip import JSONObject
from concept_monitor_cli.encoders.weights import converted_weights, without_warning
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import JSONValue
from concept_monitor_cli.store.keys import canonical_json

_CONTEXT_LENGTH = 77

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
        more: what else it is made of: further parts of the weights; a tokenizer's files.
        transformers: whether the package transformers builds it, from the folder of `weights`.
    """

    label: str
    model_name: str
    model_config: JSONObject
    weights: Path
    preprocessing: Preprocessing
    more: tuple[Path, ...] = ()
    transformers: bool = False


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
        if self.files.more:
            payload["more"] = [[path.name, file_digest(path)] for path in self.files.more]
        if self.files.transformers:
            payload["transformers"] = version("transformers").split(".")[0]
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
        network = self._image_network
        mean, std = self._statistics
        # The operations of torchvision's ToTensor and Normalize in their order, so that no bit differs.
        pixels = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        x = pixels.float().div_(255).sub_(mean).div_(std)
        with torch.no_grad(), self._autocast():
            return self._unit(network.encode_image(x), "images")

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        """`M` texts -> fp32 `(M, D)`, rows normalised, on the encoder's device.

        No text is padded to the length of its neighbours (`causal_text`), so its row does not depend on them.

        Raises:
            CmonError: an embedding that is not finite, or zero.
        """
        if not texts:
            return torch.empty(0, self.dim, device=self.device)
        network, tokenizer = self._network
        self._say_if_cut(tokenizer, texts)
        tokens = tokenizer(list(texts)).to(self.device)
        with torch.no_grad(), self._autocast():
            return self._unit(encode_text(network, tokens), "texts")

    @property
    def logit_scale(self) -> float:
        """By what the cosine of an image and a text is multiplied before the softmax over texts.

        Reads it off the network, which is built for it.
        """
        network, _ = self._network
        return float(getattr(network, "model", network).logit_scale.detach().exp())

    @property
    def network(self) -> tuple[Any, Any]:
        """The network in evaluation mode, and its tokenizer."""
        return self._network

    def release(self) -> bool:
        """Let go of the network; it is built again when an image or a word comes.

        Returns:
            Whether there was one.
        """
        self.__dict__.pop("_image_network", None)
        return self.__dict__.pop("_network", None) is not None

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

    @cached_property
    def _image_network(self) -> Any:
        network, _ = self._network
        if self.device.type == "cpu" and self.precision == "fp32":
            size = self.preprocessing.geometry.size
            # The same for every run: what an image's embedding is must not hang on what else is embedded.
            noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
            fused = fuse_batch_norms(network, network.encode_image, noise)
            if fused:
                self._progress.detail(f"{fused} batch normalisations went into convolutions")
        return network

    def _say_if_cut(self, tokenizer: Any, texts: Sequence[str]) -> None:
        limit = int(getattr(tokenizer, "context_length", None) or _CONTEXT_LENGTH)
        # A text has at most as many tokens as bytes, plus start and end.
        long = [t for t in texts if len(t.encode()) + 2 > limit and _count_tokens(tokenizer, t) > limit]
        if long:
            self._progress.warning(
                f"{len(long)} text{'' if len(long) == 1 else 's'} cut to the encoder's {limit} tokens, "
                f"the first is {long[0]!r}"
            )


def import_open_clip() -> Any:
    """The package open_clip, after what makes torchvision importable."""
    # Not at the top: it takes seconds, and a run that finds all its embeddings in the store needs none of it.
    import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come first
    import open_clip

    return open_clip


def model_names() -> list[str]:
    """open_clip's models, `open_clip.list_models()`, without importing it where that was not done yet."""
    imported = sys.modules.get("open_clip")
    if imported is not None:
        return list(imported.list_models())
    found = find_spec("open_clip")
    places = [] if found is None else found.submodule_search_locations or []
    return sorted({path.stem for place in places for path in Path(place).glob("model_configs/*.json")})


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
    try:
        # Building draws random weights first; the caller's random numbers must not depend on it.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if files.transformers:
                length = int(files.model_config["text_cfg"]["context_length"])
                return transformers_model.build(files.weights.parent, length, device)
            network, tokenizer = _build_open_clip(files, device)
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


def _build_open_clip(files: ClipFiles, device: torch.device) -> tuple[Any, Any]:
    open_clip = import_open_clip()
    # A name of its own for each config: open_clip's registry is global, and a user's config may be called
    # like one of open_clip's.
    text = canonical_json(files.model_config)
    name = f"{files.model_name}-{sha256(text.encode()).hexdigest()[:16]}"
    if open_clip.get_model_config(name) is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(text, encoding="ascii")
            open_clip.add_model_config(path)  # read at once; the file is not needed afterwards
    parts = [files.weights, *(path for path in files.more if path.suffix == files.weights.suffix)]
    converted = converted_weights(parts)
    if converted is None:
        network = open_clip.create_model(
            name, pretrained=str(files.weights), device=device, weights_only=True
        )
    else:
        with without_warning("No pretrained weights loaded"):
            network = open_clip.create_model(name, device=device, load_weights=False)
        network.load_state_dict(converted)
    return network, open_clip.get_tokenizer(name)


_TOWERS = {"text": ("token_embedding.weight", "text.token_embedding.weight"), "image": ("visual.",)}


def _missing_part(text: str) -> str:
    """Which tower torch's `Missing key(s) in state_dict: "a", "b".` names; empty where it is neither."""
    missing = re.search(r"Missing key\(s\) in state_dict: ([^\n]*)", text)
    names = re.findall(r'"([^"]+)"', missing[1]) if missing else []
    return next(
        (part for part, marks in _TOWERS.items() if any(name.startswith(marks) for name in names)), ""
    )


def _building_error(error: Exception, where: str) -> InputError:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        # torch's own words advise to switch the protection off.
        runs_code = "nsupported global" in text or "TorchScript" in text
        return InputError(
            "the encoder's weights are a pickle that wants to run code; it was not loaded"
            if runs_code
            else "the encoder's weights are no checkpoint, or a damaged one",
            where=where,
            hint="use the .safetensors file of the same weights",
        )
    part = _missing_part(text)
    if part:
        return InputError(
            f"the weights hold no {part} tower: an encoder needs one for images and one for texts",
            where=where,
            hint="the file that the model was published in holds both",
        )
    # torch: `Missing key(s) in state_dict: "a", "b". Unexpected key(s) ...`, each in a line of its own.
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return InputError(
        f"the encoder cannot be built: {' '.join(lines[:2])[:300]}",
        where=where,
        hint="are these the weights of this model? --encoder, --encoder-weights, --encoder-config",
    )
