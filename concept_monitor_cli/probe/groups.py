"""Which probing images belong together: copies of a photo, or groups that the user names."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.copies import SIDE, near_copies
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.probe.pixels import Pixels
from concept_monitor_cli.progress import SILENT, Progress

PARENT = "parent"
# Where `run.json` says what groups come from: no groups were named, copies were looked for.
COPIES = "copies"

# The whole frame, so that the same copies are found whatever network looks at the images.
FINGERPRINT = Geometry(SIDE, mode="squash")

_ROWS = 4096


@dataclass(frozen=True)
class NamedGroups:
    """Groups that the user names.

    Attributes:
        groups: of the images.
        source: where they come from, for a message.
        digest: of their content.
    """

    groups: ImageGroups
    source: str
    digest: str


def named_groups(spec: str, ids: Sequence[str]) -> NamedGroups:
    """The groups that `--groups` names.

    Args:
        spec: `parent`, for the folder that an image lies in; or a CSV file with the columns `image` and
            `group`, which has every image, by its path within the probing set or its file name.
        ids: of the images.

    Raises:
        InputError: no such file or columns, an image that it lacks or names twice, or fewer than two groups.
    """
    if spec == PARENT:
        names, source = [name.rpartition("/")[0] for name in ids], "the parent folder"
    else:
        names, source = _read_groups(Path(spec).expanduser(), ids), spec
    groups = ImageGroups.read(np.unique(np.array(names, dtype=str), return_inverse=True)[1].reshape(-1))
    if groups.n_groups < 2:
        raise InputError(
            "all probing images are of one group: nothing could be told from chance",
            where=f"--groups {spec}",
            hint="name two groups or more, or leave the option out",
        )
    return NamedGroups(groups, source, hashlib.sha256(groups.of.astype("<i8").tobytes()).hexdigest())


def _read_groups(path: Path, ids: Sequence[str]) -> list[str]:
    """The group of each image as the file has it."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"image", "group"} <= set(reader.fieldnames or ()):
                raise InputError("a table of groups needs the columns `image` and `group`", where=path)
            rows = [(row["image"], row["group"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table of groups cannot be read: {error}", where=path) from error
    found: dict[str, str] = {}
    for image, group in rows:
        if not image or not group:
            raise InputError("a row of the table of groups has no image or no group", where=path)
        if found.setdefault(image, group) != group:
            raise InputError(f"the table of groups has {image} in two groups", where=path)
    short = [name.rpartition("/")[2] for name in ids]
    unique = len(set(short)) == len(short)
    groups: list[str] = []
    for name, base in zip(ids, short, strict=True):
        group = found.get(name, found.get(base) if unique else None)
        if group is None:
            raise InputError(
                f"the table of groups lacks the image {name}",
                where=path,
                hint="give every probing image a row; an image without copies has a group of its own",
            )
        groups.append(group)
    return groups


def copies(
    digests: Sequence[str], fingerprints: Pixels | None, progress: Progress = SILENT
) -> NDArray[np.int64]:
    """Groups of images that are copies of each other, `(N,)`.

    Args:
        digests: of the images' content.
        fingerprints: the images in `FINGERPRINT`; `None` finds images of equal content only.
        progress: told of a long search.
    """
    groups = exact_copies(digests)
    if fingerprints is None:
        return groups
    _, one = np.unique(groups, return_index=True)  # an image of every group
    size = FINGERPRINT.size
    pictures = np.empty((len(one), size, size, 3), dtype=np.uint8)
    for start in range(0, len(fingerprints), _ROWS):
        stop = min(start + _ROWS, len(fingerprints))
        here = (one >= start) & (one < stop)
        pictures[here] = fingerprints.rows(start, stop)[one[here] - start]
    with progress.task("looking for copies", len(one), "images") as advance:
        pairs = near_copies(pictures, advance)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Indices of 32 bits: `connected_components` of scipy 1.11 prints an error for longer ones, raises
    # nothing, and answers that all is one component.
    rows, columns = pairs.astype(np.int32).T
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(one), len(one)))
    return ImageGroups.read(connected_components(links, directed=False)[1].astype(np.int64)[groups]).of


def exact_copies(digests: Sequence[str]) -> NDArray[np.int64]:
    """Images of equal content as groups, `(N,)`."""
    inverse = np.unique(np.array(digests, dtype=str), return_inverse=True)[1]
    return ImageGroups.read(inverse.reshape(-1)).of
