"""The order of probing images: by content, never by name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from concept_monitor_cli.probe.annotations import LabelSource


def by_content(
    digests: Mapping[int, str], labels: LabelSource | None, *, limit: int | None = None, seed: int = 0
) -> list[int]:
    """The numbers of images in the order of their content.

    Where files are sorted by class and by name, every rule for ties favours the first class. The order of
    digests has nothing to do with what is on the images, and does not change when files are renamed. Images
    of equal content come in the order of their labels; where those are equal too, the images are one and the
    same.

    Args:
        digests: number of an image in its source -> hex SHA-256 of its content.
        labels: of the images, where they have some.
        limit: how many to take: those whose content comes first in a random order made of `seed`.
        seed: of that order.

    Raises:
        InputError: labels that must be looked at cannot be read.
    """
    count = Counter(digests.values())

    def rank(row: int) -> tuple[str, str]:
        digest = digests[row]
        if labels is None or count[digest] == 1:
            return digest, ""
        return digest, hashlib.sha256(labels.content(row)).hexdigest()

    rows = sorted(digests, key=lambda row: (*rank(row), row))
    if limit is None or limit >= len(rows):
        return rows
    place = {row: number for number, row in enumerate(rows)}

    def lot(row: int) -> tuple[str, int]:
        return hashlib.sha256(f"{seed}:{digests[row]}".encode("ascii")).hexdigest(), place[row]

    return sorted(sorted(rows, key=lot)[:limit], key=place.__getitem__)
