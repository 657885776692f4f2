"""Factories of networks by name, from torchvision, timm and our own CIFAR networks."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from concept_monitor_cli.checkpoints.architectures import Architecture, Shape, describe
from concept_monitor_cli.models import cifar
from concept_monitor_cli.models.differences import shapes_of, stripped

Factory = Callable[..., nn.Module]

LIBRARIES = ("torchvision", "timm", "cmon")


@dataclass(frozen=True)
class Constructor:
    """A factory, and what it can be asked for.

    Attributes:
        library: torchvision, timm, cmon or user.
        name: its name there.
        factory: builds the network.
        arguments: which of "num_classes", "in_chans" it takes; "bare" where `num_classes=0` means no
        classifier. image_size: its argument for the image size, with the default, where it may have one.
        variants: arguments that make a network with other names or shapes, apart from those. code: version
        of the library, or a digest of the file that holds the factory and the libraries' versions. stem:
        whether the first convolution may be changed to another number of input channels. assumed: a sentence
        on what the weights do not say.
    """

    library: str
    name: str
    factory: Factory
    arguments: frozenset[str] = frozenset({"num_classes"})
    image_size: tuple[str, int] | None = None
    variants: tuple[Mapping[str, Any], ...] = ({},)
    code: str = ""
    stem: bool = False
    assumed: str | None = None

    def shapes(self, **kwargs: Any) -> dict[str, Shape]:
        """Names (without wrappers' prefixes) and shapes of the network's state dict, built on meta."""
        return stripped(shapes_of(built(self.factory, kwargs, torch.device("meta")).state_dict()))

    def describe(self) -> list[Architecture]:
        """Entries for the table of architectures, one per variant."""
        return [
            describe(
                self.library,
                self.name,
                self.shapes,
                kwargs=kwargs,
                arguments=self.arguments,
                image_size=self.image_size,
                stem=self.stem,
            )
            for kwargs in self.variants
        ]


# In-place operations that change values only: initialisation is made of these. On the meta device there are
# no values, but torch works out strides and broadcasting in Python for each: most of the time of building a
# network there.
_VALUES_ONLY = {
    *("kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_", "trunc_normal_"),
    *("normal_", "uniform_", "bernoulli_", "exponential_", "erfinv_", "zero_", "fill_", "clamp_", "copy_"),
    *("mul_", "add_", "sub_", "div_", "pow_", "sqrt_", "exp_", "log_"),
}


class LeaveOut(TorchFunctionMode):
    """Leaves out in-place arithmetic on meta tensors, and what else is asked for.

    Args:
        empty_on_meta: make uninitialised tensors on the meta device.
        parameters: leave out in-place arithmetic on parameters too, wherever they are.
    """

    def __init__(self, *, empty_on_meta: bool = False, parameters: bool = False) -> None:
        super().__init__()
        self._empty_on_meta = empty_on_meta
        self._parameters = parameters

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _VALUES_ONLY:
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
            if self._parameters and isinstance(target, nn.Parameter):
                return target
        if self._empty_on_meta and name == "empty" and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def built(factory: Factory, kwargs: Mapping[str, Any], device: torch.device, seed: int = 0) -> nn.Module:
    """What a factory makes, on a device, with weights from a seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        if device.type == "meta":
            try:
                with device, LeaveOut():
                    return factory(**kwargs)
            except (RuntimeError, NotImplementedError):
                # Some factories look at values that they compute (torchvision's RegNets at their widths):
                # only the memory of layers, which is not initialised when it is made, stays away then.
                with LeaveOut(empty_on_meta=True):
                    return factory(**kwargs).to(device)
        return factory(**kwargs).to(device)


def _torchvision(name: str) -> Constructor | None:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    inception = name in ("googlenet", "inception_v3")
    # Initialising these two draws from a truncated normal by SciPy: half a minute.
    fixed: dict[str, Any] = {"weights": None, "init_weights": False} if inception else {"weights": None}

    def factory(**kwargs: Any) -> nn.Module:
        model: nn.Module = models.get_model(name, **fixed, **kwargs)
        return model

    return Constructor(
        "torchvision",
        name,
        factory,
        image_size=("image_size", 224) if name.startswith("vit_") else None,
        variants=({}, {"aux_logits": False}) if inception else ({},),
        code=version("torchvision"),
        stem=True,
        assumed="input taken as it is (`transform_input=False`; torchvision's own weights have it True)"
        if inception
        else None,
    )


# Fine-tuned from masked autoencoders, these read the mean of their patches and have `fc_norm` for `norm`.
_PLAIN_VIT = re.compile(r"vit_[a-z]+_patch\d+_224")


def _timm(name: str) -> Constructor | None:
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    import timm

    if not timm.is_model(name):
        return None

    def factory(**kwargs: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
        return model

    config = timm.get_pretrained_cfg(name)
    size = None if config is None else config.input_size
    return Constructor(
        "timm",
        name,
        factory,
        arguments=frozenset({"num_classes", "in_chans", "bare"}),
        image_size=("img_size", size[1]) if size and size[1] == size[2] else None,
        variants=({}, {"global_pool": "avg"}) if _PLAIN_VIT.fullmatch(name) else ({},),
        code=version("timm"),
    )


def _cmon(name: str) -> Constructor | None:
    if not cifar.is_model(name):
        return None
    stem_only = name in ("cifar_resnet18", "cifar_resnet34", "cifar_resnet50")
    mixed: tuple[Mapping[str, Any], ...] = ({}, {"head": "linear"}, {"shortcut": "shortcut"})
    return Constructor(
        "cmon",
        name,
        cifar.model_factory(name),
        arguments=frozenset({"num_classes", "in_chans"}),
        variants=mixed if stem_only else ({},),
        code=hashlib.sha256(Path(cifar.__file__).read_bytes()).hexdigest(),
        assumed="no max-pooling after the 3x3 stem" if "resnet" in name and _four_stages(name) else None,
    )


def _four_stages(name: str) -> bool:
    return name.endswith(("18", "34", "50"))


_CONSTRUCTORS: dict[str, Callable[[str], Constructor | None]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "cmon": _cmon,
}


def constructor(library: str, name: str) -> Constructor | None:
    """The factory of that name in torchvision, timm or cmon; None where that library has none."""
    return _CONSTRUCTORS[library](name)


def list_architectures(library: str) -> list[str]:
    """Names of all classifiers of torchvision, timm or cmon."""
    if library == "cmon":
        return cifar.list_models()
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip

    names: list[str]
    if library == "torchvision":
        from torchvision import models

        names = models.list_models(module=models)
    else:
        import timm

        names = timm.list_models()
    return sorted(names)
