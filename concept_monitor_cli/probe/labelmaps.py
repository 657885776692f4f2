"""Label maps among photos: files that say where things are, and must never be probed as photos."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from concept_monitor_cli.probe.decode import check_size, formats, quiet_pillow
from concept_monitor_cli.probe.maskfiles import black_and_white

_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_LOSSY = (".jpg", ".jpeg")  # of label maps, only black and white ones are left legible
_WORDS = re.compile(
    r"(^|[^a-z])(masks?|labels?|labeled|lbls?|annots?|annotations?|anno|seg|segs|segmentations?|segmentation\w*|"
    r"semantic|panoptic\w*|instances?|trimaps?|gt|gtfine|gtcoarse|ground_?truths?|stuffthingmaps|label_?ids|"
    r"parsing|depth|edges)([^a-z]|$)|class(es)?_?map|(train|val|test)annot",
    re.IGNORECASE,
)
_LOSSY_WORDS = re.compile(rf"{_WORDS.pattern}|segmim", re.IGNORECASE)
_PHOTO_ENDING = re.compile(r"([_-](leftimg8bit|sat|image|img|rgb|photo))$", re.IGNORECASE)

_SAMPLE = 12  # files of a group that are looked at
_GROUPS = 64  # groups that are looked at
_MOST_TWINS = 4  # folders of files of the same names, of which some hold label maps; more are classes
_MOSTLY = 0.75
_NEARLY = 0.9
_FEW_COLOURS = 16
_SOME_COLOURS = 512
_FLAT = 0.8  # share of neighbouring pixels of one colour, in label maps of many labels
_COARSE = 32  # levels of a channel that JPEG may mix: 8 are left
_COARSE_COLOURS = 8
_COARSELY = 0.93  # of 1,000 ImageNet photos 7 have so few colours, and so flat
_SMALLEST = 64  # pixels of an image that can be judged


def find_label_maps(names: Sequence[str], read: Callable[[str], bytes], top: str = "") -> set[str]:
    """Those of the files that are label maps.

    Looked at are files whose folder or name speaks of masks, and those that belong to a photo by their name;
    of each group of them a few, and all where these differ. Photos of one ending in folders that say
    nothing are not looked at.

    Args:
        names: paths with `/`.
        read: a file's bytes.
        top: the name of the folder that they all lie in.
    """
    telling, twins = _groups(names, top)
    maps: set[str] = set()
    known: dict[str, bool] = {}

    def is_map(name: str) -> bool:
        if name not in known:
            known[name] = _looks_like_map(name, read)
        return known[name]

    def share(group: Sequence[str]) -> float:
        sample = [group[place] for place in _evenly(len(group), _SAMPLE)]
        return sum(is_map(name) for name in sample) / len(sample)

    with quiet_pillow():
        for group in telling:
            found = share(group)
            if found >= _MOSTLY:
                maps.update(group)
            elif found > 0:
                maps.update(name for name in group if is_map(name))
        if 0 < len(twins) <= _MOST_TWINS:
            shares = [share(group) for group in twins]
            if min(shares) <= 1 - _NEARLY or _has_photos(names, twins):  # else: all drawings of one kind
                maps.update(
                    name
                    for group, found in zip(twins, shares, strict=True)
                    if found >= _NEARLY
                    for name in group
                )
    return maps


def _has_photos(names: Sequence[str], twins: Sequence[Sequence[str]]) -> bool:
    """Whether files of a kind that cannot be label maps have the names of these."""
    photos = {_stem(name) for name in names if not name.lower().endswith(_LOSSLESS)}
    return all(_stem(group[0]) in photos for group in twins)


def _evenly(count: int, wanted: int) -> list[int]:
    return list(dict.fromkeys(int(place) for place in np.linspace(0, count - 1, min(count, wanted))))


def _groups(names: Sequence[str], top: str) -> tuple[list[list[str]], list[list[str]]]:
    """Files that may be label maps: those whose names say so, and those with the name of another file."""
    candidates = [name for name in names if name.lower().endswith(_LOSSLESS)]
    lossy = [name for name in names if name.lower().endswith(_LOSSY) and _names_a_mask(name)]
    if not candidates and not lossy:
        return [], []
    stems = Counter(_stem(name) for name in names)
    photos = {_PHOTO_ENDING.sub("", stem) for stem in stems}
    in_masks = {folder: bool(_WORDS.search(folder)) for folder in {_folder(name) for name in candidates}}
    top_says = bool(_WORDS.search(top))
    telling: Mapping[tuple[str, str], list[str]] = defaultdict(list)
    twins: Mapping[tuple[str, str], list[str]] = defaultdict(list)
    for name in candidates:
        stem, folder = _stem(name), _folder(name)
        rest = _rest(stem, photos)
        place = folder.split("/", 1)[0]
        if in_masks[folder] or top_says or rest:
            telling[place, _digits(rest) or folder.rpartition("/")[2]].append(name)
        elif stems[stem] > 1:
            twins[place, name.rpartition(".")[2]].append(name)
    for name in lossy:
        folder, _, file = name.rpartition("/")
        telling[folder, _digits(_stem(file)) if _WORDS.search(_stem(file)) else ""].append(name)
    return list(telling.values())[:_GROUPS], list(twins.values())


def _names_a_mask(name: str) -> bool:
    """Whether a file's own name or that of its folder speaks of masks."""
    return bool(_LOSSY_WORDS.search("/".join(name.split("/")[-2:]).rpartition(".")[0]))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _stem(name: str) -> str:
    """A file's name without its ending; `0.jpg.png` belongs to `0.jpg`."""
    return re.sub(
        r"\.(jpe?g|png|tiff?|bmp|webp)$", "", name.rpartition("/")[2].rpartition(".")[0], flags=re.I
    )


