"""Networks under the names of the code that they were published with compute what that code computes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from late import Late
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import NoWeightsError, load_checkpoint
from concept_monitor_cli.checkpoints.origin_names import under_timms_names
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import constructor, resolve_model

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip

timm = Late("timm")
open_clip = Late("open_clip")


def drawn(model: nn.Module) -> nn.Module:
    """The network with weights of which none is as it was made."""
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator) * 0.1
            value.copy_(noise.abs() + 0.5 if "var" in key else noise)
    return model.eval()


def towers(**vision: int) -> nn.Module:
    """CLIP, with a text tower as small as can be."""
    model: nn.Module = open_clip.CLIP(
        64,
        open_clip.CLIPVisionCfg(**vision),
        open_clip.CLIPTextCfg(context_length=4, vocab_size=9, width=16, heads=1, layers=1),
    )
    return model


def test_the_image_tower_of_clip(tmp_path: Path) -> None:
    # The sizes of timm's vit_xsmall_patch16_clip_224, with smaller images.
    true = drawn(towers(layers=10, width=256, head_width=64, patch_size=16, image_size=32))
    state_dict = {f"module.{key}": value for key, value in true.state_dict().items()}
    torch.save({"epoch": 3, "name": "x", "state_dict": state_dict}, tmp_path / "epoch_3.pt")
    lazy = load_checkpoint(tmp_path / "epoch_3.pt", lazy=True)
    loaded = load_checkpoint(tmp_path / "epoch_3.pt")
    assert {k: v.shape for k, v in lazy.state_dict.items()} == {
        k: v.shape for k, v in loaded.state_dict.items()
    }
    assert "names of CLIP read as timm's" in loaded.notes
    source = resolve_model(None, loaded.state_dict)
    assert source.name == "vit_xsmall_patch16_clip_224"
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(source.restore(loaded.state_dict)(x), true.visual(x), rtol=1e-5, atol=1e-6)


def test_clip_with_a_residual_network() -> None:
    """Names only, against those that timm's own converter gives: the values stay as they are."""
    from timm.models.byobnet import _convert_openai_clip

    with torch.device("meta"):
        state_dict = towers(layers=(3, 4, 6, 3), width=64, image_size=224).state_dict()  # type: ignore[arg-type]
        model = timm.create_model("resnet50_clip")
    found = under_timms_names(state_dict, lazy=True)
    assert found is not None
    assert (found.prefix, found.whose) == ("visual.", "CLIP")
    assert found.tensors.keys() == _convert_openai_clip(state_dict, model).keys()


def test_what_only_resembles_clip_is_left_alone() -> None:
    state_dict = {"visual.class_embedding": torch.ones(4), "visual.attn_pool.query": torch.ones(3)}
    assert under_timms_names(state_dict) is None


def test_blocks_in_chunks(tmp_path: Path) -> None:
    """As DINOv2's training code saves its teacher."""
    maker = constructor("timm", "vit_tiny_patch16_224")
    assert maker is not None
    true = drawn(maker.factory(num_classes=0, img_size=32))
    chunked = {}
    for key, value in true.state_dict().items():
        first, _, rest = key.partition(".")
        number = rest.partition(".")[0]
        chunked[f"backbone.blocks.{int(number) // 3}.{rest}" if first == "blocks" else f"backbone.{key}"] = (
            value
        )
    chunked |= {"backbone.mask_token": torch.zeros(1, 192), "dino_head.mlp.0.weight": torch.ones(4, 192)}
    torch.save({"teacher": chunked}, tmp_path / "teacher_checkpoint.pth")
    loaded = load_checkpoint(tmp_path / "teacher_checkpoint.pth")
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(resolve_model(None, loaded.state_dict).restore(loaded.state_dict)(x), true(x))


def _tokens_of_dinov2(state_dict: dict[str, Tensor], patches: Tensor) -> Tensor:
    """`prepare_tokens_with_masks` of its code: positions for the class token and patches, then registers."""
    count = len(patches)
    tokens = torch.cat([state_dict["cls_token"].expand(count, -1, -1), patches], dim=1)
    tokens = tokens + state_dict["pos_embed"]
    registers = state_dict["register_tokens"].expand(count, -1, -1)
    return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)


