"""Which files are checkpoints?"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from concept_monitor_cli.checkpoints.kinds import (
    DCP_METADATA,
    EXTENSIONS,
    INDEX,
    foreign,
    is_beside,
    is_checkpoint_name,
    is_dcp,
    is_other_state,
    is_plain_pickle,
    may_be_checkpoint,
    role,
    stem,
)
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import SILENT, Progress

__all__ = [
    "DCP_METADATA",
    "EXTENSIONS",
    "CheckpointFile",
    "find_checkpoints",
    "natural_key",
    "stem",
    "unique_names",
]

_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk, not opened yet.

    Attributes:
        path: the file; for torch.distributed.checkpoint the folder.
        name: unique within the run: the file's name, or as much of its path as tells it from others.
        place: its path below the folder that was searched, with `/` and without its extension.
        explicit: whether the user gave this very file, so that it cannot be clutter.
        searched: the folder in which it was found by searching; None where it was given or matched a glob.
    """

    path: Path
    name: str
    place: str
    explicit: bool = False
    searched: Path | None = None

    @property
    def on_top(self) -> bool:
        """Whether it lies directly in the folder that was searched."""
        return self.path.parent == self.searched


@dataclass
class _Found:
    """Files, the folder that each place is counted from, and what was passed over."""

    paths: dict[Path, tuple[Path, bool, Path | None]] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)
    foreign: dict[str, list[Path]] = field(default_factory=dict)


def find_checkpoints(*specs: str | Path, progress: Progress = SILENT) -> list[CheckpointFile]:
    """The files that may be the user's checkpoints, in natural order (`epoch_9` before `epoch_10`).

    A folder stands for everything below it that looks like a checkpoint. Files of optimizers, schedulers,
    masks and random states, hidden and temporary files are left out of folders and globs. A file given by its
    own name is taken, unless it is called an optimizer or a mask and others are given: a shell made the names
    of `ckpts/*` then. Of a file and links to it one is taken: the one whose name tells most, then the file.
    Which of them belong to one training is for `resolve` to say.

    Args:
        specs: folders, files, globs (`**` for any depth), folders of torch.distributed.checkpoint.
        progress: told what was left out.

    Returns:
        At least one checkpoint, each once.

    Raises:
        InputError: nothing is there, or nothing that looks like a checkpoint.
    """
    found = _Found()
    roots = [_resolve(spec, found) for spec in specs]
    _leave_out_given(found)
    _say_left_out(found, progress)
    root = roots[0] if len(roots) == 1 else Path(os.path.commonpath([path.absolute() for path in roots]))
    kept = _without_links(found.paths)
    names = unique_names(kept)
    return [
        CheckpointFile(path, name, _place(path, root), *found.paths[path][1:])
        for path, name in zip(kept, names, strict=True)
    ]


def natural_key(path: Path | str) -> list[tuple[int, int, str]]:
    """Sorting key by which numbers in a path count as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part.lower()) for part in parts if part]


def _say_left_out(found: _Found, progress: Progress) -> None:
    for paths, what in (
        (found.left_out, "not taken for checkpoints (optimizer, mask, temporary or hidden files)"),
        *((paths, f"not read: files {what}") for what, paths in sorted(found.foreign.items())),
    ):
        if paths:
            names = list(dict.fromkeys(path.name for path in paths))
            progress.notice(f"{what}: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")


def _leave_out_given(found: _Found) -> None:
    """Leave out optimizers and masks that were given by name beside checkpoints."""
    beside = [path for path, (_, explicit, _) in found.paths.items() if explicit and is_other_state(path)]
    if len(beside) < len(found.paths):
        found.left_out += beside
        for path in beside:
            del found.paths[path]


def _resolve(spec: str | Path, found: _Found) -> Path:
    """Note the files that a spec stands for; the folder that their places are counted from."""
    path = Path(spec).expanduser()
    if path.is_file() or is_dcp(path):
        found.paths.setdefault(path, (path.parent, True, None))
        return path.parent
    if path.is_dir():
        for item in _in_folder(path, found):
            found.paths.setdefault(item, (path, False, path))
        return path
    if any(letter in str(spec) for letter in "*?["):
        root = Path(re.split(r"[*?\[]", str(path))[0] + "x").parent
        for item in _in_glob(str(path), found):
            found.paths.setdefault(item, (root, False, None))
        return root
    folder = path.parent
    if folder.is_dir():
        names = sorted(item.name for item in folder.iterdir() if is_checkpoint_name(item))
        there = f"{folder} holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else None
    else:
        there = f"the folder {folder} does not exist either"
    raise InputError("no such file or folder", where=path, hint=there or "give a folder, a file or a glob")


def _in_folder(folder: Path, found: _Found) -> list[Path]:
    there = list(_walk(folder))
    kept = sorted(_sift(there, found), key=natural_key)
    if kept:
        return kept
    pickles = sorted(path.name for path in there if is_plain_pickle(path))
    raise _nothing(folder, "in this folder", found, any(path.suffix == ".distcp" for path in there), pickles)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, and folders of torch.distributed.checkpoint, which are not entered.

    Links to folders are followed last, each folder once; hidden folders are not entered.
    """
    seen: set[str] = set()
    waiting, linked = [folder], list[Path]()
    while waiting or linked:
        current = waiting.pop() if waiting else linked.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = current / entry.name
            if not entry.is_dir() or is_dcp(path):
                yield path
            elif not entry.name.startswith("."):
                (linked if entry.is_symlink() else waiting).append(path)


