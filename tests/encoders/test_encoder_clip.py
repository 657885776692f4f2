"""open_clip models: equal to open_clip itself, keyed by content, and clear about what does not fit."""

from __future__ import annotations

import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import TINY_CONFIG, NoisePixels, TinyClip, open_clip
from PIL import Image
from safetensors.torch import load_file, save_file

from concept_monitor_cli.encoders import ClipEncoder, Encoder, hub, list_encoders, load_encoder, openers
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.progress import Silent


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, message: str) -> None:
        self.said.append(message)

    warning = detail = notice


def load_tiny(tiny: TinyClip, **options: Any) -> ClipEncoder:
    encoder = load_encoder("tiny", weights=tiny.weights, config=tiny.config, **options)
    assert isinstance(encoder, ClipEncoder)
    return encoder


@pytest.fixture(scope="module")
def reference(tiny_clip: TinyClip) -> Any:
    """The same model by open_clip's own functions."""
    network, _, transform = open_clip.create_model_and_transforms(
        "tiny-clip", pretrained=str(tiny_clip.weights)
    )
    return network.eval(), transform, open_clip.get_tokenizer("tiny-clip")


def test_images_and_texts_equal_open_clip(tiny_clip: TinyClip, reference: Any) -> None:
    network, transform, tokenizer = reference
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    encoder = load_tiny(tiny_clip)
    words = ["dog", "a photo of a stop sign.", "ÜBER"]
    with torch.no_grad():
        images = network.encode_image(
            torch.stack([transform(Image.fromarray(p)) for p in pixels]), normalize=True
        )
        texts = network.encode_text(tokenizer(words), normalize=True)
    torch.testing.assert_close(encoder.image(torch.from_numpy(pixels)), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.text(words), texts, atol=1e-6, rtol=0)
    assert encoder.dim == 24
    assert isinstance(encoder, Encoder)


def test_what_the_network_gets_is_bit_for_bit_open_clips(tiny_clip: TinyClip, reference: Any) -> None:
    _, transform, _ = reference
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3).astype(np.uint8)
    encoder = load_tiny(tiny_clip)
    seen: list[torch.Tensor] = []
    network, _ = encoder._network
    hook = network.visual.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    encoder.image(torch.from_numpy(pixels[None]))
    hook.remove()
    assert torch.equal(seen[0][0], transform(Image.fromarray(pixels)))


def test_a_network_that_was_let_go_of_is_built_again(tiny_clip: TinyClip) -> None:
    encoder = load_tiny(tiny_clip)
    pixels = torch.from_numpy(NoisePixels(3).values)
    assert not encoder.release(), "there is nothing to let go of yet"
    images, texts = encoder.image(pixels), encoder.text(["a dog"])
    network = weakref.ref(encoder.network[0])
    assert encoder.release()
    gc.collect()
    assert network() is None
    assert torch.equal(encoder.image(pixels), images)
    assert torch.equal(encoder.text(["a dog"]), texts)


def test_a_word_does_not_depend_on_its_batch(tiny_clip: TinyClip) -> None:
    encoder = load_tiny(tiny_clip)
    words = ["dog", "a very long name of a thing", "x", *(f"word {i}" for i in range(60))]
    together = encoder.text(words)
    for i in (0, 1, 2, 40):
        torch.testing.assert_close(encoder.text([words[i]])[0], together[i], atol=1e-6, rtol=0)
    assert encoder.text([]).shape == (0, 24)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_gives_unit_fp32_rows_and_another_digest(tiny_clip: TinyClip, precision: Any) -> None:
    exact, encoder = load_tiny(tiny_clip), load_tiny(tiny_clip, precision=precision)
    pixels = torch.randint(
        0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for ours, theirs in (
        (encoder.image(pixels), exact.image(pixels)),
        (encoder.text(["dog"]), exact.text(["dog"])),
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(ours)), atol=1e-6, rtol=0)
        assert 0 < (ours - theirs).abs().max() < 0.02
    assert encoder.digest != exact.digest


