"""From a file as training code writes it to the network: it computes what the true network computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from concept_monitor_cli.checkpoints import Checkpoint, NoWeightsError, load_checkpoint
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import constructor, resolve_model

State = dict[str, Tensor]


def made(name: str = "cmon/cifar_resnet20", seed: int = 0, **kwargs: Any) -> nn.Module:
    """A network whose weights and statistics are all its own."""
    library, _, short = name.partition("/")
    maker = constructor(library, short)
    assert maker is not None
    torch.manual_seed(seed)
    model = maker.factory(**{"num_classes": 10, **kwargs})
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5) if "var" in key else value.normal_(0, 0.2)
    return model.eval()


def state(seed: int = 0, prefix: str = "", name: str = "cmon/cifar_resnet20") -> State:
    return {prefix + key: value for key, value in made(name, seed).state_dict().items()}


def read(path: Path, **options: Any) -> tuple[nn.Module, Checkpoint]:
    """The network of a checkpoint, by recognition, and what was read."""
    lazy = load_checkpoint(path, lazy=True, **options)
    loaded = load_checkpoint(path, **options)
    assert {k: v.shape for k, v in lazy.state_dict.items()} == {
        k: v.shape for k, v in loaded.state_dict.items()
    }
    source = resolve_model(
        None, loaded.state_dict, said=loaded.arch, family=loaded.family, config=loaded.config
    )
    return source.restore(loaded.state_dict), loaded


def computes_as(one: nn.Module, other: nn.Module, pixels: int = 32) -> bool:
    torch.manual_seed(1)
    x = torch.randn(2, 3, pixels, pixels)
    with torch.inference_mode():
        return torch.allclose(one(x), other(x), rtol=1e-4, atol=1e-5)


# -- where in the names --------------------------------------------------------------------------------

PREFIXES = [
    *(
        "resnet.",
        "encoder.",
        "feature_extractor.",
        "timm_model.",
        "encoder_q.",
        "module.model.",
        "trunk.net.",
    ),
    *(
        "backbone.bottom_up.",
        "module.attacker.model.",
        "learner.model.backbone.",
        "model.0.",
        "0.",
        "_model.",
    ),
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_network_anywhere_in_the_tree(tmp_path: Path, prefix: str) -> None:
    head = {
        "projector.0.weight": torch.ones(3, 64),
        "queue": torch.ones(16, 5),
        "normalizer.mean": torch.ones(3),
    }
    torch.save({"state_dict": {**state(prefix=prefix), **head}}, tmp_path / "c.pth")
    network, loaded = read(tmp_path / "c.pth")
    assert computes_as(network, made())
    assert "".join(loaded.stripped) == prefix
    assert set(loaded.ignored) == set(head)


def test_where_the_network_was_and_what_is_set_aside_is_said(tmp_path: Path) -> None:
    torch.save({**state(prefix="encoder_q."), "queue": torch.ones(16, 5)}, tmp_path / "c.pth")
    notes = load_checkpoint(tmp_path / "c.pth").notes
    assert notes == (
        "network taken from 'encoder_q.'",
        "set aside as no part of the network: 1 tensor (queue)",
    )


def test_the_largest_network_is_taken_and_prefix_chooses(tmp_path: Path) -> None:
    names = {**state(0, "small."), **state(1, "large.", "cmon/cifar_resnet56")}
    torch.save(names, tmp_path / "c.pth")
    network, loaded = read(tmp_path / "c.pth")
    assert computes_as(network, made("cmon/cifar_resnet56", 1))
    assert loaded.stripped == ("large.",)
    for given in ("small", "small."):
        network, loaded = read(tmp_path / "c.pth", prefix=given)
        assert computes_as(network, made())
        assert loaded.stripped == ("small.",)
    with pytest.raises(InputError, match=r"no name begins with 'tiny\.'") as error:
        load_checkpoint(tmp_path / "c.pth", prefix="tiny")
    assert "small., large." in str(error.value.hint)


@pytest.mark.parametrize(
    ("trained", "copy"),
    [
        ("encoder_q.", "encoder_k."),
        ("student.", "teacher."),
        ("online.", "target."),
        ("zeta.", "ema."),
        ("a.", "b."),
    ],
)
def test_of_two_copies_the_trained_one(tmp_path: Path, trained: str, copy: str) -> None:
    torch.save({**state(5, copy), **state(0, trained), "queue": torch.ones(16, 9)}, tmp_path / "c.pth")
    network, loaded = read(tmp_path / "c.pth")
    assert computes_as(network, made(seed=0))
    assert copy.rstrip(".") in loaded.others
    network, _ = read(tmp_path / "c.pth", prefix=copy)
    assert computes_as(network, made(seed=5))


def test_a_network_of_the_users_own_keeps_its_names(tmp_path: Path) -> None:
    names = {**state(0, "encoder."), "decoder.weight": torch.ones(3, 3)}
    torch.save(names, tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth", model="net.py:Net").state_dict.keys() == names.keys()
    assert load_checkpoint(tmp_path / "c.pth", model="resnet20").state_dict.keys() == state().keys()


# -- several state dicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "where", "averages"),
    [
        (
            lambda a, b: {"student": a, "teacher": b, "dino_loss": {"center": torch.ones(1, 9)}},
            "student",
            ("teacher",),
        ),
        (lambda a, b: {"model": a, "model_ema": b}, "model", ("model_ema",)),
        (lambda a, b: {"state_dict": a, "ema_state_dict": b}, "state_dict", ("ema_state_dict",)),
        (lambda a, b: {"model": a, "ema": {"decay": 0.9, "shadow": b}}, "model", ("ema.shadow",)),
        (
            lambda a, b: {"state_dict": a, "callbacks": {"EMA": {"ema_weights": b}}},
            "state_dict",
            ("callbacks.EMA.ema_weights",),
        ),
        (
            lambda a, b: {
                "current_model_state": a,
                "state_dict": b,
                "averaging_state": {"n_averaged": torch.ones(())},
            },
            "current_model_state",
            ("state_dict",),
        ),
        (lambda a, b: {"g": a, "g_ema": b}, "g", ("g_ema",)),
        (lambda a, b: {"body": a, "ema": b, "queue": {"keys": torch.ones(3, 3)}}, "body", ("ema",)),
        (lambda a, b: {"backbone": a, "head": {"weight": torch.ones(3, 3)}}, "backbone", ()),
        (lambda a, b: {"online_network": a, "target_network": b}, "online_network", ("target_network",)),
    ],
)
def test_one_of_several_is_taken_by_rule_and_the_key_chooses(
    tmp_path: Path, content: Callable[[State, State], dict[str, Any]], where: str, averages: tuple[str, ...]
) -> None:
    torch.save(content(state(0), state(1)), tmp_path / "c.pth")
    network, loaded = read(tmp_path / "c.pth")
    assert computes_as(network, made(seed=0))
    assert (loaded.where, loaded.averages, loaded.ema) == (where, averages, False)
    assert any(repr(where) in note and "--weights-key" in note for note in loaded.notes)
    for key in averages:
        network, other = read(tmp_path / "c.pth", weights_key=key)
        assert computes_as(network, made(seed=1))
        assert other.ema
    with pytest.raises(InputError, match="no state dict is called 'nothing'") as error:
        load_checkpoint(tmp_path / "c.pth", weights_key="nothing")
    assert where in str(error.value.hint)


# -- a known network and more --------------------------------------------------------------------------


def test_a_decoder_is_set_aside(tmp_path: Path) -> None:
    trunk = {k: v for k, v in state(name="timm/vit_tiny_patch16_224").items() if not k.startswith("head.")}
    more = {f"decoder_{k}": v for k, v in trunk.items() if k.startswith(("blocks.0.", "norm."))}
    more |= {"mask_token": torch.ones(1, 1, 64), "decoder_embed.weight": torch.ones(64, 192)}
    torch.save({"model": {**more, **trunk}, "epoch": 40}, tmp_path / "checkpoint-40.pth")
    network, loaded = read(tmp_path / "checkpoint-40.pth")
    true = made("timm/vit_tiny_patch16_224")
    true.head = nn.Identity()
    assert computes_as(network, true, 224)
    assert set(loaded.ignored) == set(more)


def with_(change: Callable[[nn.Module, str], object], *, linear: bool = True) -> Callable[[nn.Module], None]:
    def apply(model: nn.Module) -> None:
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d) or (linear and isinstance(module, nn.Linear)):
                change(module, "weight")

    return apply


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(with_(parametrizations.spectral_norm), id="spectral norm"),
        pytest.param(with_(nn.utils.spectral_norm), id="spectral norm, old"),
        pytest.param(with_(parametrizations.weight_norm), id="weight norm"),
        pytest.param(with_(nn.utils.weight_norm), id="weight norm, old"),
        pytest.param(with_(lambda m, n: nn.utils.weight_norm(m, n, dim=None)), id="weight norm of the whole"),
        pytest.param(with_(lambda m, n: nn.utils.weight_norm(m, n, dim=1)), id="weight norm of columns"),
        pytest.param(with_(lambda m, n: prune.l1_unstructured(m, n, 0.5)), id="pruned"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.encoder."])
def test_reparametrised_weights_are_folded(
    tmp_path: Path, change: Callable[[nn.Module], None], prefix: str
) -> None:
    model = made()
    change(model)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 32, 32))
        model.eval()
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "c.pth")
    network, _ = read(tmp_path / "c.pth")
    assert computes_as(network, model)


@pytest.mark.parametrize("name", ["mask", "weight_mask", "mask_weight", "weight.mask", "pruning_mask"])
def test_a_mask_beside_the_weight_is_applied(tmp_path: Path, name: str) -> None:
    weights, true = state(), made()
    for key, value in list(weights.items()):
        if value.ndim == 4:
            mask = (torch.rand(value.shape) > 0.5).float()
            weights[key.removesuffix("weight") + name] = mask
            true.state_dict()[key].mul_(mask)
    torch.save(weights, tmp_path / "c.pth")
    network, loaded = read(tmp_path / "c.pth")
    assert computes_as(network, true)
    assert any("masks" in note for note in loaded.notes)


def test_what_cannot_be_folded_is_named(tmp_path: Path) -> None:
    model = made()
    parametrizations.orthogonal(model.fc)
    torch.save(model.state_dict(), tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"fc\.weight is kept under a parametrisation") as error:
        load_checkpoint(tmp_path / "c.pth")
    assert "remove_parametrizations" in str(error.value.hint)


def low_rank(weights: State, keys: list[str], prefix: str) -> State:
    """As peft keeps a network with its adapters."""
    changed: State = {}
    for key, value in weights.items():
        module = key.removesuffix(".weight")
        if key in keys:
            out, inside = value.shape
            changed[f"{prefix}{module}.base_layer.weight"] = value
            changed[f"{prefix}{module}.lora_A.default.weight"] = torch.randn(2, inside)
            changed[f"{prefix}{module}.lora_B.default.weight"] = torch.randn(out, 2)
        else:
            changed[prefix + key] = value
    return changed


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_lora_is_merged_where_its_scale_is_known(tmp_path: Path, prefix: str) -> None:
    weights = low_rank(state(), ["fc.weight"], prefix)
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(InputError, match="LoRA") as error:
        load_checkpoint(tmp_path / "c.pth")
    assert "merge_and_unload" in str(error.value.hint)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, "r": 2}))
    network, _ = read(tmp_path / "c.pth")
    true = made()
    change = weights[f"{prefix}fc.lora_B.default.weight"] @ weights[f"{prefix}fc.lora_A.default.weight"]
    true.state_dict()["fc.weight"].add_(8 / 2 * change)
    assert computes_as(network, true)
    adapter = {key: value for key, value in weights.items() if "lora" in key}
    save_file(adapter, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="adapter, without the network"):
        load_checkpoint(tmp_path / "adapter_model.safetensors")


# -- children of a Sequential --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keep", "layer"),
    [
        ("torchvision/resnet18", -1, "avgpool"),
        ("torchvision/resnet50", -2, "layer4"),
        ("timm/resnet18", -1, "global_pool"),
        ("cmon/cifar_resnet20", -1, "avgpool"),
        ("torchvision/mobilenet_v2", -1, "features"),
        ("torchvision/vgg11", -2, "features"),
        ("torchvision/shufflenet_v2_x0_5", -1, "conv5"),
        ("timm/test_efficientnet", -1, "global_pool"),
        ("timm/test_convnext", -1, "norm_pre"),
        ("timm/lcnet_035", -1, "act2"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone.", "0."])
def test_numbered_children_are_matched(tmp_path: Path, name: str, keep: int, layer: str, prefix: str) -> None:
    true = made(name)
    body = nn.Sequential(*list(true.children())[:keep])
    names = {prefix + key: value for key, value in body.state_dict().items()}
    if prefix:
        names["1.weight" if prefix == "0." else "head.weight"] = torch.ones(3, 7)
    torch.save({"state_dict": names}, tmp_path / "c.pth")
    network, _ = read(tmp_path / "c.pth")
    seen: list[Tensor] = []
    layer = layer if layer in dict(network.named_modules()) else "avgpool"
    network.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        network(x)
        torch.testing.assert_close(seen[0].flatten(1), body(x).flatten(1))


# -- what is beside the weights, and parts -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "zero_pp_rank_0_mp_rank_00_optim_states.pt",
            {"optimizer_state_dict": {"zero_stage": 1}, "ds_config": {}},
        ),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", {"optimizer_state_dict": {"x": torch.ones(3)}}),
        ("sampler.bin", {"seed": 1}),
        ("scheduler.pt", {"base_lrs": [0.1], "last_epoch": 3}),
        ("scaler.pt", {"scale": 65536.0, "growth_factor": 2.0}),
        ("rng_state.pth", {"python": (3, (1, 2)), "cpu": torch.ones(9, dtype=torch.uint8)}),
        ("random_states_0.pkl", {"step": 3, "torch_manual_seed": torch.ones(9, dtype=torch.uint8)}),
        ("optimizer.bin", {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}),
    ],
)
def test_side_files_are_named_as_such(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(NoWeightsError):
        load_checkpoint(tmp_path / name)


class TrainingArguments:
    pass


def test_training_arguments_are_no_checkpoint(tmp_path: Path) -> None:
    torch.save(TrainingArguments(), tmp_path / "training_args.bin")
    with pytest.raises(NoWeightsError, match="TrainingArguments"):
        load_checkpoint(tmp_path / "training_args.bin")


def test_a_partition_of_zero_3(tmp_path: Path) -> None:
    empty = {key: torch.empty(0) for key in state()}
    torch.save(
        {"module": empty, "param_shapes": [{}]}, tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    )
    with pytest.raises(InputError, match="ZeRO-3") as error:
        load_checkpoint(tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    assert "zero_to_fp32.py" in str(error.value.hint)


def test_parts_without_their_list(tmp_path: Path) -> None:
    weights = list(state().items())
    one, two = (tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file(dict(weights[:40]), one)
    with pytest.raises(InputError, match=r"part 1 of 2 .* 1 of the others are missing"):
        load_checkpoint(one)
    save_file(dict(weights[40:]), two)
    network, loaded = read(one)
    assert computes_as(network, made())
    assert loaded.epoch is None
    with pytest.raises(NoWeightsError, match="part 2 of 2, read together"):
        load_checkpoint(two)


def test_an_exported_program_is_named(tmp_path: Path) -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(3, 3)), (torch.ones(1, 3),))
    torch.export.save(program, tmp_path / "c.pt2")
    (tmp_path / "c.pt2").rename(tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"exported program \(torch.export, .pt2\)"):
        load_checkpoint(tmp_path / "c.pt")


# -- what was read right stays right -------------------------------------------------------------------

AS_BEFORE: dict[str, tuple[Callable[[State], Any], str, tuple[str, ...]]] = {
    "bare": (lambda w: w, "", ()),
    "state_dict": (lambda w: {"state_dict": w, "epoch": 1}, "state_dict", ()),
    "model": (lambda w: {"model": w, "optimizer": {"state": {}, "param_groups": []}}, "model", ()),
    "model_state_dict": (lambda w: {"model_state_dict": w, "loss": 0.1}, "model_state_dict", ()),
    "net": (lambda w: {"net": w, "acc": 93.2}, "net", ()),
    "params": (lambda w: {"params": w}, "params", ()),
    "ema alone": (lambda w: {"ema": w}, "ema", ()),
    "ema inside": (lambda w: {"ema": {"module": w}}, "ema.module", ()),
    "module": (lambda w: {"module": w}, "module", ()),
    "unknown name": (lambda w: {"classifier_weights": w, "epoch": 1}, "classifier_weights", ()),
    "DDP": (lambda w: {f"module.{k}": v for k, v in w.items()}, "", ("module.",)),
    "compiled": (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, "", ("_orig_mod.",)),
    "Lightning": (
        lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}},
        "state_dict",
        ("model.",),
    ),
    "loss beside": (
        lambda w: {"state_dict": {**{f"net.{k}": v for k, v in w.items()}, "loss.weight": torch.ones(9)}},
        "state_dict",
        ("net.",),
    ),
    "AveragedModel": (
        lambda w: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in w.items()}},
        "",
        ("module.",),
    ),
    "without classifier": (lambda w: {k: v for k, v in w.items() if not k.startswith("fc.")}, "", ()),
    "another classifier": (
        lambda w: {
            **{k: v for k, v in w.items() if not k.startswith("fc.")},
            "fc.1.weight": torch.ones(3, 64),
        },
        "",
        (),
    ),
}


@pytest.mark.parametrize("layout", AS_BEFORE)
def test_layouts_are_read_as_before(tmp_path: Path, layout: str) -> None:
    wrap, where, stripped = AS_BEFORE[layout]
    torch.save(wrap(state()), tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert (loaded.where, loaded.stripped) == (where, stripped)
    source = resolve_model(None, loaded.state_dict)
    assert source.label == "cmon/cifar_resnet20"
    assert not any("set aside" in note for note in loaded.notes)
    own = state()
    assert all(torch.equal(value, own[key]) for key, value in loaded.state_dict.items() if key in own)
