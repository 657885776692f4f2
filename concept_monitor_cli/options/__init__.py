"""What a user may ask for: the options of each command, each declared once, as plain, frozen data.

The command line fills these in from flags, environment and file; a script may do so by hand. Nothing heavy is
imported here, and nothing is looked up on disk: a value is only checked for its form.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.options.common import (
    CommonOptions,
    Options,
    ReadingOptions,
    StoreOptions,
    default_cache_dir,
)
from concept_monitor_cli.options.declare import Declaration, declaration, declare, option
from concept_monitor_cli.options.kinds import (
    AUTO,
    CHANNELS,
    SIMILARITIES,
    AtlasLayout,
    AttributionMethod,
    BasisKind,
    BasisSpec,
    BlocksOf,
    EpochFilter,
    FactorMode,
    FactorRows,
    FactorSolver,
    FormulaSearch,
    Interpolation,
    IouNormaliser,
    Kept,
    LabelRule,
    MeasureName,
    Method,
    Null,
    PictureObjective,
    PictureParameters,
    PlotFormat,
    PlotFormats,
    PlotStyle,
    Pooling,
    Precision,
    Quality,
    Shard,
    Similarity,
    Source,
    TcavTarget,
    Triple,
    VectorKind,
    basis_name,
    nearest,
    split_name,
)

if TYPE_CHECKING:
    from concept_monitor_cli.options.dissect import DissectOptions, RunOptions, SubmitOptions, WatchOptions
    from concept_monitor_cli.options.evaluate import EvaluateOptions
    from concept_monitor_cli.options.pictures import (
        AtlasOptions,
        AttributeOptions,
        ExplainOptions,
        PictureOptions,
    )
    from concept_monitor_cli.options.reading import (
        CheckpointsOptions,
        CompareOptions,
        DemoOptions,
        EmbedOptions,
        FetchOptions,
        LayersOptions,
        PruneOptions,
        ReportOptions,
        RetentionOptions,
        SearchOptions,
        StatsOptions,
        StatusOptions,
        UnitsOptions,
        VerifyOptions,
    )
    from concept_monitor_cli.options.structure import DynamicsOptions, FactorsOptions
    from concept_monitor_cli.options.used import (
        AblateOptions,
        CircuitsOptions,
        EvolutionsOptions,
        VectorsOptions,
    )

__all__ = [
    "AUTO",
    "CHANNELS",
    "SIMILARITIES",
    "AblateOptions",
    "AtlasLayout",
    "AtlasOptions",
    "AttributeOptions",
    "AttributionMethod",
    "BasisKind",
    "BasisSpec",
    "BlocksOf",
    "CheckpointsOptions",
    "CircuitsOptions",
    "CommonOptions",
    "CompareOptions",
    "Declaration",
    "DemoOptions",
    "DissectOptions",
    "DynamicsOptions",
    "EmbedOptions",
    "EpochFilter",
    "EvaluateOptions",
    "EvolutionsOptions",
    "ExplainOptions",
    "FactorMode",
    "FactorRows",
    "FactorSolver",
    "FactorsOptions",
    "FetchOptions",
    "FormulaSearch",
    "Interpolation",
    "IouNormaliser",
    "Kept",
    "LabelRule",
    "LayersOptions",
    "MeasureName",
    "Method",
    "Null",
    "Options",
    "PictureObjective",
    "PictureOptions",
    "PictureParameters",
    "PlotFormat",
    "PlotFormats",
    "PlotStyle",
    "Pooling",
    "Precision",
    "PruneOptions",
    "Quality",
    "ReadingOptions",
    "ReportOptions",
    "RetentionOptions",
    "RunOptions",
    "SearchOptions",
    "Shard",
    "Similarity",
    "Source",
    "StatsOptions",
    "StatusOptions",
    "StoreOptions",
    "SubmitOptions",
    "TcavTarget",
    "Triple",
    "UnitsOptions",
    "VectorKind",
    "VectorsOptions",
    "VerifyOptions",
    "WatchOptions",
    "basis_name",
    "declaration",
    "declare",
    "default_cache_dir",
    "nearest",
    "option",
    "split_name",
]

# Imported when first asked for: a command has options of its own family only, and its help should not wait
# for all others.
_PLACES = {
    "AblateOptions": "used",
    "AtlasOptions": "pictures",
    "AttributeOptions": "pictures",
    "CheckpointsOptions": "reading",
    "CircuitsOptions": "used",
    "CompareOptions": "reading",
    "DemoOptions": "reading",
    "DissectOptions": "dissect",
    "DynamicsOptions": "structure",
    "EmbedOptions": "reading",
    "EvaluateOptions": "evaluate",
    "EvolutionsOptions": "used",
    "ExplainOptions": "pictures",
    "FactorsOptions": "structure",
    "FetchOptions": "reading",
    "LayersOptions": "reading",
    "PictureOptions": "pictures",
    "PruneOptions": "reading",
    "ReportOptions": "reading",
    "RetentionOptions": "reading",
    "RunOptions": "dissect",
    "SearchOptions": "reading",
    "StatsOptions": "reading",
    "StatusOptions": "reading",
    "SubmitOptions": "dissect",
    "UnitsOptions": "reading",
    "VectorsOptions": "used",
    "VerifyOptions": "reading",
    "WatchOptions": "dissect",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