def test_digest_is_content_and_needs_no_network(tiny_clip: TinyClip, tmp_path: Path) -> None:
    base = load_tiny(tiny_clip)
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(tiny_clip.weights, copy)
    moved = load_encoder("other-name", weights=copy, config=tiny_clip.config)
    assert moved.digest == base.digest
    assert "_network" not in vars(base)

    state = load_file(copy)
    state["text_projection"][0, 0] += 1e-3
    save_file(state, copy)  # same name, same size, same shapes
    assert copy.stat().st_size == tiny_clip.weights.stat().st_size
    digests = {base.digest, load_encoder("tiny", weights=copy, config=tiny_clip.config).digest}
    for change in (
        {"quick_gelu": True},
        {"text_cfg": {**TINY_CONFIG["text_cfg"], "context_length": 11}},  # type: ignore[dict-item]
    ):
        config = tmp_path / "changed.json"
        config.write_text(json.dumps({**TINY_CONFIG, **change}))
        digests.add(load_encoder("tiny", weights=tiny_clip.weights, config=config).digest)
    wrapped = tmp_path / "wrapped.json"
    wrapped.write_text(json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    digests.add(load_encoder("tiny", weights=tiny_clip.weights, config=wrapped).digest)
    assert len(digests) == 5


def test_building_leaves_the_callers_random_numbers_alone(tiny_clip: TinyClip) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_tiny(tiny_clip).text(["dog"])
    assert torch.equal(torch.rand(3), expected)


def test_network_is_in_evaluation_mode_without_gradients(tiny_clip: TinyClip) -> None:
    network, _ = load_tiny(tiny_clip)._network
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("cfg", "geometry"),
    [
        ({}, ("crop", 32, "bicubic")),
        ({"resize_mode": "squash", "interpolation": "bilinear"}, ("squash", None, "bilinear")),
        ({"resize_mode": "shortest", "interpolation": "random", "size": 99}, ("crop", 32, "bicubic")),
    ],
)
def test_preprocessing_is_read_as_open_clip_reads_it(
    tiny_clip: TinyClip, tmp_path: Path, cfg: dict[str, Any], geometry: tuple[Any, ...]
) -> None:
    config = tmp_path / "c.json"
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    config.write_text(
        json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": {"mean": mean, "std": std, **cfg}})
    )
    got = load_encoder("tiny", weights=tiny_clip.weights, config=config).preprocessing
    assert got is not None
    assert (got.geometry.size, got.mean, got.std) == (32, tuple(mean), tuple(std))
    assert (got.geometry.mode, got.geometry.resize, got.geometry.interpolation) == geometry
    assert "c.json" in got.source


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "longest"),
        ({"preprocess_cfg": {"std": [0.1, 0.0, 0.1]}}, "std"),
        ({"model_cfg": {**TINY_CONFIG, "vision_cfg": {"image_size": [32, 64]}}}, "not square"),
        ({"model_cfg": {"embed_dim": 3}}, "none of open_clip"),
    ],
)
def test_configs_that_cannot_be_used(
    tiny_clip: TinyClip, tmp_path: Path, cfg: dict[str, Any], said: str
) -> None:
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"model_cfg": TINY_CONFIG, **cfg}))
    with pytest.raises(InputError, match=said):
        load_encoder("tiny", weights=tiny_clip.weights, config=config)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", '{"model_cfg": 3}'])
def test_configs_that_are_none(tiny_clip: TinyClip, tmp_path: Path, content: str) -> None:
    config = tmp_path / "c.json"
    config.write_text(content)
    with pytest.raises(InputError, match="config"):
        load_encoder("tiny", weights=tiny_clip.weights, config=config)


