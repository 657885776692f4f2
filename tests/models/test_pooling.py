from __future__ import annotations

from late import Late

import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
import pytest
import torch
from torch import nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.models.pooling import (
    Layout,
    detect_layout,
    head_pooling,
    pool,
    prefix_tokens,
    resolve_pooling,
    spatial_maps,
    units,
)

timm = Late("timm")
torchvision = Late("torchvision")


def build(name: str, **kwargs: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def test_square_axes_are_space() -> None:
    assert detect_layout((512, 7, 7)) == Layout("channels-first", grid=(7, 7))
    assert detect_layout((7, 7, 768)) == Layout("channels-last", grid=(7, 7))
    assert detect_layout((512, 1, 1)).kind == "channels-first"
    assert detect_layout((10,)) == Layout("flat", grid=(1, 1))


def test_three_equal_axes_are_settled_by_the_module_then_the_family_then_said() -> None:
    by_module = detect_layout((64, 64, 64), module=nn.Conv2d(3, 64, 3))
    assert (by_module.kind, by_module.note) == ("channels-first", "")
    assert detect_layout((64, 64, 64), module=nn.LayerNorm(64)).kind == "channels-last"
    with torch.device("meta"):
        swin = torchvision.models.swin_t()
    by_family = detect_layout((8, 8, 8), module=nn.Dropout(), model=swin, name="features.1")
    assert (by_family.kind, by_family.note) == ("channels-last", "")
    by_family = detect_layout(
        (8, 8, 8), module=nn.Dropout(), model=build("swin_tiny_patch4_window7_224"), name="layers.0"
    )
    assert (by_family.kind, by_family.note) == ("channels-last", "")
    guessed = detect_layout((8, 8, 8), name="block")
    assert guessed.kind == "channels-first"
    assert "block" in guessed.note
    assert "8 x 8 x 8" in guessed.note


def test_an_image_that_is_not_square_is_said() -> None:
    assert detect_layout((16, 7, 9), name="odd").note
    assert detect_layout((16, 7, 9), module=nn.Conv2d(1, 16, 3), name="odd").note == ""


def test_the_users_word_beats_detection() -> None:
    layout = detect_layout((7, 7, 768), kind="channels-first")
    assert (layout.kind, layout.grid) == ("channels-first", (7, 768))
    with pytest.raises(InputError, match="not tokens"):
        detect_layout((7, 7, 768), kind="tokens", name="x")


@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5)])
def test_other_ranks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="axes per image"):
        detect_layout(shape, name="x")


@pytest.mark.parametrize(
    ("name", "layer", "size", "prefix", "class_token", "grid"),
    [
        ("vit_tiny_patch16_224", "blocks.3", 224, 1, True, (14, 14)),
        ("deit_tiny_distilled_patch16_224", "blocks.3", 224, 2, True, (14, 14)),
        ("vit_base_patch16_siglip_224", "blocks.3", 224, 0, False, (14, 14)),
        ("vit_medium_patch16_reg4_gap_256", "blocks.3", 256, 4, False, (16, 16)),
        ("vit_small_patch14_reg4_dinov2", "blocks.3", 518, 5, True, (37, 37)),
        ("pit_ti_distilled_224", "transformers.0.blocks.1", 224, 2, True, (27, 27)),
        ("cait_xxs24_224", "blocks.3", 224, 0, False, (14, 14)),
        ("cait_xxs24_224", "blocks_token_only.1", 224, 1, True, None),
    ],
)
def test_prefix_tokens_of_real_networks(
    name: str, layer: str, size: int, prefix: int, class_token: bool, grid: tuple[int, int] | None
) -> None:
    layout = describe_layers(build(name), [layer], size)[layer].layout
    assert (layout.kind, layout.prefix, layout.class_token, layout.grid) == (
        "tokens",
        prefix,
        class_token,
        grid,
    )


