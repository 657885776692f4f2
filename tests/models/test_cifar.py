from __future__ import annotations

import pytest
import torch
from torch import nn

from concept_monitor_cli.models import cifar

# As the papers and the code that these follow give them, with ten classes: He et al. 2015 table 6 (0.27 M and
# 0.85 M for 20 and 56 layers), kuangliu/pytorch-cifar (11.17 M, 21.28 M, 23.52 M).
PARAMETERS = {
    "akamaster_resnet20": 269_722,
    "akamaster_resnet56": 853_018,
    "cifar_resnet18": 11_173_962,
    "cifar_resnet20": 272_474,
    "cifar_resnet34": 21_282_122,
    "cifar_resnet50": 23_520_842,
    "cifar_resnet56": 855_770,
    "kuangliu_resnet18": 11_173_962,
    "kuangliu_resnet34": 21_282_122,
    "kuangliu_resnet50": 23_520_842,
    "preact_resnet18": 11_171_146,
}


def test_the_registry() -> None:
    assert cifar.list_models() == sorted(PARAMETERS)
    assert cifar.list_models("*20") == ["akamaster_resnet20", "cifar_resnet20"]
    assert cifar.is_model("cifar_resnet18")
    assert not cifar.is_model("resnet18")
    with pytest.raises(ValueError, match="registered already"):
        cifar.register_model(cifar.cifar_resnet18)


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = cifar.create_model(name, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_classes_channels_and_maps(name: str) -> None:
    with torch.device("meta"):
        model = cifar.create_model(name, num_classes=7, in_chans=1).eval()
        shapes = {}
        for stage in [child for child, _ in model.named_children() if child.startswith("layer")]:
            model.get_submodule(stage).register_forward_hook(
                lambda module, inputs, output, stage=stage: shapes.__setitem__(stage, tuple(output.shape[1:]))
            )
        assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    small = "20" in name or "56" in name
    wide = 4 if "50" in name else 1
    channels = (16, 32, 64) if small else (64, 128, 256, 512)
    assert shapes == {f"layer{i + 1}": (c * wide, 32 >> i, 32 >> i) for i, c in enumerate(channels)}


def test_the_3x3_stem_is_torchvisions_network_otherwise() -> None:
    """The same weights in torchvision's ResNet-18, its stem changed by hand, give the same numbers."""
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision.models import resnet18, resnet50

    for ours, theirs in ((cifar.cifar_resnet18, resnet18), (cifar.cifar_resnet50, resnet50)):
        torch.manual_seed(0)
        reference = theirs(num_classes=10)
        reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        reference.maxpool = nn.Identity()
        model = ours(num_classes=10)
        assert list(model.state_dict()) == list(reference.state_dict())
        model.load_state_dict(reference.state_dict())
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(model.eval()(x), reference.eval()(x))


def test_spellings_share_their_numbers() -> None:
    torch.manual_seed(0)
    one, other = cifar.cifar_resnet18().eval(), cifar.kuangliu_resnet18().eval()
    names = {
        name: name.replace("downsample", "shortcut").replace("fc.", "linear.") for name in one.state_dict()
    }
    assert list(other.state_dict()) == list(names.values())
    other.load_state_dict({names[name]: value for name, value in one.state_dict().items()})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(x), other(x))


def test_the_shortcut_without_parameters() -> None:
    x = torch.arange(2 * 16.0).reshape(1, 2, 4, 4)
    out = cifar.PadShortcut(2)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()
    assert not any("shortcut" in name for name in cifar.akamaster_resnet20().state_dict())


class PlainPreActBlock(nn.Module):
    """The pre-activation block as its authors' code reads, in a few literal lines."""

    def __init__(self, weights: cifar.PreActBlock) -> None:
        super().__init__()
        self.b = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pre = torch.relu(self.b.bn1(x))
        identity = self.b.shortcut(pre) if hasattr(self.b, "shortcut") else x
        return self.b.conv2(torch.relu(self.b.bn2(self.b.conv1(pre)))) + identity


@pytest.mark.parametrize("stride", [1, 2])
def test_the_pre_activation_block(stride: int) -> None:
    torch.manual_seed(0)
    block = cifar.PreActBlock(8, 8 * stride, stride, "shortcut", "B").eval()
    assert hasattr(block, "shortcut") == (stride == 2)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x), PlainPreActBlock(block)(x))


@pytest.mark.parametrize("block", [cifar.Bottleneck, cifar.PreActBlock])
def test_padding_is_for_basic_blocks(block: type[cifar.Bottleneck | cifar.PreActBlock]) -> None:
    with pytest.raises(ValueError, match="option B"):
        block(8, 8, 1, "shortcut", "A")
