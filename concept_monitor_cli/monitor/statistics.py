"""How much of a layer is interpretable, and what kind of concepts it has, per epoch (Concept-Monitor)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from concept_monitor_cli.functional.embedding import directions, group_spreads
from concept_monitor_cli.monitor.history import UNCATEGORISED, category_order
from concept_monitor_cli.run.tables import BESIDE_COUNTS

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.space import UnitVectors

ALL = "all"
_WHERE = ["epoch", "checkpoint", "layer", "detector"]


def category_statistics(
    table: pd.DataFrame,
    placed: UnitVectors | None = None,
    embedding: pd.DataFrame | None = None,
    known: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Counts per epoch and category of the layers of one or several detectors.

    A unit belongs to the category of its best concept. Every category that a layer's units have at some epoch
    has a row at every epoch, with zeros where no unit has it.

    Args:
        table: a concept table.
        placed: the same units in the space of words, for `spread`; without it that column is empty.
        embedding: rows of `embedding.csv`, for `anchor_distance`; without it that column is empty.
        known: rows with `epoch`, `checkpoint`, `layer`, `detector`, `category` and some of the columns
            `BESIDE_COUNTS`, which are taken over; those that it lacks are empty.

    Returns:
        the rows of `statistics.csv`:

        - `category`: `all`, then the categories from low to high level;
        - `units`: live units with such a concept; for `all` every unit of the layer, also the dead;
        - `interpretable`: those of them whose best concept is more than chance;
        - `distinct_concepts`: different concepts among the interpretable ones;
        - `spread`: mean cosine distance over all pairs of these units in the space of words (eq. 1), of live
          units, interpretable or not; empty with fewer than two;
        - `anchor_distance`: mean cosine distance of these units to their nearest anchor;
        - `dead`: units whose activation is the same on every image (only for `all`; 0 elsewhere);
        - `effective_units`, `redundant`: how many different units the layer has by its activations, and the
          share of them that another one repeats (`functional.redundancy`); `..._chance`: the same of
          independent units (only for `all`);
        - `spread_floor_random`: `spread` of the same layer with random weights; `spread_floor_halves`: mean
          distance between the two places that one unit gets from two halves of the images;
        - `changed_by_halves`: share of the units whose concept differs between these halves: changes by luck;
        - `held_out`, `held_out_chance`: how well concepts found on one half predict the activations on the
          other (`functional.held_out`), and what concepts of other units give; `held_out_word`: the
          difference in a word; `held_out_error`: its standard error.
    """
    import pandas as pd

    first = table[table["rank"] == 1].copy()
    first["category"] = _named(first["category"])
    first["dead"] = first["state"] == "dead"
    first["live"] = first["state"] == "live"
    first["interpretable"] = first["interpretable"] & first["live"]
    parts = []
    for _, rows in first.groupby(["layer", "detector"], sort=True, observed=True):
        whole = _counts(rows.assign(category=ALL), rows)
        live = rows[rows["live"]]
        categories = category_order(live["category"].unique())
        moments = rows[_WHERE].drop_duplicates()
        every = moments.merge(pd.DataFrame({"category": pd.Series(categories, dtype="str")}), how="cross")
        each = every.merge(_counts(live, live), how="left", on=[*_WHERE, "category"])
        counts = ["units", "interpretable", "distinct_concepts", "dead"]
        each[counts] = each[counts].fillna(0).astype(int)
        both = pd.concat([whole, each], ignore_index=True)
        rank = {name: i for i, name in enumerate([ALL, *categories])}
        order = both["category"].map(rank)
        parts.append(both.assign(_rank=order).sort_values([*_WHERE, "_rank"], kind="stable"))
    result = pd.concat(parts, ignore_index=True).drop(columns="_rank")
    keys = [*_WHERE, "category"]
    result = result.merge(spreads(placed), how="left", on=keys)
    result = result.merge(_anchor_distances(first, embedding), how="left", on=keys)
    if known is not None:
        columns = [name for name in BESIDE_COUNTS if name in known]
        result = result.merge(known[[*keys, *columns]], how="left", on=keys)
    result = result.assign(**{name: np.nan for name in BESIDE_COUNTS if name not in result})
    words = ("held_out_word", "held_out_measure")
    result = result.assign(**{name: result[name].astype(object).fillna("") for name in words})
    return result.astype(dict.fromkeys(("checkpoint", "layer", "detector", "category"), "str"))


def _named(categories: pd.Series[Any]) -> pd.Series[Any]:
    """The categories of units as categories of pandas, with a name for the unknown one."""
    texts = categories.astype(object)
    return texts.where(texts != "", UNCATEGORISED).astype("category")


def _counts(rows: pd.DataFrame, source: pd.DataFrame) -> pd.DataFrame:
    """Units, interpretable and dead ones and distinct concepts per moment and category of `rows`."""
    keys = [*_WHERE, "category"]
    counts = (
        rows.assign(units=1)
        .groupby(keys, sort=False, observed=True)[["units", "interpretable", "dead"]]
        .sum()
    )
    # Two categories may share a word; as concepts they are two.
    named = rows.assign(own=source["category"])[rows["interpretable"]]
    distinct = (
        named.drop_duplicates([*keys, "concept", "own"]).groupby(keys, sort=False, observed=True).size()
    )
    return counts.assign(distinct_concepts=distinct.reindex(counts.index, fill_value=0)).reset_index()


def spreads(placed: UnitVectors | None) -> pd.DataFrame:
    """The column `spread` of `category_statistics`, of `all` and of every category that is there.

    Args:
        placed: units in the space of words; without them the table is empty.
    """
    import pandas as pd

    keys = [*_WHERE, "category"]
    if placed is None:
        return pd.DataFrame(columns=[*keys, "spread"]).astype({"spread": float, "epoch": "Int64"})
    units = placed.units
    category = _named(units["category"])
    names, codes = category.cat.categories.tolist(), category.cat.codes.to_numpy()
    row = pd.Series(np.arange(len(units)), index=units.index)
    found: list[tuple[object, ...]] = []
    for moment, rows in row.groupby([units[name] for name in _WHERE], sort=False, observed=True):
        own = codes[rows]
        present = np.unique(own)
        members = np.concatenate([np.ones((1, len(own)), dtype=bool), own == present[:, None]])
        values = group_spreads(
            directions(torch.from_numpy(placed.vectors[rows])), torch.from_numpy(members)
        ).tolist()
        called = [ALL, *(names[code] for code in present)]
        found += [(*moment, name, value) for name, value in zip(called, values, strict=True)]
    return pd.DataFrame(found, columns=[*keys, "spread"])


def _anchor_distances(first: pd.DataFrame, embedding: pd.DataFrame | None) -> pd.DataFrame:
    import pandas as pd

    keys = [*_WHERE, "category"]
    if embedding is None:
        return pd.DataFrame(columns=[*keys, "anchor_distance"]).astype(
            {"anchor_distance": float, "epoch": "Int64"}
        )
    live = first[first["live"]]
    known = live[[*_WHERE, "unit", "category"]].merge(
        embedding[[*_WHERE, "unit", "anchor_distance"]], on=[*_WHERE, "unit"]
    )
    both = pd.concat([known.assign(category=ALL), known], ignore_index=True)
    return both.groupby(keys, sort=False, observed=True)["anchor_distance"].mean().reset_index()
