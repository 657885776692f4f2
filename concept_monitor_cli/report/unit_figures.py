"""Pictures of units and the images that excite them: figures 2, 7 and 15 of Concept-Monitor."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.history import natural
from concept_monitor_cli.report.paper import SQUARE
from concept_monitor_cli.report.style import INK, category_colour, figure_style, titled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

_SIDE = 112
_GAP = 6
# Seen on any photo and by any eyes: a light line with a dark edge.
_OUTLINE = (255, 230, 0)
_MUTED = "#6B7178"
# Around a picture that was made, which is no photo.
_MADE, _FRAME = (0, 114, 178), 4
_MADE_NOTE = "framed in blue: made, no photo"


@dataclass(frozen=True)
class Look:
    """A unit at one epoch: its concepts, and the images that excite it most.

    Attributes:
        epoch: when.
        unit: which.
        concepts: best first; none for a dead unit.
        category: of the best.
        score: of the best.
        interpretable: whether the best is more than chance.
        images: `(h, w, 3)` uint8 each, the most exciting first.
        masks: for each image where the unit fires, `(h', w')` bool over the whole image, or None.
        picture: `(s, s, 3)` uint8, what `cmon picture` made of the unit at this epoch; None for none.
    """

    epoch: int
    unit: int
    concepts: tuple[str, ...]
    category: str
    score: float
    interpretable: bool
    images: Sequence[Pixels]
    masks: Sequence[NDArray[np.bool_] | None] = field(default=())
    picture: Pixels | None = None


def thumbnail(image: Pixels, mask: NDArray[np.bool_] | None = None, side: int = _SIDE) -> Pixels:
    """The whole image in the middle of a white square, the mask's border drawn into it.

    Args:
        image: `(h, w, 3)`.
        mask: `(h', w')`, of any size, over the whole image; None for no border.
        side: of the square.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    small = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)).copy()
    if mask is not None and mask.any():
        inside = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        small[_border(inside)] = _OUTLINE
        small[~inside] = (small[~inside] * 0.45).astype(np.uint8)
    square = np.full((side, side, 3), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return square


def _border(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a region that have a neighbour outside it."""
    padded = np.pad(inside, 1)
    surrounded = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    border: NDArray[np.bool_] = inside & ~surrounded
    return border


def strip(look: Look, length: int, *, pictured: bool = False) -> Pixels:
    """The images of a unit in a row of `length` places.

    Args:
        look: the unit.
        length: places.
        pictured: the first place is that of the picture made of it, framed; blank where there is none.
    """
    row = _blank(length)
    masks = look.masks or [None] * len(look.images)
    if pictured and look.picture is not None:
        row[:, :_SIDE] = _MADE
        inner = _SIDE - 2 * _FRAME
        row[_FRAME:-_FRAME, _FRAME : _FRAME + inner] = thumbnail(look.picture, side=inner)
    for place, (image, mask) in enumerate(zip(look.images, masks, strict=True), start=int(pictured)):
        if place < length:
            start = place * (_SIDE + _GAP)
            row[:, start : start + _SIDE] = thumbnail(image, mask)
    return row


def _any_picture(looks: Iterable[Look]) -> bool:
    return any(look.picture is not None for look in looks)


def _blank(length: int) -> Pixels:
    return np.full((_SIDE, length * (_SIDE + _GAP) - _GAP, 3), 255, dtype=np.uint8)


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, interpolation="lanczos")
    axes.set_axis_off()


def _letters(images: int) -> int:
    """How many letters fit above a strip."""
    return max(24, 11 * images)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def unit_over_epochs(looks: Sequence[Look], *, layer: str, unit: int) -> Figure:
    """The images that excite one unit most, a row per epoch, with its concepts (figure 2).

    Args:
        looks: the unit at each epoch, in order.
        layer: for the title.
        unit: for the title.
    """
    from matplotlib.figure import Figure

    pictured = _any_picture(looks)
    length = max(1, *(len(look.images) for look in looks)) + pictured
    text = 2.1
    width, height = text + 0.95 * length, 1.0 * len(looks) + 0.45
    with figure_style():
        figure = Figure(figsize=(width, height))
        top = 1 - 0.4 / height
        step = top / len(looks)
        for number, look in enumerate(looks):
            bottom = top - (number + 1) * step
            axes = figure.add_axes((text / width, bottom + 0.03 * step, 1 - text / width, 0.94 * step))
            _show(axes, strip(look, length, pictured=pictured))
            middle = bottom + step / 2
            lines = _caption(look)
            for place, (text_of_line, style) in enumerate(lines):
                y = middle + ((len(lines) - 1) / 2 - place) * 0.17 / height
                mark = style.pop("mark", None)
                if mark:
                    figure.text(0.01, y, SQUARE, fontsize=8, color=mark, va="center")
                figure.text(0.01 + bool(mark) * 0.15 / width, y, text_of_line, va="center", **style)
        figure.suptitle(f"Unit {unit} of {layer}", y=1 - 0.2 / height, va="center", fontsize=11, color=INK)
        if pictured:
            figure.text(0.01, 1 - 0.2 / height, _MADE_NOTE, va="center", fontsize=7.5, color=_MUTED)
    return figure


def _caption(look: Look) -> list[tuple[str, dict[str, Any]]]:
    """What is said of a unit at one epoch, line by line, with its style; `mark` is a square before it."""
    small: dict[str, Any] = {"fontsize": 7.5, "color": _MUTED}
    lines: list[tuple[str, dict[str, Any]]] = [(f"epoch {look.epoch}", {"fontsize": 8, "color": _MUTED})]
    if not look.concepts:
        return [*lines, ("dead: no concept", {"fontsize": 10, "color": INK, "weight": "bold"})]
    best = look.concepts[0]
    if len(best) <= 24:
        lines.append((best, {"fontsize": 10, "color": INK, "weight": "bold"}))
    else:  # a formula
        style = {"fontsize": 8, "color": INK, "weight": "bold"}
        lines += [(part, style) for part in textwrap.wrap(best, 30, max_lines=2, placeholder=" …")]
    colour = category_colour(look.category) if look.interpretable else _MUTED
    said = f"{look.category or 'no category'} {look.score:.3g}"
    lines.append((said, {**small, "color": INK, "mark": colour}))
    if not look.interpretable:
        lines.append(("not beyond chance", {**small, "color": INK}))
    if len(look.concepts) > 1:
        lines.append((_short(f"then {', '.join(look.concepts[1:3])}", 36), {**small, "fontsize": 7}))
    return lines


def top_units_over_epochs(
    epochs: Mapping[int, Sequence[Look]], *, layer: str, which: str = "Most interpretable units"
) -> Figure:
    """Units of every epoch with their images, say the most interpretable: a column per epoch (figure 15).

    Args:
        epochs: epoch -> its units, the first first; they may be other ones at every epoch.
        layer: for the title.
        which: units these are, for the title.
    """
    from matplotlib.figure import Figure

    columns = len(epochs)
    rows = max(1, *(len(looks) for looks in epochs.values()))
    pictured = _any_picture(look for looks in epochs.values() for look in looks)
    length = max([1, *(len(look.images) for looks in epochs.values() for look in looks)]) + pictured
    wide = max(2.2, 0.62 * length)
    with figure_style():
        figure = Figure(figsize=(columns * wide + 0.2, rows * 0.95 + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for column, looks in enumerate(epochs.values()):
            for row in range(rows):
                axes = grid[row, column]
                if row < len(looks):
                    look = looks[row]
                    _show(axes, strip(look, length, pictured=pictured))
                    score = f"  {look.score:.3g}"
                    title = _short(f"{look.unit}: {look.concepts[0]}", _letters(length) - len(score)) + score
                    axes.set_title(title, fontsize=8, color=INK, loc="left", pad=3, x=0.17 / wide)
                    axes.text(
                        0,
                        1.0,
                        SQUARE,
                        color=category_colour(look.category),
                        transform=axes.transAxes,
                        fontsize=7,
                        va="bottom",
                        ha="left",
                    )
                else:
                    _show(axes, _blank(length))
                    if row == 0:
                        axes.text(
                            0.5,
                            0.5,
                            "none is interpretable",
                            ha="center",
                            va="center",
                            color=_MUTED,
                            transform=axes.transAxes,
                            fontsize=8,
                        )
        _epoch_heads(figure, grid, list(epochs))
        _categories(figure, [look.category for looks in epochs.values() for look in looks])
        titled(figure, f"{which} of {layer}" + (f" ({_MADE_NOTE})" if pictured else ""))
    return figure


def _epoch_heads(figure: Figure, grid: NDArray[np.object_], epochs: Sequence[int]) -> None:
    for axes, epoch in zip(grid[0], epochs, strict=True):
        axes.annotate(
            f"epoch {epoch}",
            (0.5, 1.0),
            (0, 18),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=INK,
        )


def _categories(figure: Figure, present: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    from concept_monitor_cli.monitor.history import UNCATEGORISED, category_order

    order = category_order(present)
    handles = [
        Line2D([], [], ls="", marker="s", label=name, color=colour)
        for name in order
        for colour in (category_colour("" if name == UNCATEGORISED else name),)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))


def class_table(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """How many units have a class as their concept, per epoch: a panel per layer and run (figure 7).

    Args:
        runs: name -> rows of `class_counts` of one detector.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    frames = list(runs.values())
    layers = sorted({str(layer) for frame in frames for layer in frame["layer"]}, key=natural)
    classes = list(dict.fromkeys(frames[0]["class"].tolist()))
    highest = max(1, *(int(frame["units"].max()) for frame in frames))
    most = max(frame["epoch"].nunique() for frame in frames)
    shades = LinearSegmentedColormap.from_list("counts", ["#FFFFFF", "#0072B2"])
    long = 0.075 * max(len(name) for name in classes)
    with figure_style():
        figure = Figure(
            figsize=(
                len(runs) * (max(1.6, 0.42 * most) + long) + 0.4,
                len(layers) * (0.27 * len(classes) + 0.75),
            ),
            layout="constrained",
        )
        grid = figure.subplots(len(layers), len(runs), squeeze=False)
        for line, layer in zip(grid, layers, strict=True):
            for axes, (name, frame) in zip(line, runs.items(), strict=True):
                rows = frame[frame["layer"] == layer]
                counts = rows.pivot_table(index="class", columns="epoch", values="units", aggfunc="sum")
                counts = counts.reindex(classes)
                values = counts.to_numpy(dtype=float)
                axes.imshow(values, cmap=shades, vmin=0, vmax=highest, aspect="auto")
                for (y, x), value in np.ndenumerate(values):
                    if not np.isnan(value):
                        ink = "white" if value > 0.55 * highest else INK
                        axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
                axes.set_xticks(range(values.shape[1]), [str(epoch) for epoch in counts.columns])
                axes.set_yticks(range(len(classes)), classes)
                axes.tick_params(length=0)
                title = layer if len(runs) == 1 else f"{name}: {layer}"
                axes.set_title(title, color=INK)
            line[0].set_ylabel("concept")
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        figure.suptitle("Units whose concept is one of these", fontsize=11)
    return figure


def class_examples(runs: Mapping[str, Mapping[str, Look | None]]) -> Figure:
    """For each class the unit that is most sure of it, with its images: a column per run (figure 7).

    Args:
        runs: name -> class -> the unit, or None where no unit has that concept.
    """
    from matplotlib.figure import Figure

    classes = list(next(iter(runs.values())))
    length = max([1, *(len(look.images) for found in runs.values() for look in found.values() if look)])
    with figure_style():
        figure = Figure(
            figsize=(len(runs) * max(2.4, 0.7 * length) + 0.3, 0.95 * len(classes) + 0.5),
            layout="constrained",
        )
        grid = figure.subplots(len(classes), len(runs), squeeze=False)
        for column, (name, found) in enumerate(runs.items()):
            for row, word in enumerate(classes):
                axes = grid[row, column]
                look = found[word]
                if look is None:
                    _show(axes, _blank(length))
                    axes.text(
                        0.5,
                        0.5,
                        f"no unit for {word}",
                        ha="center",
                        va="center",
                        color=_MUTED,
                        transform=axes.transAxes,
                        fontsize=8,
                    )
                else:
                    _show(axes, strip(look, length))
                    axes.set_title(f"{word}: unit {look.unit}", fontsize=8, color=INK, loc="left", pad=3)
            grid[0, column].annotate(
                name,
                (0.5, 1.0),
                (0, 18),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                fontsize=10,
                color=INK,
            )
    return figure