def test_registers_with_positions_of_their_own() -> None:
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=8,
        depth=1,
        num_heads=1,
        num_classes=0,
        reg_tokens=2,
        no_embed_class=True,
        mlp_layer=SwiGLUPacked,
    )
    state_dict = dict(drawn(model).state_dict())
    published = {
        key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value.clone()
        for key, value in state_dict.items()
        if key != "reg_token"
    }
    published |= {"register_tokens": torch.randn(1, 2, 8), "pos_embed": torch.randn(1, 5, 8)}
    published["mask_token"] = torch.zeros(1, 8)
    found = under_timms_names({f"net.{key}": value for key, value in published.items()})
    assert found is not None
    model.load_state_dict(found.tensors)
    patches = torch.randn(3, 2, 2, 8)
    tokens = _tokens_of_dinov2(published, patches.flatten(1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(model._pos_embed(patches.flatten(1, 2)), tokens)


# -- arrays of numpy, quantised layers, a momentum encoder ---------------------------------------------


def _weights() -> dict[str, Tensor]:
    maker = constructor("cmon", "cifar_resnet20")
    assert maker is not None
    return dict(drawn(maker.factory(num_classes=10)).state_dict())


def test_arrays_of_numpy_stand_for_weights(tmp_path: Path) -> None:
    """As in detectron2's `.pkl`, also with the bytes of another machine."""
    own = _weights()
    arrays = {key: value.numpy() for key, value in own.items()}
    arrays["conv1.weight"] = arrays["conv1.weight"].astype(">f4")
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x", "matching_heuristics": True}))
    loaded = load_checkpoint(path)
    assert loaded.where == "model"
    assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict.items())
    path.write_bytes(pickle.dumps({"features": arrays["conv1.weight"], "labels": arrays["fc.bias"]}))
    with pytest.raises(NoWeightsError):
        load_checkpoint(path)


def test_quantised_layers_are_named(tmp_path: Path) -> None:
    packed = {"fc.scale": torch.ones(()), "fc._packed_params.dtype": torch.qint8}
    packed["fc._packed_params._packed_params"] = (torch.ones(10, 64), None)
    body = {key: value for key, value in _weights().items() if not key.startswith("fc.")}
    torch.save({**body, **packed}, tmp_path / "body.pt")
    assert any(
        "quantised layers left out: fc;" in note for note in load_checkpoint(tmp_path / "body.pt").notes
    )
    torch.save({"bias": torch.ones(3), **packed}, tmp_path / "all.pt")
    with pytest.raises(InputError, match="fc is quantised"):
        load_checkpoint(tmp_path / "all.pt")


def test_a_momentum_encoder_with_a_larger_head_is_not_taken(tmp_path: Path) -> None:
    own = _weights()
    query = {f"module.encoder_q.{key}": value for key, value in own.items() if not key.startswith("fc.")}
    key = {f"module.encoder_k.{name}": torch.zeros_like(value) for name, value in own.items()}
    head = {
        "module.encoder_q.fc.0.weight": torch.ones(64, 64),
        "module.encoder_q.fc.2.weight": torch.ones(9, 64),
    }
    torch.save({"state_dict": {**key, **query, **head}}, tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert loaded.stripped[-1] == "encoder_q."
    assert torch.equal(loaded.state_dict["conv1.weight"], own["conv1.weight"])


def test_a_key_that_is_a_prefix_is_told_so(tmp_path: Path) -> None:
    own = _weights()
    both = {f"{who}.net.{key}": value for who in ("student", "teacher") for key, value in own.items()}
    torch.save({"model": both}, tmp_path / "c.pth")
    with pytest.raises(InputError) as error:
        load_checkpoint(tmp_path / "c.pth", weights_key="teacher")
    assert "--prefix teacher" in str(error.value.hint)
    assert load_checkpoint(tmp_path / "c.pth", prefix="teacher").state_dict.keys() == own.keys()
