"""Pictures of how good labels are, unit by unit: CLIP-Dissect, A.8 and figures 12 and 13; groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from concept_monitor_cli.functional.evaluation.cutoff import quality_curve
from concept_monitor_cli.functional.evaluation.sanity import PASSING
from concept_monitor_cli.report.style import (
    GRID_COLOUR,
    INK,
    TRACK_COLOURS,
    UNIT_COLOUR,
    figure_style,
    titled,
)
from concept_monitor_cli.report.unit_figures import Look, Pixels, strip

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: An image by its id.
ReadImage = Callable[[str], Pixels]

_MUTED = "#6B7178"
_FOUND = TRACK_COLOURS[0]
_LINE: dict[str, Any] = {"color": "#9AA0A6", "lw": 1.2, "ls": (0, (3, 2)), "zorder": 1}
_IMAGE = 0.72
_MOST_ROWS = 24


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """The last epoch, and of it one similarity."""
    last: pd.DataFrame = rows[rows["epoch"] == rows["epoch"].max()]
    own: pd.DataFrame = last[last["similarity"] == last["similarity"].iloc[0]]
    return own


def score_against_quality(cutoff: pd.DataFrame) -> Figure:
    """Every unit's score and quality, the mean quality from each score on, and the cutoff that follows.

    Args:
        cutoff: rows of `evaluation-cutoff.csv` of one layer and detector; the last epoch is drawn.
    """
    from matplotlib.figure import Figure

    rows = _last(cutoff)
    scores, quality = rows["score"].to_numpy(dtype=float), rows["quality"].to_numpy(dtype=float)
    curve = quality_curve(torch.tensor(scores), torch.tensor(quality))
    called = rows["interpretable"].to_numpy(dtype=bool)
    tau, wanted = float(rows["cutoff"].iloc[0]), float(rows["wanted"].iloc[0])
    metric = str(rows["metric"].iloc[0])
    with figure_style():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for chosen, colour, name in (
            (~called, UNIT_COLOUR, "unit"),
            (called, TRACK_COLOURS[7], "unit called interpretable"),
        ):
            if chosen.any():
                axes.scatter(scores[chosen], quality[chosen], s=11, c=colour, lw=0, alpha=0.8, label=name)
        axes.plot(curve.scores, curve.quality, color=_FOUND, lw=1.8, label="mean of all units from here on")
        chance = float(rows["chance"].mean())
        for level, said in ((wanted, f"wanted: {wanted:g}"), (chance, f"by chance: {chance:.2g}")):
            if np.isfinite(level):
                axes.axhline(level, **_LINE)
                axes.annotate(
                    said,
                    (1, level),
                    (0, 3),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7.5,
                    color=_MUTED,
                )
        if np.isfinite(tau):
            axes.axvline(tau, color=INK, lw=1)
            above = int((scores > tau).sum())
            axes.set_title(f"cutoff {tau:.3g}: {above} of {len(scores)} units above", color=INK)
        else:
            good = bool(rows["above"].all())
            axes.set_title("no cutoff is needed" if good else "no cutoff gives that quality", color=INK)
        similarity = str(rows["similarity"].iloc[0])
        axes.set_xlabel(f"score of the label ({similarity})" if similarity else "score of the label")
        axes.set_ylabel(
            "top images that show the concept" if metric == "showing" else metric.replace("_", " ")
        )
        axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        titled(figure, f"Scores and quality of the labels of {rows['layer'].iloc[0]}")
    return figure


def sanity_of_measures(sanity: pd.DataFrame) -> Figure:
    """Share of units for which each measure falls when labels go missing, or false ones are added.

    Args:
        sanity: rows of `evaluation-sanity.csv` of one layer and detector; the last epoch is drawn.
    """
    from matplotlib.figure import Figure

    rows = _last(sanity)
    places = np.arange(len(rows))[::-1]
    with figure_style():
        figure = Figure(figsize=(5.0, 0.32 * len(rows) + 1.1), layout="constrained")
        axes = figure.subplots()
        axes.axvline(100 * PASSING, **_LINE)
        for column, colour, marker, name in (
            ("missing_fallen", TRACK_COLOURS[0], "o", "half of the labels missing"),
            ("extra_fallen", TRACK_COLOURS[7], "s", "as many false labels added"),
        ):
            axes.scatter(100 * rows[column], places, s=30, c=colour, marker=marker, label=name, zorder=3)
        names = rows["metric"].str.replace("_", " ").tolist()
        axes.set_yticks(places, names)
        for tick, passes in zip(axes.get_yticklabels(), rows["passes"], strict=True):
            tick.set_fontweight("bold" if passes else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", color=GRID_COLOUR, lw=0.7)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("units whose score falls, as it should [%]")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        titled(figure, f"Do the measures notice spoilt labels of {rows['layer'].iloc[0]}?")
    return figure


def wider_ranges(images: pd.DataFrame, image: ReadImage) -> Figure:
    """Random images of the top 0.1 %, 1 % and 5 % of some units (figures 12 and 13).

    Args:
        images: rows of `evaluation-range-images.csv` of one layer and detector; the last epoch is drawn.
        image: gives the pixels of an image.
    """
    rows = _last(images)
    shares = sorted(rows["share"].unique().tolist())
    units = list(dict.fromkeys(rows["unit"].tolist()))[:_MOST_ROWS]
    lengths = [int(rows[rows["share"] == share]["place"].max()) for share in shares]
    lines = []
    for unit in units:
        own = rows[rows["unit"] == unit]
        pictures = [own[own["share"] == share].sort_values("place")["image"].tolist() for share in shares]
        lines.append((f"{unit}: {own['concept'].iloc[0]}", pictures))
    heads = [f"top {100 * share:g} %" for share in shares]
    title = f"Images of the tops of units of {rows['layer'].iloc[0]}"
    return _strips(lines, lengths, heads, image, title)


def image_groups(images: pd.DataFrame, image: ReadImage) -> Figure:
    """The top images of some units, a line per group, with the concept of each group.

    Args:
        images: rows of `evaluation-group-images.csv` of one layer and detector; the last epoch is drawn.
        image: gives the pixels of an image.
    """
    rows = _last(images)
    lines = []
    for unit in dict.fromkeys(rows["unit"].tolist()):
        for group, own in rows[rows["unit"] == unit].groupby("group", sort=True):
            said = f"{unit}: {own['concept'].iloc[0]}" if group == 1 else str(own["concept"].iloc[0])
            lines.append((said, [own.sort_values("place")["image"].tolist()]))
    lines = lines[:_MOST_ROWS]
    length = max(len(pictures[0]) for _, pictures in lines)
    title = f"Groups of images that units of {rows['layer'].iloc[0]} respond to"
    return _strips(lines, [length], [""], image, title)


def _strips(
    lines: Sequence[tuple[str, Sequence[Sequence[str]]]],
    lengths: Sequence[int],
    heads: Sequence[str],
    image: ReadImage,
    title: str,
) -> Figure:
    """Lines of text and strips of images; every column of strips as wide as its images ask for."""
    from matplotlib.figure import Figure

    text, gap = 1.75, 0.16
    width = text + sum(_IMAGE * length + gap for length in lengths)
    head = 0.3 if any(heads) else 0.08
    height = _IMAGE * len(lines) + head
    with figure_style():
        figure = Figure(figsize=(width, height))
        figure.suptitle(title, x=0.01, y=1.02, ha="left", va="bottom", fontsize=10, color=INK)
        left = text
        for heading, length, column in zip(heads, lengths, range(len(lengths)), strict=True):
            figure.text(left / width, 1 - 0.5 * head / height, heading, fontsize=9, color=INK, va="center")
            for number, (_, pictures) in enumerate(lines):
                bottom = height - head - (number + 1) * _IMAGE
                axes = figure.add_axes(
                    (left / width, bottom / height, _IMAGE * length / width, 0.95 * _IMAGE / height)
                )
                shown = [image(name) for name in pictures[column]]
                axes.imshow(strip(_look(shown), length), interpolation="lanczos")
                axes.set_axis_off()
            left += _IMAGE * length + gap
        for number, (said, _) in enumerate(lines):
            middle = height - head - (number + 0.5) * _IMAGE
            figure.text(0.01, middle / height, said, fontsize=8.5, color=INK, va="center")
    return figure


def _look(images: Sequence[Pixels]) -> Look:
    return Look(0, 0, (), "", 0.0, False, images)
