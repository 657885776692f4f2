"""Pictures of a run's units: which are wanted, which the store has, and how the others are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.functional.pictures import Climb
from concept_monitor_cli.functional.rectifiers import redirected
from concept_monitor_cli.models.normalise import grey_images
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.sight import Sight, looking, usable_side
from concept_monitor_cli.store import JSONValue, Key, Store
from concept_monitor_cli.stories.recorder import Network, Recorder
from concept_monitor_cli.study.looks import Look

#: Where pictures are made at once, how many of them, and how many steps: without a GPU, and on one.
AT_ONCE, AT_ONCE_GPU = 8, 64
STEPS, STEPS_GPU = 128, 512
#: The largest side that is taken without a GPU where none is asked for, pixels.
LARGEST = 128
#: Warps under which a finished picture is shown again.
ROBUST_DRAWS = 8
#: Places on the way from one unit to another.
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Forward passes that a step costs, gradients included: 1.6 to 3 in what was measured.
PASSES_PER_STEP = 3
# Photos whose spectrum is measured at once.
_SPECTRUM_ROWS = 64


@dataclass(frozen=True)
class Wish:
    """A picture that is wanted.

    Attributes:
        unit: whose.
        other: of a pair, the other unit; -1 for none.
        share: of a pair, how far on the way to the other one.
    """

    unit: int
    other: int = -1
    share: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A picture that has been made.

    Attributes:
        wish: what was wanted.
        image: `(channels, s, s)` float32 in [0, 1].
        activations: `(R,)` float32, of all units of the layer, as the run pools them.
        robust: the unit's mean activation under `ROBUST_DRAWS` warps.
        silent: whether the start had no gradient.
    """

    wish: Wish
    image: NDArray[np.float32]
    activations: NDArray[np.float32]
    robust: float
    silent: bool


@dataclass(frozen=True)
class Scale:
    """What the probing images say of a layer at one epoch: the measure of its pictures.

    Attributes:
        mean, maximum: `(R,)` float32, over the images.
        best: `(R, n)` int64, the images of the highest activations; ties by number.
    """

    mean: Tensor
    maximum: Tensor
    best: Tensor

    @classmethod
    def of(cls, pooled: Tensor, images: int) -> Scale:
        """Of `(N, R)` pooled activations; units that are not finite somewhere have NaN."""
        order = torch.sort(pooled.nan_to_num(-torch.inf), dim=0, descending=True, stable=True).indices
        mean, maximum = pooled.double().mean(0).float(), pooled.amax(0)
        finite = pooled.isfinite().all(0)
        return cls(
            torch.where(finite, mean, torch.nan),
            torch.where(finite, maximum, torch.nan),
            order[:images].T.contiguous(),
        )


Wanted = TypeVar("Wanted")


class PictureSizes(Protocol):
    """What a user says of the size of pictures, and of how many are made at once."""

    @property
    def size(self) -> int | None:
        """`--size`."""

    @property
    def at_once(self) -> int | None:
        """`--at-once`."""


@dataclass
class Ascents:
    """How large pictures are on this machine, and how many are made at once.

    Args:
        recorder: the run's networks.
        sizes: what the user said.
        progress: told what happens.
        largest: the largest side where none is asked for, without a GPU and on one (`None`: its own).
    """

    recorder: Recorder
    sizes: PictureSizes
    progress: Progress
    largest: tuple[int | None, int | None]
    _sides: dict[int, int] = field(default_factory=dict)

    @cached_property
    def on_gpu(self) -> bool:
        """Whether there is one."""
        return self.recorder.device.type != "cpu"

    @property
    def at_once(self) -> int:
        """Pictures in a batch. The same for every batch, since another number rounds otherwise."""
        return self.sizes.at_once or (AT_ONCE_GPU if self.on_gpu else AT_ONCE)

    def batches(self, wanted: Sequence[Wanted]) -> Iterator[tuple[list[Wanted], list[Wanted]]]:
        """What is wanted, batch by batch, and each batch filled up with copies of its last."""
        for first in range(0, len(wanted), self.at_once):
            batch = list(wanted[first : first + self.at_once])
            yield batch, batch + [batch[-1]] * (self.at_once - len(batch))

    def side(self, network: Network) -> int:
        """The side of pictures, tried once for each architecture."""
        place = id(network.architecture)
        if place not in self._sides:
            own = network.architecture.preprocessing.geometry.size
            wanted = self.sizes.size or min(own, self.largest[self.on_gpu] or own)
            if wanted == own:
                self._sides[place] = own
            else:
                channels = network.architecture.layers[0].channels
                tries = [wanted] if self.sizes.size else [wanted, own]
                side = usable_side(network.make(), channels, tries, self.recorder.device)
                if side != wanted:
                    self.progress.notice(
                        f"pictures of {side} pixels: the network takes no images of {wanted}"
                    )
                self._sides[place] = side
        return self._sides[place]


