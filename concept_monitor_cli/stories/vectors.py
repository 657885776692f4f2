"""The story of `vectors`: where concepts lie in a layer, from when on, and what classes make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.concept_vectors import (
    ClassGradients,
    chance_of_shares,
    class_effects,
    concept_vectors,
    cosines,
    decodability,
    decodable_from,
    sign_shares,
    unit_effects,
)
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.options import VectorsOptions, split_name
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.requests import Activations, Gradients, Logits
from concept_monitor_cli.report.style import save
from concept_monitor_cli.report.vector_figures import decoding, drift, effects, part_examples
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.store.atomic import atomic_write
from concept_monitor_cli.stories.classes import NetworkClasses, network_classes
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder, RecorderOptions, open_checkpoint
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.vector_concepts import Labels, concept_folders, concept_labels, with_folders
from concept_monitor_cli.stories.vector_parts import keep_parts, parts_of
from concept_monitor_cli.study import Context

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "vectors"
# Classes to list of each unit.
_CLASSES = 5


@dataclass(frozen=True)
class LayerSummary:
    """What the vectors of a layer come to at the last epoch.

    Attributes:
        layer: which.
        concepts: how many have a vector.
        decodable: how many of them can be read off, at a false discovery rate of 5 %.
        first_auc, auc: medians over concepts at the first and the last epoch.
        significant: pairs of a class and a concept whose effect is no chance.
        by_chance: the same with the concepts of other images.
        pairs: all pairs.
        degenerate: whether the gradient of a class is the same for all its images.
    """

    layer: str
    concepts: int
    decodable: int
    first_auc: float
    auc: float
    significant: int
    by_chance: int
    pairs: int
    degenerate: bool


@dataclass
class VectorsResult:
    """What a `vectors` found.

    Attributes:
        out: where the tables and plots are.
        images: how many images count: of copies one.
        kind: of the vectors.
        layers: a line for each layer.
        vectors, effects: rows of the tables as plain values.
        parts: the images nearest to each cluster of parts, where these are concepts.
        files: the vectors themselves, a file for each layer.
        plots: the pictures.
    """

    out: Path
    images: int
    kind: str
    layers: list[LayerSummary] = field(default_factory=list)
    vectors: list[dict[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    plots: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """Of one layer at one epoch: everything but what needs other epochs."""

    vectors: Tensor
    halves: Tensor
    auc: Tensor
    chance: Tensor
    p: Tensor
    effects: pd.DataFrame
    units: pd.DataFrame
    pairs: int
    significant: int
    by_chance: int
    degenerate: bool


def vectors(options: VectorsOptions, progress: Progress = SILENT) -> VectorsResult:
    """Find the vectors of all concepts in the layers of a run, at all epochs.

    Args:
        options: which run, layers, epochs, concepts.
        progress: told what happens.

    Raises:
        InputError: no run, no concepts, checkpoints that are gone, or networks without classes.
    """
    opened = OpenRun(options.out, options, progress)
    layers = plain_layers(opened, progress)
    records = checkpoints_of(opened)
    folders = concept_folders(opened, options, layers)
    context = _context(opened)
    rows = distinct_images(context)
    recorder = Recorder(opened, options, layers=layers)
    parts = parts_of(recorder, records[-1], layers, options, progress)
    labels = concept_labels(opened, context, rows, options, progress, parts)
    classes = classes_of(opened, recorder, records[0], options.class_names, options, progress)
    asked = Gradients(tuple(classes.of_images.tolist()), options.tcav_target)
    if folders:
        counts = [len(folder.recorder.pooled(records[0], layers[0])) for folder in folders]
        labels = with_folders(labels, folders, counts, options)
    found: dict[tuple[str, int], _Found] = {}
    with progress.task("concept vectors", len(records) * len(layers), "layers") as advance:
        for record in records:
            recorder.prepare(record, [Activations(), Logits(), asked])
            for layer in layers:
                shown = [folder.recorder.pooled(record, layer) for folder in folders]
                Q = torch.cat([recorder.pooled(record, layer)[rows], *shown])
                own, of_images = recorder.gradients(record, layer, asked)
                found[layer, record.epoch] = _layer(
                    Q, own[rows], of_images[rows], labels, classes.names, (record, layer), options
                )
                advance(1)
    result = _conclude(opened, options, labels, classes, records, layers, found, len(rows))
    if parts is not None:
        result.parts = plain_rows(keep_parts(opened, parts, labels.names, rows))
        if options.plot_formats:
            figure = part_examples(parts.examples(opened, labels.names, rows), parts.layer)
            path = opened.run.plots / "vector_clusters"
            result.plots += save(figure, path, options.plot_formats, caption=opened.caption)
    return result


def plain_layers(opened: OpenRun, progress: Progress) -> list[str]:
    """The layers of a run in their channels; those in another basis are left out, and said."""
    names = list(dict.fromkeys(history.layer for history in opened.histories))
    plain = [name for name in names if "@" not in name]
    left = [name for name in names if "@" in name]
    if not plain:
        plain = list(dict.fromkeys(split_name(name)[0] for name in left))
    if left:
        progress.notice(f"{', '.join(left)}: gradients are those of the channels, so these are left out")
    return plain


def checkpoints_of(opened: OpenRun) -> list[CheckpointRecord]:
    """The run's checkpoints at the epochs that are looked at, by epoch."""
    epochs = set(opened.table["epoch"].tolist())
    return sorted(
        (record for record in opened.run.checkpoints() if record.epoch in epochs),
        key=lambda record: record.epoch,
    )


