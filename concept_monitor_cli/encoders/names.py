"""How people write the names of encoders, and how open_clip spells them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The names of OpenAI's `clip` package, which CLIP-Dissect uses too.
_OPENAI = {
    "RN50": "RN50", "RN101": "RN101", "RN50x4": "RN50x4", "RN50x16": "RN50x16", "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32", "ViT-B/16": "ViT-B-16", "ViT-L/14": "ViT-L-14", "ViT-L/14@336px": "ViT-L-14-336",
}  # fmt: skip

# Repositories of the Hugging Face hub with the same weights as one of open_clip's tags.
_HUB = {
    "openai/clip-vit-base-patch32": "ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336/openai",
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP/webli",
    "google/siglip-base-patch16-256": "ViT-B-16-SigLIP-256/webli",
    "google/siglip-base-patch16-384": "ViT-B-16-SigLIP-384/webli",
    "google/siglip-large-patch16-256": "ViT-L-16-SigLIP-256/webli",
    "google/siglip-large-patch16-384": "ViT-L-16-SigLIP-384/webli",
    "google/siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384/webli",
}


def openai_name(text: str) -> str | None:
    """open_clip's name of a model of OpenAI's `clip` package that is written with a slash or an at sign."""
    folded = {name.casefold(): known for name, known in _OPENAI.items() if "/" in name}
    return folded.get(text.casefold())


def same_weights(repo: str) -> str | None:
    """`NAME/TAG` of open_clip with the weights of a hub repository, where it is known."""
    return _HUB.get(repo.casefold())


def bare(name: str) -> str:
    """A name without what people vary: case, `-`, `_`, `/`."""
    return re.sub(r"[^a-z0-9@]", "", name.casefold())


def respelt(name: str, known: Sequence[str]) -> str | None:
    """The one of the known names that differs only in case and separators; None where none or several do."""
    if name in known:
        return name
    alike = [other for other in known if bare(other) == bare(name)]
    return alike[0] if len(alike) == 1 else None