@dataclass
class Maker:
    """Makes the pictures of a run.

    Args:
        recorder: the run's networks.
        options: how.
        progress: told what happens.
    """

    recorder: Recorder
    options: PictureOptions
    progress: Progress
    _spectra: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @cached_property
    def ascents(self) -> Ascents:
        """How large pictures are, and how many are made at once."""
        return Ascents(self.recorder, self.options, self.progress, (LARGEST, None))

    @property
    def steps(self) -> int:
        """Of the ascent."""
        return self.options.steps or (STEPS_GPU if self.ascents.on_gpu else STEPS)

    def climb(self, network: Network, layer_channels: int, seed: int) -> Climb:
        """How the pictures of a network are made."""
        options = self.options
        return Climb(
            kind=options.parameters,
            side=self.ascents.side(network),
            channels=layer_channels,
            steps=self.steps,
            seed=seed,
            warped=options.warps,
            smooth=options.tv,
        )

    # -- the store -----------------------------------------------------------------------------

    def key(self, network: Network, look: Look, wish: Wish, seed: int, scale: Scale | None) -> Key:
        """What a picture depends on."""
        climb = self.climb(network, look.tapped.channels, seed)
        parts: dict[str, JSONValue] = {
            "network": network.architecture.source.identity(),
            "weights": network.architecture.weights_digest(network.checkpoint, look.tapped.name),
            "layer": look.tapped.name,
            "objective": self.options.objective,
            "unit": wish.unit,
            "parameters": climb.kind,
            "side": climb.side,
            "steps": climb.steps,
            "seed": climb.seed,
            "warps": climb.warped,
            "tv": climb.smooth,
            **network.architecture.preprocessing.colour_key,
            "pooling": network.pooling,
            "precision": "fp32",
            "at_once": self.ascents.at_once,
            "draws": ROBUST_DRAWS,
        }
        if look.key is not None:
            parts["basis"] = look.key.digest
        if climb.kind == "maco":
            parts["photos"] = network.architecture.pixels.digest
        if wish.other >= 0:
            assert scale is not None
            units = [wish.unit, wish.other]
            parts["pair"] = [wish.other, wish.share]
            parts["between"] = [scale.mean[units].tolist(), scale.maximum[units].tolist()]
        return self.recorder.store.key("picture", **parts)

    def missing(
        self, network: Network, look: Look, wishes: Sequence[Wish], seed: int, scale: Scale | None
    ) -> list[Wish]:
        """Those that the store lacks."""
        store = self.recorder.store
        return [wish for wish in wishes if not store.proved(self.key(network, look, wish, seed, scale))]

    def load(
        self, network: Network, look: Look, wishes: Sequence[Wish], seed: int, scale: Scale | None
    ) -> list[Picture]:
        """Pictures that are in the store."""
        found = []
        for wish in wishes:
            entry = self.recorder.store.get(self.key(network, look, wish, seed, scale))
            if entry is None:
                raise InputError(
                    f"the picture of unit {wish.unit} of {look.layer.name} has gone from the cache",
                    where=self.recorder.store.root,
                    hint="run the command again",
                )
            with entry:
                found.append(
                    Picture(
                        wish,
                        entry.read("image"),
                        entry.read("activations"),
                        float(entry.read("robust")[0]),
                        bool(entry.read("silent")[0]),
                    )
                )
        return found

    # -- making --------------------------------------------------------------------------------

    def make(
        self,
        network: Network,
        look: Look,
        wishes: Sequence[Wish],
        seed: int,
        scale: Scale | None,
        advance: Callable[[int], None],
    ) -> None:
        """Makes pictures and puts them into the store, batch by batch: a killed run goes on where it was.

        Args:
            network: at one epoch.
            look: the layer.
            wishes: those that the store lacks.
            seed: of start and warps.
            scale: for pairs.
            advance: called with the number of pictures' steps that were done.
        """
        climb = self.climb(network, look.tapped.channels, seed)
        magnitude = self._magnitude(network, climb)
        device = self.recorder.device
        with looking(
            network.make(),
            look.tapped,
            network.architecture.preprocessing,
            basis=look.basis(),
            pooling=network.pooling,
            device=device,
        ) as sight:
            for batch, padded in self.ascents.batches(wishes):

                def stepped(count: int = len(batch)) -> None:
                    advance(count)

                ascent = method.ascend(
                    self._score(sight, padded, scale),
                    climb,
                    len(padded),
                    magnitude=magnitude,
                    redirect=_redirected,
                    device=device,
                    step_done=stepped,
                )
                activations = sight.activations(ascent.images)
                robust = self._robust(sight, ascent.images, padded, climb)
                self._put(network, look, batch, seed, scale, ascent, activations, robust)

    def _put(
        self,
        network: Network,
        look: Look,
        batch: Sequence[Wish],
        seed: int,
        scale: Scale | None,
        ascent: method.Ascent,
        activations: Tensor,
        robust: Tensor,
    ) -> None:
        store: Store = self.recorder.store
        for place, wish in enumerate(batch):
            arrays = {
                "image": ascent.images[place].float().cpu().numpy(),
                "activations": activations[place].cpu().numpy(),
                "robust": robust[place : place + 1].cpu().numpy(),
                "silent": ascent.silent[place : place + 1].to(torch.uint8).cpu().numpy(),
            }
            store.put(self.key(network, look, wish, seed, scale), arrays).close()

    def _score(self, sight: Sight, wishes: Sequence[Wish], scale: Scale | None) -> Callable[[Tensor], Tensor]:
        """What the pictures of a batch climb."""
        device = self.recorder.device
        units = torch.tensor([wish.unit for wish in wishes], device=device)
        if wishes[0].other >= 0:
            assert scale is not None
            others = torch.tensor([wish.other for wish in wishes], device=device)
            mean, maximum = scale.mean.to(device), scale.maximum.to(device)
            shares = [wish.share for wish in wishes]

            def blended(images: Tensor) -> Tensor:
                pooled = sight.pooled(images)
                first, second = (
                    method.above_mean(method.of_own(pooled, own), mean[own], maximum[own])
                    for own in (units, others)
                )
                return method.blends(shares, first, second)

            return blended
        if self.options.objective == "neuron":
            return lambda images: method.at_centre(sight.maps(images), units)
        sign = -1.0 if self.options.objective == "unit-" else 1.0
        return lambda images: sign * method.of_own(sight.pooled(images), units)

    def _robust(self, sight: Sight, images: Tensor, wishes: Sequence[Wish], climb: Climb) -> Tensor:
        """The mean activation of each picture's unit under some fixed warps, `(B,)`."""
        units = torch.tensor([wish.unit for wish in wishes], device=images.device)
        found = [
            method.of_own(sight.activations(method.warp(images, matrix)), units)
            for matrix in climb.warps("robust", ROBUST_DRAWS)
        ]
        return torch.stack(found).mean(0)

    def _magnitude(self, network: Network, climb: Climb) -> Tensor | None:
        """The spectrum of the photos at the pictures' size, for `maco`."""
        if climb.kind != "maco":
            return None
        place = (network.architecture.pixels.digest, climb.side)
        if place not in self._spectra:
            self._spectra[place] = method.natural_magnitude(self._photos(network, climb))
        return self._spectra[place].to(self.recorder.device)

    def _photos(self, network: Network, climb: Climb) -> Iterator[Tensor]:
        """The probing images as the network sees them, `(b, channels, s, s)` in [0, 1]."""
        pixels = network.architecture.pixels
        for first in range(0, len(pixels), _SPECTRUM_ROWS):
            rows = pixels.rows(first, min(first + _SPECTRUM_ROWS, len(pixels)))
            images = torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2).float() / 255
            if climb.channels == 1:
                images = grey_images(images)
            side = (climb.side, climb.side)
            if images.shape[-2:] != side:
                images = torch.nn.functional.interpolate(
                    images, side, mode="bilinear", antialias=True, align_corners=False
                ).clamp(0, 1)
            yield images


def _redirected() -> AbstractContextManager[object]:
    """Gradients that wake silent units; of networks without ReLU nothing is changed."""
    return redirected()
