"""The story of a `fetch`: probing sets and weights from where their authors publish them.

The addresses are the authors'; the digests are those by which other projects verify the same files, and
`docs/data.md` names these projects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.options import FetchOptions, nearest
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.stories.downloading import download, remove, unpack


@dataclass(frozen=True)
class Archive:
    """A file that is published.

    Attributes:
        url: where.
        digest: `sha256:...`, `sha1:...` or `md5:...`.
        only: beginnings of the names in it that are wanted; none means all.
    """

    url: str
    digest: str
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the file is called."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """What can be fetched.

    Attributes:
        what: in a few words.
        licence: under what it may be used.
        home: the page that says so.
        archives: the files.
        place: the folder or file that is there afterwards.
        use: the options that use it, with `{place}`.
        packed: whether the files are archives.
        folder: whether `place` is a folder that is made for what is in them, rather than a part of it.
    """

    what: str
    licence: str
    home: str
    archives: tuple[Archive, ...]
    place: str
    use: str
    packed: bool = True
    folder: bool = False


PUBLISHED: Mapping[str, Published] = {
    "broden": Published(
        "Broden at 224 pixels: 63,305 images, masks of 1,197 concepts in six categories",
        "for research: ADE20K, Pascal-Context, Pascal-Part, OpenSurfaces and DTD keep their own",
        "http://netdissect.csail.mit.edu",
        (
            Archive(
                "http://netdissect.csail.mit.edu/data/broden1_224.zip", "md5:be13c292eaef3300da03f8d0e48eab1c"
            ),
        ),
        "broden1_224",
        "--probe {place}",
    ),
    "ade20k": Published(
        "ADE20K SceneParsing (2016): photos with masks of 150 classes",
        "annotations BSD 3-Clause, images for non-commercial research and education",
        "http://sceneparsing.csail.mit.edu",
        (
            Archive(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            ),
        ),
        "ADEChallengeData2016",
        "--probe {place}",
    ),
    "coco-panoptic": Published(
        "COCO panoptic, validation 2017: 5,000 photos with masks of 133 classes",
        "annotations CC BY 4.0, images under the terms of Flickr",
        "https://cocodataset.org",
        (
            Archive(
                "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
                "sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
                only=("annotations/panoptic_val2017",),
            ),
            Archive(
                "http://images.cocodataset.org/zips/val2017.zip",
                "sha1:4950dc9d00dbe1c933ee0170f5797584351d2a41",
            ),
        ),
        "coco-panoptic",
        "--probe {place}",
        folder=True,
    ),
    "dtd": Published(
        "Describable Textures: 5,640 photos of 47 textures",
        "for research",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        (
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "sha256:e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                only=("dtd/images",),
            ),
        ),
        "dtd/images",
        "--probe {place}",
    ),
    "clip": Published(
        "CLIP ViT-B/16 of OpenAI, the encoder that photos get by default",
        "MIT",
        "https://github.com/openai/CLIP",
        (
            Archive(
                "https://openaipublic.azureedge.net/clip/models/"
                "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
                "sha256:5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
            ),
        ),
        "ViT-B-16.pt",
        "--encoder ViT-B/16 --encoder-weights {place}",
        packed=False,
    ),
}


@dataclass
class FetchResult:
    """What a fetch did.

    Attributes:
        name: of what was fetched.
        place: the folder or file.
        state: `fetched`, `there already`, or `not fetched` (a dry run).
        use: the options that use it.
        licence: under what.
        urls: from where.
    """

    name: str
    place: Path
    state: str
    use: str
    licence: str
    urls: list[str] = field(default_factory=list)


def fetch(options: FetchOptions, progress: Progress = SILENT) -> FetchResult:
    """Download one of `PUBLISHED` and unpack it.

    Args:
        options: which, and where to.
        progress: told what is fetched under which licence, and of the work.

    Raises:
        InputError: there is no such name.
        CmonError: the download failed; what has come of it stays, and the same call goes on from there.
    """
    wanted = PUBLISHED.get(options.name or "")
    if wanted is None:
        near = nearest(options.name or "", PUBLISHED)
        raise InputError(
            f"there is nothing called {options.name!r} to fetch",
            where="NAME",
            hint=f"{f'did you mean {near[0]}? ' if near else ''}there are {', '.join(PUBLISHED)}",
        )
    place = options.to / wanted.place
    result = FetchResult(
        options.name or "",
        place,
        "there already",
        wanted.use.format(place=place),
        wanted.licence,
        [archive.url for archive in wanted.archives],
    )
    progress.notice(f"{wanted.what}; licence: {wanted.licence} ({wanted.home})")
    if place.exists():
        return result
    if options.dry_run:
        result.state = "not fetched"
        return result
    for archive in wanted.archives:
        download(archive.url, options.to / archive.name, archive.digest, progress)
    if wanted.packed:
        _unpack(wanted, options.to, progress)
    result.state = "fetched"
    return result


def _unpack(wanted: Published, folder: Path, progress: Progress) -> None:
    """Beside its place first: what is there under its name is whole."""
    unpacked = folder / f".{wanted.place.replace('/', '-')}.unpacking"
    top = wanted.place.partition("/")[0]
    if (folder / top).exists():
        raise InputError(
            f"there is no {wanted.place} in what is here",
            where=folder / top,
            hint="move it away, or name another --to",
        )
    remove(unpacked)
    try:
        for archive in wanted.archives:
            unpack(folder / archive.name, unpacked, archive.only, progress)
        made = unpacked if wanted.folder else unpacked / top
        if not made.exists():
            raise CmonError(f"there is no {top} in the archive", where=folder / wanted.archives[0].name)
        made.replace(folder / top)
    finally:
        remove(unpacked)
    for archive in wanted.archives:
        (folder / archive.name).unlink()
