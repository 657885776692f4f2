"""Folders of photos and masks as data sets are handed out: which mask belongs to which photo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe import broden
from concept_monitor_cli.probe.classes import CLASS_LISTS, find_classes, known_classes
from concept_monitor_cli.probe.files import Listing, list_files, list_images
from concept_monitor_cli.probe.labelmaps import find_label_maps
from concept_monitor_cli.probe.masked import MASK_ENDINGS, IndexMasks, MaskedImage
from concept_monitor_cli.wording import counted

_IMAGE_FOLDERS = (
    *("images", "JPEGImages", "image", "imgs", "img", "leftImg8bit", "photos", "rgb", "image_2", "color"),
    *("images_png", "PNGImages"),
)
_MASK_FOLDERS = (
    *("masks", "SegmentationClass", "labels", "annotations", "mask", "gtFine", "SegmentationClassAug"),
    *(
        "annotation",
        "ground_truth",
        "groundtruth",
        "gt",
        "segmentations",
        "segmentation",
        "label",
        "labelIds",
        "semantic",
        "masks_png",
        "PedMasks",
    ),
)
_SIBLING = re.compile(r"[_-]?(masks?|labels?|annot|annotations?|gt|seg)$", re.IGNORECASE)

# What follows a photo's name in its mask's, the best first; the last two stand in sets with more than one.
_AFTER = ("", "_P", "_L", "_mask", "_label", "_labels", "_seg", "_segmentation", "_gt", "_masks", "_anno")
_AFTER_MORE = (
    "_gtFine_labelIds",
    "_gtCoarse_labelIds",
    "_labelIds",
    "_gtFine_labelTrainIds",
    "_labelTrainIds",
)
_AFTER_LAST = ("_train_id", "_trainIds", "_semantic", "-mask", "-label", "_manual1")
_MASK_AFTER = (*_AFTER, *_AFTER_MORE, *_AFTER_LAST)
_IMAGE_AFTER = ("_leftImg8bit", "_sat", "_image", "_img", "_rgb", "_training", "_test")
_MASK_BEFORE = ("mask_", "label_", "seg_", "gt_", "mask-", "label-")
_IMAGE_BEFORE = ("image_", "img_", "photo_", "image-", "img-")
_NO_NUMBERS = re.compile(r"_(color|instanceIds|instanceTrainIds)$")

Paired = list[tuple[str, str]]


@dataclass(frozen=True)
class MaskedFolder:
    """A folder of photos and masks.

    Attributes:
        root: where the photos lie.
        photos: all of them.
        images: those with a mask, and their masks.
        masks: what the masks say; `None` where `problem` says why nothing.
        problem: why the masks cannot be used.
        missing: photos without a mask.
    """

    root: Path
    photos: list[str]
    images: list[MaskedImage]
    masks: IndexMasks | None
    problem: InputError | None
    missing: list[str]


def mask_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Folders of photos and of masks of a data set: `images/` and `masks/`, `train/` and `train_masks/`."""
    try:
        inside = {path.name.casefold(): path for path in folder.iterdir() if path.is_dir()}
    except OSError:
        return []
    images = next((inside[name.casefold()] for name in _IMAGE_FOLDERS if name.casefold() in inside), None)
    masks = next((inside[name.casefold()] for name in _MASK_FOLDERS if name.casefold() in inside), None)
    if images is not None and masks is not None:
        return [(images, masks)] if list_files(masks, MASK_ENDINGS) else []
    pairs = []
    for name, path in sorted(inside.items()):
        partner = inside.get(_SIBLING.sub("", name))
        if partner is not None and partner != path and list_files(path, MASK_ENDINGS):
            pairs.append((partner, path))
    return pairs


