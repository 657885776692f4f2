"""ResNets for 32-pixel images, in the spellings in which people have them on disk.

None of them is in torchvision or timm: a 3x3 stem instead of 7x7 and no max-pooling. Two families:

- the ImageNet ResNets with a small stem, four stages of 64 to 512 channels: widths and blocks of He et al.
  2015 (arXiv:1512.03385, table 1), stem as in nearly all CIFAR code; PreActResNet as in He et al. 2016
  (arXiv:1603.05027) without a norm after the last block, as in that code;
- the CIFAR ResNets of He et al. 2015, section 4.2: three stages of 16, 32 and 64 channels, depth 6 n + 2.

What the names of parameters depend on is an argument: `shortcut` ("downsample" as in torchvision,
"shortcut" as in the widespread pytorch-cifar code) and `head` ("fc" or "linear").
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ShortcutName = Literal["downsample", "shortcut"]
HeadName = Literal["fc", "linear"]
Factory = Callable[..., nn.Module]
_Factory = TypeVar("_Factory", bound=Factory)

_REGISTRY: dict[str, Factory] = {}


def register_model(factory: _Factory) -> _Factory:
    """Decorator: make a factory known by its own name. It must take `num_classes` and `in_chans`."""
    name = factory.__name__
    if name in _REGISTRY:
        raise ValueError(f"{name} is registered already")
    _REGISTRY[name] = factory
    return factory


def list_models(pattern: str = "*") -> list[str]:
    """Names of the bundled networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_REGISTRY, pattern))


def is_model(name: str) -> bool:
    """Whether a bundled network has this name."""
    return name in _REGISTRY


def model_factory(name: str) -> Factory:
    """The registered factory of that name; KeyError where there is none."""
    return _REGISTRY[name]


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build a bundled network with fresh weights; KeyError where there is none of that name."""
    return _REGISTRY[name](**kwargs)


def _conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)


def _projection(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(planes)
    )


class PadShortcut(nn.Module):
    """Shortcut "option A" (He et al. 2015, section 4.1): every second pixel, new channels zero."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + new, H / 2, W / 2), half of the zeros on either side of the old ones."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class _Block(nn.Module):
    """What the blocks share: a shortcut under a name of choice, found again by `_identity`."""

    expansion: int = 1

    def __init__(self) -> None:
        super().__init__()
        self._shortcut_name: str | None = None

    def _add_shortcut(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self._shortcut_name = name

    def _identity(self, x: Tensor) -> Tensor:
        if self._shortcut_name is None:
            return x
        out: Tensor = self.get_submodule(self._shortcut_name)(x)
        return out


class BasicBlock(_Block):
    """Two 3x3 convolutions, each with batch norm; ReLU after the sum."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, shortcut: ShortcutName, option: str) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        if stride != 1 or in_planes != planes:
            if option == "A":
                self._add_shortcut(shortcut, PadShortcut(planes - in_planes))
            else:
                self._add_shortcut(shortcut, _projection(in_planes, planes, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self._identity(x)
        out = self.relu(out)
        return out


class Bottleneck(_Block):
    """1x1, 3x3 (with the stride), 1x1 to four times the width."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int, shortcut: ShortcutName, option: str) -> None:
        super().__init__()
        if option != "B":
            raise ValueError("a bottleneck block has the projection shortcut, option B, only")
        out_planes = planes * self.expansion
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out_planes, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_planes)
        self.relu = nn.ReLU(inplace=True)
        if stride != 1 or in_planes != out_planes:
            self._add_shortcut(shortcut, _projection(in_planes, out_planes, stride))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, 4 C, H / stride, W / stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out)) + self._identity(x)
        out = self.relu(out)
        return out


class PreActBlock(_Block):
    """Norm and ReLU before each 3x3 convolution; the shortcut starts after the first of them."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int, shortcut: ShortcutName, option: str) -> None:
        super().__init__()
        if option != "B":
            raise ValueError("a pre-activation block has the projection shortcut, option B, only")
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = _conv3x3(in_planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes)
        self.relu = nn.ReLU()
        if stride != 1 or in_planes != planes:
            self._add_shortcut(
                shortcut,
                nn.Sequential(nn.Conv2d(in_planes, planes, kernel_size=1, stride=stride, bias=False)),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H / stride, W / stride). The sum is not rectified."""
        out: Tensor = self.relu(self.bn1(x))
        identity = x if self._shortcut_name is None else self._identity(out)
        out = self.conv1(out)
        out = self.conv2(self.relu(self.bn2(out)))
        out = out + identity
        return out


