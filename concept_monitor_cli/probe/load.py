"""From what the user writes after `--probe` to a probing set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import broden, masked
from concept_monitor_cli.probe.annotations import Annotations, LabelSource
from concept_monitor_cli.probe.arrays import open_hdf5, open_npz
from concept_monitor_cli.probe.cifar import open_cifar
from concept_monitor_cli.probe.files import list_images
from concept_monitor_cli.probe.images import FileImages, ImageSource, content_digest
from concept_monitor_cli.probe.plain import in_plain_words
from concept_monitor_cli.probe.probe_set import ProbeSet, Skipped
from concept_monitor_cli.progress import SILENT, Progress

_EMPTY = content_digest(b"")


@dataclass(frozen=True)
class _Opened:
    name: str
    source: ImageSource
    labels: LabelSource | None = None


def load_probe(
    spec: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> ProbeSet:
    """Open a probing set. Reads every image's bytes, for its digest, and decodes none.

    What `spec` may be; folders are recognised by what they contain, the first that fits:

    - `builtin`: the renderings that this program makes by itself, with masks.
    - `cifar10:DIR`, `cifar100:DIR`: CIFAR's training images (`DIR/test`: the test images), see `open_cifar`.
    - an `.npz` or `.h5` file with uint8 images `(N, H, W, 3)` or `(N, H, W)`: the array `images`, else the
      only one, else `FILE:NAME`.
    - a Broden directory: `index.csv` and `images/`. With masks.
    - a COCO panoptic folder, or its JSON file (`read_panoptic`). With masks.
    - a folder with `images/` and `masks/` (ADE20K's `annotations/`, CamVid's `labels/`, Pascal VOC's
      `JPEGImages/` and `SegmentationClass/`) and a class list (`read_classes`). With masks.
    - any other folder: all images in it and in the folders inside, in natural order. Hidden files are left
      out, symbolic links followed. Names of folders are not taken as concepts.

    Empty files and files that cannot be opened are left out and named in `skipped`.

    Args:
        spec: see above.
        limit: take so many images, drawn at random with `seed`; their order stays.
        seed: of that draw.
        cache_dir: where the built-in set is rendered to; default: the user's cache folder.
        progress: is told of the reading and of what was left out.

    Raises:
        InputError: nothing is there, nothing of this kind, no images, or a data set that contradicts itself.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{limit} probing images", where="--probe-limit", hint="give a positive number")
    opened = _open(spec, cache_dir, progress)
    count = len(opened.source.ids)
    rows = list(range(count))
    if limit is not None and limit < count:
        rows = sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())
    digests, skipped = _digests(opened.source, rows, progress)
    rows = [row for row in rows if row in digests]
    if skipped:
        progress.warning(
            f"{len(skipped):,} images left out, the first: {skipped[0].id} ({skipped[0].reason})"
        )
    if not rows:
        raise InputError("no image can be read", where=spec, hint=f"{skipped[0].id}: {skipped[0].reason}")
    labels, codes = (None, {}) if opened.labels is None else in_plain_words(opened.labels)
    return ProbeSet(
        name=opened.name,
        ids=tuple(opened.source.ids[row] for row in rows),
        digests=tuple(digests[row] for row in rows),
        concepts=None if labels is None else _concepts(opened.name, labels, codes),
        annotations=None if labels is None else Annotations(labels, rows),
        skipped=tuple(skipped),
        source=opened.source,
        rows=tuple(rows),
    )


def _open(spec: str, cache_dir: str | Path | None, progress: Progress) -> _Opened:
    if spec == "builtin":
        return _open_builtin(cache_dir)
    for classes in (10, 100):
        prefix = f"cifar{classes}:"
        if spec.startswith(prefix):
            return _Opened(*open_cifar(classes, spec[len(prefix) :]))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, progress)
    if path.is_file() and path.suffix.lower() == ".json":
        return _open_panoptic(path)
    file, key = _array_file(spec)
    if file is not None:
        opener = open_npz if file.suffix.lower() == ".npz" else open_hdf5
        return _Opened(file.stem, opener(file, key))
    if path.exists():
        raise InputError("not a probing set", where=spec, hint="give a folder, an .npz or an .h5 file")
    raise InputError("no such probing set", where=spec, hint="see the forms of --probe: cmon dissect --help")


