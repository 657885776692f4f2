"""Plain words for the coded names of known data sets: `lfleg`, `/a/airfield`, `001.Black_footed_Albatross`.

Encoders were trained on English and figures are read by people, so both get the plain word. The name as the
data set spells it is kept beside it (`ConceptSet.codes`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from concept_monitor_cli.concepts.tidy import tidy

WNID = re.compile(r"n\d{8}")
"""A WordNet synset number, as ImageNet names its classes."""

MID = re.compile(r"/[mg]/[0-9a-z_]{2,}")
"""A Freebase or Knowledge Graph number, as Open Images names its classes."""

_WNID_PREFIX = re.compile(r"n\d{8}[ _\-.:]+(?=\S)")  # folders: n02085620-Chihuahua
_CUB_PREFIX = re.compile(r"\d{3}\.(?=[A-Za-z])")  # 001.Black_footed_Albatross
_SYNSET = re.compile(r"(.+)\.[nvasr]\.\d{1,3}")  # WordNet, Visual Genome, LVIS: dog.n.01
_PLACES = re.compile(r"/[a-z]/([^/\s]+(?:/[^/\s]+)*)")  # Places365: /a/apartment_building/outdoor
# iNaturalist 2021: 00000_Animalia_Annelida_..._Lumbricus_terrestris, the species its last two words
_INATURALIST = re.compile(r"\d{5}_(?:[A-Z][a-z]+_){5,6}([A-Z][a-z]+_[a-z][a-z-]+)")
_JOINED_BY_PLUS = re.compile(r"[a-z]+(?:\+[a-z]+)+")
_NUMBERED = re.compile(r"(.+?)_(\d{1,2})")
_CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
_GLOSS = re.compile(r"\s*\(([^()]*)\)\s*")

# Qualifiers of Places that follow their noun in English; the others precede it.
_PLACES_AFTER = frozenset(("platform", "door", "asia", "east_asia", "south_asia"))

# COCO-Stuff: https://github.com/nightrome/cocostuff/blob/master/labels.md
_STUFF = re.compile(
    r"(building|ceiling|door|floor|food|furniture|ground|mirror|plant|sky|solid|structural|textile|wall|water"
    r"|window|cupboard|fence|fruit|rock|tree|house|mountain|pavement|paper|table|cabinet|dirt|grass)"
    r"-(other|stuff|merged|other-merged|other-stuff|marble|stone|tile|wood|brick|concrete|panel|blind)"
)

# Words that data sets write as one: Pascal VOC.
_JOINED = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "trafficlight": "traffic light",
    "trafficsign": "traffic sign",
    "trafficcone": "traffic cone",
    "stopsign": "stop sign",
    "firehydrant": "fire hydrant",
    "parkingmeter": "parking meter",
}

# Pascal-Part, part2ind.m of http://roozbehm.info/pascal-parts/pascal-parts.html
_PASCAL_PARTS = {
    "lwing": "left wing", "rwing": "right wing", "fwheel": "front wheel", "bwheel": "back wheel",
    "chainwheel": "chain wheel", "handlebar": "handlebar", "leye": "left eye", "reye": "right eye",
    "lear": "left ear", "lebrow": "left eyebrow", "rebrow": "right eyebrow",
    "lleg": "left leg", "rleg": "right leg", "lfoot": "left foot", "rfoot": "right foot",
    "lhand": "left hand", "rhand": "right hand", "llarm": "left lower arm", "luarm": "left upper arm",
    "rlarm": "right lower arm", "ruarm": "right upper arm", "llleg": "left lower leg",
    "luleg": "left upper leg", "rlleg": "right lower leg", "ruleg": "right upper leg",
    "lfleg": "left front leg", "rfleg": "right front leg", "lbleg": "left back leg",
    "rbleg": "right back leg",
    "lfpa": "left front paw", "rfpa": "right front paw", "lbpa": "left back paw", "rbpa": "right back paw",
    "lfho": "left front hoof", "rfho": "right front hoof", "lbho": "left back hoof",
    "rbho": "right back hoof",
    "lfuleg": "left front upper leg", "lflleg": "left front lower leg", "rfuleg": "right front upper leg",
    "rflleg": "right front lower leg", "lbuleg": "left back upper leg", "lblleg": "left back lower leg",
    "rbuleg": "right back upper leg", "rblleg": "right back lower leg", "lhorn": "left horn",
    "rhorn": "right horn", "frontside": "front side", "leftside": "left side", "rightside": "right side",
    "backside": "back side", "roofside": "roof side", "leftmirror": "left mirror",
    "rightmirror": "right mirror", "fliplate": "front license plate", "bliplate": "back license plate",
    "hfrontside": "locomotive front side", "hleftside": "locomotive left side",
    "hrightside": "locomotive right side", "hbackside": "locomotive back side",
    "hroofside": "locomotive roof side", "cfrontside": "coach front side", "cleftside": "coach left side",
    "crightside": "coach right side", "cbackside": "coach back side", "croofside": "coach roof side",
}  # fmt: skip
# `rear` and `backside` are English words too: codes only beside others of the kind.
_AMBIGUOUS_PARTS = {"rear": "right ear"}
_NUMBERED_PARTS = frozenset(
    ("wheel", "engine", "door", "window", "headlight", "coach", "cfrontside", "cleftside", "crightside")
) | {"cbackside", "croofside"}

# Two spellings of one word, of things that are seen; the first that occurs in a set is kept.
_SPELLINGS = {
    "aeroplane": "airplane", "aeroplanes": "airplanes", "grey": "gray", "tyre": "tire", "tyres": "tires",
    "doughnut": "donut", "doughnuts": "donuts", "pyjamas": "pajamas", "moustache": "mustache",
    "yoghurt": "yogurt", "kerb": "curb", "plough": "plow", "armour": "armor", "jewellery": "jewelry",
}  # fmt: skip


def plain_names(names: Collection[str], categories: Collection[str] | None = None) -> list[str]:
    """A plain word for each name of one set, in order.

    What stays as it is: ordinary words, hyphens in them, capitals.

    Args:
        names: as a list or a data set spells them.
        categories: one for each, `""` where unknown; Broden's `blue-c` and `street-s` are read by them.
    """
    cleaned = [tidy(name) for name in names]
    kinds = list(categories) if categories is not None else [""] * len(cleaned)
    camel = sum(bool(_CAMEL.fullmatch(name)) for name in cleaned)
    # A set that writes all its names so; a single `PlayStation` among words stays.
    joined = camel > 1 and all(name[:1].isupper() and " " not in name for name in cleaned if name)
    lower = {name.lower() for name in cleaned}
    bases = {match[1] for name in lower if (match := _NUMBERED.fullmatch(name))}
    parts = any(name.rpartition("_")[2] in _PASCAL_PARTS for name in lower)
    return [
        _plain(name, kind, lower, bases, joined=joined, parts=parts)
        for name, kind in zip(cleaned, kinds, strict=True)
    ]


def _plain(
    name: str, kind: str, known: Collection[str], bases: Collection[str], *, joined: bool, parts: bool
) -> str:
    for prefix in (_WNID_PREFIX, _CUB_PREFIX):
        if match := prefix.match(name):
            name = name[match.end() :]
    if match := _INATURALIST.fullmatch(name):
        name = match[1]
    if _JOINED_BY_PLUS.fullmatch(name):  # Animals with Attributes: grizzly+bear
        name = name.replace("+", " ")
    if match := _SYNSET.fullmatch(name):
        name = match[1]
    if match := _PLACES.fullmatch(name):
        return _place(match[1])
    if "::" in name:  # CUB's attributes: has_bill_shape::curved_(up_or_down)
        name = name.removeprefix("has_").replace("::", " ")
    if kind == "color" and name.endswith("-c"):
        name = name[:-2]
    if kind == "scene" and name.endswith("-s"):
        name = name[:-2]
    if match := re.fullmatch(r"(.+?)[-/_](outdoor|indoor)", name):
        name = f"{match[2]} {match[1]}"
    if match := _STUFF.fullmatch(name):
        head, rest = match[1], match[2]
        if rest[:5] not in _OTHERS:
            name = f"window {rest}" if rest == "blind" else f"{rest} {head}"
        elif (
            head not in known
            and sum(other.startswith(f"{head}-") and _is_other(other) for other in known) < 2
        ):
            name = head  # alone, it needs no `other`
    if match := _NUMBERED.fullmatch(name):
        base = match[1].lower()
        if base.rpartition("_")[2] in _NUMBERED_PARTS or base in known or _several(base, known, bases):
            name = match[1]
    if joined and _CAMEL.fullmatch(name):
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    if "--" in name.strip("-"):  # Mapillary: construction--barrier--curb
        name = name.rpartition("--")[2].replace("-", " ")
    name = _parts(name, parts)
    if "(" in name:  # LVIS, Open Images: bow_(weapon)
        name = _GLOSS.sub(lambda match: f" {match[1]} ", name.replace("_", " "))
    return tidy(name.replace("_", " "))


_OTHERS = ("other", "stuff", "merge")


def _is_other(name: str) -> bool:
    match = _STUFF.fullmatch(name)
    return match is not None and match[2][:5] in _OTHERS


def _several(base: str, known: Collection[str], bases: Collection[str]) -> bool:
    """Whether a set numbers a name: `wheel_1` and `wheel_2`."""
    return base in bases and sum(f"{base}_{number}" in known for number in range(10)) > 1


def _place(path: str) -> str:
    first, *rest = path.split("/")
    words = [*reversed([part for part in rest if part not in _PLACES_AFTER]), first]
    words += [part for part in rest if part in _PLACES_AFTER]
    return tidy(" ".join(words).replace("_", " "))


def _parts(name: str, parts: bool) -> str:
    """Codes of Pascal-Part and joined words of Pascal VOC: `car_fliplate` -> `car front license plate`."""
    pieces = name.split("_")
    codes = {**_PASCAL_PARTS, **_JOINED, **(_AMBIGUOUS_PARTS if parts else {})}
    if not any(piece.lower() in codes for piece in pieces):
        return name
    return " ".join(codes.get(piece.lower(), piece) for piece in pieces)


def spelling(name: str) -> str:
    """One spelling for British and American English, to find two names of one thing; not shown."""
    return " ".join(_SPELLINGS.get(word, word) for word in name.split())


_UNLABELLED = frozenset(
    ("background", "bg", "void", "unlabeled", "unlabelled", "unlabel", "ignore", "ignored", "ignore region",
     "no label", "nolabel", "none", "null", "undefined", "unclassified", "out of roi", "other/unlabeled")
)  # fmt: skip


def is_unlabelled(name: str) -> bool:
    """Whether a class list's name means that a pixel belongs to no class: `_background_`, `Void`, blank."""
    bare = tidy(re.sub(r"[_\-\s]+", " ", name)).strip(" .[]()<>*'\"").casefold()
    return not bare or bare in _UNLABELLED


_MARKUP = re.compile(r"""[\[\]{}<>()"“”„«»|\\`*=]|&#?\w+;|://""")


def problem_with(word: str) -> str | None:
    """Why a word cannot be a concept, as the end of a sentence; None where it can."""
    if not word:
        return None
    found = _MARKUP.search(word)
    if found:
        kind = "a bracket" if found[0] in "[]{}<>()" else "a quotation mark" if found[0] in '"“”„«»' else ""
        return f"holds {kind} ({found[0]})" if kind else f"holds {found[0]!r}, which looks like markup"
    if (word[0], word[-1]) == ("'", "'") and len(word) > 1:
        return "stands in quotation marks"
    if WNID.fullmatch(word) or MID.fullmatch(word):
        return "is a code without a name"
    # Letters of any script, and pictograms.
    if not any(unicodedata.category(c)[0] == "L" or unicodedata.category(c) == "So" for c in word):
        return "is no word: it has no letter"
    return None
