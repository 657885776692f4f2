"""What the library's functions take besides images, words and layers: the options of `cmon dissect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import (
    ChannelOrder,
    DissectOptions,
    FormulaSearch,
    Interpolation,
    IouNormaliser,
    LabelRule,
    Null,
    Pooling,
    Precision,
    Similarity,
    Triple,
    nearest,
)

if TYPE_CHECKING:
    from os import PathLike

    AnyPath = str | PathLike[str]


class Settings(TypedDict, total=False):
    """Fields of `DissectOptions` by their names; see there. Lists will do for tuples.

    `architecture` is the option `--model`: a name, `package.module:factory` or `file.py:factory`, where a
    network is not to be recognised by its weights. `device` is the model's own by default.
    """

    architecture: str | None
    detectors: str | Sequence[str]
    bases: str | Sequence[str]
    device: str | None
    precision: Precision
    batch_size: int
    workers: int | None
    cache_dir: AnyPath | None
    seed: int
    input_size: int | None
    crop: float | None
    mean: Triple | None
    std: Triple | None
    interpolation: Interpolation | None
    channel_order: ChannelOrder | None
    pooling: Pooling
    compile: bool
    probe_limit: int | None
    groups: str | None
    grey_range: tuple[float, float] | None
    encoder_weights: AnyPath | None
    encoder_config: AnyPath | None
    templates: str | Sequence[str]
    similarity: Similarity
    top_k: int | None
    stability: bool
    top_concepts: int
    pairs: int
    save_scores: bool
    null: Null
    fdr: float
    iou_normaliser: IouNormaliser | None
    label_rule: LabelRule
    length: int
    beam: int
    search: FormulaSearch
    captioner: str
    prior_weight: float | None
    floors: bool


#: Options that say which files are read and how a command is run: not for a model that is at hand.
NOT_FOR_MODELS = frozenset(
    {
        *("checkpoints", "layers", "out", "probe", "concepts", "encoder", "overwrite", "model"),
        *("epochs", "shard", "shard_images", "order", "series", "trust_pickle", "prefix", "weights_key"),
        *("dry_run", "sources", "plot_formats", "style", "evidence"),
    }
)
_LISTS = ("detectors", "bases", "templates")
_PATHS = ("cache_dir", "encoder_weights", "encoder_config")
_TUPLES = ("mean", "std", "grey_range")


def dissect_options(settings: Mapping[str, Any], **fixed: Any) -> DissectOptions:
    """The options of a `dissect`.

    Args:
        settings: see `Settings`.
        fixed: fields of `DissectOptions` that are known already.

    Raises:
        InputError: a setting that does not exist.
    """
    known = {field.name for field in fields(DissectOptions)} - NOT_FOR_MODELS | {"architecture"}
    for name in settings:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {', '.join(near)}?" if near else "they are the options of `cmon dissect`"
            raise InputError(f"there is no setting {name!r}", where=f"{name}=", hint=hint)
    values = {name: _as_option(name, value) for name, value in settings.items()}
    if "architecture" in values:
        values["model"] = values.pop("architecture")
    return DissectOptions(checkpoints=(), **values, **fixed)


def names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names that were given as one text with commas, or as a list."""
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(part.strip() for part in parts if part.strip())


def _as_option(name: str, value: Any) -> Any:
    if name in _LISTS:
        return (value,) if isinstance(value, str) and name == "templates" else names(value)
    if name in _PATHS and value is not None:
        return Path(value)
    if name in _TUPLES and value is not None:
        return tuple(float(number) for number in value)
    return value
