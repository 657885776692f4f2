"""On which images the concepts of `vectors` are: labels, words, factors, and folders of other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import VectorsOptions
from concept_monitor_cli.probe.presence import LabelTable, label_table, presence_of
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.stories.vector_parts import Parts
from concept_monitor_cli.study import Context
from concept_monitor_cli.wording import counted


@dataclass(frozen=True)
class Labels:
    """On which images each concept is.

    Attributes:
        names: of the `M` concepts.
        present: `(N, M)`: 1, 0 or NaN; the run's images, then those of the folders.
        sources: `(M,)`, who says so: `labels`, `folders`, `encoder`, `factors`, `clusters` or `folder`.
    """

    names: tuple[str, ...]
    present: Tensor
    sources: tuple[str, ...]


def concept_labels(
    opened: OpenRun,
    context: Context,
    rows: Tensor,
    options: VectorsOptions,
    progress: Progress,
    parts: Parts | None = None,
) -> Labels:
    """The concepts of the run's own images that are on enough of them, and off enough of them.

    Args:
        opened: the run.
        context: its images.
        rows: those that count.
        options: which concepts.
        progress: told what is left out.
        parts: clusters of parts of images, which are concepts, too.

    Raises:
        InputError: there are none, and no folder is given.
    """
    masks = context.labels if context.probe.has_masks else None
    table = label_table(context.store, context.probe.ids, masks, progress, area=options.area)
    words = _words(opened, table, options)
    labelled = table is not None and not options.words
    seen = context.encoder is not None and not labelled and bool(words)
    presence = presence_of(
        table,
        words,
        len(context.probe),
        embeddings=context.image_embeddings.cpu() if seen else None,
        embed_words=context.embed_words if seen else None,
    )
    names, sources = list(words), [str(source) for source in presence.source]
    present = presence.present[rows]
    if options.factors:
        own, there = _factors(opened, context, rows)
        names, sources = names + own, sources + ["factors"] * len(own)
        present = torch.cat([present, there], 1)
    if parts is not None:
        names, sources = names + list(parts.names), sources + ["clusters"] * len(parts.names)
        present = torch.cat([present, parts.present(options.area)[rows]], 1)
    unknown = [word for word, source in zip(names, sources, strict=True) if not source]
    if unknown:
        progress.warning(
            f"{counted(len(unknown), 'concepts')} have no label, and the run no encoder to find them: "
            f"{', '.join(unknown[:3])}"
        )
    if options.relative:
        present = against_each_other(present)
    with_it, without = (present == 1).sum(0), (present == 0).sum(0)
    kept = torch.minimum(with_it, without) >= options.least
    _say_left_out(names, sources, with_it, without, options, progress)
    if not bool(kept.any()) and not options.concepts:
        raise InputError(
            "no concept has enough images",
            where=opened.run.root,
            hint=_what_is_lacking(names, sources, with_it, without, options),
        )
    places = torch.nonzero(kept)[:, 0].tolist()
    return Labels(
        tuple(names[place] for place in places),
        present[:, places],
        tuple(sources[place] for place in places),
    )


def _words(opened: OpenRun, table: LabelTable | None, options: VectorsOptions) -> list[str]:
    if options.words:
        return list(options.words)
    if options.concepts or options.factors or options.clusters is not None:
        return []
    if table is not None:
        return list({spelling(name): name for name in table.names}.values())
    named = opened.table["concept"]
    return sorted(set(named[named != ""]))


def _say_left_out(
    names: Sequence[str],
    sources: Sequence[str],
    with_it: Tensor,
    without: Tensor,
    options: VectorsOptions,
    progress: Progress,
) -> None:
    """Concepts on too few images, and those that nothing says the absence of."""
    places = [place for place, source in enumerate(sources) if source]
    never = [names[i] for i in places if not without[i] and with_it[i] >= options.least]
    few = [i for i in places if min(with_it[i], without[i]) < options.least and names[i] not in never]
    if few:
        progress.notice(
            f"{counted(len(few), 'concepts')} on fewer than {options.least} images, or on all but so few, "
            "are left out (--least)"
        )
    if never:
        progress.notice(
            f"nothing says on which images {', '.join(never[:3])} is absent, so it has no other side and is "
            "left out: in masks give the rest a class of its own (a line `rest`, not `background`)"
        )


def _what_is_lacking(
    names: Sequence[str],
    sources: Sequence[str],
    with_it: Tensor,
    without: Tensor,
    options: VectorsOptions,
) -> str:
    never = [
        name
        for name, source, there, off in zip(names, sources, with_it, without, strict=True)
        if source and there >= options.least and not off
    ]
    if never:
        return (
            f"masks say where {never[0]} is, and nowhere that it is not: give the rest a class of its own, a "
            "line `rest` instead of `background` in the class list"
        )
    return (
        "lower --least, name concepts with --words, give a folder with --concept NAME=DIR, or dissect images "
        "with labels or in folders"
    )


def against_each_other(present: Tensor) -> Tensor:
    """The same with the images of the other concepts as the other side: images without any do not count.

    Args:
        present: `(N, M)`: 1, 0 or NaN.

    Returns:
        `(N, M)`: 1 where the concept is, 0 where it is known to be absent and another one is there, else NaN.

    Source: relative concept vectors, Kim et al. 2018, section 3.6, with all other concepts together.

    Example:
        >>> against_each_other(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).tolist()
        [[1.0, 0.0], [0.0, 1.0], [nan, nan]]
    """
    there = present == 1
    others = there.sum(1, keepdim=True) - there.long() > 0
    return torch.where(there, 1.0, torch.where((present == 0) & others, 0.0, torch.nan))


def _factors(opened: OpenRun, context: Context, rows: Tensor) -> tuple[list[str], Tensor]:
    """The images that have most of each factor, as `cmon factors` lists them.

    Raises:
        InputError: it has not run.
    """
    path = opened.run.tables / "factor-images.csv"
    if not path.is_file():
        raise InputError("the run has no factors", where=path, hint="run `cmon factors` first")
    table = TABLES["factor-images"].read_csv(path)
    table = table[table["epoch"] == table["epoch"].max()]
    places = {name: place for place, name in enumerate(context.probe.ids)}
    factors = sorted(set(table["factor"].tolist()))
    present = torch.zeros(len(places), len(factors))
    for column, factor in enumerate(factors):
        images = table[table["factor"] == factor]["image"]
        present[[places[name] for name in images if name in places], column] = 1.0
    return [f"factor {factor}" for factor in factors], present[rows]


# -- folders of other images ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folder:
    """A folder of images that show a concept.

    Attributes:
        name: of the concept.
        recorder: shows them to the run's networks.
    """

    name: str
    recorder: Recorder


def concept_folders(opened: OpenRun, options: VectorsOptions, layers: Sequence[str]) -> list[Folder]:
    """The folders of `--concept NAME=DIR`.

    Raises:
        InputError: a folder that is not there, or a name that is given twice.
    """
    folders: list[Folder] = []
    for text in options.concepts:
        name, _, folder = text.partition("=")
        if not Path(folder).is_dir():
            raise InputError("there is no such folder", where=f"--concept {name}={folder}")
        if name in {each.name for each in folders}:
            raise InputError(f"two folders show {name!r}", where="--concept", hint="name each concept once")
        folders.append(
            Folder(name, Recorder(opened, options, probe=str(folder), layers=layers, embeds=False))
        )
    return folders


def with_folders(
    labels: Labels,
    folders: Sequence[Folder],
    counts: Sequence[int],
    options: VectorsOptions,
) -> Labels:
    """The labels with those of the folders' images, which stand after the run's own.

    A folder's images have its concept, the run's own have not. Of the other concepts nothing is known on
    them; with --relative they are the other side of each other.

    Args:
        labels: of the run's images.
        folders: in order.
        counts: images of each.
        options: how few are too few.

    Raises:
        InputError: a folder of too few images, or a concept that has another source already.
    """
    for folder, count in zip(folders, counts, strict=True):
        if count < options.least:
            raise InputError(
                f"the folder has {counted(count, 'images')}, and {options.least} are needed",
                where=f"--concept {folder.name}",
                hint="more images, or a lower --least",
            )
        if spelling(folder.name) in {spelling(name) for name in labels.names}:
            raise InputError(
                f"{folder.name!r} is a concept of the run's own images as well",
                where="--concept",
                hint="give the folder another name",
            )
    own, total = len(labels.present), sum(counts)
    known = torch.cat([labels.present, torch.full((total, len(labels.names)), torch.nan)])
    there = torch.full((own + total, len(folders)), 0.0 if options.relative else torch.nan)
    there[:own] = 0.0
    start = own
    for column, count in enumerate(counts):
        there[start : start + count, column] = 1.0
        start += count
    present = torch.cat([known, there], 1)
    if options.relative:
        present = against_each_other(present)
    return Labels(
        labels.names + tuple(folder.name for folder in folders),
        present,
        labels.sources + ("folder",) * len(folders),
    )
