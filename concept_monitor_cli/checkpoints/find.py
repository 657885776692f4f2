"""Which files are checkpoints?"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from concept_monitor_cli.checkpoints.names import NamedEpoch, epoch_in_name
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import SILENT, Progress

EXTENSIONS = (".pth.tar", ".pt.tar", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
DCP_METADATA = ".metadata"
_INDEX = ".index.json"  # Hugging Face: says which of several files holds which parameter

# What trainers save beside the weights.
_OTHER_STATE = re.compile(
    r"(optim(izer)?|(lr_?)?sched(uler)?|(grad_?)?scaler|rng_?state|random_?states?|training_args|trainer_state)"
    r"([_\-.\d].*)?",
    re.IGNORECASE,
)
_TEMPORARY = re.compile(
    r"(^\.)|(^te?mp[_\-.])|(\.(tmp|temp|part|partial|incomplete|swp|bak)(\.|$))|(~$)", re.IGNORECASE
)
_PART_OF_SEVERAL = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint on disk, not opened yet.

    Attributes:
        path: the file; for torch.distributed.checkpoint the folder.
        name: unique within the run: the file's name, or as much of its path as tells it from others.
        named: the epoch that the name tells, if any.
    """

    path: Path
    name: str
    named: NamedEpoch | None

    @property
    def epoch_from_name(self) -> int | None:
        """The epoch (else the step, else the number) in the name; None where there is none."""
        return None if self.named is None else self.named.value


def find_checkpoints(*specs: str | Path, progress: Progress = SILENT) -> list[CheckpointFile]:
    """The checkpoints that the user means, in natural order of their paths (`epoch_9` before `epoch_10`).

    A folder stands for the checkpoints directly in it and, where there are none, for those anywhere below it.
    Files of optimizers, schedulers and random states, hidden and temporary files are left out of folders
    and globs; a file given by its own name is always taken.

    Args:
        specs: folders, files, globs (`**` for any depth), folders of torch.distributed.checkpoint.
        progress: told what was left out.

    Returns:
        At least one checkpoint, each once.

    Raises:
        InputError: nothing is there, or nothing that looks like a checkpoint.
    """
    found: dict[Path, Path] = {}
    roots: list[Path] = []
    left_out: list[Path] = []
    for spec in specs:
        paths, root = _resolve(spec, left_out)
        roots.append(root)
        for path in sorted(paths, key=natural_key):
            found.setdefault(path.resolve(), path)
    if left_out:
        shown = ", ".join(path.name for path in left_out[:4]) + (" ..." if len(left_out) > 4 else "")
        progress.notice(f"not taken for checkpoints (optimizer, temporary or hidden files): {shown}")
    names = _unique_names(list(found.values()))
    return [
        CheckpointFile(path, name, _named_epoch(path, roots))
        for path, name in zip(found.values(), names, strict=True)
    ]


def is_checkpoint_name(path: Path) -> bool:
    """Whether a file's name has the extension of a checkpoint."""
    return path.name.lower().endswith(EXTENSIONS)


def is_dcp(path: Path) -> bool:
    """Whether this is a folder written by torch.distributed.checkpoint."""
    return path.is_dir() and (path / DCP_METADATA).is_file()


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key by which numbers in a path count as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part.lower()) for part in parts if part]


def stem(path: Path) -> str:
    """The name without a checkpoint's extension (`.pth.tar` is one)."""
    name = path.name.removesuffix(_INDEX)
    lowered = name.lower()
    for extension in EXTENSIONS:
        if lowered.endswith(extension):
            return name[: -len(extension)]
    return name


def _resolve(spec: str | Path, left_out: list[Path]) -> tuple[list[Path], Path]:
    path = Path(spec).expanduser()
    if path.is_file() or is_dcp(path):
        return [path], path.parent
    if path.is_dir():
        return _in_folder(path, left_out), path
    if any(letter in str(spec) for letter in "*?["):
        return _in_glob(str(path), left_out), Path(re.split(r"[*?\[]", str(path))[0]).parent
    folder = path.parent
    if folder.is_dir():
        names = sorted(item.name for item in folder.iterdir() if is_checkpoint_name(item))
        there = f"{folder} holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else None
    else:
        there = f"the folder {folder} does not exist either"
    raise InputError("no such file or folder", where=path, hint=there or "give a folder, a file or a glob")


def _in_folder(folder: Path, left_out: list[Path]) -> list[Path]:
    direct = list(_sift(folder.iterdir(), left_out))
    if direct:
        return direct
    below = list(_sift(folder.rglob("*"), left_out))
    if below:
        return below
    raise _nothing(folder, "in this folder", left_out, any(folder.rglob("*.distcp")))


def _in_glob(pattern: str, left_out: list[Path]) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207  (absolute patterns)
    found = list(_sift(matches, left_out))
    if found:
        return found
    folders = [match for match in matches if match.is_dir()]
    inside = [path for folder in folders for path in _sift(folder.iterdir(), left_out)]
    if inside:
        return inside
    raise _nothing(Path(pattern), "match this pattern", left_out, unfinished=False)


def _nothing(where: Path, how: str, left_out: list[Path], unfinished: bool) -> InputError:
    if unfinished:
        return InputError(
            "a torch.distributed.checkpoint folder without .metadata",
            where=where,
            hint="the save did not finish: take an earlier checkpoint",
        )
    only = f" (only {', '.join(path.name for path in left_out[:3])})" if left_out else ""
    return InputError(f"no checkpoints {how}{only}", where=where, hint=f"they end in {' '.join(EXTENSIONS)}")


def _sift(paths: Iterable[Path], left_out: list[Path]) -> Iterator[Path]:
    """Those that are checkpoints; what only looks like one is noted."""
    candidates = [path for path in paths if _is_candidate(path)]
    indices = {
        path.parent / path.name.removesuffix(_INDEX) for path in candidates if path.name.endswith(_INDEX)
    }
    for path in candidates:
        # `model-00001-of-00002.safetensors` is read through `model.safetensors.index.json`.
        if (
            path.parent / (_PART_OF_SEVERAL.sub("", stem(path)) + path.suffix) in indices
            and path.suffix != ".json"
        ):
            continue
        if _TEMPORARY.search(path.name) or _OTHER_STATE.fullmatch(stem(path)):
            left_out.append(path)
            continue
        yield path


def _is_candidate(path: Path) -> bool:
    if path.is_dir():
        return is_dcp(path)
    if is_dcp(path.parent):
        return False  # part of a folder that is one checkpoint
    name = path.name.lower()
    return path.is_file() and (
        is_checkpoint_name(path) or name.endswith((".bin" + _INDEX, ".safetensors" + _INDEX))
    )


def _unique_names(paths: list[Path]) -> list[str]:
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


def _named_epoch(path: Path, roots: Iterable[Path]) -> NamedEpoch | None:
    """From the file's name, else from the folders between the place that was searched and the file."""
    found = epoch_in_name(stem(path))
    if found is not None:
        return found
    for root in roots:
        if root == path.parent or root not in path.parents:
            continue
        for folder in path.relative_to(root).parents:
            found = epoch_in_name(folder.name) if folder.name else None
            if found is not None:
                return found
    return None