def test_config_beside_the_weights_is_found(tiny_clip: TinyClip, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    shutil.copy(tiny_clip.weights, weights)
    shutil.copy(tiny_clip.config, tmp_path / "mine.json")
    assert load_encoder("mine", weights=weights).digest == load_tiny(tiny_clip).digest


def test_a_config_called_like_one_of_open_clips_does_not_replace_it(tiny_clip: TinyClip) -> None:
    encoder = load_encoder("ViT-B-16", weights=tiny_clip.weights, config=tiny_clip.config)
    assert encoder.text(["dog"]).shape == (1, 24)
    assert open_clip.get_model_config("ViT-B-16")["embed_dim"] == 512


class _Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not be printed",))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_weights_that_cannot_be_used(
    tiny_clip: TinyClip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(weights: Path) -> InputError:
        with pytest.raises(InputError) as error:
            load_encoder("tiny", weights=weights, config=tiny_clip.config).text(["dog"])
        assert str(weights) in str(error.value.where)
        assert len(error.value.lines()) == 3
        return error.value

    state = load_file(tiny_clip.weights)
    save_file({k: v for k, v in state.items() if "visual" not in k}, tmp_path / "half.safetensors")
    assert "no image tower" in error_of(tmp_path / "half.safetensors").what
    (tmp_path / "cut.safetensors").write_bytes(tiny_clip.weights.read_bytes()[:1000])
    error_of(tmp_path / "cut.safetensors")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Boom()}, protocol=2))
    assert "run code" in error_of(tmp_path / "evil.pt").what
    torch.save({"state_dict": {"a": _Boom()}}, tmp_path / "evil2.pt")
    assert "run code" in error_of(tmp_path / "evil2.pt").what
    (tmp_path / "no.pt").write_bytes(b"no checkpoint at all")
    assert "no checkpoint" in error_of(tmp_path / "no.pt").what
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    assert "no text tower" in error_of(tmp_path / "script.pt").what
    assert "must not be printed" not in capsys.readouterr().out


def test_nan_weights_are_an_error_not_a_label(tiny_clip: TinyClip, tmp_path: Path) -> None:
    state = load_file(tiny_clip.weights)
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    encoder = load_encoder("tiny", weights=tmp_path / "nan.safetensors", config=tiny_clip.config)
    assert torch.isfinite(encoder.text(["dog"])).all()
    with pytest.raises(CmonError, match="2 of 2 images"):
        encoder.image(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))


def test_wrong_pixels_are_refused(tiny_clip: TinyClip) -> None:
    encoder = load_tiny(tiny_clip)
    for wrong in (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32, 3)):
        with pytest.raises(ValueError, match="expected uint8"):
            encoder.image(wrong)


def test_texts_that_are_cut_are_said(tiny_clip: TinyClip) -> None:
    heard = Heard()
    encoder = load_tiny(tiny_clip, progress=heard)
    encoder.text(["one two three four five six seven eight nine ten"])  # 10 words, start and end: 12 fit
    assert not [s for s in heard.said if "cut" in s]
    encoder.text(["dog", "one two three four five six seven eight nine ten eleven"])
    assert [s for s in heard.said if "1 text cut to the encoder's 12 tokens" in s]


