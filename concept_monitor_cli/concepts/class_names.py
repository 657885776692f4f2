"""The true names of a classifier's units: its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.concepts.tidy import tidy
from concept_monitor_cli.errors import InputError

#: Sets of class names that need no file.
KNOWN = ("cifar10", "cifar100", "imagenet")
#: Takes the names of the probing set's folders.
FOLDERS = "folders"

# Under these names trainers keep a list of class names, or a table from name to number, in a checkpoint.
_META = ("classes", "class_names", "class_to_idx", "names", "labels", "idx_to_class")
_PLACES = ("args", "config", "hyper_parameters", "meta", "hparams")

_OPTION = "--class-names"
_HINT = "name them in order, one a line: --class-names FILE, or cifar10, cifar100, imagenet, folders"


@dataclass(frozen=True)
class ClassNames:
    """The names of a network's classes, in the order of its outputs.

    Attributes:
        names: `K` names; two may be equal (ImageNet's two kinds of crane).
        source: where they are from, for people.
        assumed: whether the order was guessed.
    """

    names: tuple[str, ...]
    source: str
    assumed: bool = False

    def __len__(self) -> int:
        return len(self.names)


def spelling(name: str) -> str:
    """A name in a form in which equal names are equal: `Polar_bear` and `polar bear`."""
    return tidy(name.replace("_", " ")).casefold()


def load_class_names(spec: str, ids: Sequence[str] = ()) -> ClassNames:
    """Class names by what the user wrote.

    Args:
        spec: `cifar10`, `cifar100`, `imagenet` (open_clip's clean names), `folders` (of the probing images),
            or a text file with one name a line, in the order of the outputs.
        ids: what the probing images are called, for `folders`.

    Raises:
        InputError: no such file or name, or a line without a name.
    """
    if spec == FOLDERS:
        folders = image_folders(ids)
        if not folders:
            raise InputError("the probing images do not lie in folders of classes", where=_OPTION, hint=_HINT)
        return ClassNames(_from_folders(folders), "the folders of the probing images, in alphabetical order")
    if spec in KNOWN:
        return ClassNames(_known(spec), spec)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise InputError("there are no such class names", where=f"{_OPTION} {spec}", hint=_HINT)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the class names cannot be read as UTF-8 text", where=path) from error
    while lines and not lines[-1].strip():
        lines.pop()
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank or not lines:
        raise InputError(
            f"line {blank[0]} has no class name" if blank else "there are no class names in the file",
            where=path,
            hint="the line's place is the output's number, so that every line counts",
        )
    return ClassNames(tuple(tidy(line) for line in lines), path.name)


def find_class_names(
    count: int, meta: Mapping[str, Any], probe: str, ids: Sequence[str]
) -> ClassNames | InputError:
    """The names of `count` classes without the user's word: from the checkpoint, else the probing images.

    Args:
        count: how many the network tells apart.
        meta: the checkpoint's plain entries.
        probe: `--probe` of the run.
        ids: what the probing images are called.

    Returns:
        The names; or why they are not known.
    """
    said = _from_checkpoint(meta, count)
    if said is not None:
        return ClassNames(said, "the checkpoint")
    for name in ("cifar10", "cifar100"):
        if probe.startswith(f"{name}:") and count == len(_known(name)):
            return ClassNames(_known(name), f"the probing images ({name})", assumed=True)
    folders = image_folders(ids)
    if len(folders) == count:
        return ClassNames(
            _from_folders(folders), "the folders of the probing images, in alphabetical order", assumed=True
        )
    if count == 1000:
        return ClassNames(_known("imagenet"), "ImageNet, as there are 1,000 classes", assumed=True)
    return InputError(f"the names of the {count} classes are not known", where=_OPTION, hint=_HINT)


def image_classes(ids: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """The class of every image by the folder that it lies in.

    Args:
        ids: `N` paths.
        names: `K` class names.

    Returns:
        `(N,)`, a number below `K`; -1 where the folder is not called like a class.
    """
    number = {spelling(name): place for place, name in reversed(list(enumerate(names)))}
    return np.array([number.get(spelling(_folder(path)), -1) for path in ids], dtype=np.int64)


def image_folders(ids: Sequence[str]) -> list[str]:
    """The names of the folders that images lie in, sorted as `torchvision.datasets.ImageFolder` does.

    Empty where some image lies in none.
    """
    folders = {_folder(path) for path in ids}
    return [] if "" in folders else sorted(folders)


def _folder(path: str) -> str:
    parts = path.split("/")
    return parts[-2] if len(parts) > 1 else ""


def _from_folders(folders: Sequence[str]) -> tuple[str, ...]:
    # `n01440764_tench` and `012.Blue_jay`: a number that datasets put before the name.
    return tuple(tidy(re.sub(r"^(n\d{8}|\d+)[._ -]+", "", name).replace("_", " ")) for name in folders)


def _known(name: str) -> tuple[str, ...]:
    if name == "imagenet":
        # Not a concept set: the two cranes and the two maillots are classes of their own.
        import concept_monitor_cli._torchvision  # noqa: F401, I001 - must come before open_clip
        import open_clip

        return tuple(open_clip.IMAGENET_CLASSNAMES)
    file = resources.files("concept_monitor_cli.concepts").joinpath("class_lists", f"{name}.txt")
    return tuple(file.read_text(encoding="utf-8").split("\n")[:-1])


def _from_checkpoint(meta: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    places = [meta, *(inner for key in _PLACES if isinstance(inner := meta.get(key), Mapping))]
    for place in places:
        for key in _META:
            names = _as_names(place.get(key))
            if names is not None and len(names) == count:
                return names
    return None


def _as_names(value: Any) -> tuple[str, ...] | None:
    """Names from a list, from `name -> number` or from `number -> name`."""
    if isinstance(value, Mapping):
        pairs: list[Any] = [
            (int(b), a) if isinstance(b, int) else (int(a), b)
            for a, b in value.items()
            if isinstance(b, int) or str(a).isdecimal()
        ]
        if sorted(number for number, _ in pairs) != list(range(len(value))):
            return None
        value = [name for _, name in sorted(pairs)]
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(tidy(name) for name in value)
    return None
