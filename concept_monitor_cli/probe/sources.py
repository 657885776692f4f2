"""From what the user writes after `--probe` to images and labels: what is it, and who reads it?"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import broden, layouts
from concept_monitor_cli.probe.annotations import LabelSource
from concept_monitor_cli.probe.arrays import open_hdf5, open_npz
from concept_monitor_cli.probe.cifar import has_cifar, open_cifar
from concept_monitor_cli.probe.containers import CLOSED, ENDINGS, Contents, open_containers
from concept_monitor_cli.probe.decode import EXTENSIONS, FOREIGN
from concept_monitor_cli.probe.files import Listing, list_folder, natural_key
from concept_monitor_cli.probe.images import FileImages, ImageSource, SomeImages
from concept_monitor_cli.probe.labelmaps import find_label_maps
from concept_monitor_cli.probe.masked import IndexMasks, as_plain
from concept_monitor_cli.probe.panoptic import panoptic_json, read_panoptic
from concept_monitor_cli.probe.published import (
    is_published,
    open_mat,
    open_npy,
    open_published,
    published_files,
)
from concept_monitor_cli.probe.skipped import Skipped, warn_of
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.wording import counted

_ARRAYS = (".npz", ".h5", ".hdf5")
_MANY = 8  # data sets below a folder; more are one, with a folder for each photo
_BARE = 20  # files without an ending that are looked into where there are others with one
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Opened:
    """A probing set whose images were not read yet.

    Attributes:
        name: what to call it.
        source: the images.
        labels: what is to be seen in them; `None` where nothing is known.
        left_out: what was left out by its name alone.
        problem: why masks that lie there are not used.
        trusted: whether this program wrote the masks itself.
    """

    name: str
    source: ImageSource
    labels: LabelSource | IndexMasks | None = None
    left_out: Sequence[Skipped] = field(default_factory=tuple)
    problem: InputError | None = None
    trusted: bool = False


def open_source(spec: str, cache_dir: str | Path | None, progress: Progress) -> Opened:
    """What `load_probe` says about its `spec`.

    Raises:
        InputError: nothing is there, nothing of a kind that is read, or a data set that contradicts itself.
    """
    if spec == "builtin":
        return _open_builtin(cache_dir)
    for classes in (10, 100):
        prefix = f"cifar{classes}:"
        if spec.startswith(prefix):
            return Opened(*open_cifar(classes, spec[len(prefix) :]))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, progress)
    if path.is_file():
        return _open_file(path, progress)
    head, _, key = spec.rpartition(":")
    if head and Path(head).suffix.lower() in _ARRAYS and Path(head).expanduser().is_file():
        return _open_array(Path(head).expanduser(), key)
    if any(sign in spec for sign in "*?["):
        return _open_glob(str(path), progress)
    if path.exists():
        raise InputError("not a probing set", where=spec, hint="give a folder or a file of images")
    hint = "see the forms of --probe: cmon dissect --help"
    if "://" in spec:
        hint = "download it first, and give the folder or file"
    elif spec.lower() in ("cifar10", "cifar100"):
        hint = f"name its folder: --probe {spec.lower()}:DIR"
    raise InputError("no such probing set", where=spec, hint=hint)


# -- files ---------------------------------------------------------------------------------------------------


def _open_file(path: Path, progress: Progress) -> Opened:
    lower = path.name.lower()
    if lower.endswith(".json"):
        return _open_panoptic(path, progress)
    if path.suffix.lower() in _ARRAYS:
        return _open_array(path, None)
    if lower.endswith(".npy"):
        return Opened(path.stem, open_npy(path))
    if is_published(path):
        return Opened(path.stem, open_published(path))
    if lower.endswith(".mat"):
        return Opened(path.stem, open_mat(path))
    if lower.endswith(ENDINGS):
        return _from_containers(path.name.partition(".")[0], [path], progress)
    if lower.endswith(EXTENSIONS) or _starts_as_image(path):
        return Opened(path.stem, FileImages([path], [path.name]))
    raise InputError("not a probing set", where=path, hint=_advice([path.name]))


def _open_array(path: Path, key: str | None) -> Opened:
    opener = open_npz if path.suffix.lower() == ".npz" else open_hdf5
    return Opened(path.stem, opener(path, key))


def _open_glob(pattern: str, progress: Progress) -> Opened:
    found = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207, absolute or not
    files = [Path(each) for each in found if Path(each).is_file()]
    images = [path for path in files if path.name.lower().endswith(EXTENSIONS)]
    packed = [path for path in files if path.name.lower().endswith(ENDINGS)]
    name = Path(pattern).parent.name or "images"
    if images:
        top = Path(os.path.dirname(re.split(r"[*?\[]", pattern)[0]))  # noqa: PTH120, "a/" is the folder a
        ids = [path.relative_to(top).as_posix() for path in images]
        foreign = [str(path) for path in files if path.name.lower().endswith(FOREIGN)]
        maps = find_label_maps(ids, lambda each: (top / each).read_bytes())
        photos = [each for each in ids if each not in maps]
        left_out = [*_left_out(foreign, progress), *_left_out_maps(sorted(maps, key=natural_key), progress)]
        return Opened(
            name, FileImages([top / each for each in photos or ids], photos or ids), left_out=left_out
        )
    if packed:
        return _from_containers(name, packed, progress)
    what = "no images among the files of this pattern" if found else "no such files"
    raise InputError(what, where=pattern, hint=_advice([path.name for path in files]))


def _from_containers(name: str, paths: Sequence[Path], progress: Progress) -> Opened:
    contents: Contents = open_containers(paths)
    left_out = _left_out(contents.foreign, progress)
    ids = contents.images.ids
    places = {each: place for place, each in enumerate(ids)}
    maps = find_label_maps(ids, lambda each: contents.images.read(places[each]))
    if maps and len(maps) < len(ids):
        left_out += _left_out_maps(sorted(maps, key=natural_key), progress)
        problem = InputError(
            "masks inside of an archive are not read", where=paths[0], hint="unpack it and give the folder"
        )
        kept = SomeImages(contents.images, [place for place, each in enumerate(ids) if each not in maps])
        return Opened(name, kept, left_out=left_out, problem=problem)
    return Opened(name, contents.images, left_out=left_out)


def _starts_as_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


# -- folders -------------------------------------------------------------------------------------------------


def _open_folder(folder: Path, progress: Progress) -> Opened:
    name = folder.resolve().name
    if broden.is_broden(folder):
        return _open_broden(folder, name, progress)
    panoptic = panoptic_json(folder)
    if panoptic is not None:
        return _open_panoptic(panoptic, progress)
    places = layouts.mask_folders(folder)
    if places:
        return _open_masked(folder, layouts.read_masked_folder(folder, places), [], progress)
    listing = list_folder(folder)
    below = layouts.masked_below(folder, listing)
    if below and (found := _below(folder, below, listing, progress)) is not None:
        return found
    if not listing.images:
        return _open_without_images(folder, listing, progress)
    left_out = _left_out(listing.foreign, progress)
    _mention_bare(folder, listing, progress)
    maps = layouts.label_maps_in(folder, listing.images)
    if not maps:
        return Opened(name, _files(folder, listing.images), left_out=left_out)
    photos = [each for each in listing.images if each not in maps]
    if not photos:
        raise InputError(
            f"{counted(len(maps), 'images look')} like label maps, and none like a photo",
            where=folder,
            hint="give the folder that holds the photos, or the one above that holds both",
        )
    ordered = [each for each in listing.images if each in maps]
    return _open_masked(
        folder, layouts.read_masks_beside(folder, photos, ordered), ordered, progress, left_out
    )


def _files(folder: Path, names: Sequence[str]) -> FileImages:
    return FileImages([folder / each for each in names], names)


def _below(folder: Path, below: Sequence[Path], listing: Listing, progress: Progress) -> Opened | None:
    """The data set with masks below a folder, where it holds all of the folder's images.

    Raises:
        InputError: several.
    """
    inside = [f"{path.relative_to(folder).as_posix()}/" for path in below]
    outside = [each for each in listing.images if not each.startswith(tuple(inside))]
    if len(below) > _MANY:
        progress.notice(
            f"{folder} holds {counted(len(below), 'folders')} with masks of their own; their photos "
            "are one set"
        )
        return None
    if len(below) > 1 and not outside:
        raise InputError(
            f"{len(below)} data sets with masks: {', '.join(inside)[:200]}",
            where=folder,
            hint=f"name the one you mean: --probe {below[0]}",
        )
    if outside:
        progress.notice(f"{below[0]} is a data set with masks: --probe {below[0]} would use them")
        return None
    progress.notice(f"{folder} holds the data set {inside[0]}, which is used: --probe {below[0]}")
    return _open_folder(below[0], progress)


def _open_masked(
    folder: Path,
    found: layouts.MaskedFolder,
    maps: Sequence[str],
    progress: Progress,
    left_out: Sequence[Skipped] = (),
) -> Opened:
    """Photos with masks, or the photos alone where the masks cannot be used."""
    name = folder.resolve().name
    left_out = list(left_out)
    if found.masks is None:
        if maps:
            left_out += _left_out_maps(maps, progress)
        problem = found.problem
        if problem is not None:
            hint = "" if problem.hint is None else f" ({problem.hint})"
            progress.notice(f"{folder}: the masks are not used: {problem.what}{hint}")
        return Opened(name, _files(found.root, found.photos), left_out=left_out, problem=problem)
    classes = found.masks.classes
    progress.detail(f"{counted(len(classes.labels), 'class')}: {classes.source}")
    if classes.assumed:
        progress.notice(f"{folder}: {classes.assumed}")
    if found.missing:
        said = f"{folder}: {counted(len(found.missing), 'images without a mask are')} left out"
        published = found.masks.folder.name.startswith("SegmentationClass")  # where most have none
        if published or len(found.missing) > len(found.images):
            progress.notice(said)
        else:
            missing = [Skipped(each, "it has no mask") for each in found.missing]
            warn_of(missing, "images without a mask are left out", progress)
            left_out += missing
    return Opened(name, FileImages(*as_plain(found.images)), found.masks, left_out)


def _left_out(foreign: Sequence[str], progress: Progress) -> list[Skipped]:
    """Files that look like images, of formats that are not read."""
    skipped = [Skipped(each, f"{_ending(each)} is not read: convert it to JPEG or PNG") for each in foreign]
    warn_of(skipped, "files that look like images are left out", progress)
    return skipped


def _left_out_maps(maps: Sequence[str], progress: Progress) -> list[Skipped]:
    skipped = [Skipped(each, "it looks like a label map, not like a photo") for each in maps]
    warn_of(skipped, "files are not probed", progress)
    return skipped


def _ending(name: str) -> str:
    return "." + name.rpartition(".")[2].lower()


def _mention_bare(folder: Path, listing: Listing, progress: Progress) -> None:
    some = [each for each in listing.bare[:_BARE] if _starts_as_image(folder / each)]
    if some:
        progress.warning(
            f"{folder}: files without an ending are left out, though some are images, the first: {some[0]}"
        )


# -- folders without image files -----------------------------------------------------------------------------


def _open_without_images(folder: Path, listing: Listing, progress: Progress) -> Opened:
    name = folder.resolve().name
    for place in (folder, *(folder / inner for inner in listing.folders if "/" not in inner)):
        for classes in (10, 100):
            if has_cifar(place, classes):
                progress.notice(f"{folder} is taken for cifar{classes}:{place}")
                return Opened(*open_cifar(classes, str(place)))
    arrays = published_files(folder)
    if arrays:
        _say_chosen(arrays[:1], arrays[1:], progress)
        return Opened(name, open_published(arrays[0]))
    packed, rest = _chosen_split([each for each in listing.others if each.lower().endswith(ENDINGS)])
    if packed:
        _say_chosen([folder / each for each in packed], [folder / each for each in rest], progress)
        return _from_containers(name, [folder / each for each in packed], progress)
    single = [each for each in listing.others if each.lower().endswith((*_ARRAYS, ".npy", ".mat"))]
    if len(single) == 1:
        return _open_file(folder / single[0], progress)
    bare = [each for each in listing.bare if _starts_as_image(folder / each)]
    if bare:
        progress.notice(
            f"{folder}: {counted(len(bare), 'files without an ending are')} images by their first bytes"
        )
        return Opened(name, _files(folder, bare), left_out=_left_out(listing.foreign, progress))
    if single:
        hint = f"name the one you mean: --probe {folder / single[0]}"
    else:
        hint = _advice([*listing.foreign, *listing.others])
    raise InputError("no images in the folder", where=folder, hint=hint)


def _chosen_split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the containers in a folder those of one kind and one split, the training's first; and the rest."""
    names = [each for each in names if not each.rpartition("/")[2].startswith("cache-")]
    for endings in ((".parquet",), (".arrow",), (".tar",), ENDINGS):
        kind = [each for each in names if each.lower().endswith(endings)]
        training = [each for each in kind if "train" in each.lower()]
        if kind:
            chosen = training or kind
            return chosen, [each for each in names if each not in chosen]
    return [], []


