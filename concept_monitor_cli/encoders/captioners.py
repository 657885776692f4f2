"""Captioners: networks that write about an image, token by token. CoCa of open_clip; BLIP, GIT and
vision-encoder-decoders of transformers.

They are asked for nothing but the probability of the next token, so that beams and given texts are scored in
one way, ours: `CoCa.generate` of open_clip 3.3.0 needs transformers 4 and gives no scores, and the scores of
transformers' own beams are divided by length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from concept_monitor_cli.encoders.base import load_encoder
from concept_monitor_cli.encoders.clip import ClipEncoder
from concept_monitor_cli.encoders.digests import file_digest
from concept_monitor_cli.encoders.folders import (
    HF_CONFIG,
    HF_IMAGES,
    HF_TOKENIZER,
    HF_WEIGHTS,
    hf_preprocessing,
    model_folder,
    read_json,
    weight_files,
)
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.probe.decode import shape_image
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store.keys import canonical_json

_OPTION = "--captioner"
# Texts that are scored together.
_TOGETHER = 64
_HF_KINDS = ("blip", "git", "vision-encoder-decoder")


class Captioner(Protocol):
    """Writes about one image at a time.

    Attributes:
        name: what the user wrote.
        digest: of weights, config and tokenizer; known without building the network.
        device: where it computes; may be set before the first image comes.
    """

    name: str
    device: torch.device

    @property
    def digest(self) -> str: ...  # noqa: D102 - described above

    @property
    def start(self) -> int:
        """The token that begins every text."""

    @property
    def end(self) -> int:
        """The token that ends it."""

    @property
    def never(self) -> tuple[int, ...]:
        """Tokens that no text has."""

    def look(self, image: Image.Image) -> Callable[[Tensor], Tensor]:
        """Look at an RGB image of any size.

        Returns:
            from token sequences `(B, L)`, each begun with `start`, to `log p` of the token after every one of
            them, `(B, L, V)` on the CPU.
        """

    def words(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""


@cache
def load_captioner(spec: str, progress: Progress = SILENT) -> Captioner:
    """A captioner by what the user wrote; opened once in a process, built when the first image comes.

    Args:
        spec: `coca:NAME/PRETRAINED` of open_clip, `coca:NAME,WEIGHTS[,CONFIG]`, `coca:FOLDER`; `hf:FOLDER` of
            `save_pretrained` or `hf:ORG/MODEL` of the hub's cache.
        progress: told of downloads.

    Raises:
        InputError: another spec, weights that are not on this machine (with the command that fetches them),
            a model that writes nothing.
    """
    kind, _, name = spec.partition(":")
    if kind == "coca" and name:
        return _open_coca(spec, name, progress)
    if kind == "hf" and name:
        return _open_transformers(spec, name)
    raise InputError(
        f"there is no captioner {spec!r}",
        where=_OPTION,
        hint="phrases, coca:NAME/PRETRAINED, coca:NAME,WEIGHTS or hf:FOLDER",
    )


def _log_probabilities(
    network: Callable[[Tensor, int], Tensor], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """`look`'s answer from a function of tokens and their number that gives logits."""

    @torch.no_grad()
    def following(tokens: Tensor) -> Tensor:
        parts = [
            network(some.to(device), len(some)).float().log_softmax(-1).cpu()
            for some in torch.split(tokens, _TOGETHER)
        ]
        return torch.cat(parts)

    return following