def test_prefix_tokens_of_torchvision_and_of_a_tower_inside_a_network() -> None:
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16()
    assert prefix_tokens(vit, "encoder.layers.encoder_layer_3") == (1, True)
    holder = nn.ModuleDict({"visual": vit})
    assert prefix_tokens(holder, "visual.encoder") == (1, True)
    assert prefix_tokens(holder) == (None, False)


def test_tokens_of_an_unknown_network() -> None:
    assert detect_layout((49, 32)) == Layout("tokens", grid=(7, 7))
    guessed = detect_layout((50, 32), name="block")
    assert (guessed.prefix, guessed.class_token, guessed.grid) == (1, True, (7, 7))
    assert "class token" in guessed.note
    odd = detect_layout((53, 32), name="block")
    assert (odd.prefix, odd.class_token, odd.grid) == (0, False, None)
    assert odd.note


@pytest.mark.parametrize(
    ("name", "layer", "kind", "channels", "grid"),
    [
        ("swin_tiny_patch4_window7_224", "layers.1", "channels-last", 192, (28, 28)),
        ("swinv2_tiny_window8_256", "layers.3", "channels-last", 768, (8, 8)),
        ("convnext_atto", "stages.1", "channels-first", 80, (28, 28)),
        ("convnext_tiny", "stages.1.blocks.0.mlp.fc1", "channels-last", 768, (28, 28)),
        ("resnet18", "layer2", "channels-first", 128, (28, 28)),
    ],
)
def test_layouts_of_real_networks(
    name: str, layer: str, kind: str, channels: int, grid: tuple[int, int]
) -> None:
    size = 256 if "256" in name else 224
    info = describe_layers(build(name), [layer], size)[layer]
    assert (info.layout.kind, info.units, info.layout.grid) == (kind, channels, grid)


def test_torchvisions_convnext_and_swin() -> None:
    with torch.device("meta"):
        convnext, swin = torchvision.models.convnext_tiny(), torchvision.models.swin_t()
    info = describe_layers(convnext, ["features.3", "features.3.0.block.3"], 224)
    assert info["features.3"].layout.kind == "channels-first"
    assert info["features.3.0.block.3"].layout.kind == "channels-last"
    info = describe_layers(swin, ["features.3", "permute"], 224)
    assert info["features.3"].layout.kind == "channels-last"
    assert info["permute"].layout.kind == "channels-first"


X = torch.arange(12.0).reshape(1, 3, 2, 2)


def test_pooling_by_hand() -> None:
    first = Layout("channels-first", grid=(2, 2))
    assert pool(X, first, "mean").tolist() == [[1.5, 5.5, 9.5]]
    assert pool(X, first, "max").tolist() == [[3.0, 7.0, 11.0]]
    last = Layout("channels-last", grid=(2, 2))
    assert torch.equal(pool(X.permute(0, 2, 3, 1), last, "mean"), pool(X, first, "mean"))
    flat = Layout("flat", grid=(1, 1))
    assert pool(torch.tensor([[1.0, 2.0]]), flat, "max").tolist() == [[1.0, 2.0]]


def test_pooling_of_tokens_by_hand() -> None:
    # Class token, register, and a 2 x 2 grid, of one unit each.
    tokens = torch.tensor([100.0, -50.0, 1.0, 2.0, 3.0, 6.0]).reshape(1, 6, 1)
    layout = Layout("tokens", prefix=2, class_token=True, grid=(2, 2))
    values = {"auto": 100.0, "cls": 100.0, "mean": 3.0, "tokens": 3.0, "max": 6.0}
    for pooling, expected in values.items():
        assert pool(tokens, layout, pooling).tolist() == [[expected]]
    assert spatial_maps(tokens, layout).tolist() == [[[[1.0, 2.0], [3.0, 6.0]]]]
    without = Layout("tokens", prefix=2, class_token=False, grid=(2, 2))
    assert pool(tokens, without, "auto").item() == 3.0
    only_prefix = Layout("tokens", prefix=1, class_token=True)
    assert pool(tokens[:, :1], only_prefix, "mean").item() == 100.0