def classes_of(
    opened: OpenRun,
    recorder: Recorder,
    record: CheckpointRecord,
    given: str | None,
    options: RecorderOptions,
    progress: Progress,
) -> NetworkClasses:
    """The classes of the network, as one of its checkpoints says how many there are."""
    count = recorder.logits(record).shape[1]
    meta = open_checkpoint(record, trust_pickle=options.trust_pickle, model=options.model).meta
    return network_classes(opened, count, meta, given, progress)


def distinct_images(context: Context) -> Tensor:
    """One image of every group: copies of a photo are no further evidence."""
    _, first = np.unique(context.groups.of, return_index=True)
    return torch.from_numpy(np.sort(first))


def _context(opened: OpenRun) -> Context:
    """The run's images; seen by its encoder where the concepts are not labelled."""
    if opened.info["encoder"] is None:
        return opened.context_of(None, (), opened.concepts)
    return opened.context


# -- one layer at one epoch ----------------------------------------------------------------------------------


def _layer(
    Q: Tensor,
    own: Tensor,
    of_images: Tensor,
    labels: Labels,
    classes: Sequence[str],
    place: tuple[CheckpointRecord, str],
    options: VectorsOptions,
) -> _Found:
    import pandas as pd

    record, layer = place
    finite = Q.isfinite().all(0) & own.isfinite().all(0)
    units = Q.shape[1]
    Q, own, L = Q[:, finite].double(), own[:, finite], labels.present
    seed, kind = options.seed, options.kind
    V = concept_vectors(Q, L, kind, seed=seed)
    first = torch.from_numpy(halves(ImageGroups.single(len(Q)), seed=seed))
    one, other = (concept_vectors(Q[half], L[half], kind, seed=seed) for half in (first, ~first))
    auc, p = decodability(Q[~first] @ one, L[~first], seed=seed)
    # The same with the labels of other images.
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(Q)))
    shuffled = L[order]
    none = concept_vectors(Q[first], shuffled[first], kind, seed=seed)
    chance, _ = decodability(Q[~first] @ none, shuffled[~first], draws=1)
    gradients = ClassGradients.of(own, of_images, len(classes))
    shares = sign_shares(gradients, V)
    size = int((L == 1).sum(0).double().median())
    odds = chance_of_shares(gradients, Q, shares, size, kind, seed=seed)
    tested = class_effects(gradients, Q, L, seed=seed)
    significant = benjamini_hochberg(tested.p.flatten()).reshape(tested.p.shape)
    by_chance = benjamini_hochberg(class_effects(gradients, Q, shuffled, seed=seed).p.flatten())
    strength = (tested.difference / tested.spread).abs().nan_to_num(-1.0)
    listed = strength.argsort(dim=1, descending=True, stable=True)[:, : options.top]
    pairs = [(k, m) for k in range(len(classes)) for m in listed[k].tolist() if strength[k, m] >= 0]
    ks, ms = (np.array([pair[axis] for pair in pairs], dtype=np.int64) for axis in (0, 1))
    members = torch.bincount(of_images, minlength=len(classes))
    with_it = (L == 1).sum(0)
    frame = pd.DataFrame(
        {
            "epoch": record.epoch,
            "checkpoint": record.name,
            "layer": layer,
            "class": [classes[k] for k in ks],
            "concept": [labels.names[m] for m in ms],
            "source": [labels.sources[m] for m in ms],
            "images": with_it[ms].numpy(),
            "class_images": members[ks].numpy(),
            "effect": tested.difference[ks, ms].numpy(),
            "chance_spread": tested.spread[ks, ms].numpy(),
            "p_value": tested.p[ks, ms].numpy(),
            "significant": significant[ks, ms].numpy(),
            "tcav": shares[ks, ms].numpy(),
            "tcav_chance": odds[ks, ms].numpy(),
            "degenerate": gradients.same[ks].numpy(),
            "target": options.tcav_target,
        }
    )
    whole = torch.full((units, V.shape[1]), 0.0, dtype=torch.float64)
    whole[finite] = V
    asked = ~tested.p.isnan()
    return _Found(
        vectors=whole,
        halves=cosines(one, other),
        auc=auc,
        chance=chance,
        p=p,
        effects=frame,
        units=_units(gradients, Q[: len(own)], finite, classes, members, (record, layer), options),
        pairs=int(asked.sum()),
        significant=int(significant.sum()),
        by_chance=int(by_chance.sum()),
        degenerate=bool(gradients.same[members > 0].all()),
    )