def _say_chosen(chosen: Sequence[Path], rest: Sequence[Path], progress: Progress) -> None:
    if rest:
        what = chosen[0] if len(chosen) == 1 else f"{chosen[0]} and {len(chosen) - 1} more"
        progress.notice(f"{what} is taken; also there: {', '.join(path.name for path in rest)[:200]}")


def _advice(names: Sequence[str]) -> str:
    """What to do with files that are not read."""
    for name in names:
        lower = name.lower()
        kind = next((what for ending, what in CLOSED.items() if lower.endswith(ending)), None)
        if kind is not None:
            return f"{name} is {kind}, which is not read: save the images as JPEG or PNG files in a folder"
        if lower.endswith((".heic", ".heif", ".hif", ".jxl")):
            how = f"`magick mogrify -format jpg *.{name.rpartition('.')[2]}`"
            return f"{name} is not read: convert the images, as with {how}"
        if lower.endswith((".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd")):
            return f"{name} is not read: save the slices as 16-bit PNG or float TIFF files, see --grey-range"
        if lower.endswith((".pt", ".pth", ".pkl", ".pickle")):
            return f"{name} is not read: save its images as uint8 (N, H, W, 3) with numpy.save, as .npy"
        if lower.endswith(FOREIGN):
            return f"{name} is not read: convert the images to JPEG or PNG"
    return "give a folder or an archive of JPEG, PNG or other images, or an array (.npy, .npz, .h5)"


# -- data sets with labels -----------------------------------------------------------------------------------


def _open_broden(folder: Path, name: str, progress: Progress) -> Opened:
    labels = broden.read_labels(folder)
    rows, size = broden.read_index(folder, labels)
    rows, skipped = broden.check_files(folder, rows)
    warn_of(skipped, "images left out", progress)
    images = FileImages([folder / "images" / row.image for row in rows], [row.image for row in rows])
    return Opened(name, images, broden.BrodenLabels(folder, rows, labels, size), skipped)


def _open_panoptic(path: Path, progress: Progress) -> Opened:
    images, labels, skipped = read_panoptic(path)
    warn_of(skipped, "images left out", progress)
    return Opened(path.stem, FileImages(*as_plain(images)), labels, skipped)


def _open_builtin(cache_dir: str | Path | None) -> Opened:
    from concept_monitor_cli.builtin import builtin_probe_directory

    if cache_dir is None:
        import platformdirs

        cache_dir = platformdirs.user_cache_path("cmon", appauthor=False)
    opened = _open_broden(builtin_probe_directory(Path(cache_dir)), "builtin", SILENT)
    return replace(opened, trusted=True)