def test_what_pooling_a_layer_gets_and_what_is_said() -> None:
    image, vector = Layout("channels-first", grid=(2, 2)), Layout("flat", grid=(1, 1))
    with_class, without = Layout("tokens", 1, True, (2, 2)), Layout("tokens", 0, False, (2, 2))
    assert resolve_pooling(image, "auto") == ("mean", "")
    assert resolve_pooling(vector, "auto") == ("mean", "")
    assert resolve_pooling(with_class, "auto") == ("cls", "")
    how, said = resolve_pooling(without, "auto", "blocks.3")
    assert how == "mean"
    assert "no class token" in said
    how, said = resolve_pooling(image, "cls", "layer4")
    assert how == "mean"
    assert "layer4" in said
    with pytest.raises(InputError, match="unknown pooling"):
        resolve_pooling(image, "median")  # type: ignore[arg-type]


def test_pooling_sums_in_fp32() -> None:
    big = torch.full((1, 1, 64, 64), 1000.0, dtype=torch.float16)
    layout = Layout("channels-first", grid=(64, 64))
    pooled = pool(big, layout, "mean")
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1000.0  # a sum in half precision would be infinite


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_pooled_values_are_no_views(pooling: str) -> None:
    for x, layout in [
        (torch.ones(1, 4), Layout("flat", grid=(1, 1))),
        (torch.ones(1, 5, 4), Layout("tokens", 1, True, (2, 2))),
        (torch.ones(1, 4, 1, 1), Layout("channels-first", grid=(1, 1))),
    ]:
        pooled = pool(x, layout, pooling)  # type: ignore[arg-type]
        x.zero_()
        assert pooled.sum() == 4


def test_maps() -> None:
    last = Layout("channels-last", grid=(2, 2))
    assert torch.equal(spatial_maps(X.permute(0, 2, 3, 1), last), X)
    assert spatial_maps(torch.ones(2, 3), Layout("flat", grid=(1, 1))).shape == (2, 3, 1, 1)
    with pytest.raises(InputError, match="no activation maps"):
        spatial_maps(torch.ones(2, 3, 4), Layout("tokens"))


def test_units() -> None:
    assert units((5, 7, 7), Layout("channels-first")) == 5
    assert units((7, 7, 5), Layout("channels-last")) == 5
    assert units((50, 5), Layout("tokens")) == 5
    assert units((5,), Layout("flat")) == 5


_TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
_OWN = {
    "xcit": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32},
    "convit": {**_TINY, "embed_dim": 8, "depth": 3, "local_up_to_layer": 1},
    "coat": {"img_size": 64, "serial_depths": (1, 1, 1, 1)},
    "crossvit": {},
    "naflexvit": {"embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": True},
    "pit": {},
}


