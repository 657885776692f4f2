"""Factors over the epochs of a run: what is factorised, and the fit at every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.coupled import (
    GROUP_WEIGHT,
    Factorisation,
    balanced,
    coupled_factors,
    group_sparse_factors,
    nonnegative_loadings,
    published_factors,
    residual,
)
from concept_monitor_cli.functional.factor_matching import factor_stability, matched, rank_agreement
from concept_monitor_cli.options import FactorsOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.stories.activations import RecordedLayer

#: What the colour channels are called in the tables, where layers have their names.
CHANNELS = ("pixels:red", "pixels:green", "pixels:blue")
#: Ranks that `--rank auto` looks at, starts of each, and the agreement that it asks for.
RANKS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 25, 30, 35, 40, 45, 50)
RANK_STARTS = 5
RANK_AGREEMENT = 0.9
_RANK_SWEEPS = 100
# Of the mean loading: where a warm start is above 0 everywhere.
_WARM_LEVEL = 1e-3


@dataclass(frozen=True)
class Block:
    """One layer at one epoch, or one colour channel, as it is factorised.

    Attributes:
        name: the layer, or one of `CHANNELS`.
        units: `(p,)`: which unit each column is of; columns that are not finite are left out. With
            `--images positions` a unit has several.
        values: `(N, p)` float64, divided by `norm` where blocks are balanced.
        norm: Frobenius norm of the values before.
    """

    name: str
    units: NDArray[np.int64]
    values: Tensor
    norm: float


@dataclass(frozen=True)
class Part:
    """The factors in one block.

    Attributes:
        name: the layer or channel.
        units: `(p,)`, as in `Block`.
        W: `(p, d)` float64, the loadings; in units of the balanced block.
        norm: of the block before balancing.
        residual: share of the block's sum of squares that is left.
        own_residual: the same of the epoch's own fit; NaN where it was not made.
        chance: the same of the best loadings for the factors of permuted images.
    """

    name: str
    units: NDArray[np.int64]
    W: Tensor
    norm: float
    residual: float
    own_residual: float
    chance: float

    def by_unit(self) -> tuple[NDArray[np.int64], Tensor]:
        """Which units there are, and the length of each one's loadings over its positions, `(C, d)`."""
        units, place = np.unique(self.units, return_inverse=True)
        if len(units) == len(self.units):
            return self.units, self.W
        sums = self.W.new_zeros(len(units), self.W.shape[1])
        sums.index_add_(0, torch.from_numpy(place.reshape(-1)), self.W.square())
        return units, sums.sqrt()


@dataclass(frozen=True)
class EpochFactors:
    """The factors at one epoch.

    Attributes:
        epoch: the epoch.
        checkpoint: its checkpoint.
        F: `(N, d)` float64; in `shared` and `anchored` the same object at all epochs.
        parts: the channels, if they are factorised, and the layers.
        stability: `(d,)`: mean cosine to the partners in fits from random starts.
        matched_from: `(d,)`: each factor's number in the epoch's own fit, before it was matched.
        cosine: `(d,)`: to the same factor at the next epoch; NaN at the last one.
        chance_cosine: the mean cosine of the best match with that epoch's images permuted.
    """

    epoch: int
    checkpoint: str
    F: Tensor
    parts: tuple[Part, ...]
    stability: Tensor
    matched_from: NDArray[np.int64]
    cosine: Tensor
    chance_cosine: float

    @property
    def layers(self) -> list[Part]:
        """The parts that are layers."""
        return [part for part in self.parts if part.name not in CHANNELS]

    @property
    def channels(self) -> list[Part]:
        """The parts that are colour channels."""
        return [part for part in self.parts if part.name in CHANNELS]


