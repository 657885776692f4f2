"""The columns of every table, in the order in which they are written.

Users' scripts rely on them: a released column changes only together with `SCHEMA_VERSION` and a line in
the CHANGELOG. New columns are added at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from concept_monitor_cli.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

Kind = Literal["int", "float", "str", "bool"]

# Pandas types that know "no value" without turning integers into floats.
_DTYPES: dict[Kind, str] = {"int": "Int64", "float": "float64", "str": "str", "bool": "bool"}


@dataclass(frozen=True)
class TableSchema:
    """Names, types and order of a table's columns.

    Attributes:
        name: the file's stem, for messages.
        columns: column name -> kind.
        order: columns by which the rows are sorted, so that equal content gives equal bytes.
        added: columns that tables of earlier versions lack; they are read as no value.
        sometimes: columns of text that stand last, and only in tables that have a value there.
    """

    name: str
    columns: dict[str, Kind]
    order: tuple[str, ...]
    added: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()

    @classmethod
    def of_units(cls, name: str, columns: dict[str, Kind], order: tuple[str, ...] = ()) -> TableSchema:
        """A table that stands beside a concept table: more about the units of one layer, by one detector.

        Args:
            name: of the table; the file is `LAYER.DETECTOR.NAME.csv`.
            columns: besides `epoch, checkpoint, layer, unit, detector`, which are filled in.
            order: of the rows of one unit.
        """
        first: dict[str, Kind] = {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "detector": "str",
        }
        return cls(name, first | columns, ("epoch", "checkpoint", "layer", "detector", "unit", *order))

    def frame(self, rows: pd.DataFrame | dict[str, object]) -> pd.DataFrame:
        """`rows` with exactly these columns, these types, in this order, sorted.

        Columns of `added` that they lack are empty.

        Raises:
            KeyError: a column is missing (a bug of the caller).
        """
        import pandas as pd

        frame = self.with_added(pd.DataFrame(rows))
        missing = [column for column in self.columns if column not in frame]
        if missing:
            raise KeyError(f"table {self.name} lacks the columns {missing}")
        frame = self._typed(frame)
        return frame.sort_values(list(self.order), kind="stable", ignore_index=True)

    def _typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns in their order, with their types; of `sometimes` those that have a value."""
        extra = {c: frame[c].fillna("").astype(str) for c in self.sometimes if c in frame}
        typed = frame[list(self.columns)].astype({c: _DTYPES[k] for c, k in self.columns.items()})
        return typed.assign(**{c: values for c, values in extra.items() if (values != "").any()})

    def to_csv(self, rows: pd.DataFrame | dict[str, object]) -> str:
        """The table as CSV text; equal content gives equal text.

        Floats carry seven significant digits, as much as the float32 arithmetic behind them holds.
        """
        text: str = self.frame(rows).to_csv(index=False, float_format="%.7g", lineterminator="\n")
        return text

    def with_added(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A table of an earlier version with the columns that were added since, without values."""
        lacking = [column for column in self.added if column not in frame]
        return frame.assign(**{c: "" if self.columns[c] == "str" else float("nan") for c in lacking})

    def read_csv(self, path: Path) -> pd.DataFrame:
        """The table read back, with its types.

        A concept may be called `null` or `NA`: only an empty field of a number counts as no value.

        Raises:
            InputError: the file is not such a table.
        """
        import pandas as pd

        numbers = [column for column, kind in self.columns.items() if kind in ("int", "float")]
        dtypes = {c: _DTYPES[k] for c, k in self.columns.items() if k != "bool"}
        dtypes |= dict.fromkeys(self.sometimes, _DTYPES["str"])
        try:
            frame = pd.read_csv(
                path, dtype=dtypes, keep_default_na=False, na_values={column: [""] for column in numbers}
            )
            return self._typed(self.with_added(frame))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this file is not a {self.name} table: {error}",
                where=path,
                hint="remove it and run `cmon dissect` again",
            ) from error


_CONCEPTS = TableSchema(
    "concepts",
    {
        "epoch": "int",
        "checkpoint": "str",
        "layer": "str",
        "unit": "int",
        "detector": "str",
        "rank": "int",
        "concept": "str",
        "category": "str",
        "score": "float",
        "p_value": "float",
        "interpretable": "bool",
        "state": "str",
        "effect": "float",
        "stability": "float",
        "concept_set": "str",
    },
    ("epoch", "checkpoint", "layer", "detector", "unit", "rank"),
    added=("effect", "stability", "concept_set"),
    sometimes=("concept_code",),
)

# Whose labels a row of an evaluation is about.
_JUDGED: dict[str, Kind] = {
    "epoch": "int",
    "checkpoint": "str",
    "layer": "str",
    "detector": "str",
    "similarity": "str",
}
_JUDGED_ORDER = ("epoch", "checkpoint", "layer", "detector", "similarity")

# Where a row of the tables of factors belongs.
_FACTOR_PLACE: dict[str, Kind] = {"epoch": "int", "checkpoint": "str"}

#: Columns of `statistics.csv` that are not counted from a concept table but stand beside it.
BESIDE_COUNTS: dict[str, Kind] = {
    "effective_units": "float",
    "redundant": "float",
    "effective_units_chance": "float",
    "redundant_chance": "float",
    "spread_floor_random": "float",
    "spread_floor_halves": "float",
    "changed_by_halves": "float",
    "held_out": "float",
    "held_out_chance": "float",
    "held_out_word": "str",
    "held_out_error": "float",
    "held_out_measure": "str",
}

TABLES: dict[str, TableSchema] = {
    "concepts": _CONCEPTS,
    "similarity": TableSchema(
        "similarity",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "run": "str",
            "other_epoch": "int",
            "other_checkpoint": "str",
            "other_layer": "str",
            "other_run": "str",
            "measure": "str",
            "value": "float",
            "chance": "float",
            "images": "int",
        },
        ("measure", "run", "other_run", "layer", "other_layer", "epoch", "other_epoch"),
    ),
    "dimension": TableSchema(
        "dimension",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "run": "str",
            "measure": "str",
            "value": "float",
            "chance": "float",
            "images": "int",
        },
        ("measure", "run", "layer", "epoch"),
    ),
    # The images that excite units most (`cmon picture`).
    "pictures": TableSchema(
        "pictures",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "other_unit": "int",
            "share": "float",
            "objective": "str",
            "parameterisation": "str",
            "seed": "int",
            "steps": "int",
            "activation": "float",
            "probe_mean": "float",
            "probe_max": "float",
            "ratio": "float",
            "ratio_chance": "float",
            "robust_ratio": "float",
            "silent_start": "bool",
            "high_frequency": "float",
            "photo_high_frequency": "float",
            "concept": "str",
            "concept_rank": "int",
            "concepts": "int",
            "concept_p": "float",
            "photo_cos": "float",
            "other_cos": "float",
            "drift": "float",
            "drift_floor": "float",
            "file": "str",
        },
        ("epoch", "checkpoint", "layer", "unit", "other_unit", "share"),
    ),
    # Where in images outputs come from (`cmon attribute`).
    "attributions": TableSchema(
        "attributions",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "method": "str",
            "image": "str",
            "target": "str",
            "against": "str",
            "predicted": "str",
            "logit": "float",
            "probability": "float",
            "positive": "float",
            "negative": "float",
            "peak_x": "float",
            "peak_y": "float",
            "cos_previous": "float",
            "cos_last": "float",
            "cos_other": "float",
            "completeness_error": "float",
        },
        ("epoch", "checkpoint", "method", "layer", "image"),
    ),
    "sanity": TableSchema(
        "sanity",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "method": "str",
            "test": "str",
            "place": "int",
            "randomised": "str",
            "measure": "str",
            "value": "float",
            "floor": "float",
            "draws": "int",
            "constant": "int",
            "images": "int",
        },
        ("epoch", "checkpoint", "method", "test", "place", "measure"),
    ),
    "faithfulness": TableSchema(
        "faithfulness",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "method": "str",
            "curve": "str",
            "scale": "str",
            "value": "float",
            "chance": "float",
            "gain": "float",
            "gain_low": "float",
            "gain_high": "float",
            "images": "int",
        },
        ("epoch", "checkpoint", "method", "curve", "scale"),
    ),
    # Factors that pixels and layers share (`cmon factors`).
    "factors": TableSchema(
        "factors",
        {
            **_FACTOR_PLACE,
            "layer": "str",
            "factor": "int",
            "strength": "float",
            "share": "float",
            "matched_from": "int",
            "cosine": "float",
            "chance_cosine": "float",
            "stability": "float",
            "purity": "float",
            "chance_purity": "float",
            "entropy": "float",
            "concept": "str",
            "basis_member": "int",
            "basis_cosine": "float",
        },
        ("epoch", "layer", "factor"),
    ),
    "factor-classes": TableSchema(
        "factor-classes",
        {
            **_FACTOR_PLACE,
            "factor": "int",
            "kind": "str",
            "place": "int",
            "name": "str",
            "weight": "float",
            "chance": "float",
        },
        ("epoch", "factor", "kind", "place"),
    ),
    "factor-images": TableSchema(
        "factor-images",
        {
            **_FACTOR_PLACE,
            "factor": "int",
            "place": "int",
            "image": "str",
            "weight": "float",
            "class": "str",
        },
        ("epoch", "factor", "place"),
    ),
    "factor-units": TableSchema(
        "factor-units",
        {
            **_FACTOR_PLACE,
            "layer": "str",
            "factor": "int",
            "place": "int",
            "unit": "int",
            "loading": "float",
            "concept": "str",
            "interpretable": "bool",
        },
        ("epoch", "layer", "factor", "place"),
    ),
    "factor-similarity": TableSchema(
        "factor-similarity",
        {**_FACTOR_PLACE, "layer": "str", "factor": "int", "other_factor": "int", "cosine": "float"},
        ("epoch", "layer", "factor", "other_factor"),
    ),
    "factor-spectrum": TableSchema(
        "factor-spectrum",
        {
            **_FACTOR_PLACE,
            "layer": "str",
            "place": "int",
            "eigenvalue": "float",
            "leading": "float",
            "mean_of_three": "float",
            "effective_rank": "float",
            "chance_leading": "float",
            "chance_mean_of_three": "float",
            "chance_effective_rank": "float",
        },
        ("epoch", "layer", "place"),
    ),
    "factor-residual": TableSchema(
        "factor-residual",
        {
            **_FACTOR_PLACE,
            "layer": "str",
            "norm": "float",
            "residual": "float",
            "own_residual": "float",
            "chance": "float",
        },
        ("epoch", "layer"),
    ),
    "factor-neighbours": TableSchema(
        "factor-neighbours",
        {
            **_FACTOR_PLACE,
            "image": "str",
            "class": "str",
            "factor": "int",
            "impurity": "float",
            "chance": "float",
            "neighbours": "str",
            "predicted": "str",
            "correct": "int",
        },
        ("epoch",),
    ),
    "factor-rank": TableSchema(
        "factor-rank",
        {"rank": "int", "agreement": "float", "chance": "float", "residual": "float", "chosen": "bool"},
        ("rank",),
    ),
    # Where concepts lie in a layer, and what classes make of them (`cmon vectors`).
    "vectors": TableSchema(
        "vectors",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "concept": "str",
            "kind": "str",
            "source": "str",
            "images": "int",
            "auc": "float",
            "chance": "float",
            "p_value": "float",
            "significant": "bool",
            "first_auc": "float",
            "decodable_from": "int",
            "cosine_previous": "float",
            "cosine_last": "float",
            "cosine_halves": "float",
        },
        ("epoch", "layer", "concept"),
    ),
    "effects": TableSchema(
        "effects",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "class": "str",
            "concept": "str",
            "source": "str",
            "images": "int",
            "class_images": "int",
            "effect": "float",
            "chance_spread": "float",
            "p_value": "float",
            "significant": "bool",
            "tcav": "float",
            "tcav_chance": "float",
            "degenerate": "bool",
            "target": "str",
        },
        ("epoch", "layer", "class", "concept"),
    ),
    # The classes whose score each unit moves most (`cmon vectors`).
    "unit-classes": TableSchema(
        "unit-classes",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "class": "str",
            "class_images": "int",
            "gradient": "float",
            "effect": "float",
            "chance_spread": "float",
            "p_value": "float",
            "significant": "bool",
            "target": "str",
        },
        ("epoch", "layer", "unit", "class"),
    ),
    # What the change of each unit between two epochs brought a class (`cmon evolutions`).
    "evolutions": TableSchema(
        "evolutions",
        {
            "from_epoch": "int",
            "to_epoch": "int",
            "layer": "str",
            "unit": "int",
            "class": "str",
            "images": "int",
            "effect": "float",
            "fast": "float",
            "exact": "float",
            "share_positive": "float",
            "spread": "float",
            "elsewhere": "float",
            "p_value": "float",
            "significant": "bool",
            "detector": "str",
            "from_concept": "str",
            "to_concept": "str",
            "confident": "int",
        },
        ("from_epoch", "to_epoch", "layer", "class", "unit"),
    ),
    "evolution-classes": TableSchema(
        "evolution-classes",
        {
            "from_epoch": "int",
            "to_epoch": "int",
            "layer": "str",
            "class": "str",
            "images": "int",
            "change": "float",
            "by_layer": "float",
            "path_sum": "float",
            "elsewhere": "float",
            "fast_agrees": "float",
            "exact_agrees": "float",
        },
        ("from_epoch", "to_epoch", "layer", "class"),
    ),
    "evolution-parts": TableSchema(
        "evolution-parts",
        {
            "from_epoch": "int",
            "to_epoch": "int",
            "layer": "str",
            "class": "str",
            "images": "int",
            "part": "int",
            "units": "int",
            "effect": "float",
            "set_back": "float",
            "control": "float",
            "control_sd": "float",
            "p_value": "float",
        },
        ("from_epoch", "to_epoch", "layer", "class", "part"),
    ),
    # What units of one layer add to units of the next (`cmon circuits`).
    "circuit": TableSchema(
        "circuit",
        {
            "epoch": "int",
            "checkpoint": "str",
            "from_layer": "str",
            "from_unit": "int",
            "from_concept": "str",
            "to_layer": "str",
            "to_unit": "int",
            "to_concept": "str",
            "place": "int",
            "weight": "float",
            "effect": "float",
            "error": "float",
            "p_value": "float",
            "confident": "bool",
        },
        ("epoch", "checkpoint", "from_layer", "to_layer", "to_unit", "place"),
    ),
    "circuit-layers": TableSchema(
        "circuit-layers",
        {
            "epoch": "int",
            "checkpoint": "str",
            "from_layer": "str",
            "to_layer": "str",
            "from_units": "int",
            "to_units": "int",
            "images": "int",
            "draws": "int",
            "weight_correlation": "float",
            "weight_rank_correlation": "float",
            "no_weight": "str",
            "confident": "int",
            "confident_by_chance": "float",
            "concepts": "int",
            "concepts_by_chance": "int",
            "unions": "int",
            "unions_by_chance": "int",
        },
        ("epoch", "checkpoint", "from_layer", "to_layer"),
    ),
    "circuit-concepts": TableSchema(
        "circuit-concepts",
        {
            "epoch": "int",
            "checkpoint": "str",
            "from_layer": "str",
            "to_layer": "str",
            "from_concept": "str",
            "to_concept": "str",
            "kind": "str",
            "from_units": "int",
            "to_units": "int",
            "strength": "float",
            "share": "float",
            "chance": "float",
            "p_value": "float",
            "confident": "bool",
        },
        ("epoch", "checkpoint", "from_layer", "to_layer", "to_concept", "kind", "p_value", "from_concept"),
    ),
    "circuit-unions": TableSchema(
        "circuit-unions",
        {
            "epoch": "int",
            "checkpoint": "str",
            "from_layer": "str",
            "to_layer": "str",
            "to_unit": "int",
            "to_concept": "str",
            "first_concept": "str",
            "second_concept": "str",
            "images": "int",
            "exactly_one": "float",
            "chance": "float",
            "first_share": "float",
            "second_share": "float",
            "p_value": "float",
            "confident": "bool",
        },
        (
            "epoch",
            "checkpoint",
            "from_layer",
            "to_layer",
            "p_value",
            "to_unit",
            "first_concept",
            "second_concept",
        ),
    ),
    # What is lost without some units (`cmon ablate`).
    "ablation": TableSchema(
        "ablation",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "set": "str",
            "concept": "str",
            "units": "int",
            "kind": "str",
            "class": "str",
            "images": "int",
            "accuracy": "float",
            "accuracy_before": "float",
            "accuracy_control": "float",
            "margin": "float",
            "margin_before": "float",
            "control": "float",
            "control_sd": "float",
            "p_value": "float",
            "logit": "float",
            "logit_before": "float",
            "exact": "bool",
        },
        ("epoch", "layer", "set", "concept", "units", "kind", "class"),
    ),
    # Photos with and without something, before and after (`cmon ablate --spurious`).
    "spurious": TableSchema(
        "spurious",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "set": "str",
            "concept": "str",
            "units": "int",
            "kind": "str",
            "class": "str",
            "images_with": "int",
            "images_without": "int",
            "accuracy_with": "float",
            "accuracy_without": "float",
            "gap": "float",
            "accuracy_with_before": "float",
            "accuracy_without_before": "float",
            "gap_before": "float",
            "gap_control": "float",
            "gap_control_sd": "float",
            "p_value": "float",
        },
        ("epoch", "checkpoint", "layer", "set", "concept", "units", "kind", "class"),
    ),
    "agreement": TableSchema(
        "agreement",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "detector_a": "str",
            "detector_b": "str",
            "units": "int",
            "same": "float",
            "cosine": "float",
            "same_chance": "float",
            "cosine_chance": "float",
            "near": "float",
            "near_chance": "float",
        },
        ("epoch", "checkpoint", "layer", "detector_a", "detector_b"),
        added=("same_chance", "cosine_chance", "near", "near_chance"),
    ),
    "embedding": TableSchema(
        "embedding",
        {
            "epoch": "int",
            "layer": "str",
            "unit": "int",
            "x": "float",
            "y": "float",
            "nearest_anchor": "str",
            "anchor_distance": "float",
            "concept": "str",
            "checkpoint": "str",
            "detector": "str",
        },
        ("epoch", "checkpoint", "layer", "detector", "unit"),
    ),
    # What the run says, in sentences, what matters most first.
    "findings": TableSchema(
        "findings",
        {
            "sentence": "str",
            "kind": "str",
            "epoch": "int",
            "layer": "str",
            "value": "float",
            "chance": "float",
            "evidence": "str",
            "detector": "str",
            "from_epoch": "int",
            "before": "float",
            "floor": "float",
            "p_value": "float",
            "standard_errors": "float",
        },
        (),
    ),
    # The units nearest to a text.
    "search": TableSchema(
        "search",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "detector": "str",
            "text": "str",
            "place": "int",
            "unit": "int",
            "cosine": "float",
            "average": "float",
            "chance": "float",
            "concept": "str",
            "interpretable": "bool",
        },
        ("layer", "detector", "epoch", "checkpoint", "place"),
    ),
    # What people say of labels (`cmon evaluate --export-ratings`, `--import-ratings`).
    "ratings-key": TableSchema(
        "ratings-key",
        {
            "form": "str",
            "question": "int",
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "detector": "str",
            "kind": "str",
            "label": "str",
            "interpretable": "bool",
        },
        ("question", "layer", "unit", "detector", "kind"),
    ),
    "ratings": TableSchema(
        "ratings",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "detector": "str",
            "which": "str",
            "units": "int",
            "raters": "int",
            "mean": "float",
            "chance": "float",
            "difference": "float",
            "error": "float",
            "p_value": "float",
            "alpha": "float",
        },
        ("layer", "detector", "epoch", "checkpoint", "which"),
    ),
    "ratings-units": TableSchema(
        "ratings-units",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "detector": "str",
            "unit": "int",
            "label": "str",
            "rating": "float",
            "chance_label": "str",
            "chance": "float",
            "raters": "int",
            "interpretable": "bool",
        },
        ("layer", "detector", "epoch", "checkpoint", "unit"),
    ),
    # Units whose label or description has a text in it (`cmon units --match`).
    "text-matches": TableSchema(
        "text-matches",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "detector": "str",
            "text": "str",
            "unit": "int",
            "concept": "str",
            "category": "str",
            "score": "float",
            "p_value": "float",
            "interpretable": "bool",
            "units": "int",
            "found": "int",
            "chance": "float",
        },
        ("layer", "detector", "epoch", "checkpoint", "unit"),
    ),
    "anchors": TableSchema("anchors", {"anchor": "str", "x": "float", "y": "float"}, ()),
    "statistics": TableSchema(
        "statistics",
        {
            "epoch": "int",
            "layer": "str",
            "detector": "str",
            "category": "str",
            "units": "int",
            "interpretable": "int",
            "distinct_concepts": "int",
            "spread": "float",
            "anchor_distance": "float",
            "dead": "int",
            "checkpoint": "str",
            **BESIDE_COUNTS,
        },
        # Categories keep the order they are written in: `all` first, then from low to high level.
        ("epoch", "checkpoint", "layer", "detector"),
        added=tuple(BESIDE_COUNTS),
    ),
    "units": TableSchema(
        "units",
        {
            "layer": "str",
            "unit": "int",
            "detector": "str",
            "final_concept": "str",
            "first_epoch": "int",
            "stable_from": "int",
            "changes": "int",
            "born": "int",
            "died": "int",
            "drift": "float",
            "final_category": "str",
            "path_length": "float",
            "confident_changes": "int",
            "self_similarity": "float",
            "label_changes": "int",
            "drift_floor_random": "float",
            "drift_floor_halves": "float",
        },
        ("layer", "detector", "unit"),
        added=("self_similarity", "label_changes", "drift_floor_random", "drift_floor_halves"),
    ),
    # A unit beside itself at the epoch before, by its activations.
    "self_similarity": TableSchema(
        "self_similarity",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "detector": "str",
            "self_similarity": "float",
        },
        ("epoch", "checkpoint", "layer", "detector", "unit"),
    ),
    # Every change of concept that is more than luck.
    "changes": TableSchema(
        "changes",
        {
            "epoch": "int",
            "checkpoint": "str",
            "layer": "str",
            "unit": "int",
            "detector": "str",
            "from_concept": "str",
            "from_category": "str",
            "from_epoch": "int",
            "to_concept": "str",
            "to_category": "str",
            "confidence": "float",
            "self_similarity": "float",
        },
        ("epoch", "layer", "detector", "unit"),
        added=("self_similarity",),
    ),
    "pruning": TableSchema(
        "pruning",
        {
            "series": "str",
            "stage": "int",
            "layer": "str",
            "detector": "str",
            "epoch": "int",
            "checkpoint": "str",
            "sparsity": "float",
            "units": "int",
            "interpretable": "int",
            "accuracy": "float",
        },
        ("series", "layer", "detector", "stage"),
    ),
    "retention": TableSchema(
        "retention",
        {
            "series": "str",
            "layer": "str",
            "detector": "str",
            "percent": "float",
            "units": "int",
            "kept": "int",
            "retention": "float",
        },
        ("series", "layer", "detector", "percent"),
    ),
    "matches": TableSchema(
        "matches",
        {
            "layer": "str",
            "detector": "str",
            "unit_a": "int",
            "unit_b": "int",
            "correlation": "float",
            "concept_a": "str",
            "category_a": "str",
            "concept_b": "str",
            "category_b": "str",
            "interpretable_a": "bool",
            "interpretable_b": "bool",
            "same": "bool",
        },
        ("layer", "detector", "unit_a", "unit_b"),
    ),
    # Units that the other run has, too, judged on images that did not choose the pairs.
    "universality": TableSchema(
        "universality",
        {
            "epoch": "int",
            "layer": "str",
            "detector": "str",
            "other_epoch": "int",
            "other_layer": "str",
            "category": "str",
            "units": "int",
            "universal": "int",
            "share": "float",
            "held_out": "float",
            "matched": "float",
            "best": "float",
            "chance": "float",
            "bar": "float",
        },
        ("layer", "other_layer", "detector", "epoch", "other_epoch", "category"),
    ),
    "comparison": TableSchema(
        "comparison",
        {
            "layer": "str",
            "detector": "str",
            "concept": "str",
            "category": "str",
            "units_a": "int",
            "units_b": "int",
        },
        ("layer", "detector", "category", "concept"),
    ),
    # How good the labels are: one number a row, and what is behind the numbers of each measure.
    "evaluation": TableSchema(
        "evaluation",
        {
            **_JUDGED,
            "measure": "str",
            "metric": "str",
            "value": "float",
            "chance": "float",
            "count": "int",
        },
        # Measures and their metrics keep the order they are written in.
        _JUDGED_ORDER,
    ),
    "evaluation-labels": TableSchema(
        "evaluation-labels",
        {
            **_JUDGED,
            "unit": "int",
            "true_name": "str",
            "concept": "str",
            "in_concepts": "bool",
            "correct": "bool",
            "clip_cos": "float",
            "mpnet_cos": "float",
            "true_rank": "int",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-contributions": TableSchema(
        "evaluation-contributions",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "class_name": "str",
            "images": "int",
            "agreeing": "int",
            "right": "int",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-weights": TableSchema(
        "evaluation-weights",
        {**_JUDGED, "space": "str", "k": "int", "cosine": "float", "chance": "float"},
        (*_JUDGED_ORDER, "space", "k"),
    ),
    "evaluation-simulation": TableSchema(
        "evaluation-simulation",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "presence": "str",
            "images": "int",
            "present": "int",
            "showing": "float",
            "correlation": "float",
            "auprc": "float",
            "f1": "float",
            "iou": "float",
            "auc": "float",
            "activation_difference": "float",
            "inverse_auprc": "float",
            "inverse_auc": "float",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-cutoff": TableSchema(
        "evaluation-cutoff",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "score": "float",
            "metric": "str",
            "quality": "float",
            "wanted": "float",
            "cutoff": "float",
            "above": "bool",
            "p_value": "float",
            "interpretable": "bool",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-ranges": TableSchema(
        "evaluation-ranges",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "share": "float",
            "images": "int",
            "showing": "float",
            "prevalence": "float",
        },
        (*_JUDGED_ORDER, "unit", "share"),
    ),
    "evaluation-range-images": TableSchema(
        "evaluation-range-images",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "share": "float",
            "place": "int",
            "image": "str",
            "activation": "float",
            "showing": "float",
        },
        # The units in the order in which they are shown.
        (),
    ),
    "evaluation-clarity": TableSchema(
        "evaluation-clarity",
        {
            **_JUDGED,
            "unit": "int",
            "clarity": "float",
            "nearest_unit": "int",
            "nearest_cosine": "float",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-cosy": TableSchema(
        "evaluation-cosy",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "images": "int",
            "auc": "float",
            "auc_chance": "float",
            "mad": "float",
            "mad_chance": "float",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-groups": TableSchema(
        "evaluation-groups",
        {
            **_JUDGED,
            "unit": "int",
            "concept": "str",
            "groups": "int",
            "division": "float",
            "p_value": "float",
        },
        (*_JUDGED_ORDER, "unit"),
    ),
    "evaluation-group-labels": TableSchema(
        "evaluation-group-labels",
        {
            **_JUDGED,
            "unit": "int",
            "group": "int",
            "images": "int",
            "concept": "str",
            "score": "float",
        },
        (*_JUDGED_ORDER, "unit", "group"),
    ),
    "evaluation-group-images": TableSchema(
        "evaluation-group-images",
        {
            **_JUDGED,
            "unit": "int",
            "place": "int",
            "group": "int",
            "concept": "str",
            "image": "str",
        },
        # The units in the order in which they are shown.
        (),
    ),
    "evaluation-sanity": TableSchema(
        "evaluation-sanity",
        {
            **_JUDGED,
            "metric": "str",
            "score": "float",
            "missing_score": "float",
            "missing_fallen": "float",
            "extra_score": "float",
            "extra_fallen": "float",
            "units": "int",
            "passes": "bool",
        },
        _JUDGED_ORDER,
    ),
    "evaluation-grid": TableSchema(
        "evaluation-grid",
        {
            "concepts": "str",
            "encoder": "str",
            "pooling": "str",
            **_JUDGED,
            "measure": "str",
            "metric": "str",
            "value": "float",
            "chance": "float",
            "count": "int",
        },
        # As they were asked for.
        (),
    ),
}