def _units(
    gradients: ClassGradients,
    Q: Tensor,
    finite: Tensor,
    classes: Sequence[str],
    members: Tensor,
    place: tuple[CheckpointRecord, str],
    options: VectorsOptions,
) -> pd.DataFrame:
    """Rows of `unit-classes.csv`: of each unit the classes whose score it moves most."""
    import pandas as pd

    record, layer = place
    found = unit_effects(gradients, Q, seed=options.seed)
    significant = benjamini_hochberg(found.p.flatten()).reshape(found.p.shape)
    strength = found.difference.abs().nan_to_num(-1.0)
    ks = strength.argsort(dim=0, descending=True, stable=True)[:_CLASSES].flatten()
    units = torch.arange(Q.shape[1]).repeat(len(ks) // Q.shape[1])
    kept = strength[ks, units] >= 0
    ks, units = ks[kept], units[kept]
    return pd.DataFrame(
        {
            "epoch": record.epoch,
            "checkpoint": record.name,
            "layer": layer,
            "unit": torch.nonzero(finite)[:, 0][units].numpy(),
            "class": [classes[k] for k in ks.tolist()],
            "class_images": members[ks].numpy(),
            "gradient": gradients.mean[ks, units].numpy(),
            "effect": found.difference[ks, units].numpy(),
            "chance_spread": found.spread[ks, units].numpy(),
            "p_value": found.p[ks, units].numpy(),
            "significant": significant[ks, units].numpy(),
            "target": options.tcav_target,
        }
    )


# -- over epochs ---------------------------------------------------------------------------------------------


def _conclude(
    opened: OpenRun,
    options: VectorsOptions,
    labels: Labels,
    classes: NetworkClasses,
    records: Sequence[CheckpointRecord],
    layers: Sequence[str],
    found: Mapping[tuple[str, int], _Found],
    images: int,
) -> VectorsResult:
    import pandas as pd

    result = VectorsResult(opened.run.root, images, options.kind)
    parts, turns = [], {}
    for layer in layers:
        over_time = [found[layer, record.epoch] for record in records]
        significant = benjamini_hochberg(torch.stack([each.p for each in over_time]))
        auc = torch.stack([each.auc for each in over_time])
        start = decodable_from(auc, significant)
        parts += [
            _rows(over_time, labels, records, layer, options.kind, significant, start, place)
            for place in range(len(records))
        ]
        turns[layer] = _turns(over_time)
        last = over_time[-1]
        result.layers.append(
            LayerSummary(
                layer,
                len(labels.names),
                int(significant[-1].sum()),
                float(auc[0].nanmedian()),
                float(auc[-1].nanmedian()),
                last.significant,
                last.by_chance,
                last.pairs,
                last.degenerate,
            )
        )
        result.files.append(_keep(opened, layer, last.vectors, labels, records[-1]))
    frames = {
        "vectors": TABLES["vectors"].frame(pd.concat(parts)),
        "effects": TABLES["effects"].frame(
            pd.concat([found[layer, record.epoch].effects for record in records for layer in layers])
        ),
    }
    frames["unit-classes"] = TABLES["unit-classes"].frame(
        pd.concat([found[layer, record.epoch].units for record in records for layer in layers])
    )
    for name, frame in frames.items():
        opened.run.write_csv(name, frame)
    result.vectors, result.effects = plain_rows(frames["vectors"]), plain_rows(frames["effects"])
    if options.plot_formats:
        figures = {
            "vectors": decoding(frames["vectors"]),
            "vector_drift": drift(turns, [record.epoch for record in records]),
            "effects": effects(frames["effects"]),
        }
        for stem, figure in figures.items():
            result.plots += save(
                figure, opened.run.plots / stem, options.plot_formats, caption=opened.caption
            )
    return result


def _rows(
    over_time: Sequence[_Found],
    labels: Labels,
    records: Sequence[CheckpointRecord],
    layer: str,
    kind: str,
    significant: Tensor,
    start: Tensor,
    place: int,
) -> pd.DataFrame:
    import pandas as pd

    now, record = over_time[place], records[place]
    unknown = torch.full((len(labels.names),), torch.nan, dtype=torch.float64)
    before = cosines(now.vectors, over_time[place - 1].vectors) if place else unknown
    epochs = [records[at].epoch if at >= 0 else None for at in start.tolist()]
    return pd.DataFrame(
        {
            "epoch": record.epoch,
            "checkpoint": record.name,
            "layer": layer,
            "concept": labels.names,
            "kind": kind,
            "source": labels.sources,
            "images": (labels.present == 1).sum(0).numpy(),
            "auc": now.auc.numpy(),
            "chance": now.chance.numpy(),
            "p_value": now.p.numpy(),
            "significant": significant[place].numpy(),
            "first_auc": over_time[0].auc.numpy(),
            "decodable_from": pd.array(epochs, dtype="Int64"),
            "cosine_previous": before.numpy(),
            "cosine_last": cosines(now.vectors, over_time[-1].vectors).numpy(),
            "cosine_halves": now.halves.numpy(),
        }
    )


def _turns(over_time: Sequence[_Found]) -> NDArray[np.float64]:
    """`(T, T)`: mean cosine of the concepts' vectors at two epochs; on the diagonal that of two halves."""
    count = len(over_time)
    values = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            same = i == j
            each = over_time[i].halves if same else cosines(over_time[i].vectors, over_time[j].vectors)
            values[i, j] = float(each.nanmean())
    return values


def _keep(opened: OpenRun, layer: str, V: Tensor, labels: Labels, record: CheckpointRecord) -> Path:
    """The vectors of the last epoch, a column of unit length each, for `--basis saved:FILE`."""
    norms = V.norm(dim=0).clamp_min(1e-300)
    path = opened.run.root / FOLDER / f"{layer.replace('/', '_')}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            vectors=(V / norms).float().numpy(),
            concepts=np.array(labels.names),
            epoch=np.array(record.epoch),
        )
    return path