def _array_file(spec: str) -> tuple[Path | None, str | None]:
    """`FILE` or `FILE:NAME`, where that file is an array file that exists."""
    for text, key in ((spec, None), (spec.rpartition(":")[0], spec.rpartition(":")[2])):
        path = Path(text).expanduser()
        if text and path.suffix.lower() in (".npz", ".h5", ".hdf5") and path.is_file():
            return path, key
    return None, None


def _open_folder(folder: Path, progress: Progress) -> _Opened:
    name = folder.resolve().name
    if broden.is_broden(folder):
        return _open_broden(folder, name)
    panoptic = masked.panoptic_json(folder)
    if panoptic is not None:
        return _open_panoptic(panoptic)
    places = masked.mask_folders(folder)
    if places is not None:
        images, labels, without = masked.read_index_masks(folder, *places)
        if without:
            progress.notice(f"{folder}: {without:,} images without a mask are left out")
        return _Opened(name, FileImages(*masked.as_plain(images)), labels)
    names = list_images(folder)
    if not names:
        raise InputError(
            "no images in the folder", where=folder, hint="JPEG, PNG and others, by their endings"
        )
    return _Opened(name, FileImages([folder / each for each in names], names))


def _open_broden(folder: Path, name: str) -> _Opened:
    labels = broden.read_labels(folder)
    rows, size = broden.read_index(folder, labels)
    broden.check_files(folder, rows)
    images = FileImages([folder / "images" / row.image for row in rows], [row.image for row in rows])
    return _Opened(name, images, broden.BrodenLabels(folder, rows, labels, size))


def _open_panoptic(path: Path) -> _Opened:
    images, labels = masked.read_panoptic(path)
    return _Opened(path.stem, FileImages(*masked.as_plain(images)), labels)


def _open_builtin(cache_dir: str | Path | None) -> _Opened:
    from concept_monitor_cli.builtin import builtin_probe_directory

    if cache_dir is None:
        import platformdirs

        cache_dir = platformdirs.user_cache_path("cmon", appauthor=False)
    return _open_broden(builtin_probe_directory(Path(cache_dir)), "builtin")


def _concepts(name: str, labels: LabelSource, codes: Mapping[tuple[str, str], str]) -> ConceptSet:
    return ConceptSet.clean(
        name,
        [label.name for label in labels.labels],
        [label.category for label in labels.labels],
        codes=[codes.get((label.name, label.category), label.name) for label in labels.labels],
    )


def _digests(
    source: ImageSource, rows: list[int], progress: Progress
) -> tuple[dict[int, str], list[Skipped]]:
    def digests(piece: list[int]) -> list[str | OSError]:
        results: list[str | OSError] = []
        for row in piece:
            try:
                results.append(content_digest(source.read(row)))
            except OSError as error:  # one bad file must not cost the others
                results.append(error)
        return results

    found: dict[int, str] = {}
    skipped: list[Skipped] = []
    threads = min(8, 2 * (os.cpu_count() or 1))  # more than cores: on network disks it is waiting, mostly
    with progress.task("reading images", len(rows)) as advance, ThreadPoolExecutor(threads) as pool:
        # In pieces: handing single small files from thread to thread costs more than reading them.
        pieces = [rows[first : first + 64] for first in range(0, len(rows), 64)]
        for piece, results in zip(pieces, pool.map(digests, pieces), strict=True):
            for row, result in zip(piece, results, strict=True):
                if isinstance(result, OSError):
                    skipped.append(Skipped(source.ids[row], result.strerror or str(result)))
                elif result == _EMPTY:
                    skipped.append(Skipped(source.ids[row], "empty file"))
                else:
                    found[row] = result
            advance(len(piece))
    return found, skipped