def read_masked_folder(folder: Path, places: Sequence[tuple[Path, Path]]) -> MaskedFolder:
    """A folder of photos and of masks that hold a class number or a colour per pixel.

    A mask belongs to the photo of the same path and name; `_mask`, `_L`, `_gtFine_labelIds` and the like may
    stand after it (`_MASK_AFTER`), and the photo's own ending (`0.jpg.png`).

    Args:
        folder: the data set.
        places: of `mask_folders`.

    Raises:
        InputError: a malformed class list, or no photos.
    """
    photos: list[str] = []
    paired: Paired = []
    for images_at, masks_at in places:
        masks = [f"{_under(folder, masks_at)}{name}" for name in list_files(masks_at, MASK_ENDINGS)]
        prefix = "" if len(places) == 1 else _under(folder, images_at)
        own = list_images(images_at)
        photos += [prefix + name for name in own]
        pairs = pair(own, [mask[len(_under(folder, masks_at)) :] for mask in masks])
        paired += [(prefix + name, _under(folder, masks_at) + mask) for name, mask in pairs]
    images_at = places[0][0] if len(places) == 1 else folder
    masks_at = places[0][1] if len(places) == 1 else folder
    if not photos:
        raise InputError("no images in the folder", where=images_at)
    found = [MaskedImage(name, images_at / name, folder / mask) for name, mask in paired]
    return _with_classes(folder, images_at, masks_at, photos, found)


def read_masks_beside(folder: Path, photos: list[str], maps: Sequence[str]) -> MaskedFolder:
    """Photos and the label maps that were found among them.

    Raises:
        InputError: a malformed class list.
    """
    found = [MaskedImage(name, folder / name, folder / mask) for name, mask in pair(photos, maps)]
    return _with_classes(folder, folder, folder, photos, found)


def _with_classes(
    folder: Path, root: Path, masks_at: Path, photos: list[str], found: list[MaskedImage]
) -> MaskedFolder:
    names = {each.name for each in found}
    missing = [name for name in photos if name not in names]
    if not found:
        problem = InputError(
            f"none of {counted(len(photos), 'images')} has a mask of its name, the first: {photos[0]}",
            where=masks_at,
            hint="a mask is a .png or .tif with the path and name of its image",
        )
        return MaskedFolder(root, photos, [], None, problem, missing)
    listed = find_classes(*dict.fromkeys((folder, masks_at, masks_at.parent, folder.parent)))
    common = Path(found[0].mask).parent
    classes = listed or known_classes(str(masks_at), [each.mask.name for each in found])
    classes = classes or known_classes(str(common), [each.mask.name for each in found])
    if classes is None:
        problem = InputError(
            "masks without a class list",
            where=folder,
            hint="add classes.txt there: a name per line, the first for the number 0",
        )
        return MaskedFolder(root, photos, found, None, problem, missing)
    return MaskedFolder(root, photos, found, IndexMasks(found, classes, masks_at), None, missing)


def _under(folder: Path, inner: Path) -> str:
    path = inner.relative_to(folder).as_posix()
    return "" if path == "." else f"{path}/"


def pair(photos: Sequence[str], masks: Sequence[str]) -> Paired:
    """Each photo that has a mask, and that mask. By path and name, else by name alone where it is unique."""
    usable = [mask for mask in masks if not _NO_NUMBERS.search(_without_ending(mask))]
    found = _matched(photos, usable, lambda name: name) or _by_common_rest(photos, usable)
    paired, used = {photo for photo, _ in found}, {mask for _, mask in found}
    left = [photo for photo in photos if photo not in paired]
    often = Counter(photo.rpartition("/")[2] for photo in photos)
    left = [photo for photo in left if often[photo.rpartition("/")[2]] == 1]
    free = [mask for mask in usable if mask not in used]
    often = Counter(mask.rpartition("/")[2] for mask in usable)
    free = [mask for mask in free if often[mask.rpartition("/")[2]] == 1]
    if left and free:
        found += _matched(left, free, lambda name: name.rpartition("/")[2])
    order = {photo: place for place, photo in enumerate(photos)}
    return sorted(found, key=lambda each: order[each[0]])


def _by_common_rest(photos: Sequence[str], masks: Sequence[str]) -> Paired:
    """Photos and masks where something stands after, or before, the photo's name, the same in all masks."""
    stems = {_without_ending(photo).rpartition("/")[2]: photo for photo in photos}
    if len(stems) < len(photos) or len(masks) < 2:
        return []
    names = [_without_ending(mask).rpartition("/")[2] for mask in masks]
    for rest in dict.fromkeys(_rests(names[0], stems)):
        before, after = rest
        if _NO_CLASSES.search(before + after):
            continue
        found = [
            (stems[name[len(before) : len(name) - len(after)]], mask)
            for name, mask in zip(names, masks, strict=True)
            if name.startswith(before)
            and name.endswith(after)
            and name[len(before) : len(name) - len(after)] in stems
        ]
        if len(found) == len(masks) == len({photo for photo, _ in found}):
            return found
    return []


