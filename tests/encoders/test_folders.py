"""Encoders in folders and files as Hugging Face, open_clip and OpenAI write them."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_helpers import TINY_CONFIG, TinyClip, open_clip
from safetensors.torch import load_file, save_file

from concept_monitor_cli.encoders import load_encoder, names
from concept_monitor_cli.encoders.torchscript import is_torchscript, torchscript_weights
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import Silent

WORDS = ["dog", "a photo of a stop sign."]


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, message: str) -> None:
        self.said.append(message)


def pixels(size: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (3, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found.image(pixels()), expected.image(pixels()), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.text(WORDS), expected.text(WORDS), atol=2e-6, rtol=0)


@pytest.fixture
def tiny(tiny_clip: TinyClip) -> Any:
    return load_encoder("tiny", weights=tiny_clip.weights, config=tiny_clip.config)


def hf_weights(tiny: TinyClip) -> dict[str, torch.Tensor]:
    """The tiny model's weights under the names of a CLIPModel, written out from transformers' source."""
    own = load_file(tiny.weights)
    found: dict[str, torch.Tensor] = {}
    places = (("visual.", "vision_model."), ("", "text_model."))
    for ours, theirs in places:
        for layer in range(2):
            block, to = f"{ours}transformer.resblocks.{layer}.", f"{theirs}encoder.layers.{layer}."
            for end in ("weight", "bias"):
                for part, values in zip("qkv", own[f"{block}attn.in_proj_{end}"].chunk(3), strict=True):
                    found[f"{to}self_attn.{part}_proj.{end}"] = values.clone()
                for a, b in (
                    ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
                ):  # fmt: skip
                    found[f"{to}{b}.{end}"] = own[f"{block}{a}.{end}"]
    for end in ("weight", "bias"):
        found[f"vision_model.pre_layrnorm.{end}"] = own[f"visual.ln_pre.{end}"]
        found[f"vision_model.post_layernorm.{end}"] = own[f"visual.ln_post.{end}"]
        found[f"text_model.final_layer_norm.{end}"] = own[f"ln_final.{end}"]
    vision, text = "vision_model.embeddings.", "text_model.embeddings."
    found[f"{vision}class_embedding"] = own["visual.class_embedding"]
    found[f"{vision}patch_embedding.weight"] = own["visual.conv1.weight"]
    found[f"{vision}position_embedding.weight"] = own["visual.positional_embedding"]
    found[f"{text}token_embedding.weight"] = own["token_embedding.weight"]
    found[f"{text}position_embedding.weight"] = own["positional_embedding"]
    found["visual_projection.weight"] = own["visual.proj"].T.contiguous()
    found["text_projection.weight"] = own["text_projection"].T.contiguous()
    found["logit_scale"] = own["logit_scale"]
    return found


def hf_folder(tiny: TinyClip, folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file(hf_weights(tiny), folder / "model.safetensors")
    both = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 128}
    both["hidden_act"] = "gelu"
    config = {
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": {**both, "max_position_embeddings": 12, "vocab_size": 49408},
        "vision_config": {**both, "image_size": 32, "patch_size": 8},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_of_a_clip_model_its_files_and_a_hub_cache(
    tiny_clip: TinyClip, tiny: Any, tmp_path: Path
) -> None:
    folder = hf_folder(tiny_clip, tmp_path / "models--org--name" / "snapshots" / "abc")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    files = {"weights": folder / "model.safetensors"}
    for encoder in (
        load_encoder(str(folder)),
        load_encoder(f"local-dir:{folder}"),
        load_encoder(str(tmp_path / "models--org--name")),
        load_encoder("mine", config=folder / "config.json", **files),
        load_encoder("tiny", config=tiny_clip.config, **files),
    ):
        assert_same(encoder, tiny)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_same(load_encoder(str(folder)), tiny)


def test_a_model_in_parts(tiny_clip: TinyClip, tiny: Any, tmp_path: Path) -> None:
    folder = hf_folder(tiny_clip, tmp_path / "hf")
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first, second = (dict(list(whole.items())[part::2]) for part in (0, 1))
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    places = {name: f"model-0000{1 + (name in second)}-of-00002.safetensors" for name in whole}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    encoder = load_encoder(str(folder))
    assert_same(encoder, tiny)
    digest = encoder.digest
    save_file({**second, "logit_scale": torch.zeros(())}, folder / "model-00002-of-00002.safetensors")
    assert load_encoder(str(folder)).digest != digest
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="1 parts of the weights are missing"):
        load_encoder(str(folder))


def test_what_preprocessor_config_says(tiny_clip: TinyClip, tmp_path: Path) -> None:
    folder = hf_folder(tiny_clip, tmp_path / "hf")
    said = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    said |= {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    found = load_encoder(str(folder)).preprocessing
    assert found is not None
    assert str(found.geometry) == "shorter side to 36 (bilinear), centre 32 x 32"
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)
    said = {"size": {"height": 32, "width": 32}, "resample": 3, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    found = load_encoder(str(folder)).preprocessing
    assert found is not None
    assert (found.geometry.mode, found.mean, found.std) == ("squash", (0.0,) * 3, (1.0,) * 3)


def test_a_hub_folder_of_open_clip(tiny_clip: TinyClip, tiny: Any, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/mod\xe8le"))  # no UTF-8
    folder.mkdir()
    config = {"model_cfg": TINY_CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copy(tiny_clip.weights, folder / "open_clip_model.safetensors")
    for spec in (str(folder), f"local-dir:{folder}"):
        encoder = load_encoder(spec)
        torch.testing.assert_close(encoder.text(WORDS), tiny.text(WORDS))
        assert encoder.preprocessing is not None
        assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)


def test_a_torchscript_archive(tiny_clip: TinyClip, tiny: Any, tmp_path: Path) -> None:
    network = open_clip.create_model("tiny-clip", pretrained=str(tiny_clip.weights)).eval()
    path = tmp_path / "ViT-B-16.pt"
    inputs = {"encode_image": torch.zeros(1, 3, 32, 32), "encode_text": torch.zeros(1, 12, dtype=torch.long)}
    traced = torch.jit.trace_module(network.half().float(), inputs, check_trace=False)
    torch.jit.save(traced, path)
    assert is_torchscript(path)
    assert not is_torchscript(tiny_clip.weights)
    found = torchscript_weights(path)
    own = load_file(tiny_clip.weights)
    assert set(own) <= set(found)
    encoder = load_encoder("tiny", weights=path, config=tiny_clip.config)
    torch.testing.assert_close(encoder.text(WORDS), tiny.text(WORDS), atol=2e-2, rtol=0)
    heard = Heard()
    load_encoder("vit_b_16", weights=path, progress=heard)
    assert any("QuickGELU" in said for said in heard.said)
    assert any("read as ViT-B-16" in said for said in heard.said)


def test_an_archive_without_its_text_tower_says_so(tiny_clip: TinyClip, tmp_path: Path) -> None:
    network = open_clip.create_model("tiny-clip", pretrained=str(tiny_clip.weights)).eval()

    class ImagesAlone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = network.visual

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.visual(images)
            return found

    path = tmp_path / "images.pt"
    torch.jit.save(torch.jit.trace(ImagesAlone(), torch.zeros(1, 3, 32, 32), check_trace=False), path)
    encoder = load_encoder("tiny", weights=path, config=tiny_clip.config)
    with pytest.raises(InputError, match="hold no text tower") as error:
        encoder.text(WORDS)
    assert "resblocks" not in str(error.value)
    texts = {name: value for name, value in load_file(tiny_clip.weights).items() if "visual" not in name}
    save_file(texts, tmp_path / "texts.safetensors")
    encoder = load_encoder("tiny", weights=tmp_path / "texts.safetensors", config=tiny_clip.config)
    with pytest.raises(InputError, match="hold no image tower"):
        encoder.text(WORDS)


def test_a_network_of_images_alone_is_refused(tiny_clip: TinyClip, tmp_path: Path) -> None:
    folder = hf_folder(tiny_clip, tmp_path / "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 64}))
    with pytest.raises(InputError, match=r"a vit model (is no image-text encoder|needs the package)"):
        load_encoder(str(folder))


def test_folders_and_files_that_are_no_encoder(tiny_clip: TinyClip, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image-text encoder in this folder"):
        load_encoder(str(tmp_path))
    with pytest.raises(InputError, match="is a folder, not a file") as error:
        load_encoder("ViT-B-32", weights=tmp_path)
    assert error.value.hint is not None
    assert f"--encoder {tmp_path}" in error.value.hint
    with pytest.raises(InputError, match="there is no such folder"):
        load_encoder("local-dir:/not/there")
    with pytest.raises(InputError, match="which model is it"):
        load_encoder(str(tiny_clip.weights))
    folder = hf_folder(tiny_clip, tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        load_encoder(str(folder))
    if find_spec("transformers") is None:
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "siglip"}))
        with pytest.raises(InputError, match="needs the package transformers"):
            load_encoder(str(folder))


@pytest.mark.parametrize(
    ("spec", "said", "hint"),
    [
        ("openai/clip-vit-base-patch32", "are not on this machine", "--encoder ViT-B-32/openai"),
        ("google/siglip-base-patch16-224", "are not on this machine", "ViT-B-16-SigLIP/webli"),
        ("ViT-B/16", "weights of ViT-B/16 are not on this machine", "pretrained='openai'"),
        ("vit-b-16/OpenAI", "are not on this machine", "create_model('ViT-B-16', pretrained='openai')"),
        ("ViT-B/16/openai", "are not on this machine", "create_model('ViT-B-16', pretrained='openai')"),
        ("vit-b-16", "which weights of ViT-B-16", "ViT-B-16/TAG"),
        ("ViT-B-16/openia", "no pretrained weights called 'openia'", "nearest: openai"),
        (
            "photo-clip",
            "open_clip has no model 'photo-clip'",
            "photo-clip.json beside it or --encoder-config",
        ),
        ("some/thing", "are not on this machine", "taken for a repository of the hub"),
    ],
)
def test_names(spec: str, said: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        load_encoder(spec)
    assert said in error.value.what
    assert hint in (error.value.hint or "")


def test_every_name_in_the_tables_is_one_of_open_clip() -> None:
    models = open_clip.list_models()
    assert set(names._OPENAI.values()) <= set(models)
    for listed in names._HUB.values():
        name, _, tag = listed.partition("/")
        assert tag in open_clip.list_pretrained_tags_by_model(name)


class TestTransformers:
    """Against the package itself: a random model that it saved, and what it makes of images and texts."""

    @pytest.fixture
    def transformers(self) -> Any:
        import concept_monitor_cli._torchvision  # noqa: F401

        return pytest.importorskip("transformers")

    @staticmethod
    def features(output: Any) -> torch.Tensor:
        values = output if isinstance(output, torch.Tensor) else output.pooler_output
        return torch.nn.functional.normalize(values, dim=-1)

    def test_clip_model(self, transformers: Any, tmp_path: Path) -> None:
        text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        vision = {**text, "hidden_size": 48, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
        config = transformers.CLIPConfig(
            text_config={**text, "eos_token_id": 49407}, vision_config=vision, projection_dim=24
        )
        model = transformers.CLIPModel(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path)
        encoder: Any = load_encoder(str(tmp_path))
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (encoder.preprocessing.mean, encoder.preprocessing.std)
        )
        images = (pixels().permute(0, 3, 1, 2).float() / 255 - mean) / std
        tokens = open_clip.get_tokenizer("ViT-B-32")(WORDS)
        with torch.no_grad():
            expected = self.features(model.get_image_features(pixel_values=images))
            expected_texts = self.features(model.get_text_features(input_ids=tokens))
        torch.testing.assert_close(encoder.image(pixels()), expected, atol=2e-6, rtol=0)
        torch.testing.assert_close(encoder.text(WORDS), expected_texts, atol=2e-6, rtol=0)

    def test_siglip(self, transformers: Any, tmp_path: Path) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        part = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        text = {**part, "vocab_size": 100, "max_position_embeddings": 16, "projection_size": 32}
        config = transformers.SiglipConfig(
            text_config={**text, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
            vision_config={**part, "image_size": 32, "patch_size": 8},
        )
        model = transformers.SiglipModel(config).eval()
        model.save_pretrained(tmp_path)
        words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "a": 4, "dog": 5}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids"]
        )
        tokenizer.save_pretrained(tmp_path)
        said = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        encoder: Any = load_encoder(str(tmp_path))
        images = (pixels().permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        tokens = tokenizer(WORDS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            expected = self.features(model.get_image_features(pixel_values=images))
            expected_texts = self.features(model.get_text_features(**tokens))
        torch.testing.assert_close(encoder.image(pixels()), expected, atol=2e-6, rtol=0)
        torch.testing.assert_close(encoder.text(WORDS), expected_texts, atol=2e-6, rtol=0)
        assert encoder.preprocessing.geometry.mode == "squash"
        weights = load_file(tmp_path / "model.safetensors")
        weights.pop("text_model.head.weight")
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=r"lack text_model\.head\.weight"):
            load_encoder(str(tmp_path)).text(WORDS)