@dataclass
class Setting:
    """What a fit depends on besides the blocks.

    Attributes:
        options: solver, penalties, starts.
        members: `d`.
        groups: `(N,)` classes for `--group-sparse`.
    """

    options: FactorsOptions
    members: int
    groups: Tensor | None = None

    def fit(
        self,
        blocks: Sequence[Block],
        *,
        seed: int | None = None,
        start: tuple[Tensor, Sequence[Tensor]] | None = None,
        sweeps: int | None = None,
    ) -> Factorisation:
        """Factorise blocks; from `seed` at random, from `start`, or from their singular vectors."""
        options = self.options
        values = [block.values for block in blocks]
        limit = {} if sweeps is None else {"sweeps": sweeps}
        if options.solver == "published":
            pixels = [block.values for block in blocks if block.name in CHANNELS]
            layers = [block.values for block in blocks if block.name not in CHANNELS]
            penalties = (options.lambda_pixels, options.lambda_units, options.lambda_images)
            drawn = options.seed if seed is None else seed
            found = published_factors(pixels, layers, self.members, seed=drawn, penalties=penalties)
            order = [block.name in CHANNELS for block in blocks]
            if order != sorted(order, reverse=True):
                raise ValueError("channels come before layers")
            return found
        if self.groups is not None:
            weight = options.lambda_images or GROUP_WEIGHT
            return group_sparse_factors(
                values, self.members, self.groups, weight=weight, start=start, seed=seed, **limit
            )
        ridge = [
            options.lambda_pixels if block.name in CHANNELS else options.lambda_units for block in blocks
        ]
        return coupled_factors(
            values,
            self.members,
            start=start,
            seed=seed,
            ridge=ridge,
            ridge_images=options.lambda_images,
            **limit,
        )

    def stability(self, blocks: Sequence[Block], F: Tensor) -> Tensor:
        """How well each factor is found again from random starts, `(d,)`."""
        seeds = range(self.options.seed + 1, self.options.seed + 1 + self.options.starts)
        return factor_stability(F, (self.fit(blocks, seed=seed).F for seed in seeds))


@dataclass
class Blocks:
    """Reads what is factorised, an epoch at a time.

    Attributes:
        epochs: epoch -> its layers.
        pixels: the channels, `(N, p)` each in [0, 1]; none without `--pixels`.
        options: balance, rectify.
        progress: told of units that are left out.
    """

    epochs: dict[int, list[RecordedLayer]]
    pixels: Sequence[Tensor]
    options: FactorsOptions
    progress: Progress
    _told: set[str] = field(default_factory=set)
    _chance: dict[tuple[str, int], float] = field(default_factory=dict)

    def channels(self) -> list[Block]:
        """The colour channels."""
        return [
            self._block(name, np.arange(values.shape[1]), values)
            for name, values in zip(CHANNELS, self.pixels, strict=False)
        ]

    def layers(self, epoch: int) -> list[Block]:
        """The layers at an epoch.

        Raises:
            InputError: negative activations without `--rectify`, or no unit that is finite.
        """
        return [self._layer(each) for each in self.epochs[epoch]]

    def chance(self, block: Block, permuted: Tensor, F: Tensor) -> float:
        """What the factors of permuted images leave of a block; of a channel once while `F` stays."""
        place = (block.name, id(F))
        if block.name not in CHANNELS or place not in self._chance:
            left = residual(block.values, permuted, nonnegative_loadings(block.values, permuted))
            if block.name not in CHANNELS:
                return left
            self._chance = {key: value for key, value in self._chance.items() if key[1] == id(F)}
            self._chance[place] = left
        return self._chance[place]

    def _layer(self, each: RecordedLayer) -> Block:
        values = each.read()
        finite = values.isfinite().all(0)
        if not bool(finite.all()):
            lost = int((~finite).sum())
            what = "units" if each.positions == 1 else "positions of units"
            self._tell(f"{lost} {what} of {each.layer} at epoch {each.epoch} are not finite and are left out")
        units = finite.nonzero()[:, 0].numpy() // each.positions
        if not len(units):
            raise InputError(f"no unit of {each.layer} has finite activations", where=each.checkpoint)
        values = values[:, finite]
        if bool((values < 0).any()):
            if not self.options.rectify:
                raise InputError(
                    f"{each.layer} has activations below 0 at epoch {each.epoch}, which non-negative factors "
                    "cannot make",
                    where=each.checkpoint,
                    hint="choose layers behind their ReLU with --layer, or count them as 0 with --rectify",
                )
            values = values.clamp_min(0)
        return self._block(each.layer, units, values)

    def _block(self, name: str, units: NDArray[np.int64], values: Tensor) -> Block:
        (scaled,), (norm,) = balanced([values])
        return Block(name, units, scaled if self.options.balance else values.double(), norm)

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.progress.notice(message)