_NO_CLASSES = re.compile(r"depth|instance|edge|colou?r|normal|disp", re.IGNORECASE)


def _rests(name: str, stems: Mapping[str, str]) -> list[tuple[str, str]]:
    """What may stand before and after a photo's name in that of a mask, for the longest such name."""
    inside = sorted((stem for stem in stems if stem and stem in name), key=len, reverse=True)[:8]
    return [(name[: name.index(stem)], name[name.index(stem) + len(stem) :]) for stem in inside]


def _matched(photos: Sequence[str], masks: Sequence[str], of: Callable[[str], str]) -> Paired:
    """Photos and masks whose keys meet; of several masks of a photo the one with the likeliest name."""
    best: dict[str, tuple[int, str]] = {}
    for mask in masks:
        for rank, key in enumerate(_mask_keys(of(mask))):
            if key is not None and (key not in best or rank < best[key][0]):
                best[key] = (rank, mask)
    found: Paired = []
    for photo in photos:
        key = next((key for key in _image_keys(of(photo)) if key in best), None)
        if key is not None:
            found.append((photo, best[key][1]))
    return found


def _without_ending(name: str) -> str:
    return name.rpartition(".")[0]


def _mask_keys(mask: str) -> list[str | None]:
    """What a mask's photo may be called, the likeliest first; always at the same place of the list."""
    stem = _without_ending(mask)
    folder, slash, name = stem.rpartition("/")
    return [
        *(
            stem[: len(stem) - len(after)] if stem.lower().endswith(after.lower()) else None
            for after in _MASK_AFTER
        ),
        *(
            f"{folder}{slash}{name[len(before) :]}" if name.lower().startswith(before) else None
            for before in _MASK_BEFORE
        ),
    ]


def _image_keys(photo: str) -> list[str]:
    """What a photo's mask may be called without what stands after it: `0.jpg` has `0.png` or `0.jpg.png`."""
    stem = _without_ending(photo)
    keys = [stem, photo]
    keys += [stem[: -len(after)] for after in _IMAGE_AFTER if stem.endswith(after)]
    folder, slash, name = stem.rpartition("/")
    keys += [f"{folder}{slash}{name[len(b) :]}" for b in _IMAGE_BEFORE if name.lower().startswith(b)]
    return keys


# -- data sets below a folder ------------------------------------------------------------------------------


def masked_below(folder: Path, listing: Listing) -> list[Path]:
    """Data sets with masks one or two levels below a folder, as far as the names there tell."""
    names = {inner.casefold() for inner in listing.folders}
    indices = {_folder(name) for name in listing.others if name.endswith("/index.csv")}
    lists = {_folder(name) for name in listing.others if name.rpartition("/")[2] in CLASS_LISTS}
    panoptic = {
        _folder(name).removesuffix("/annotations") for name in listing.others if _PANOPTIC.search(name)
    }

    def is_data_set(inner: str) -> bool:
        path, low = folder / inner, inner.casefold()
        if inner in panoptic or (inner in indices and broden.is_broden(path)):
            return True
        if inner in lists and _has_masks(path, f"{inner}/", listing.images):
            return True
        images = any(f"{low}/{name.casefold()}" in names for name in _IMAGE_FOLDERS)
        masks = any(f"{low}/{name.casefold()}" in names for name in _MASK_FOLDERS)
        return images and masks and bool(mask_folders(path))

    found = [folder / inner for inner in listing.folders if inner.count("/") <= 1 and is_data_set(inner)]
    return [path for path in found if not any(other in path.parents for other in found)]


_PANOPTIC = re.compile(r"/[^/]*panoptic[^/]*\.json$", re.IGNORECASE)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _has_masks(folder: Path, prefix: str, images: Sequence[str]) -> bool:
    """Whether there are masks beside a class list."""
    names = [name.removeprefix(prefix) for name in images if name.startswith(prefix)]
    return bool(mask_folders(folder) or label_maps_in(folder, names))


def label_maps_in(folder: Path, names: Sequence[str]) -> set[str]:
    """Those of the files in a folder that are label maps. See `find_label_maps`."""
    return find_label_maps(names, lambda name: (folder / name).read_bytes(), folder.resolve().name)
