"""How to build the network of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from concept_monitor_cli.checkpoints.architectures import is_volatile
from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.constructors import Factory, LeaveOut, built
from concept_monitor_cli.models.differences import load_weights
from concept_monitor_cli.wording import counted

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSource:
    """How to build the network of a checkpoint.

    Attributes:
        library: torchvision, timm, cmon or user.
        name: the factory's name there; for a factory of the user, what was given as `--model`.
        kwargs: arguments of the factory, the number of classes among them.
        num_classes: outputs of the classifier; None where it has none, or does not tell.
        in_chans: channels of its images.
        alternatives: other architectures with the same names and shapes, "library/name", plainest first.
        notes: sentences for the user: what was assumed, what is ambiguous.
        recognised: whether the name was found out rather than given.
        untrained: modules for which the checkpoint has no weights (a classifier that was cut off or
            replaced). They are filled with NaN, so that no number can come out of them by mistake.
        unused: names in the checkpoint that are no part of the network (the classifier's replacement).
        code: version of the library; for a factory of the user a digest of the file and both libraries'
            versions.
        factory: builds the network from `kwargs`.
        stem: name of the first convolution's weight, where it must be changed to `in_chans`.
    """

    library: str
    name: str
    kwargs: Mapping[str, Any]
    num_classes: int | None
    in_chans: int
    alternatives: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recognised: bool = False
    untrained: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    code: str = ""
    factory: Factory = field(default=nn.Identity, repr=False, compare=False)
    stem: str | None = None

    @property
    def label(self) -> str:
        """Library and name: "torchvision/resnet18"; the user's own spelling for a factory of his."""
        return self.name if self.library == "user" else f"{self.library}/{self.name}"

    def describe(self) -> str:
        """One sentence for the user: what it is, how that is known, what was assumed."""
        classes = "no classifier" if self.num_classes is None else counted(self.num_classes, "classes")
        channels = "" if self.in_chans == 3 else f", {self.in_chans} input channels"
        size = "".join(f", {key}={value}" for key, value in self.kwargs.items() if key.endswith("_size"))
        how = "recognised from the weights' names and shapes" if self.recognised else "as given by --model"
        return "; ".join([f"network: {self.label}, {classes}{channels}{size}, {how}", *self.notes])

    def identity(self) -> dict[str, Any]:
        """What tells this network from others with the same weights, as plain values for a store key."""
        return {
            "library": self.library,
            "name": self.name,
            "kwargs": {key: self.kwargs[key] for key in sorted(self.kwargs)},
            "in_chans": self.in_chans,
            "code": self.code,
        }

    def build(self, device: str | torch.device = "cpu", *, seed: int = 0) -> nn.Module:
        """Build it with fresh weights, in evaluation mode. The global random state is left alone.

        Args:
            device: "meta" for names and shapes without memory.
            seed: of the fresh weights (those of torch's own generator).

        Raises:
            InputError: a factory of the user fails.
        """
        model = built(self.factory, self.kwargs, torch.device(device), seed)
        if self.stem is not None:
            _change_stem(model, self.stem, self.in_chans)
        return model.eval()

    def restore(self, state_dict: Mapping[str, Tensor], device: str | torch.device = "cpu") -> nn.Module:
        """Build it with a checkpoint's weights, in evaluation mode.

        The same as `build` and `load`, without the time that fresh weights take: every parameter is
        overwritten, or filled with NaN where the checkpoint has none for it (`untrained`).

        Args:
            state_dict: the weights, wrappers' prefixes stripped.
            device: where the network shall be.

        Raises:
            InputError: the weights do not fit, or a factory of the user fails.
        """
        with LeaveOut(parameters=True):
            model = self.build()
        if any(is_volatile(name) for name, _ in model.named_parameters()):
            model = self.build()  # loading would leave such a parameter as it is, and it is not even made
        self.load(model, state_dict)
        return model.to(device)

    def align(self, state_dict: Mapping[str, T], model: nn.Module) -> dict[str, T]:
        """The state dict, or anything else by its names, under the names that the network itself uses.

        They differ where loading took off a prefix that is no wrapper's, but the network's own (a user's
        class with everything in `self.model`).
        """
        own = own_names(model)
        return {own.get(key, key): value for key, value in state_dict.items()}

    def load(self, model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's weights into a network made by `build`; see `load_weights`."""
        load_weights(model, self.align(state_dict, model), untrained=self.untrained, unused=self.unused)


def own_names(model: nn.Module) -> dict[str, str]:
    """Name without prefixes -> name in the network."""
    return {new: old for old, new in strip_prefixes(model.state_dict()).names.items()}


def _change_stem(model: nn.Module, key: str, channels: int) -> None:
    module = model.get_submodule(key.rpartition(".")[0])
    if not isinstance(module, nn.Conv2d) or module.groups != 1:
        raise InputError(
            f"the network takes 3 channels, the checkpoint {channels}, and {key} cannot be changed to that",
            hint="--model file.py:factory with a network that takes them",
        )
    old = module.weight
    module.in_channels = channels
    module.weight = nn.Parameter(old.new_zeros(old.shape[0], channels, *old.shape[2:]))
    with torch.random.fork_rng(devices=[]):
        module.reset_parameters()