def over_epochs(blocks: Blocks, setting: Setting, progress: Progress) -> Iterator[EpochFactors]:
    """The factors of every epoch; in `free` the last epoch comes first.

    Memory: `shared` holds the layers of all epochs at once; the other two those of one epoch.
    """
    mode = setting.options.mode
    with progress.task("factorising", len(blocks.epochs), "epochs") as advance:
        epochs = {"shared": _shared, "anchored": _anchored, "free": _free}[mode](blocks, setting)
        for each in epochs:
            yield each
            advance(1)


def _shared(blocks: Blocks, setting: Setting) -> Iterator[EpochFactors]:
    """One set of factors of the images for all epochs."""
    channels = blocks.channels()
    by_epoch = {epoch: blocks.layers(epoch) for epoch in blocks.epochs}
    stacked = channels + [block for layers in by_epoch.values() for block in layers]
    found = setting.fit(stacked)
    stability = setting.stability(stacked, found.F)
    loadings = iter(found.W)
    shown = [next(loadings) for _ in channels]
    for epoch, layers in by_epoch.items():
        mine = [next(loadings) for _ in layers]
        own = found if len(by_epoch) == 1 else setting.fit([*channels, *layers])
        yield _epoch(blocks, epoch, found.F, [*channels, *layers], [*shown, *mine], own, setting, stability)


def reference_epoch(blocks: Blocks, wanted: int | None) -> int:
    """The epoch whose factors the others are read in.

    Raises:
        InputError: the run has no such epoch.
    """
    epochs = sorted(blocks.epochs)
    if wanted is None:
        return epochs[-1]
    if wanted not in epochs:
        raise InputError(
            f"this run has no epoch {wanted}",
            where="--reference",
            hint=f"it has: {', '.join(map(str, epochs))}",
        )
    return wanted


def _anchored(blocks: Blocks, setting: Setting) -> Iterator[EpochFactors]:
    """The factors of one epoch, and how strong they are at the others."""
    reference = reference_epoch(blocks, setting.options.reference)
    channels = blocks.channels()
    at_reference = [*channels, *blocks.layers(reference)]
    found = setting.fit(at_reference)
    stability = setting.stability(at_reference, found.F)
    del at_reference
    for epoch in blocks.epochs:
        layers = [*channels, *blocks.layers(epoch)]
        if epoch == reference:
            yield _epoch(blocks, epoch, found.F, layers, found.W, found, setting, stability)
            continue
        loadings = [nonnegative_loadings(block.values, found.F) for block in layers]
        own = setting.fit(layers)
        yield _epoch(blocks, epoch, found.F, layers, loadings, own, setting, stability)


def _free(blocks: Blocks, setting: Setting) -> Iterator[EpochFactors]:
    """Each epoch's own factors, numbered as those of the next epoch that they match; the last epoch first."""
    following: Factorisation | None = None
    shapes: list[int] = []
    rng = np.random.default_rng(setting.options.seed)
    channels = blocks.channels()
    for epoch in sorted(blocks.epochs, reverse=True):
        layers = [*channels, *blocks.layers(epoch)]
        start = None
        if setting.options.warm and following is not None and shapes == _shapes(layers):
            # A factor that has no part in a layer at the next epoch may have one here.
            start = (following.F, [W + _WARM_LEVEL * float(W.mean()) for W in following.W])
        found = setting.fit(layers, start=start)
        order, cosine, by_chance = _in_line(found, following, rng)
        found = Factorisation(found.F[:, order], tuple(W[:, order] for W in found.W), found.objective)
        stability = setting.stability(layers, found.F)
        yield _epoch(
            blocks, epoch, found.F, layers, found.W, found, setting, stability, (order, cosine, by_chance)
        )
        following, shapes = found, _shapes(layers)


