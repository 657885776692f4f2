"""One look for every figure: the same category has the same colour everywhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import PlotFormats
from concept_monitor_cli.report import paper
from concept_monitor_cli.store.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by its lightness.
CATEGORY_COLOURS = {
    "color": "#CC79A7",
    "texture": "#56B4E9",
    "material": "#E69F00",
    "part": "#009E73",
    "object": "#0072B2",
    "scene": "#D55E00",
}
OTHER_COLOUR = "#8C8C8C"
ANCHOR_COLOUR = "#B2182B"
UNIT_COLOUR = "#B8BCC2"
# Units that are followed on a map: told from each other, from categories, grey units and red anchors, on the
# white page as well as on the dark one.
FOLLOWED_COLOURS = ("#8A1CFF", "#665D00", "#D400C8", "#2638FF", "#E8005F", "#7B4C7F")
# Whatever else there is several of.
TRACK_COLOURS = ("#0072B2", "#7B3294", "#009E73", "#E69F00", "#56B4E9", "#332288", "#8C510A", "#D55E00")
# Colours that mean something, wherever they are drawn.
PALETTE = (*CATEGORY_COLOURS.values(), *FOLLOWED_COLOURS, *TRACK_COLOURS, OTHER_COLOUR)
INK = "#1F2328"
GRID_COLOUR = "#E4E6E9"
CAPTION_COLOUR = "#5D646C"

_CAPTION_POINTS = 7.0
_TITLE_POINTS = 10.5
# The mean width of a letter of DejaVu Sans in its height, a little more than it is.
_LETTER_WIDTH = 0.58

PLOT_FORMATS = ("png", "svg", "pdf")


def category_colour(category: str) -> str:
    """The colour of a category; categories that are not Broden's share one grey."""
    return CATEGORY_COLOURS.get(category, OTHER_COLOUR)


@contextmanager
def figure_style(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Matplotlib's settings for drawing a figure and for writing it, without a display.

    Args:
        more: settings that go before.
    """
    import matplotlib as mpl

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9AA0A6",
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "figure.dpi": 100,
        "figure.autolayout": False,
        "figure.constrained_layout.use": False,
        "savefig.dpi": 160,
        "svg.hashsalt": "cmon",
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
    }
    with mpl.rc_context({**settings, **(more or {})}):
        yield


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png",), *, caption: str = "") -> list[Path]:
    """Write a figure in each format, whole or not at all; equal figures give equal bytes.

    Args:
        figure: the figure.
        path: where to, without the suffix.
        formats: any of `png`, `svg`, `pdf`; those of a command's options know their style as well.
        caption: stands below the figure, if there is anything to say.

    Raises:
        InputError: an unknown format.
    """
    for suffix in formats:
        if suffix not in PLOT_FORMATS:
            raise InputError(
                f"figures cannot be written as {suffix!r}",
                where="--plot-format",
                hint=f"choose from {', '.join(PLOT_FORMATS)}",
            )
    if not formats:
        return []
    on_paper = isinstance(formats, PlotFormats) and formats.style == "paper"
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style(paper.SETTINGS if on_paper else {}):
        column = paper.set_for_paper(figure, PALETTE) if on_paper else 0.0
        _settle(figure)
        if caption:
            _write_below(figure, caption, paper.FONT_POINTS[0] if on_paper else _CAPTION_POINTS)
        part = paper.page_part(figure, column) if on_paper else _shown_part(figure)
        return [_write(figure, path, suffix, part) for suffix in formats]


def _settle(figure: Figure) -> None:
    """Lay a figure out for good: what is written below it moves nothing."""
    paper.fit_legends(figure)
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)  # "none" would have every figure with a colour bar drawn once more
    for legend in figure.legends:  # else it stays at the foot of whatever is written
        legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)


def _shown_part(figure: Figure) -> Bbox:
    """What of a figure is to be written, in inches; asked of matplotlib it would draw the figure for it."""
    import matplotlib as mpl

    part: Bbox = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    return part


def _write_below(figure: Figure, caption: str, points: float) -> None:
    """A caption under everything that a figure shows, as wide as that."""
    shown = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    letters = round(shown.width * 72 / (points * _LETTER_WIDTH))
    lines = textwrap.wrap(caption, max(30, letters))
    foot = (shown.y0 - 0.06) / height
    figure.text(shown.x0 / width, foot, "\n".join(lines), fontsize=points, va="top", color=CAPTION_COLOUR)


def _write(figure: Figure, path: Path, suffix: str, part: Bbox) -> Path:
    target = path.with_name(f"{path.name}.{suffix}")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[suffix]
    with atomic_write(target) as temporary:
        figure.savefig(temporary, format=suffix, metadata=metadata, bbox_inches=part)
    return target


def panel_row(count: int, width: float, height: float, *, sharex: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of panels beside one another.

    Args:
        count: of the panels.
        width: of each, in inches.
        height: of the figure.
        sharex: whether all have the same scale across.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, sharex=sharex)[0])


def titled(figure: Figure, title: str) -> None:
    """Say above all panels what a figure shows, in as many lines as its width asks for."""
    letters = max(24, round(figure.get_figwidth() * 72 / (_TITLE_POINTS * _LETTER_WIDTH)))
    figure.suptitle("\n".join(textwrap.wrap(title, letters)), fontsize=_TITLE_POINTS, color=INK)


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend of one panel, which all share, under the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
