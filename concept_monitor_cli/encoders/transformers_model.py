"""Image-text models that only the package transformers can build: SigLIP, CLIP with another tokenizer, ..."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class _Network(torch.nn.Module):
    """A model of transformers with open_clip's two methods."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, D)."""
        return _features(self.model.get_image_features(pixel_values=images))

    def encode_text(self, tokens: Any) -> torch.Tensor:
        """Tokens of the tokenizer -> (B, D)."""
        return _features(self.model.get_text_features(**tokens))


def _features(output: Any) -> torch.Tensor:
    # transformers 5 returns a `ModelOutput`, before it was the tensor.
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
    return found


class _Tokens(dict[str, torch.Tensor]):
    def to(self, device: torch.device) -> _Tokens:
        """On another device."""
        return _Tokens({name: values.to(device) for name, values in self.items()})


class _Tokenizer:
    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> _Tokens:
        # As SigLIP was trained: every text padded to the full length. A mask hides the padding elsewhere.
        found = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        return _Tokens({name: found[name] for name in ("input_ids", "attention_mask") if name in found})


def build(folder: Path, context_length: int, device: torch.device) -> tuple[Any, Any]:
    """(network in evaluation mode, tokenizer) of a folder of `save_pretrained`. Reads nothing but the folder.

    Raises:
        Exception: what transformers raises.
    """
    import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come first
    import transformers

    model, info = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    if info["missing_keys"]:  # transformers goes on with random weights
        raise ValueError(f"the weights lack {sorted(info['missing_keys'])[0]}")
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise ValueError(f"{type(model).__name__} does not put images and texts into one space")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = _Network(model.float()).to(device).eval()
    network.requires_grad_(False)
    return network, _Tokenizer(tokenizer, context_length)
