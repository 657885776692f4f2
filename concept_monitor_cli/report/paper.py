"""A figure on a page of a paper: its width, its fonts, and what colours tell told without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

#: One and two columns of a page in inches: ICML's, which also fit into those of CVPR, IEEE and Nature.
COLUMNS = (3.25, 6.75)
#: The smallest and the largest letters of a figure in points: readable, no larger than the text around it.
FONT_POINTS = (6.0, 8.0)
#: Dots per inch of a picture of pixels.
DPI = 300
#: What matplotlib is to write: letters of SVG as outlines, which any viewer shows.
SETTINGS: dict[str, Any] = {"svg.fonttype": "path", "savefig.dpi": DPI, "hatch.linewidth": 0.5}

#: Stands in the colour of a category before a name, where no patch can be drawn.
SQUARE = "■"

# A figure that would have to shrink to less than this share of its width in one column gets two.
_LEAST = 0.68
# Above and below what is written, in inches.
_MARGIN = 0.02
# Drawn so often at most until everything fits: what is beside the panels does not shrink with them.
_ROUNDS = 6
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "8", "H", (3, 0, 45), (4, 1, 0))
# The same marks as letters, as far as there are: those of categories.
_SIGNS = "●■▲◆▼✚✖◀▶"
_HATCHES = (
    *("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "||||"),
    *("oo", "**", "//", "\\\\", "..", "xx", "--", "||"),
)
# So many marks of a line are told from each other.
_MARKS_OF_A_LINE = 10


def set_for_paper(figure: Figure, palette: Sequence[str]) -> float:
    """Make a finished figure fit a page.

    It becomes one or two columns wide, its letters are between the smallest and the largest size, and what is
    drawn in a colour of the palette gets a mark or a hatch of its own, the same in every figure.

    Args:
        figure: the figure; it is changed.
        palette: colours that carry a meaning, as `#RRGGBB`.

    Returns:
        The width of its column in inches.
    """
    width, height = figure.get_size_inches()
    column = next((each for each in COLUMNS if each >= _LEAST * width), COLUMNS[-1])
    scale = min(1.0, column / width)
    _set_letters(figure, scale)
    _tell_apart(figure, {colour.lower(): place for place, colour in enumerate(dict.fromkeys(palette))})
    # Images keep their shape; of lines and bars the height is spent by letters, which shrink less.
    lower = scale if any(axes.images for axes in figure.axes) else scale**0.5
    figure.set_size_inches(column, height * lower)
    fit_legends(figure)
    for _ in range(_ROUNDS):  # until nothing stands out of the column
        figure.draw_without_rendering()
        taken = figure.get_tightbbox().width
        if taken <= column:
            break
        figure.set_figwidth(figure.get_figwidth() * column / taken)
    return column


def page_part(figure: Figure, column: float) -> Bbox:
    """What of a figure for a page is to be written, in inches: the width of its column, all of its height."""
    from matplotlib.transforms import Bbox

    found = figure.get_tightbbox()
    middle, half = (found.x0 + found.x1) / 2, max(column, found.width) / 2
    return Bbox.from_extents(middle - half, found.y0 - _MARGIN, middle + half, found.y1 + _MARGIN)


def _set_letters(figure: Figure, scale: float) -> None:
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in axis.get_major_ticks()[:1]:  # as large as those that are still to be made
                axis.set_tick_params(labelsize=_size(float(tick.label1.get_fontsize()), scale))
    for text in figure.findobj(Text):
        text.set_fontsize(_size(float(text.get_fontsize()), scale))


def _size(points: float, scale: float) -> float:
    least, most = FONT_POINTS
    return min(most, max(least, points * scale))


def _legends(figure: Figure) -> list[Legend]:
    own = [axes.get_legend() for axes in figure.axes]
    return [*figure.legends, *(each for each in own if each is not None)]


def fit_legends(figure: Figure) -> None:
    """Break the entries of the legends below a figure into as many lines as its width asks for."""
    for legend in list(figure.legends):
        entries = [text.get_text() for text in legend.get_texts()]
        columns = len(entries)
        while columns > 1 and legend.get_window_extent().width > figure.bbox.width:
            columns -= 1
            narrower = figure.legend(
                [each for each in legend.legend_handles if each is not None],
                entries,
                loc="outside lower center",
                ncols=columns,
                fontsize=legend.get_texts()[0].get_fontsize(),
            )
            legend.remove()
            legend = narrower


def _drawn(figure: Figure) -> Iterator[Artist]:
    """What panels and legends show, without axes, grids and frames."""
    for axes in figure.axes:
        yield from (*axes.lines, *axes.patches, *axes.collections)
    for legend in _legends(figure):
        yield from (each for each in legend.legend_handles if each is not None)


def _tell_apart(figure: Figure, places: dict[str, int]) -> None:
    """Give what is drawn in colours of the palette, where there are several, marks and hatches."""
    from matplotlib.colors import to_hex
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        place = places.get(str(to_hex(text.get_color())))
        if text.get_text() == SQUARE and place is not None:
            text.set_text(_SIGNS[place % len(_SIGNS)])
    coloured = [(each, places[colour]) for each in _drawn(figure) if (colour := _colour(each)) in places]
    for each, place in coloured if len({place for _, place in coloured}) > 1 else []:
        _mark(each, place)


def _colour(artist: Artist) -> str | None:
    """The one colour in which something is drawn; `None` where it has several or none."""
    from matplotlib.collections import Collection
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if isinstance(artist, Line2D):
        return str(to_hex(artist.get_color()))
    if isinstance(artist, Patch):
        return str(to_hex(artist.get_facecolor())) if artist.get_fill() else None
    if isinstance(artist, Collection) and artist.get_array() is None:
        colours = {str(to_hex(each)) for each in artist.get_facecolor()}
        return colours.pop() if len(colours) == 1 else None
    return None


def _mark(artist: Artist, place: int) -> None:
    from matplotlib.collections import PathCollection, PolyCollection
    from matplotlib.lines import Line2D
    from matplotlib.markers import MarkerStyle
    from matplotlib.patches import Patch

    mark, hatch = _MARKS[place % len(_MARKS)], _HATCHES[place % len(_HATCHES)]
    if isinstance(artist, Line2D):
        if artist.get_linestyle() == "-":
            artist.set_markevery(max(1, np.size(artist.get_xdata()) // _MARKS_OF_A_LINE))
        elif artist.get_marker() in ("None", "", None):
            return  # a line that its dashes tell already
        artist.set_marker(mark)
        artist.set_markersize(min(4.0, artist.get_markersize()))
    elif isinstance(artist, PathCollection):
        shape = MarkerStyle(mark)
        artist.set_paths([shape.get_path().transformed(shape.get_transform())])
    elif isinstance(artist, Patch | PolyCollection):
        artist.set_hatch(hatch)
        artist.set_edgecolor("white")
        if hasattr(artist, "set_hatchcolor"):  # before matplotlib 3.11 hatches have the colour of edges
            artist.set_hatchcolor("white")
        artist.set_linewidth(0.3)
