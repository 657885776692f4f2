"""Tables of how layers and epochs resemble each other, and of factors."""

from __future__ import annotations

from concept_monitor_cli.run.schema import Kind, TableSchema

# Where a row of the tables of factors belongs.
_FACTOR_PLACE: dict[str, Kind] = {"epoch": "int", "checkpoint": "str"}

TABLES: dict[str, TableSchema] = {
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
}