@pytest.mark.parametrize(
    ("name", "layer", "head", "how"),
    [
        ("beit_base_patch16_224", "blocks.1", None, "mean"),
        ("beit_base_patch16_224", "blocks.1", "token", "cls"),
        ("beitv2_base_patch16_224", "blocks.1", None, "mean"),
        ("eva02_tiny_patch14_224", "blocks.1", None, "mean"),
        ("eva02_tiny_patch14_224", "blocks.1", "token", "cls"),
        ("deit3_small_patch16_224", "blocks.1", None, "cls"),
        ("deit3_small_patch16_224", "blocks.1", "avg", "mean"),
        ("deit_tiny_distilled_patch16_224", "blocks.1", None, "cls"),
        ("vit_relpos_base_patch16_clsgap_224", "blocks.1", None, "mean"),
        ("vit_tiny_patch16_224", "blocks.1", None, "cls"),
        ("vit_tiny_patch16_224", "blocks.1", "avg", "mean"),
        ("vit_tiny_patch16_224", "blocks.1", "avgmax", "mean"),
        ("vit_tiny_patch16_224", "blocks.1", "max", "max"),
        ("vit_tiny_patch16_224", "blocks.1", "map", "mean"),
        ("convit_tiny", "blocks.2", None, "cls"),
        ("convit_tiny", "blocks.2", "avg", "mean"),
        ("xcit_nano_12_p16_224", "cls_attn_blocks.1", None, "cls"),
        ("xcit_nano_12_p16_224", "cls_attn_blocks.1", "avg", "mean"),
        ("coat_lite_tiny", "serial_blocks4.0", None, "cls"),
        ("coat_lite_tiny", "serial_blocks4.0", "avg", "mean"),
        ("crossvit_9_240", "blocks.2.blocks.0", None, "cls"),
        ("crossvit_9_240", "blocks.2.blocks.0", "avg", "mean"),
        ("naflexvit_base_patch16_gap", "blocks.1", "token", "cls"),
        ("naflexvit_base_patch16_gap", "blocks.1", None, "mean"),
        ("pit_ti_224", "transformers.2.blocks.0", None, "cls"),
    ],
)
def test_the_class_token_is_read_where_the_network_reads_it(
    name: str, layer: str, head: str | None, how: str
) -> None:
    kwargs = dict(_OWN.get(name.split("_")[0], _TINY))
    torch.manual_seed(0)
    model = timm.create_model(
        name, num_classes=5, **kwargs, **({} if head is None else {"global_pool": head})
    ).eval()
    size = kwargs.get("img_size") or model.pretrained_cfg["input_size"][1]
    layout = describe_layers(model, [layer], size)[layer].layout
    pooling, said = resolve_pooling(layout, "auto", layer)
    assert pooling == how
    assert resolve_pooling(layout, "cls", layer)[0] == ("cls" if layout.class_token else "mean")

    # The network itself is the judge: with another class token at its last block, does it answer the same?
    def overwrite(module: nn.Module, inputs: object, output: object) -> object:
        tokens = output[0] if isinstance(output, (tuple, list)) else output
        other = torch.cat([7 * torch.randn_like(tokens[:, :1]), tokens[:, 1:]], 1)
        return type(output)([other, *output[1:]]) if isinstance(output, (tuple, list)) else other

    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        before = model(x)
        handle = dict(model.named_modules())[layer].register_forward_hook(overwrite)
        after = model(x)
        handle.remove()
    if layout.class_token:
        ignored = torch.allclose(before, after, atol=1e-5)
        assert ignored == (how != "cls")
        assert bool(said) == ignored
        assert not said or "class token" in said


def test_pooling_follows_what_other_libraries_say_of_their_head() -> None:
    class Tower(nn.Module):
        def __init__(self, **said: object) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
            self.block = nn.Identity()
            for key, value in said.items():
                setattr(self, key, value)

    def read(**said: object) -> str:
        layout = detect_layout((17, 8), model=Tower(**said), name="block")
        return resolve_pooling(layout, "auto")[0]

    assert read() == "cls"
    assert (read(global_pool=True), read(global_pool=False)) == ("mean", "cls")  # MAE's own code
    assert (read(pool_type="avg"), read(pool_type="tok")) == ("mean", "cls")  # open_clip
    assert read(pool_type="tok", attn_pool=nn.Identity()) == "mean"
    config = type("Config", (), {"use_mean_pooling": True})()
    assert read(config=config) == "mean"  # transformers: BEiT
    assert head_pooling(Tower(global_pool="unheard of"), "block") == ""


def test_a_layer_of_nothing_but_the_class_token_is_read_whatever_the_head_does() -> None:
    model = timm.create_model(
        "cait_xxs24_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, global_pool="avg"
    )
    layout = describe_layers(model, ["blocks_token_only.1"], 32)["blocks_token_only.1"].layout
    assert resolve_pooling(layout, "auto") == ("cls", "")
