"""Which pictures are wanted: of what, at which epoch, from which seed; and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.recorder import Network
from concept_monitor_cli.study.looks import Look

#: Photos of a unit that a picture is compared with.
PHOTOS = 5
#: Places on the way from one unit to another.
BLENDS = (0.0, 0.25, 0.5, 0.75, 1.0)

#: What pictures are for. `shown`: to be looked at. The others say what chance makes of them: `seed`, the last
#: epoch from a second seed; `still`, a film's last epoch climbed on; `alone`, units without `--diverse`.
Role = Literal["shown", "seed", "still", "alone"]


@dataclass(frozen=True)
class Wish:
    """A picture that is wanted.

    Attributes:
        unit: whose; 0 of a whole layer and of a caricature.
        other: of a pair, the other unit; -1 for none.
        share: of a pair, how far on the way to the other one.
        member: of several pictures of a unit kept unlike each other, which; -1 for none.
        image: of a caricature, what the image is called.
    """

    unit: int
    other: int = -1
    share: float = 0.0
    member: int = -1
    image: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture that has been made.

    Attributes:
        wish: what was wanted.
        image: `(channels, s, s)` float32 in [0, 1].
        activations: `(R,)` float32: of all units of the layer, as the run pools them; of a whole layer how
            loud it is, of a caricature how like the image, one number.
        robust: what was climbed, as in `activations`, its mean under `ROBUST_DRAWS` warps.
        silent: whether the start had no gradient.
        chance: of a whole layer, how loud the start is; of a caricature, how like other images; else NaN.
    """

    wish: Wish
    image: NDArray[np.float32]
    activations: NDArray[np.float32]
    robust: float
    silent: bool
    chance: float = float("nan")


@dataclass(frozen=True, eq=False)
class Task:
    """Pictures of a layer at one epoch from one seed.

    Attributes:
        record, network, look: which layer, when.
        wishes: the pictures; of `--diverse` all of a unit stand together.
        seed: of start and warps.
        role: what they are for.
        before: of a film, the pictures that these go on from; `None` for those that begin it.
        film: whether these are part of a film.
    """

    record: CheckpointRecord
    network: Network
    look: Look
    wishes: tuple[Wish, ...]
    seed: int
    role: Role = "shown"
    before: Task | None = None
    film: bool = False

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.look.layer.name


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
