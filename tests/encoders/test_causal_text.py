"""Texts without their padding: the same embeddings, where the tower reads from left to right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_helpers import open_clip

from concept_monitor_cli.encoders.causal_text import encode_text

WORDS = ["dog", "a very long name of a thing", "x", "cat", "a big dog"]
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}


def built(custom: bool = False, **text: Any) -> Any:
    torch.manual_seed(0)
    # 49,407 is the end token of CLIP's tokenizer.
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(embed_dim=24, vision_cfg=dict(VISION), text_cfg={**TEXT, "eos_id": 49407, **text}).eval()


def encoded(network: Any, words: list[str] = WORDS) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Ours, open_clip's, and the lengths of the sequences that the first block got from us."""
    tokens = open_clip.tokenize(words)
    tower = getattr(network, "text", network)
    seen: list[int] = []
    with torch.no_grad():
        hook = tower.transformer.resblocks[0].register_forward_pre_hook(
            lambda _block, inputs: seen.append(inputs[0].shape[1])
        )
        ours = encode_text(network, tokens)
        hook.remove()
        return ours, network.encode_text(tokens), seen


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("pooling", ["argmax", "eos"])
def test_equals_the_padded_texts_at_a_fraction_of_their_length(custom: bool, pooling: str) -> None:
    ours, whole, seen = encoded(built(custom, pool_type=pooling))
    torch.testing.assert_close(ours, whole, atol=1e-6, rtol=1e-5)
    assert seen == [3, 5, 9]


@pytest.mark.parametrize(
    "text", [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True}]
)
def test_a_tower_that_may_look_at_the_padding_gets_all_of_it(text: dict[str, Any]) -> None:
    ours, whole, seen = encoded(built(custom=True, **text))
    assert torch.equal(ours, whole)
    assert seen == [78 if "embed_cls" in text else 77]


def test_a_mask_that_lets_one_later_token_through_is_not_causal() -> None:
    network = built()
    network.attn_mask[3, 40] = 0.0
    ours, whole, seen = encoded(network)
    assert torch.equal(ours, whole)
    assert seen == [77]


def test_the_network_is_left_as_it_was() -> None:
    network = built()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    encoded(network)
    assert network.attn_mask.shape == (77, 77)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_row_does_not_depend_on_longer_neighbours() -> None:
    network = built()
    alone = encode_text(network, open_clip.tokenize(["dog", "cat"]))
    beside = encode_text(network, open_clip.tokenize(["dog", "cat", "a very long name of a thing"]))
    assert torch.equal(alone, beside[:2])