@pytest.mark.parametrize(
    ("spec", "what", "hint"),
    [
        ("", "no encoder", "ViT-B-16/openai"),
        ("ViT-B-61/openai", "no model 'ViT-B-61'", "ViT-B-16"),
        ("ViT-B-16/openia", "'openia'", "nearest: openai"),
        ("ViT-B-16", "which weights", "openai, "),
        ("hf-hubb:a/b", "unknown kind", "hf-hub"),
        ("hf-hub:nothing", "ORG/MODEL", ""),
    ],
)
def test_unknown_names_offer_the_nearest(spec: str, what: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        load_encoder(spec)
    assert what in error.value.what
    assert hint in (error.value.hint or "")


def test_options_that_do_not_go_together(tiny_clip: TinyClip, tmp_path: Path) -> None:
    for spec in ("builtin", "hf-hub:a/b", "embeddings:x.h5"):
        with pytest.raises(InputError, match="no meaning"):
            load_encoder(spec, weights=tiny_clip.weights)
    with pytest.raises(InputError, match="without weights"):
        load_encoder("tiny", config=tiny_clip.config)
    with pytest.raises(InputError, match="exclude each other"):
        load_encoder("ViT-B-16/openai", weights=tiny_clip.weights, config=tiny_clip.config)
    with pytest.raises(InputError, match="no such file"):
        load_encoder("ViT-B-16", weights=tmp_path / "missing.pt")
    with pytest.raises(InputError, match="precision"):
        load_encoder("tiny", precision="int8")  # type: ignore[arg-type]


def test_registry_lists_every_kind() -> None:
    assert {"builtin", "embeddings", "hf-hub", "open_clip"} <= set(list_encoders())


# The hub's cache, laid out as huggingface_hub does.


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def put_in_cache(cache: Path, repo: str, files: dict[str, Path]) -> None:
    folder = cache / f"models--{repo.replace('/', '--')}"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    for name, source in files.items():
        shutil.copy(source, folder / "snapshots" / commit / name)


def test_missing_weights_name_the_command(hub_cache: Path) -> None:
    with pytest.raises(InputError) as error:
        load_encoder("ViT-B-16/openai")
    lines = error.value.lines()
    assert len(lines) == 3
    assert "weights of ViT-B-16/openai are not on this machine (HF_HUB_OFFLINE is set)" in lines[0]
    assert str(hub_cache) in lines[1]
    assert "open_clip.create_model('ViT-B-16', pretrained='openai')" in lines[2]
    assert "HF_HOME" in lines[2]
    assert "cmon fetch clip there, and --encoder ViT-B/16 --encoder-weights ViT-B-16.pt" in lines[2]
    with pytest.raises(InputError, match=r"create_model\('hf-hub:org/tiny'\)"):
        load_encoder("hf-hub:org/tiny")


def test_an_unreachable_hub_is_found_out_without_retries(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(InputError, match=r"127\.0\.0\.1 cannot be reached"):
        load_encoder("ViT-B-16/openai")


def test_hub_model_from_the_cache(tiny_clip: TinyClip, hub_cache: Path, tmp_path: Path) -> None:
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": TINY_CONFIG, "preprocess_cfg": {"resize_mode": "squash"}}))
    put_in_cache(
        hub_cache,
        "org/tiny",
        {"open_clip_config.json": config, "open_clip_model.safetensors": tiny_clip.weights},
    )
    encoder = load_encoder("hf-hub:org/tiny")
    assert encoder.preprocessing is not None
    assert encoder.preprocessing.geometry.mode == "squash"
    assert torch.equal(encoder.text(["dog"]), load_tiny(tiny_clip).text(["dog"]))


def test_hub_model_without_weights_in_the_cache(tiny_clip: TinyClip, hub_cache: Path) -> None:
    put_in_cache(hub_cache, "org/tiny", {"open_clip_config.json": tiny_clip.config})
    with pytest.raises(InputError, match="the weights of hf-hub:org/tiny"):
        load_encoder("hf-hub:org/tiny")


@pytest.mark.parametrize(
    ("spec", "filename", "quick"),
    [
        ("ViT-B-16/openai", "open_clip_model.safetensors", True),
        ("ViT-B-16-quickgelu/openai", "open_clip_pytorch_model.bin", True),
        ("ViT-B-16/laion2b_s34b_b88k", "open_clip_model.safetensors", False),
    ],
)
def test_named_weights_from_the_cache_with_the_activation_of_the_tag(
    tiny_clip: TinyClip, hub_cache: Path, spec: str, filename: str, quick: bool
) -> None:
    name, tag = spec.split("/")
    repo = open_clip.pretrained.get_pretrained_cfg(name, tag)["hf_hub"].strip("/")
    put_in_cache(hub_cache, repo, {filename: tiny_clip.weights})
    encoder = load_encoder(spec)
    assert isinstance(encoder, ClipEncoder)
    assert encoder.files.weights.name == filename
    assert bool(encoder.files.model_config.get("quick_gelu")) is quick
    assert encoder.preprocessing.geometry.size == 224
    assert encoder.preprocessing.mean == open_clip.OPENAI_DATASET_MEAN
    assert encoder.name == spec


def test_a_local_file_with_a_tag_takes_its_preprocessing(tiny_clip: TinyClip) -> None:
    heard = Heard()
    tagged = load_encoder("ViT-B-16/openai", weights=tiny_clip.weights, progress=heard)
    assert isinstance(tagged, ClipEncoder)
    assert tagged.files.model_config["quick_gelu"] is True
    assert not [s for s in heard.said if "name the tag" in s]
    bare = load_encoder("ViT-B-16", weights=tiny_clip.weights, progress=heard)
    assert isinstance(bare, ClipEncoder)
    assert "quick_gelu" not in bare.files.model_config
    assert [s for s in heard.said if "name the tag" in s]


def test_quick_gelu_really_is_what_gets_built(tiny_clip: TinyClip, tmp_path: Path) -> None:
    config = tmp_path / "quick.json"
    config.write_text(json.dumps({**TINY_CONFIG, "quick_gelu": True}))
    quick = load_encoder("tiny", weights=tiny_clip.weights, config=config)
    assert (quick.text(["dog"]) - load_tiny(tiny_clip).text(["dog"])).abs().max() > 1e-5


def test_every_listed_model_can_be_described(monkeypatch: pytest.MonkeyPatch, tiny_clip: TinyClip) -> None:
    """All of open_clip's names and tags: geometry, mean and std equal those of open_clip's own transform."""
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    monkeypatch.setattr(openers, "find_spec", lambda name: object())  # as if transformers were installed
    seen = 0
    for name, tag in open_clip.list_pretrained():
        encoder = load_encoder(f"{name}/{tag}", weights=tiny_clip.weights)
        ours = encoder.preprocessing
        assert ours is not None
        theirs = merge_preprocess_dict(PreprocessCfg(), get_pretrained_cfg(name, tag))
        assert (ours.mean, ours.std) == (tuple(theirs["mean"]), tuple(theirs["std"]))
        assert ours.geometry.interpolation == theirs["interpolation"]
        assert (ours.geometry.mode == "squash") == (theirs["resize_mode"] == "squash")
        assert ours.geometry.size == open_clip.get_model_config(name)["vision_cfg"]["image_size"]
        assert encoder.dim == open_clip.get_model_config(name)["embed_dim"]
        seen += 1
    assert seen > 100


def test_a_tokenizer_of_transformers_is_asked_for_in_time(
    monkeypatch: pytest.MonkeyPatch, tiny_clip: TinyClip
) -> None:
    monkeypatch.setattr(openers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="transformers") as error:
        load_encoder("ViT-B-16-SigLIP/webli", weights=tiny_clip.weights)
    assert error.value.hint == "pip install transformers sentencepiece"


def test_builtin_encoder_comes_with_the_package() -> None:
    encoder = load_encoder("builtin")
    assert encoder.name == "builtin"
    assert encoder.preprocessing is not None
    size = encoder.preprocessing.geometry.size
    assert encoder.image(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape == (1, encoder.dim)
    words = encoder.text(["windmill", "red"])
    torch.testing.assert_close(words.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    assert words[0] @ words[1] < 0.9


def test_on_a_processor_batch_normalisations_go_into_convolutions(tiny_resnet: TinyClip) -> None:
    network, _, transform = open_clip.create_model_and_transforms(
        "tiny-resnet", pretrained=str(tiny_resnet.weights)
    )
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    heard = Heard()
    encoder = load_tiny(tiny_resnet, progress=heard)
    with torch.no_grad():
        images = torch.stack([transform(Image.fromarray(each)) for each in pixels])
        expected = network.eval().encode_image(images, normalize=True)
    torch.testing.assert_close(encoder.image(torch.from_numpy(pixels)), expected, atol=1e-6, rtol=0)
    assert _batch_norms(encoder) == 0
    assert "19 batch normalisations went into convolutions" in " ".join(heard.said)


def test_nothing_is_fused_for_texts_or_in_low_precision(tiny_resnet: TinyClip) -> None:
    encoder = load_tiny(tiny_resnet)
    encoder.text(["dog"])
    assert _batch_norms(encoder) == 19
    low = load_tiny(tiny_resnet, precision="bf16")
    low.image(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert _batch_norms(low) == 19


def test_an_image_s_embedding_does_not_hang_on_what_came_before(tiny_resnet: TinyClip) -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    encoder, other = load_tiny(tiny_resnet), load_tiny(tiny_resnet)
    other.text(["dog"])
    other.image(pixels[3:])
    assert torch.equal(encoder.image(pixels[:3]), other.image(pixels[:3]))


def _batch_norms(encoder: ClipEncoder) -> int:
    network, _ = encoder.network
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