def _rest(stem: str, photos: set[str]) -> str:
    """What follows the name of another photo: `_seg` in `a_seg.png` beside `a.jpg`."""
    for match in reversed(list(re.finditer(r"[_\-. ]", stem))):
        if stem[: match.start()] in photos:
            return stem[match.start() :]
    return ""


def _digits(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _looks_like_map(name: str, read: Callable[[str], bytes]) -> bool:
    try:
        data = read(name)
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            check_size(image)
            return looks_like_map(image)
    except MemoryError:
        raise
    except Exception:  # it will be named as unreadable when it is decoded
        return False


def _is_coarsely_flat(image: Image.Image) -> bool:
    channels = np.asarray(image.convert("RGB")).astype(np.int64) // _COARSE
    codes = channels[..., 0] + 8 * channels[..., 1] + 64 * channels[..., 2]
    if codes.size < _SMALLEST or codes.shape[1] < 2:
        return False
    most = np.sort(np.bincount(codes.ravel(), minlength=512))[-_COARSE_COLOURS:].sum()
    flat = (codes[:, 1:] == codes[:, :-1]).mean()
    return bool(most >= _COARSELY * codes.size and flat >= _COARSELY)


def looks_like_map(image: Image.Image) -> bool:
    """Whether an image has few colours, or flat areas of some: label maps have them and photos have not.

    JPEG blurs the borders of areas: there, colours are counted coarsely.
    """
    if image.format == "JPEG":
        return black_and_white(image) is not None or _is_coarsely_flat(image)
    if image.mode in ("P", "L", "1", "F") or image.mode.startswith("I"):
        codes = np.asarray(image)
    else:
        channels = np.asarray(image.convert("RGB")).astype(np.int64)
        codes = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
    if codes.size < _SMALLEST:
        return False
    colours = len(np.unique(codes))
    if colours <= min(_FEW_COLOURS, codes.size // 16):
        return True
    flat = float((codes[:, 1:] == codes[:, :-1]).mean()) if codes.shape[1] > 1 else 0.0
    return colours <= _SOME_COLOURS and flat >= _FLAT
