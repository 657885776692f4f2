"""Captioners with tiny random weights: the probabilities are those of the libraries' own forward passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from late import Late
from PIL import Image

import concept_monitor_cli._torchvision  # noqa: F401 - before open_clip

# isort: split

from concept_monitor_cli.encoders.captioners import load_captioner
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.functional.descriptions import beam_search, forced

open_clip = Late("open_clip")

SIDE = 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "the", "a", "red", "dog", "on", "grass", "sky", "blue", "cat"]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def coca(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """The spec of a tiny CoCa of random weights, and the model."""
    folder = tmp_path_factory.mktemp("coca")
    decoder = {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    vision = {"image_size": SIDE, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    config = {
        "embed_dim": 8,
        "vision_cfg": {**vision, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**decoder, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**decoder, "attn_pooler_heads": 2},
        "custom_text": True,
    }
    path = folder / "tiny-coca.json"
    path.write_text(json.dumps(config), encoding="ascii")
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-coca", load_weights=False).eval()
    with torch.no_grad():
        model.text_decoder.text_projection.normal_(std=2.0)  # so that texts differ
    torch.save(model.state_dict(), folder / "tiny-coca.pt")
    return f"coca:tiny-coca,{folder / 'tiny-coca.pt'},{path}", model


@torch.no_grad()
def test_coca_is_open_clips_own_forward_pass(coca: tuple[str, Any], image: Image.Image) -> None:
    spec, model = coca
    captioner = load_captioner(spec)
    assert captioner.digest == load_captioner(spec).digest
    following = captioner.look(image)
    transform = open_clip.image_transform(SIDE, is_train=False)
    texts = ["a red dog", "grass"]
    tokens = [captioner.tokens(text) for text in texts]
    found = forced(following, captioner.start, captioner.end, tokens)
    for text, own, score in zip(texts, tokens, found.tolist(), strict=True):
        assert captioner.words(own) == text
        whole = torch.tensor([[captioner.start, *own, captioner.end]])
        said = model(transform(image)[None], whole)
        log_p = said["logits"].double().log_softmax(-1)
        assert torch.equal(said["labels"], whole[:, 1:])
        expected = float(log_p.gather(2, said["labels"][:, :, None]).sum())
        assert score == pytest.approx(expected, abs=1e-3)
    beams = beam_search(following, captioner.start, captioner.end, beams=3, tokens=2, never=captioner.never)
    assert len(beams) == 3
    again = forced(following, captioner.start, captioner.end, [text for text, _ in beams])
    assert again.tolist() == pytest.approx([score for _, score in beams], abs=1e-4)
    other = captioner.look(image.rotate(90, expand=True))
    assert not torch.allclose(forced(other, captioner.start, captioner.end, tokens), found)


def test_what_is_no_captioner_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no captioner 'blip'"):
        load_captioner("blip")
    with pytest.raises(InputError) as found:
        load_captioner("coca:coca_ViT-B-32/laion2b_s13b_b90k")
    assert "not on this machine" in found.value.what
    assert "create_model('coca_ViT-B-32', pretrained='laion2b_s13b_b90k')" in str(found.value.hint)
    with pytest.raises(InputError) as unknown:
        load_captioner("coca:coca_ViT-B-32")
    assert "--captioner coca:coca_ViT-B-32/" in str(unknown.value.hint)
    from concept_monitor_cli.builtin import builtin_encoder_files

    name, config, weights = builtin_encoder_files()
    with pytest.raises(InputError, match="writes nothing"):
        load_captioner(f"coca:{name},{weights},{config}")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("concept_monitor_cli.encoders.captioners.find_spec", lambda name: None)
    with pytest.raises(CmonError) as found:
        load_captioner(f"hf:{tmp_path}")
    assert "concept-monitor-cli[captions]" in str(found.value.hint)


# -- transformers -----------------------------------------------------------------------------------


def _save(folder: Path, model: Any) -> None:
    import transformers

    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="ascii")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": SIDE, "width": SIDE}, "resample": 3}), encoding="ascii"
    )


def _blip() -> Any:
    import transformers

    text = {"vocab_size": 14, "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 2, "sep_token_id": 3}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        text_config=text, vision_config={**vision, "image_size": SIDE, "patch_size": 16}
    )
    return transformers.BlipForConditionalGeneration(config)


def _git() -> Any:
    import transformers

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.GitConfig(
        vision_config={**vision, "image_size": SIDE, "patch_size": 16},
        vocab_size=14,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    return transformers.GitForCausalLM(config)


def _vit_gpt2() -> Any:
    import transformers

    vision = transformers.ViTConfig(
        hidden_size=24,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
    )
    text = transformers.GPT2Config(
        vocab_size=14, n_embd=16, n_layer=1, n_head=2, n_positions=20, bos_token_id=2, eos_token_id=3
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    return transformers.VisionEncoderDecoderModel(config)


@pytest.mark.parametrize("make", [_blip, _git, _vit_gpt2], ids=["blip", "git", "vit-gpt2"])
@torch.no_grad()
def test_transformers_is_its_own_forward_pass(make: Any, tmp_path: Path, image: Image.Image) -> None:
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    torch.manual_seed(1)
    model = make().eval()
    _save(tmp_path, model)
    captioner = load_captioner(f"hf:{tmp_path}")
    assert len(captioner.digest) == 64
    texts = ["a red dog", "sky"]
    tokens = [captioner.tokens(text) for text in texts]
    assert [captioner.words(own) for own in tokens] == texts
    following = captioner.look(image)
    found = forced(following, captioner.start, captioner.end, tokens)
    side = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    mean, std = (
        torch.tensor(each).view(3, 1, 1)
        for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    pixels = ((torch.from_numpy(side.copy()).permute(2, 0, 1).float() / 255 - mean) / std)[None]
    for own, score in zip(tokens, found.tolist(), strict=True):
        whole = torch.tensor([[captioner.start, *own, captioner.end]])
        if make is _vit_gpt2:
            logits = model(pixel_values=pixels, decoder_input_ids=whole).logits
        else:
            logits = model(pixel_values=pixels, input_ids=whole).logits
        # Of GIT, the positions of the image come first.
        log_p = logits[:, -whole.shape[1] :].double().log_softmax(-1)[0, :-1]
        expected = float(log_p.gather(1, whole[0, 1:, None]).sum())
        assert score == pytest.approx(expected, abs=1e-4)
    beams = beam_search(following, captioner.start, captioner.end, beams=4, tokens=3, never=captioner.never)
    assert len(beams) == 4
    assert all(captioner.words(text).split() == [VOCABULARY[token] for token in text] for text, _ in beams)


def test_a_name_that_is_not_in_the_cache_says_how_to_fetch_it() -> None:
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    with pytest.raises(InputError) as found:
        load_captioner("hf:Salesforce/no-such-captioner")
    assert str(found.value.hint).startswith("hf download Salesforce/no-such-captioner")
