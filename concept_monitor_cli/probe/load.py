"""From what the user writes after `--probe` to a probing set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.annotations import Annotations, LabelSource
from concept_monitor_cli.probe.checks import Checked, check_masks
from concept_monitor_cli.probe.decode import quiet_pillow
from concept_monitor_cli.probe.greys import GreyRange, may_be_deep, scale_greys
from concept_monitor_cli.probe.images import EncodedImages, ImageSource, content_digest
from concept_monitor_cli.probe.masked import IndexMasks
from concept_monitor_cli.probe.order import by_content
from concept_monitor_cli.probe.plain import in_plain_words
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.probe.skipped import Skipped, warn_of
from concept_monitor_cli.probe.sources import Opened, open_source
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Store

_EMPTY = content_digest(b"")


def load_probe(
    spec: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    grey_range: GreyRange | None = None,
    store: Store | None = None,
    progress: Progress = SILENT,
) -> ProbeSet:
    """Open a probing set. Reads every image's bytes, for its digest, and decodes none.

    What `spec` may be; folders are recognised by what they contain, the first that fits:

    - `builtin`: the renderings that this program makes by itself, with masks.
    - `cifar10:DIR`, `cifar100:DIR`: CIFAR's training images (`DIR/test`: the test images), see `open_cifar`.
    - an `.npy`, `.npz` or `.h5` file with uint8 images `(N, H, W, 3)` or `(N, H, W)`: of the last two the
      array `images`, else the only one, else `FILE:NAME`.
    - MNIST's, STL-10's and SVHN's files, or the folder of them (`published`).
    - a zip or tar archive, WebDataset's shards, a Parquet or Arrow table, or a folder of them (`containers`).
    - a Broden directory: `index.csv` and `images/`. With masks.
    - a COCO panoptic folder, or its JSON file (`read_panoptic`). With masks.
    - a folder with `images/` and `masks/` or the like (`layouts`) and a class list (`read_classes`). With
      masks.
    - a folder above one of these that holds nothing else.
    - any other folder: all images in it and in the folders inside, in natural order. Hidden files are left
      out, symbolic links followed. Files that look like label maps are left out, or used as masks where
      there is a class list. Names of folders are not taken as concepts.
    - one image, or a pattern (`photos/*.jpg`).

    Images come in an order of their content, so that no result depends on what files are called or how they
    are sorted; `rows` of the result has their numbers in the natural order of the source.

    Empty files, files that cannot be opened and images whose mask cannot be used are left out and named in
    `skipped`. Masks are looked at once, all of them (`check_masks`).

    Args:
        spec: see above.
        limit: how many images to take, drawn by their content with `seed`, whatever they are called.
        seed: of that draw.
        cache_dir: where the built-in set is rendered to; default: the user's cache folder.
        grey_range: which greys of images with more than 8 bits are shown black and white; `None`: the set's
            own range (`own_scale`).
        store: keeps what was found in the masks; `None`: they are looked at each time.
        progress: is told of the reading and of what was left out.

    Raises:
        InputError: nothing is there, nothing of this kind, no images, or a data set that contradicts itself.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{limit} probing images", where="--probe-limit", hint="give a positive number")
    opened = open_source(spec, cache_dir, progress)
    digests, skipped, deep = _digests(opened.source, list(range(len(opened.source.ids))), progress)
    warn_of(skipped, "images left out", progress)
    rows = sorted(digests)
    if not rows:
        reason = f"{skipped[0].id}: {skipped[0].reason}" if skipped else None
        raise InputError("no image can be read", where=spec, hint=reason)
    masks = _checked(opened, {row: digests[row] for row in rows}, progress, store)
    rows = [row for row in rows if row not in masks.bad]
    bad = [Skipped(opened.source.ids[row], reason) for row, reason in masks.bad.items()]
    warn_of(bad, "images without a usable mask are left out", progress)
    source = opened.source
    if isinstance(source, EncodedImages):
        with quiet_pillow():
            source, digests = scale_greys(source, digests, deep, grey_range, progress)
    labels, codes = (None, {}) if masks.labels is None else in_plain_words(masks.labels)
    rows = by_content({row: digests[row] for row in rows}, labels, limit=limit, seed=seed)
    return ProbeSet(
        name=opened.name,
        ids=tuple(opened.source.ids[row] for row in rows),
        digests=tuple(digests[row] for row in rows),
        concepts=None if labels is None else _concepts(opened.name, labels, codes),
        annotations=None if labels is None else Annotations(labels, rows),
        skipped=(*opened.left_out, *skipped, *bad),
        source=source,
        rows=tuple(rows),
        masks_problem=masks.problem,
    )


def _checked(opened: Opened, images: Mapping[int, str], progress: Progress, store: Store | None) -> Checked:
    """The masks of these images, those that cannot be used, and what is wrong with all of them."""
    if opened.labels is None:
        return Checked(None, {}, opened.problem)
    if opened.trusted and not isinstance(opened.labels, IndexMasks):
        return Checked(opened.labels)
    masks = check_masks(opened.labels, images, progress, store)
    if masks.problem is not None:
        hint = "" if masks.problem.hint is None else f" ({masks.problem.hint})"
        progress.warning(f"the masks of {opened.name} are not used: {masks.problem.what}{hint}")
    return masks


def _concepts(name: str, labels: LabelSource, codes: Mapping[tuple[str, str], str]) -> ConceptSet:
    return ConceptSet.clean(
        name,
        [label.name for label in labels.labels],
        [label.category for label in labels.labels],
        codes=[codes.get((label.name, label.category), label.name) for label in labels.labels],
    )


def _digests(
    source: ImageSource, rows: list[int], progress: Progress
) -> tuple[dict[int, str], list[Skipped], list[int]]:
    """Digests of the images, those that cannot be opened, and numbers of those that may have deep greys."""
    files = isinstance(source, EncodedImages)

    def digests(piece: list[int]) -> list[tuple[str, bool] | OSError]:
        results: list[tuple[str, bool] | OSError] = []
        for row in piece:
            try:
                data = source.read(row)
                results.append((content_digest(data), files and may_be_deep(data)))
            except OSError as error:  # one bad file must not cost the others
                results.append(error)
        return results

    found: dict[int, str] = {}
    skipped: list[Skipped] = []
    deep: list[int] = []
    threads = min(8, 2 * (os.cpu_count() or 1))  # more than cores: on network disks it is waiting, mostly
    with progress.task("reading images", len(rows)) as advance, ThreadPoolExecutor(threads) as pool:
        # In pieces: handing single small files from thread to thread costs more than reading them.
        pieces = [rows[first : first + 64] for first in range(0, len(rows), 64)]
        for piece, results in zip(pieces, pool.map(digests, pieces), strict=True):
            for row, result in zip(piece, results, strict=True):
                if isinstance(result, OSError):
                    skipped.append(Skipped(source.ids[row], result.strerror or str(result)))
                    continue
                digest, may_be = result
                if digest == _EMPTY:
                    skipped.append(Skipped(source.ids[row], "empty file"))
                    continue
                found[row] = digest
                if may_be:
                    deep.append(row)
            advance(len(piece))
    return found, skipped, deep