class CifarResNet(nn.Module):
    """A ResNet with a 3x3 stem and no max-pooling.

    Args:
        block: BasicBlock, Bottleneck or PreActBlock.
        depths: blocks per stage; as many stages `layer1`, `layer2`, ... as numbers.
        width: channels of the stem and of the first stage; doubled from stage to stage.
        num_classes: outputs.
        in_chans: channels of the images.
        shortcut: name of the shortcut's module inside a block.
        head: name of the classifier.
        option: "B" projection shortcuts, "A" zero padding (BasicBlock only).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck | PreActBlock],
        depths: tuple[int, ...],
        *,
        width: int,
        num_classes: int = 10,
        in_chans: int = 3,
        shortcut: ShortcutName = "downsample",
        head: HeadName = "fc",
        option: Literal["A", "B"] = "B",
    ) -> None:
        super().__init__()
        # A pre-activation network rectifies inside the blocks: its stem is the bare convolution.
        self.preact = issubclass(block, PreActBlock)
        self.conv1 = _conv3x3(in_chans, width)
        if not self.preact:
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
        self.stages: list[str] = []
        in_planes = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(in_planes, planes, stride, shortcut, option))
                in_planes = planes * block.expansion
            name = f"layer{stage + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.stages.append(name)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head_name: HeadName = head
        self.add_module(head, nn.Linear(in_planes, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_classes)."""
        x = self.conv1(x)
        if not self.preact:
            x = self.relu(self.bn1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        x = torch.flatten(self.avgpool(x), 1)
        out: Tensor = self.get_submodule(self.head_name)(x)
        return out


@register_model
def cifar_resnet18(**kwargs: Any) -> CifarResNet:
    """ResNet-18 with a 3x3 stem, torchvision's spelling (`downsample`, `fc`)."""
    return CifarResNet(BasicBlock, (2, 2, 2, 2), width=64, **kwargs)


@register_model
def cifar_resnet34(**kwargs: Any) -> CifarResNet:
    """ResNet-34 with a 3x3 stem, torchvision's spelling (`downsample`, `fc`)."""
    return CifarResNet(BasicBlock, (3, 4, 6, 3), width=64, **kwargs)


@register_model
def cifar_resnet50(**kwargs: Any) -> CifarResNet:
    """ResNet-50 with a 3x3 stem, torchvision's spelling (`downsample`, `fc`)."""
    return CifarResNet(Bottleneck, (3, 4, 6, 3), width=64, **kwargs)


@register_model
def kuangliu_resnet18(**kwargs: Any) -> CifarResNet:
    """ResNet-18 with a 3x3 stem, the spelling of kuangliu/pytorch-cifar (`shortcut`, `linear`)."""
    return cifar_resnet18(**{"shortcut": "shortcut", "head": "linear", **kwargs})


@register_model
def kuangliu_resnet34(**kwargs: Any) -> CifarResNet:
    """ResNet-34 with a 3x3 stem, the spelling of kuangliu/pytorch-cifar (`shortcut`, `linear`)."""
    return cifar_resnet34(**{"shortcut": "shortcut", "head": "linear", **kwargs})


@register_model
def kuangliu_resnet50(**kwargs: Any) -> CifarResNet:
    """ResNet-50 with a 3x3 stem, the spelling of kuangliu/pytorch-cifar (`shortcut`, `linear`)."""
    return cifar_resnet50(**{"shortcut": "shortcut", "head": "linear", **kwargs})


@register_model
def preact_resnet18(**kwargs: Any) -> CifarResNet:
    """Pre-activation ResNet-18, the spelling of kuangliu/pytorch-cifar (`shortcut`, `linear`)."""
    names = {"shortcut": "shortcut", "head": "linear"}
    return CifarResNet(PreActBlock, (2, 2, 2, 2), width=64, **{**names, **kwargs})


def _small(depth: int, **kwargs: Any) -> CifarResNet:
    return CifarResNet(BasicBlock, ((depth - 2) // 6,) * 3, width=16, **kwargs)


@register_model
def cifar_resnet20(**kwargs: Any) -> CifarResNet:
    """ResNet-20 of 16 to 64 channels with projection shortcuts, as in chenyaofo/pytorch-cifar-models."""
    return _small(20, **kwargs)


@register_model
def cifar_resnet56(**kwargs: Any) -> CifarResNet:
    """ResNet-56 of 16 to 64 channels with projection shortcuts, as in chenyaofo/pytorch-cifar-models."""
    return _small(56, **kwargs)


@register_model
def akamaster_resnet20(**kwargs: Any) -> CifarResNet:
    """ResNet-20 with zero-padding shortcuts, as in akamaster/pytorch_resnet_cifar10 (`linear`)."""
    return _small(20, **{"shortcut": "shortcut", "head": "linear", "option": "A", **kwargs})


@register_model
def akamaster_resnet56(**kwargs: Any) -> CifarResNet:
    """ResNet-56 with zero-padding shortcuts, as in akamaster/pytorch_resnet_cifar10 (`linear`)."""
    return _small(56, **{"shortcut": "shortcut", "head": "linear", "option": "A", **kwargs})
