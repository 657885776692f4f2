"""What an image-text encoder is to the rest of the project, and how one is found by what the user wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from concept_monitor_cli.checkpoints.paths import in_utf8
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.progress import SILENT, Progress

Precision = Literal["fp32", "bf16", "fp16"]


@runtime_checkable
class Encoder(Protocol):
    """Puts images and words into one space, `D`-dimensional, rows of length one.

    Attributes:
        name: what the user wrote.
        digest: hex SHA-256 of all that an embedding depends on: weights, config, tokenizer, mean and std,
            precision. Known without building the network.
        dim: `D`.
        device: where it computes.
        preprocessing: what it expects of images; None where the embeddings are given and no pixel is read.
        needs_network: False where nothing has to be computed (embeddings from a file).
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - described above

    @property
    def digest(self) -> str: ...  # noqa: D102

    @property
    def dim(self) -> int: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def preprocessing(self) -> Preprocessing | None: ...  # noqa: D102

    def image(self, batch: torch.Tensor) -> torch.Tensor:
        """uint8 `(B, S, S, 3)` on any device -> fp32 `(B, D)`, rows normalised, on the encoder's device."""

    def text(self, texts: Sequence[str]) -> torch.Tensor:
        """`M` texts -> fp32 `(M, D)`, rows normalised, on the encoder's device."""


@dataclass(frozen=True)
class EncoderRequest:
    """What the user asked for: `--encoder`, `--encoder-weights`, `--encoder-config`, device and precision."""

    spec: str
    weights: Path | None
    config: Path | None
    device: torch.device
    precision: Precision
    progress: Progress


_OPENERS: dict[str, Callable[[EncoderRequest], Encoder]] = {}
_DEFAULT = "open_clip"


def register_encoder(
    scheme: str,
) -> Callable[[Callable[[EncoderRequest], Encoder]], Callable[[EncoderRequest], Encoder]]:
    """Make a kind of encoder known: `scheme:REST`, or the bare word `scheme`.

    >>> @register_encoder("my-encoder")
    ... def open_mine(request: EncoderRequest) -> Encoder: ...
    """

    def decorate(opener: Callable[[EncoderRequest], Encoder]) -> Callable[[EncoderRequest], Encoder]:
        if scheme in _OPENERS:
            raise ValueError(f"two encoders are registered as {scheme!r}")
        _OPENERS[scheme] = opener
        return opener

    return decorate


def list_encoders() -> list[str]:
    """The registered schemes, sorted; what has none is a name of open_clip's."""
    return sorted(_OPENERS)


def load_encoder(
    spec: str,
    *,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = "fp32",
    progress: Progress = SILENT,
) -> Encoder:
    """An encoder by what the user wrote. The network is built when the first thing has to be embedded.

    Args:
        spec: `NAME/PRETRAINED` of open_clip, `NAME` with `weights`, a folder of an encoder,
            `hf-hub:org/model`, `embeddings:FILE.h5`, or `builtin`.
        weights: a local checkpoint for `NAME` or `NAME/PRETRAINED` (then the tag says how it was trained).
        config: open_clip's model config for `weights`; by default that of open_clip under `NAME`, else
            `NAME.json` or `open_clip_config.json` beside the weights.
        device: where to compute.
        precision: fp16 and bf16 compute under autocast; what comes out is fp32 either way.
        progress: told of assumptions, downloads and texts that had to be cut.

    Raises:
        InputError: an unknown name (with the nearest), weights that are not on this machine and cannot be
            had (with the command that fetches them), files that do not fit together.
    """
    spec = spec.strip()
    if not spec:
        raise InputError("no encoder given", where="--encoder", hint="--encoder ViT-B-16/openai")
    if precision not in ("fp32", "bf16", "fp16"):
        raise InputError(f"unknown precision {precision!r}", where="--precision", hint="fp32, bf16 or fp16")
    scheme = spec.split(":", 1)[0]
    if ":" in spec and scheme not in _OPENERS and not Path(spec).expanduser().is_dir():
        close = get_close_matches(scheme, list_encoders(), n=1)
        raise InputError(
            f"unknown kind of encoder {scheme + ':'!r}",
            where=f"--encoder {spec}",
            hint=f"{close[0]}:..." if close else "NAME/PRETRAINED, hf-hub:ORG/MODEL or embeddings:FILE.h5",
        )
    files = [None if p is None else Path(p).expanduser() for p in (weights, config)]
    for option, path in zip(("--encoder-weights", "--encoder-config"), files, strict=True):
        if path is not None and path.is_dir():
            raise InputError(
                f"{option} is a folder, not a file",
                where=path,
                hint=f"--encoder {path}, where it is the folder of an encoder; or name the file in it",
            )
        if path is not None and not path.is_file():
            raise InputError("there is no such file", where=f"{option} {path}")
    files = [None if path is None else in_utf8(path) for path in files]
    request = EncoderRequest(spec, files[0], files[1], torch.device(device), precision, progress)
    return _OPENERS.get(scheme, _OPENERS[_DEFAULT])(request)


def refuse_files(request: EncoderRequest, why: str) -> None:
    """For kinds of encoders that `--encoder-weights` and `--encoder-config` say nothing to.

    Raises:
        InputError: where one of the two was given.
    """
    for option, path in (("--encoder-weights", request.weights), ("--encoder-config", request.config)):
        if path is not None:
            raise InputError(f"{why}, so {option} has no meaning", where=f"--encoder {request.spec}")