def _in_glob(pattern: str, found: _Found) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207  (absolute patterns)
    kept = list(_sift(matches, found))
    if not kept:
        kept = [path for match in matches if match.is_dir() for path in _sift(match.iterdir(), found)]
    if kept:
        return sorted(kept, key=natural_key)
    raise _nothing(Path(pattern), "match this pattern", found, unfinished=False)


def _nothing(
    where: Path, how: str, found: _Found, unfinished: bool, pickles: Sequence[str] = ()
) -> InputError:
    if unfinished:
        return InputError(
            "a torch.distributed.checkpoint folder without .metadata",
            where=where,
            hint="the save did not finish: take an earlier checkpoint",
        )
    others = [f"{paths[0].name}, {what}" for what, paths in found.foreign.items()]
    only = [*(path.name for path in found.left_out[:3]), *others][:3]
    shown = f" (only {', '.join(only)})" if only else ""
    hint = f"they end in {' '.join(EXTENSIONS)}"
    if pickles:
        hint = f"a pickle with weights is read where it is given by its name: {pickles[0]}"
    return InputError(f"no checkpoints {how}{shown}", where=where, hint=hint)


def _sift(paths: Iterable[Path], found: _Found) -> Iterator[Path]:
    """Those that are checkpoints; what only looks like one is noted."""
    candidates = []
    for path in paths:
        if _is_candidate(path):
            candidates.append(path)
        elif (what := foreign(path)) is not None and path.is_file():
            found.foreign.setdefault(what, []).append(path)
    indices = {
        path.parent / path.name.removesuffix(INDEX) for path in candidates if path.name.endswith(INDEX)
    }
    for path in candidates:
        # `model-00001-of-00002.safetensors` is read through `model.safetensors.index.json`.
        whole = path.parent / (_PART_OF_SEVERAL.sub("", stem(path)) + path.suffix)
        if whole in indices and path.suffix != ".json":
            continue
        if is_beside(path):
            found.left_out.append(path)
        else:
            yield path


def _is_candidate(path: Path) -> bool:
    if path.is_dir():
        return is_dcp(path)
    if is_dcp(path.parent):
        return False  # part of a folder that is one checkpoint
    return path.is_file() and may_be_checkpoint(path)


def _without_links(paths: Iterable[Path]) -> list[Path]:
    """Each file once, under the name that tells most of it."""
    by_file: dict[Path, list[Path]] = {}
    for path in paths:
        by_file.setdefault(path.resolve(), []).append(path)
    return [min(names, key=_tells_least) for names in by_file.values()]


def _tells_least(path: Path) -> tuple[bool, bool, bool]:
    """Sorting key: other names before `best` and `last`, names with a number first, files before links."""
    name = stem(path)
    return role(name) == "copy", not re.search(r"\d", name), path.is_symlink()


def _place(path: Path, root: Path) -> str:
    folder = path.absolute().parent
    root = root.absolute()
    inner = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
    return stem(path) if inner == "." else f"{inner}/{stem(path)}"


def unique_names(paths: list[Path]) -> list[str]:
    """File names, with as many folders in front as it takes to tell them apart."""
    depth = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-count:]) for path, count in zip(paths, depth, strict=True)]
        twice = {name for name, count in Counter(names).items() if count > 1}
        longer = [
            count + 1 if name in twice and count < len(path.parts) else count
            for path, name, count in zip(paths, names, depth, strict=True)
        ]
        if longer == depth:
            return names
        depth = longer
