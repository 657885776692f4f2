"""Which row of a file of embeddings belongs to which probing image, by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted


class ImageNames:
    """The names of the images in a file of embeddings.

    Args:
        names: a name for each row: ids, paths relative or absolute, file names with or without their ending.
        dataset: what the file calls them, for messages.
        where: the file, for messages.
        rows: rows of embeddings.

    Raises:
        InputError: another number of names than rows.
    """

    def __init__(self, names: Sequence[str], dataset: str, where: str, rows: int) -> None:
        if len(names) != rows:
            raise InputError(f"{rows} images but {counted(len(names), 'names')} in `{dataset}`", where=where)
        self.dataset = dataset
        self._where = where
        self._names = [name.replace("\\", "/") for name in names]

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The row of each image.

        Compared are whole names, then the ends of the file's paths (`/data/photos/a/1.jpg` is `a/1.jpg`),
        then file names, then both without their ending: the first way that gives every image one row.

        Raises:
            InputError: an image has no row, or several.
        """
        problem = ""
        fits = False
        for key in (_same, _end(ids), _file_name, _end_stem(ids), _stem):
            found: dict[str, list[int]] = {}
            for row, name in enumerate(self._names):
                found.setdefault(key(name), []).append(row)
            wanted = [key(name) for name in ids]
            if len(set(wanted)) == len(wanted) and all(len(found.get(name, ())) == 1 for name in wanted):
                return [found[name][0] for name in wanted]
            missing = [name for name, own in zip(ids, wanted, strict=True) if own not in found]
            twice = [name for name, own in zip(ids, wanted, strict=True) if len(found.get(own, ())) > 1]
            if not fits:  # the first way of comparing in which some fit tells what is wrong
                fits = len(missing) < len(ids)
                if missing:
                    problem = (
                        f"{len(missing)} of {len(ids)} probing images are not in it, such as {missing[0]!r}"
                    )
                elif twice:
                    problem = f"{twice[0]!r} stands there several times"
                else:
                    problem = "several probing images have one name in it"
        raise InputError(
            f"the embeddings' `{self.dataset}` do not fit the probing images: {problem}",
            where=self._where,
            hint=f"they begin with {self._names[0]!r}, the probing images with {ids[0]!r}",
        )


def _same(name: str) -> str:
    return name.removeprefix("./")


def _end(ids: Sequence[str]) -> Callable[[str], str]:
    """The last parts of a path, as many as the ids have."""
    depth = max((name.count("/") for name in ids), default=0) + 1

    def key(name: str) -> str:
        return "/".join(name.split("/")[-depth:])

    return key


def _end_stem(ids: Sequence[str]) -> Callable[[str], str]:
    end = _end(ids)

    def key(name: str) -> str:
        path = PurePosixPath(end(name))
        return path.with_suffix("").as_posix() if path.name else name

    return key


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
