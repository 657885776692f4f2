"""What a page shows of other commands, from `dynamics` to `ablate`: their tables, where they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.uses import Uses, last_concepts, read_uses
from concept_monitor_cli.report.page.atlas import atlas_json, atlas_photos
from concept_monitor_cli.report.page.pack import floats
from concept_monitor_cli.report.style import category_colour
from concept_monitor_cli.run import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Images on the card of a factor.
IMAGES = 6
#: Rows of ranges of a layer that a page has room for; of more, the last epoch's.
MOST_RANGES = 60_000
#: Neighbours of a unit on either side of its circuit.
NEIGHBOURS = 4


@dataclass(frozen=True)
class Structure:
    """Tables of other commands that have a panel of their own.

    Attributes:
        similarity: rows of `similarity.csv`; `None` where `cmon dynamics` has not run.
        factors: rows of `factors.csv`; `None` where `cmon factors` has not run.
        classes: of `factor-classes.csv`.
        images: of `factor-images.csv`.
        circuit: rows of `circuit.csv`; `None` where `cmon circuits` has not run.
        name: what the run is called in `similarity.csv`.
        words: sentences about when layers have become what they are.
        uses: what units do for the classes.
        atlas: the map of `cmon atlas` (`atlas_json`); `None` where it has made none.
        ranges: layer and detector -> rows of what its units say at ranges of their activation.
    """

    similarity: pd.DataFrame | None = None
    factors: pd.DataFrame | None = None
    classes: pd.DataFrame | None = None
    images: pd.DataFrame | None = None
    circuit: pd.DataFrame | None = None
    name: str = ""
    words: tuple[str, ...] = ()
    uses: Uses = field(default_factory=Uses)
    atlas: Mapping[str, Any] | None = None
    ranges: Mapping[tuple[str, str], pd.DataFrame] = field(default_factory=dict)

    def images_of_panels(self) -> list[str]:
        """Names of the images that panels show: on cards of factors, then beside cells of the atlas."""
        return [*self._factor_images(), *atlas_photos(self.atlas)]

    def _factor_images(self) -> list[str]:
        if self.images is None:
            return []
        last = self.images[self.images["epoch"] == self.images["epoch"].max()]
        rows = last[last["place"] < IMAGES].sort_values(["factor", "place"], kind="stable")
        return [str(name) for name in rows["image"]]


def read_structure(run: RunFolder) -> Structure:
    """The tables of a run that are there.

    Raises:
        InputError: a file is there and is no such table.
    """
    factors = run.on_page("factors")
    return Structure(
        run.on_page("dynamics").get("similarity"),
        factors.get("factors"),
        factors.get("factor-classes"),
        factors.get("factor-images"),
        run.on_page("circuits").get("circuit"),
        uses=read_uses(run),
        atlas=atlas_json(run),
    )


def uses_json(uses: Uses, histories: Sequence[History]) -> dict[str, Any] | None:
    """What units do, in sentences; `None` where nothing is known.

    Args:
        uses: the tables.
        histories: the layers of the page, in its order.
    """
    by_series = [
        {str(unit): told for unit, told in uses.by_unit(history.layer, last_concepts(history)).items()}
        for history in histories
    ]
    words = uses.sentences()
    return {"words": words, "units": by_series} if words or any(by_series) else None


def dynamics_json(structure: Structure, layers: Sequence[str]) -> dict[str, Any] | None:
    """Debiased CKA between the epochs of each layer; `None` where there is none.

    Args:
        structure: the tables.
        layers: those of the page.
    """
    table = structure.similarity
    if table is None:
        return None
    own = table[
        (table["measure"] == "cka")
        & (table["run"] == structure.name)
        & (table["other_run"] == structure.name)
        & (table["layer"] == table["other_layer"])
        & table["layer"].isin(list(layers))
    ]
    if own.empty:
        return None
    found = []
    for layer in dict.fromkeys(name for name in layers if name in set(own["layer"])):
        rows = own[own["layer"] == layer]
        epochs = sorted(set(rows["epoch"]) | set(rows["other_epoch"]))
        place = {epoch: number for number, epoch in enumerate(epochs)}
        values = np.full((len(epochs), len(epochs)), np.nan)
        chance = values.copy()
        for row in rows.itertuples(index=False):
            i, j = place[row.epoch], place[row.other_epoch]
            values[i, j] = values[j, i] = row.value
            chance[i, j] = chance[j, i] = row.chance
        found.append(
            {
                "layer": layer,
                "epochs": [int(epoch) for epoch in epochs],
                "cka": floats(values),
                "chance": floats(chance),
            }
        )
    return {"layers": found, "words": list(structure.words)}


def factors_json(structure: Structure, places: Mapping[str, int]) -> dict[str, Any] | None:
    """The factors of a run, a card each, and their strength over the epochs; `None` where there are none.

    Args:
        structure: the tables.
        places: name of an image -> its place in the sheets of the page, for those that are there.
    """
    table = structure.factors
    if table is None or table.empty:
        return None
    layers = [str(name) for name in dict.fromkeys(table["layer"]) if not str(name).startswith("pixels:")]
    rows = table[table["layer"].isin(layers)]
    epochs = sorted(int(epoch) for epoch in rows["epoch"].unique())
    members = int(rows["factor"].max()) + 1
    last = rows[rows["epoch"] == epochs[-1]]
    shares = {}
    for layer in layers:
        values: NDArray[np.float64] = np.full((len(epochs), members), np.nan)
        mine = rows[rows["layer"] == layer]
        at = np.searchsorted(epochs, mine["epoch"].to_numpy(dtype=np.int64))
        values[at, mine["factor"].to_numpy(dtype=np.int64)] = mine["share"].to_numpy(dtype=float)
        shares[layer] = floats(values)
    return {
        "epochs": epochs,
        "layers": layers,
        "members": members,
        "share": shares,
        "cards": [_card(structure, last, factor, places) for factor in range(members)],
    }


def _card(structure: Structure, last: pd.DataFrame, factor: int, places: Mapping[str, int]) -> dict[str, Any]:
    own = last[last["factor"] == factor]
    first = own.iloc[0]
    concepts = [str(concept) for concept in own["concept"] if concept]
    names: dict[str, list[str]] = {"class": [], "superclass": []}
    if structure.classes is not None:
        rows = structure.classes
        rows = rows[(rows["factor"] == factor) & (rows["epoch"] == rows["epoch"].max())]
        for kind in names:
            names[kind] = [str(name) for name in rows[rows["kind"] == kind].sort_values("place")["name"]]
    images: list[int] = []
    if structure.images is not None:
        rows = structure.images
        rows = rows[(rows["factor"] == factor) & (rows["epoch"] == rows["epoch"].max())]
        shown = rows[rows["place"] < IMAGES].sort_values("place")["image"]
        images = [places[str(name)] for name in shown if str(name) in places]
    return {
        "classes": names["class"],
        "superclasses": names["superclass"],
        # The deepest layer's, where several have one.
        "concept": concepts[-1] if concepts else "",
        "purity": _number(first["purity"]),
        "chance": _number(first["chance_purity"]),
        "stability": _number(first["stability"]),
        "images": images,
    }


def circuits_json(structure: Structure) -> dict[str, Any] | None:
    """What feeds each unit and what it feeds, at the last epoch of the table; `None` where there is none.

    Args:
        structure: the tables.

    Returns:
        `epoch`, `layers`, and under `feeds` and `fed` for each layer's number and each unit its strongest
        edges, each as the number of the other layer, the other unit, the effect, and whether it stands out.
    """
    table = structure.circuit
    if table is None or table.empty:
        return None
    last = table[table["epoch"] == table["epoch"].max()]
    last = last.loc[last["effect"].abs().sort_values(ascending=False, kind="stable").index]
    layers = [str(name) for name in dict.fromkeys([*last["from_layer"], *last["to_layer"]])]
    number = {name: place for place, name in enumerate(layers)}
    sides: dict[str, dict[str, dict[str, list[list[Any]]]]] = {}
    for side, own, other in (("feeds", "to", "from"), ("fed", "from", "to")):
        found: dict[str, dict[str, list[list[Any]]]] = {}
        for row in last.to_dict("records"):
            units = found.setdefault(str(number[row[f"{own}_layer"]]), {})
            edges = units.setdefault(str(row[f"{own}_unit"]), [])
            if len(edges) < NEIGHBOURS:
                effect = float(f"{row['effect']:.3g}")
                edges.append(
                    [number[row[f"{other}_layer"]], int(row[f"{other}_unit"]), effect, int(row["confident"])]
                )
        sides[side] = found
    return {"epoch": int(last["epoch"].iloc[0]), "layers": layers, **sides}


def ranges_json(structure: Structure, histories: Sequence[History]) -> dict[str, Any] | None:
    """What units say at ranges of their activation; `None` where no detector has looked.

    Args:
        structure: the tables.
        histories: the layers of the page, in its order.

    Returns:
        `texts`: formulas, with their categories and colours; `units`: for each history's number, epoch and
        unit the ranges, the highest first: low, high, weight, the number of the formula (-1 for none), IoU,
        coverage, p-value, whether it is called, and whether it is `specialised` (`null` where nobody asked).
    """
    texts: dict[tuple[str, str], int] = {}
    series: dict[str, dict[str, dict[str, list[list[Any]]]]] = {}
    for number, history in enumerate(histories):
        rows = structure.ranges.get((history.layer, history.detector))
        if rows is None or rows.empty:
            continue
        if len(rows) > MOST_RANGES:
            rows = rows[rows["epoch"] == rows["epoch"].max()]
        epochs = series.setdefault(str(number), {})
        for row in rows.sort_values("range", ascending=False, kind="stable").to_dict("records"):
            said = (str(row["concept"]), str(row["category"]))
            units = epochs.setdefault(str(int(row["epoch"])), {})
            units.setdefault(str(int(row["unit"])), []).append(
                [
                    *(_short(row[name]) for name in ("low", "high", "weight")),
                    texts.setdefault(said, len(texts)) if said[0] else -1,
                    *(_short(row[name]) for name in ("score", "coverage", "p_value")),
                    int(row["interpretable"]),
                    {"yes": 1, "no": 0}.get(str(row["specialised"])),
                ]
            )
    if not series:
        return None
    named = [[text, category, category_colour(category)] for text, category in texts]
    return {"texts": named, "units": series}


def _short(value: Any) -> float | None:
    return None if pd.isna(value) else float(f"{value:.4g}")


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)