def _normalised(image: Image.Image, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """`(1, 3, S, S)`."""
    pixels = torch.from_numpy(shape_image(image.convert("RGB"), preprocessing.geometry).copy())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return ((pixels.permute(2, 0, 1).float() / 255 - mean) / std)[None].to(device)


# -- open_clip --------------------------------------------------------------------------------------


class CocaCaptioner:
    """CoCa (Yu et al. 2022) as open_clip builds it; see `Captioner`."""

    def __init__(self, name: str, encoder: ClipEncoder) -> None:
        self.name, self._encoder = name, encoder

    @property
    def device(self) -> torch.device:
        """See `Captioner`."""
        return self._encoder.device

    @device.setter
    def device(self, device: torch.device) -> None:
        self._encoder.device = device

    @property
    def digest(self) -> str:
        """See `Captioner`."""
        return self._encoder.digest

    @property
    def _tokenizer(self) -> Any:
        return self._encoder.network[1]

    @property
    def start(self) -> int:
        """See `Captioner`."""
        return int(self._tokenizer.sot_token_id)

    @property
    def end(self) -> int:
        """See `Captioner`."""
        return int(self._tokenizer.eot_token_id)

    @property
    def never(self) -> tuple[int, ...]:
        """See `Captioner`: padding is `!`, token 0, which the decoder does not see apart from it."""
        return (int(self._encoder.network[0].pad_id),)

    def look(self, image: Image.Image) -> Callable[[Tensor], Tensor]:
        """See `Captioner`."""
        network, _ = self._encoder.network
        with torch.no_grad():
            pixels = _normalised(image, self._encoder.preprocessing, self.device)
            latent, embedded = network._encode_image(pixels)

        def logits(tokens: Tensor, count: int) -> Tensor:
            found: Tensor = network(
                None,
                tokens,
                image_latent=latent.expand(count, -1),
                image_embs=embedded.expand(count, -1, -1),
                output_labels=False,
            )["logits"]
            return found

        return _log_probabilities(logits, self.device)

    def words(self, tokens: Sequence[int]) -> str:
        """See `Captioner`."""
        return " ".join(str(self._tokenizer.decode(list(tokens))).split())

    def tokens(self, text: str) -> list[int]:
        """See `Captioner`."""
        return [int(token) for token in self._tokenizer.encode(text)]


def _open_coca(spec: str, name: str, progress: Progress) -> Captioner:
    model, weights, config = [*name.split(","), None, None][:3]
    try:
        encoder = load_encoder(model or "", weights=weights, config=config, progress=progress)
    except InputError as error:
        hint = (error.hint or "").replace("--encoder-weights FILE", f"{_OPTION} coca:{model},FILE")
        hint = hint.replace("--encoder-config JSON", f"{_OPTION} coca:{model},FILE,JSON")
        hint = hint.replace("--encoder ", f"{_OPTION} coca:")
        raise InputError(error.what, where=f"{_OPTION} {spec}", hint=hint or None) from error
    if not isinstance(encoder, ClipEncoder) or "multimodal_cfg" not in encoder.files.model_config:
        raise InputError(
            f"{model} writes nothing: it is no CoCa", where=f"{_OPTION} {spec}", hint="coca:coca_ViT-B-32/TAG"
        )
    if encoder.files.model_config["text_cfg"].get("hf_tokenizer_name"):
        raise InputError(
            "a CoCa with a tokenizer of transformers is not supported", where=f"{_OPTION} {spec}"
        )
    return CocaCaptioner(spec, encoder)


# -- transformers -----------------------------------------------------------------------------------


class TransformersCaptioner:
    """A captioner of transformers, from a folder of `save_pretrained`; see `Captioner`."""

    def __init__(self, name: str, folder: Path, kind: str, preprocessing: Preprocessing) -> None:
        self.name, self._folder, self._kind = name, folder, kind
        self._preprocessing = preprocessing
        self.device = torch.device("cpu")

    @cached_property
    def digest(self) -> str:
        """See `Captioner`."""
        names = (HF_CONFIG, HF_IMAGES, *HF_TOKENIZER)
        files = [self._folder / name for name in names if (self._folder / name).is_file()]
        files += weight_files(self._folder, HF_WEIGHTS)
        payload = {
            "kind": self._kind,
            "files": [[path.name, file_digest(path)] for path in files],
            "transformers": version("transformers").split(".")[0],
        }
        return sha256(canonical_json(payload).encode()).hexdigest()

    @cached_property
    def _built(self) -> tuple[Any, Any]:
        import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come first
        import transformers

        maker = {
            "blip": "BlipForConditionalGeneration",
            "git": "GitForCausalLM",
            "vision-encoder-decoder": "VisionEncoderDecoderModel",
        }[self._kind]
        try:
            model, info = getattr(transformers, maker).from_pretrained(
                self._folder, local_files_only=True, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # transformers, safetensors and torch each have their own families
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"the captioner cannot be built: {reason}", where=f"{_OPTION} {self.name}"
            ) from error
        if info["missing_keys"]:  # transformers goes on with random weights
            raise InputError(
                f"the captioner's weights lack {min(info['missing_keys'])}", where=f"{_OPTION} {self.name}"
            )
        return model.float().to(self.device).eval().requires_grad_(False), tokenizer

    def _token(self, *names: str) -> int:
        """The first of these that config or tokenizer know."""
        model, tokenizer = self._built
        config = model.config
        inner = getattr(config, "text_config", None) or getattr(config, "decoder", None)
        for name in names:
            for place in (config, inner, tokenizer):
                found = getattr(place, name, None)
                if isinstance(found, int):
                    return found
        raise CmonError(f"the captioner names no {names[0]}", where=f"{_OPTION} {self.name}")

    @cached_property
    def start(self) -> int:
        """See `Captioner`."""
        if self._kind == "blip":
            return int(self._built[0].config.text_config.bos_token_id)
        return self._token("decoder_start_token_id", "bos_token_id", "cls_token_id")

    @cached_property
    def end(self) -> int:
        """See `Captioner`."""
        if self._kind == "blip":  # as its own `generate` has it
            return int(self._built[0].config.text_config.sep_token_id)
        return self._token("eos_token_id", "sep_token_id")

    @cached_property
    def never(self) -> tuple[int, ...]:
        """See `Captioner`."""
        return tuple(sorted({int(token) for token in self._built[1].all_special_ids} - {self.end}))

    def look(self, image: Image.Image) -> Callable[[Tensor], Tensor]:
        """See `Captioner`."""
        model, _ = self._built
        pixels = _normalised(image, self._preprocessing, self.device)
        if self._kind == "git":

            def of_git(tokens: Tensor, count: int) -> Tensor:
                found = model(
                    input_ids=tokens, pixel_values=pixels.expand(count, -1, -1, -1), use_cache=False
                )
                logits: Tensor = found.logits[:, -tokens.shape[1] :]
                return logits

            return _log_probabilities(of_git, self.device)
        with torch.no_grad():
            if self._kind == "blip":
                seen, decoder = model.vision_model(pixel_values=pixels)[0], model.text_decoder
            else:
                seen, decoder = model.encoder(pixel_values=pixels)[0], model.decoder
                if hasattr(model, "enc_to_dec_proj"):
                    seen = model.enc_to_dec_proj(seen)

        def logits(tokens: Tensor, count: int) -> Tensor:
            found: Tensor = decoder(
                input_ids=tokens, encoder_hidden_states=seen.repeat(count, 1, 1), use_cache=False
            ).logits
            return found

        return _log_probabilities(logits, self.device)

    def words(self, tokens: Sequence[int]) -> str:
        """See `Captioner`."""
        return " ".join(str(self._built[1].decode(list(tokens), skip_special_tokens=True)).split())

    def tokens(self, text: str) -> list[int]:
        """See `Captioner`."""
        return [int(token) for token in self._built[1].encode(text, add_special_tokens=False)]


def _open_transformers(spec: str, name: str) -> Captioner:
    if find_spec("transformers") is None:
        raise CmonError(
            "the package transformers is not installed",
            where=f"{_OPTION} {spec}",
            hint="pip install 'concept-monitor-cli[captions]'",
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = model_folder(folder)
    else:
        folder = _cached(spec, name)
    if not (folder / HF_CONFIG).is_file() or not weight_files(folder, HF_WEIGHTS):
        raise InputError(
            "no captioner in this folder",
            where=folder,
            hint="a folder with config.json, model.safetensors and a tokenizer (save_pretrained)",
        )
    config = read_json(folder / HF_CONFIG)
    kind = str(config.get("model_type"))
    if kind not in _HF_KINDS:
        raise InputError(
            f"a {kind} model is not supported as a captioner",
            where=f"{_OPTION} {spec}",
            hint=f"one of {', '.join(_HF_KINDS)}",
        )
    vision = config.get("vision_config") or config.get("encoder") or {}
    size = int(vision.get("image_size", 224))
    return TransformersCaptioner(spec, folder, kind, hf_preprocessing(folder, size, f"{HF_IMAGES} of {spec}"))


def _cached(spec: str, name: str) -> Path:
    """The folder of a hub repository in the user's cache.

    Raises:
        InputError: it is not there.
    """
    import huggingface_hub
    from huggingface_hub import constants

    found = huggingface_hub.try_to_load_from_cache(name, HF_CONFIG) if name.count("/") == 1 else None
    if not isinstance(found, str):
        raise InputError(
            f"the captioner {name} is not on this machine",
            where=f"{_OPTION} {spec}, hub cache {constants.HF_HUB_CACHE}",
            hint=f"hf download {name}  on a node with network; HF_HOME must be the same folder there and here"
            if name.count("/") == 1
            else "a folder of save_pretrained, or ORG/MODEL of the hub",
        )
    return Path(found).parent