def _shapes(blocks: Sequence[Block]) -> list[int]:
    return [block.values.shape[1] for block in blocks]


def _in_line(
    found: Factorisation, following: Factorisation | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor, float]:
    """For each factor of the next epoch its partner here, the cosines, and those with permuted images."""
    members = found.F.shape[1]
    if following is None:
        return torch.arange(members), torch.full((members,), torch.nan, dtype=torch.float64), float("nan")
    order, cosine = matched(following.F, found.F)
    permuted = found.F[torch.from_numpy(rng.permutation(len(found.F)))]
    return order, cosine, float(matched(following.F, permuted)[1].mean())


def _epoch(
    blocks: Blocks,
    epoch: int,
    F: Tensor,
    shown: Sequence[Block],
    loadings: Sequence[Tensor],
    own: Factorisation,
    setting: Setting,
    stability: Tensor,
    matching: tuple[Tensor, Tensor, float] | None = None,
) -> EpochFactors:
    members = F.shape[1]
    rng = np.random.default_rng(setting.options.seed)
    permuted = F[torch.from_numpy(rng.permutation(len(F)))]
    parts = [
        Part(
            block.name,
            block.units,
            W,
            block.norm,
            residual(block.values, F, W),
            residual(block.values, own.F, own_W),
            blocks.chance(block, permuted, F),
        )
        for block, W, own_W in zip(shown, loadings, own.W, strict=True)
    ]
    same = (
        torch.arange(members),
        torch.full((members,), torch.nan, dtype=torch.float64),
        float("nan"),
    )
    order, cosine, by_chance = matching or same
    return EpochFactors(
        epoch,
        blocks.epochs[epoch][0].checkpoint,
        F,
        tuple(parts),
        stability,
        order.numpy(),
        cosine,
        by_chance,
    )


def choose_rank(
    blocks: Sequence[Block], setting: Setting, progress: Progress
) -> tuple[int, list[dict[str, object]]]:
    """The largest rank whose factors random starts agree on.

    Returns:
        the rank, and a row of `factor-rank.csv` for every rank that was looked at.

    Raises:
        InputError: starts agree on no rank.
    """
    features = sum(block.values.shape[1] for block in blocks)
    most = min(len(blocks[0].values), features)
    if setting.options.solver == "published":
        most = min(most, *(block.values.shape[1] for block in blocks))
    total = sum(float(block.values.square().sum()) for block in blocks)
    rng = np.random.default_rng(setting.options.seed)
    rows: list[dict[str, object]] = []
    chosen = 0
    ranks = [rank for rank in RANKS if rank <= most]
    with progress.task("choosing the rank", len(ranks), "ranks") as advance:
        for rank in ranks:
            trial = Setting(setting.options, rank, setting.groups)
            seeds = range(setting.options.seed, setting.options.seed + RANK_STARTS)
            fits = [trial.fit(blocks, seed=seed, sweeps=_RANK_SWEEPS) for seed in seeds]
            agreement = rank_agreement([fit.F for fit in fits])
            permuted = [fit.F[torch.from_numpy(rng.permutation(len(fit.F)))] for fit in fits]
            left = sum(
                residual(block.values, fits[0].F, W) * float(block.values.square().sum())
                for block, W in zip(blocks, fits[0].W, strict=True)
                if block.norm > 0
            )
            rows.append(
                {
                    "rank": rank,
                    "agreement": agreement,
                    "chance": rank_agreement(permuted),
                    "residual": left / total,
                    "chosen": False,
                }
            )
            if agreement >= RANK_AGREEMENT:
                chosen = len(rows)
            advance(1)
    if not chosen:
        best = max((float(str(row["agreement"])) for row in rows), default=float("nan"))
        raise InputError(
            f"random starts agree on no rank: their mean cosine is {best:.2f} at best, not {RANK_AGREEMENT}",
            where="--rank auto",
            hint="say how many factors: --rank 20",
        )
    rows[chosen - 1]["chosen"] = True
    return int(str(rows[chosen - 1]["rank"])), rows
