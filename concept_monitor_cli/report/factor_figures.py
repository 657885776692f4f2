"""Figures of coupled factors: those of Saini & Papalexakis 2021, and how factors grow over the epochs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.factor_measures import similarity
from concept_monitor_cli.report.style import (
    INK,
    OTHER_COLOUR,
    TRACK_COLOURS,
    UNIT_COLOUR,
    figure_style,
    titled,
)
from concept_monitor_cli.report.unit_figures import thumbnail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

_SIDE = 72
_GAP = 4
# Factors that have a colour of their own over the epochs; the others are grey.
_TRACKED = len(TRACK_COLOURS)
# Bins of images sorted by impurity.
_BINS = 10


@dataclass(frozen=True)
class FactorLook:
    """A factor as it is shown.

    Attributes:
        factor: its number.
        images: `(h, w, 3)` uint8 each, those that have most of it first.
        classes: those that have most of it; none where classes are not known.
        superclasses: the same.
        concept: of the member of a basis that is the same direction; `""` where there is none.
        purity, chance_purity: the largest class's share; NaN where not known.
        picture: `(s, s, 3)` at least 0: the factor in the pixels; `None` where they were not factorised.
        neighbours: `(d,)`: the strongest factors of the images around the first one.
        chance_neighbours: `(d,)`: the same for images drawn at random.
    """

    factor: int
    images: Sequence[Pixels]
    classes: tuple[str, ...]
    superclasses: tuple[str, ...]
    concept: str
    purity: float
    chance_purity: float
    picture: NDArray[np.float64] | None
    neighbours: NDArray[np.int64] | None
    chance_neighbours: NDArray[np.float64] | None


def _strip(images: Sequence[Pixels], length: int) -> Pixels:
    row = np.full((_SIDE, length * (_SIDE + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images[:length]):
        start = place * (_SIDE + _GAP)
        row[:, start : start + _SIDE] = thumbnail(image, side=_SIDE)
    return row


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def cards(looks: Sequence[FactorLook], epoch: int) -> Figure:
    """The paper's table 1: a row for each factor, its classes, images and superclasses.

    Args:
        looks: the factors.
        epoch: for the title.
    """
    from matplotlib.figure import Figure

    length = max([1, *(len(look.images) for look in looks)])
    with figure_style():
        figure = Figure(figsize=(3.1 + 0.62 * length, 0.72 * len(looks) + 0.5), layout="constrained")
        grid = figure.subplots(len(looks), 2, squeeze=False, width_ratios=[2.9, 0.62 * length])
        for (words, pictures), look in zip(grid, looks, strict=True):
            words.text(0, 0.5, _caption(look), va="center", ha="left", fontsize=7.5, linespacing=1.25)
            words.set_xlim(0, 1)
            _bare(words)
            pictures.imshow(_strip(look.images, length), interpolation="lanczos", aspect="equal")
            _bare(pictures)
        figure.suptitle(f"factors at epoch {epoch}, and the images that have most of each", fontsize=10)
    return figure


def _caption(look: FactorLook) -> str:
    names = ", ".join(look.classes) or "classes not known"
    lines = textwrap.wrap(f"{look.factor}: {names}", 44, max_lines=2, placeholder=" …")
    if look.superclasses:
        lines += textwrap.wrap(f"({'; '.join(look.superclasses)})", 46, max_lines=2, placeholder=" …)")
    if not np.isnan(look.purity):
        lines.append(f"purity {look.purity:.2f} (chance {look.chance_purity:.2f})")
    if look.concept:
        lines.append(f"concept: {look.concept}")
    return "\n".join(lines)


def class_table(factors: pd.DataFrame, weights: NDArray[np.float64], classes: Sequence[str]) -> Figure:
    """How much of each factor each class has: a row for each factor.

    Args:
        factors: rows of `factors.csv`, for chance.
        weights: `(d, K)`: each class's share of each factor.
        classes: `K` names.
    """
    from matplotlib.figure import Figure

    chance = float(factors["chance_purity"].mean())
    most = min(len(classes), 100)
    shown = np.argsort(-np.nanmax(weights, axis=0), kind="stable")[:most]
    shown = np.sort(shown)
    with figure_style():
        width = max(5.0, 0.24 * most + 1.6)
        figure = Figure(figsize=(width, 0.22 * len(weights) + 1.9), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(weights[:, shown], vmin=0, cmap="viridis", aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, shrink=0.8).set_label(f"share of the factor (chance {chance:.2f})")
        size = 8 if most <= 40 else 5
        axes.set_xticks(range(most), [classes[i] for i in shown], rotation=90, fontsize=size)
        axes.set_yticks(range(len(weights)), [str(k) for k in range(len(weights))], fontsize=7)
        axes.set_ylabel("factor")
        axes.set_title("which classes have which factor?", color=INK)
    return figure


def similarity_matrices(loadings: Mapping[str, Tensor], epoch: int) -> Figure:
    """The paper's figure 2: cosines between the factors' units in each layer.

    Args:
        loadings: layer -> `(p, d)`.
        epoch: for the title.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(loadings))
    rows = -(-len(loadings) // columns)
    with figure_style():
        figure = Figure(figsize=(2.5 * columns + 0.7, 2.6 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        image = None
        for axes, (layer, W) in zip(grid.flat, loadings.items(), strict=False):
            image = axes.imshow(
                similarity(W).numpy(), vmin=0, vmax=1, cmap="viridis", interpolation="nearest"
            )
            axes.set_title(layer, color=INK)
            axes.tick_params(labelsize=6)
        for axes in list(grid.flat)[len(loadings) :]:
            axes.set_axis_off()
        assert image is not None
        figure.colorbar(image, ax=grid, shrink=0.8).set_label("cosine")
        figure.suptitle(f"do factors share units? (epoch {epoch}; diagonal: each has its own)", fontsize=10)
    return figure


def spectra(spectrum: pd.DataFrame) -> Figure:
    """The paper's figure 3 over the epochs: how separate factors are, layer by layer.

    Args:
        spectrum: rows of `factor-spectrum.csv`.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    rows = spectrum.drop_duplicates(["epoch", "layer"])
    layers = list(dict.fromkeys(rows["layer"]))
    epochs = sorted(rows["epoch"].unique().tolist())
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(epochs)))
    titles = {
        "leading": "leading eigenvalue",
        "mean_of_three": "mean of the three largest",
        "effective_rank": "effective rank",
    }
    with figure_style():
        figure = Figure(figsize=(10.2, 3.3), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
            for shade, epoch in zip(shades, epochs, strict=True):
                mine = rows[rows["epoch"] == epoch].set_index("layer").reindex(layers)
                axes.plot(range(len(layers)), mine[name], color=shade, marker="o", ms=3, label=str(epoch))
                if epoch == epochs[-1]:
                    axes.plot(range(len(layers)), mine[f"chance_{name}"], color=shade, ls=":", lw=1)
            axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right", fontsize=7)
            axes.set_title(title, color=INK)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=min(10, len(epochs)),
            title="epoch (dotted: units permuted, at the last)",
        )
        titled(figure, "How separate are the factors of each layer?")
    return figure


def strengths(factors: pd.DataFrame) -> Figure:
    """How strong each factor is over the epochs, a panel for each layer.

    Args:
        factors: rows of `factors.csv`.
    """
    from matplotlib.figure import Figure

    rows = factors[~factors["layer"].str.startswith("pixels:")]
    layers = list(dict.fromkeys(rows["layer"]))
    last = rows[rows["epoch"] == rows["epoch"].max()]
    # In colour those whose share moves most, of all layers together.
    moves = rows.groupby(["layer", "factor"])["share"].agg(lambda share: share.max() - share.min())
    moving = moves.groupby("factor").sum().sort_values(ascending=False, kind="stable").index[:_TRACKED]
    columns = min(4, len(layers))
    lines = -(-len(layers) // columns)
    with figure_style():
        figure = Figure(figsize=(2.7 * columns + 0.4, 2.4 * lines + 0.7), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for axes, layer in zip(grid.flat, layers, strict=False):
            own = rows[rows["layer"] == layer]
            for factor in sorted(last["factor"].unique().tolist(), key=lambda k: k in moving):
                mine = own[own["factor"] == factor].sort_values("epoch")
                tracked = factor in moving
                place = list(moving).index(factor) if tracked else 0
                axes.plot(
                    mine["epoch"],
                    mine["share"],
                    color=TRACK_COLOURS[place] if tracked else UNIT_COLOUR,
                    lw=1.4 if tracked else 0.7,
                    marker="o" if mine["epoch"].nunique() == 1 or tracked else None,
                    ms=2.5,
                    label=f"factor {factor}" if tracked else None,
                )
            axes.set_title(layer, color=INK)
            axes.set_ylim(bottom=0)
        for axes in list(grid.flat)[len(layers) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        for axes in grid[:, 0]:
            axes.set_ylabel("share of the strength")
        handles = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(8, max(1, len(handles)))
        )
        titled(figure, "How strong is each factor over the epochs?")
    return figure


def median_mask(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a factor is above its median, channel by channel: `(s, s, 3)` bool."""
    mask: NDArray[np.bool_] = picture > np.median(picture, axis=(0, 1), keepdims=True)
    return mask


def masked(image: Pixels, picture: NDArray[np.float64]) -> Pixels:
    """An image at the factor's size, black in every channel where the factor is not above its median."""
    from PIL import Image

    side = picture.shape[0]
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    return np.where(median_mask(picture), small, 0).astype(np.uint8)


def _as_image(picture: NDArray[np.float64]) -> Pixels:
    """The largest value of all channels becomes 255."""
    most = picture.max()
    return (picture * (255 / most if most > 0 else 0)).astype(np.uint8)


def pictures(looks: Sequence[FactorLook]) -> Figure:
    """The paper's figures 4 and 5, a to c: each factor in the pixels, its first image, that image masked.

    Args:
        looks: the factors, with pictures.
    """
    from matplotlib.figure import Figure

    columns = 2 if len(looks) > 5 else 1
    lines = -(-len(looks) // columns)
    with figure_style():
        figure = Figure(figsize=(4.4 * columns, 1.25 * lines + 0.4), layout="constrained")
        grid = figure.subplots(lines, 3 * columns, squeeze=False)
        for axes in grid.flat:
            _bare(axes)
        for place, look in enumerate(looks):
            line, column = place % lines, 3 * (place // lines)
            first, second, third = grid[line, column : column + 3]
            assert look.picture is not None
            first.imshow(_as_image(look.picture), interpolation="nearest")
            first.set_ylabel(str(look.factor), rotation=0, labelpad=9, va="center")
            if look.images:
                second.imshow(thumbnail(look.images[0], side=_SIDE), interpolation="lanczos")
                third.imshow(masked(look.images[0], look.picture), interpolation="nearest")
        for column in range(columns):
            for axes, title in zip(
                grid[0, 3 * column : 3 * column + 3], ("factor", "image", "above median"), strict=True
            ):
                axes.set_title(title, fontsize=8, color=INK)
        titled(figure, "Factors as pixels, and the image that has most of each")
    return figure


def neighbour_bars(looks: Sequence[FactorLook]) -> Figure:
    """The paper's figures 4d and 5d: the strongest factors of the images around each factor's first image.

    Args:
        looks: the factors.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(looks))
    lines = -(-len(looks) // columns)
    with figure_style():
        figure = Figure(figsize=(2.7 * columns, 1.3 * lines + 0.5), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
        for axes, look in zip(grid.flat, looks, strict=False):
            counts = np.zeros(len(looks)) if look.neighbours is None else look.neighbours
            colours = [TRACK_COLOURS[0] if k == look.factor else OTHER_COLOUR for k in range(len(counts))]
            axes.bar(range(len(counts)), counts, color=colours, width=0.8)
            if look.chance_neighbours is not None:
                ends = np.arange(len(counts))
                axes.hlines(
                    look.chance_neighbours, ends - 0.4, ends + 0.4, color=INK, lw=1, label="by chance"
                )
            axes.set_title(f"first image of {look.factor}", fontsize=8, color=INK)
            axes.tick_params(labelsize=6)
        for axes in list(grid.flat)[len(looks) :]:
            axes.set_axis_off()
        figure.supxlabel("factor", fontsize=8)
        figure.supylabel("neighbours", fontsize=8)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower right", fontsize=7)
        titled(figure, "Strongest factors of the images around the first image of each factor")
    return figure


def purest_and_most_impure(
    impurity: Tensor, chance: float, image: Callable[[int], Pixels], shown: int
) -> Figure:
    """The images whose neighbours have one factor, and those whose neighbours have many.

    Args:
        impurity: `(N,)` bits; NaN where not known.
        chance: of random neighbours.
        image: reads an image by its number.
        shown: how many of each, in two rows.
    """
    from matplotlib.figure import Figure

    order = torch.argsort(torch.nan_to_num(impurity, nan=torch.inf), stable=True)
    known = order[: int(impurity.isfinite().sum())].tolist()
    count = min(2 * shown, len(known) // 2 or len(known))
    groups = {"purest": known[:count], "most impure": known[::-1][:count]}
    with figure_style():
        figure = Figure(figsize=(0.78 * shown + 0.4, 4.6), layout="constrained")
        grid = figure.subplots(4, 1, squeeze=False)[:, 0]
        for place, (name, numbers) in enumerate(groups.items()):
            values = [float(impurity[number]) for number in numbers]
            for line in range(2):
                axes = grid[2 * place + line]
                axes.imshow(
                    _strip([image(n) for n in numbers[line * shown : (line + 1) * shown]], shown),
                    interpolation="lanczos",
                )
                _bare(axes)
            if values:
                grid[2 * place].set_title(
                    f"{name}: {min(values):.2f} to {max(values):.2f} bits (chance {chance:.2f})",
                    fontsize=9,
                    color=INK,
                    loc="left",
                )
    return figure


def accuracy_by_impurity(impurity: Tensor, correct: Tensor) -> Figure:
    """How often the network is right, over images sorted by impurity, in ten groups of equal size.

    Args:
        impurity: `(N,)`; images where it is not known do not count.
        correct: `(N,)` bool.
    """
    from matplotlib.figure import Figure

    known = impurity.isfinite()
    order = torch.argsort(impurity[known], stable=True)
    right = correct[known][order].double().numpy()
    parts = [part for part in np.array_split(right, _BINS) if len(part)]
    shares = [part.mean() for part in parts]
    errors = [np.sqrt(share * (1 - share) / len(part)) for share, part in zip(shares, parts, strict=True)]
    with figure_style():
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(parts)) + 1
        axes.errorbar(places, shares, yerr=errors, color=TRACK_COLOURS[0], marker="o", ms=4, capsize=2)
        axes.axhline(right.mean(), color=OTHER_COLOUR, ls="--", lw=0.9)
        axes.set_xticks(places)
        axes.set_xlabel("tenth of the images, purest first")
        axes.set_ylabel("share named right")
        axes.set_title("dashed: all images; bars: one standard error", fontsize=8, color=INK)
    return figure
