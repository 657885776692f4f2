"""Embeddings of a probe set and of words: each computed once, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from concept_monitor_cli.encoders.base import Encoder
from concept_monitor_cli.encoders.precomputed import PrecomputedEncoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.clock import Clock
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.probe.batches import PixelRows, batches
from concept_monitor_cli.probe.pixels import Done
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.store import Entry, Key, Store, Writer
from concept_monitor_cli.store.keys import JSONValue, canonical_json

TEXT_BLOCK = 256
"""Words that go through the text encoder at once."""

HOST_BATCH = 16
"""Images that go through the encoder at once on a processor, at most: the maps of more leave its caches.

The same embeddings with a quarter of the memory of 64; per 64 images 6.2 s instead of 6.8 with
EfficientNet-Lite2, 11.4 instead of 13.0 with ViT-B/32."""

_NAME = "embeddings"

Matrix = npt.NDArray[np.float32]


@runtime_checkable
class PixelBlocks(PixelRows, Protocol):
    """What is needed of decoded images (`probe.Pixels`)."""

    @property
    def geometry(self) -> Geometry:
        """How the images were made square."""

    def blocks(self) -> Iterator[tuple[int, int, str]]:
        """(start, stop, digest of what the pixels of these images depend on)."""

    def done(self, digest: str) -> None:
        """Told when a block of that digest is embedded."""


def embed_images(
    store: Store,
    encoder: Encoder,
    pixels: PixelBlocks | Sized,
    *,
    batch_size: int = 64,
    progress: Progress = SILENT,
    clock: Clock | None = None,
) -> Matrix:
    """`I`: the embeddings of all images of a probe set, in its order.

    Kept per block of pixels, keyed by the encoder's and the block's digests, so that a probe set that grew
    costs only what is new, and a run that was stopped goes on where it was.

    Args:
        store: where embeddings are kept.
        encoder: of `load_encoder`.
        pixels: decoded for the encoder (`encoder.preprocessing.geometry`). An encoder without preprocessing
            (its embeddings come from a file) only counts them: the probe set itself will do.
        batch_size: images that go through the network at once; on a processor at most `HOST_BATCH`.
        progress: one task over the images that are not in the store yet.
        clock: runs while images go through the network.

    Returns:
        fp32 `(N, D)`, rows of length one.

    Raises:
        InputError: given embeddings of another number of images.
        CmonError: an embedding that is not finite.
        ValueError: pixels of another size than the encoder's.
    """
    if isinstance(encoder, PrecomputedEncoder):
        ids = getattr(pixels, "ids", None)
        images = encoder.images(len(pixels), None if ids is None else tuple(ids))
        if encoder.by_name or not isinstance(pixels, ProbeSet):
            return images
        # The file has the images in the natural order of the probing set's files, which is not its own order.
        return images[pixels.natural_places]
    if not isinstance(pixels, PixelBlocks):
        raise TypeError("this encoder needs decoded pixels")
    assert encoder.preprocessing is not None
    size = encoder.preprocessing.geometry.size
    if pixels.geometry.size != size:
        raise ValueError(f"pixels of {pixels.geometry.size} for an encoder of {size}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    result = np.empty((len(pixels), encoder.dim), dtype=np.float32)
    blocks = list(pixels.blocks())
    embed_image_blocks(
        store, encoder, pixels, blocks, batch_size=batch_size, progress=progress, into=result, clock=clock
    )
    return result


def embed_image_blocks(
    store: Store,
    encoder: Encoder,
    pixels: PixelBlocks,
    blocks: Sequence[tuple[int, int, str]],
    *,
    batch_size: int = 64,
    progress: Progress = SILENT,
    into: Matrix | None = None,
    clock: Clock | None = None,
) -> None:
    """Put the embeddings of some blocks of images into the store, those that are not there yet.

    Args:
        store, encoder, pixels, batch_size, progress, clock: as for `embed_images`.
        blocks: some of `pixels.blocks()`.
        into: `(N, D)`, gets the embeddings of these images.

    Raises:
        CmonError: an embedding that is not finite.
    """
    assert encoder.preprocessing is not None
    size, clock = encoder.preprocessing.geometry.size, clock or Clock(encoder.device)
    if encoder.device.type == "cpu":
        batch_size = min(batch_size, HOST_BATCH)
    missing = []
    for start, stop, digest in blocks:
        key = _image_key(store, encoder, digest)
        entry = store.get(key)
        if entry is None:
            missing.append((start, stop, digest, key))
            continue
        with entry:
            if into is not None:
                into[start:stop] = entry.read(_NAME)
    if not missing:
        return
    total = sum(stop - start for start, stop, *_ in missing)
    with progress.task(f"embedding images ({encoder.name})", total) as advance:
        for start, stop, digest, key in missing:
            fresh = 0

            def make(writer: Writer, start: int = start, stop: int = stop) -> None:
                nonlocal fresh
                writer.create(_NAME, (stop - start, encoder.dim), np.float32)
                block = slice(start, stop)
                with closing(batches(pixels, batch_size, size, encoder.device, block)) as read:
                    for first, batch in read:
                        with clock():
                            made = encoder.image(batch).cpu().numpy()
                        writer.write(_NAME, first - start, made)
                        fresh += len(batch)
                        advance(len(batch))

            with store.get_or_make(key, make) as entry:
                if into is not None:
                    into[start:stop] = entry.read(_NAME)
            pixels.done(digest)
            advance(stop - start - fresh)  # another process made it meanwhile


def looked_at_once(store: Store, encoder: Encoder | None, *others: Geometry) -> dict[Geometry, Done]:
    """What `decode_probe` makes for an encoder and need not keep: pixels that are embedded, and that is all.

    Args:
        store: where embeddings are kept.
        encoder: None for none.
        others: geometries that are decoded anyway, and stay.

    Returns:
        the encoder's geometry; nothing where it is one of the others, or the encoder takes no pixels.
    """
    if encoder is None or encoder.preprocessing is None or encoder.preprocessing.geometry in others:
        return {}
    return {
        encoder.preprocessing.geometry: lambda digest: store.has(_image_key(store, encoder, digest)),
    }


def images_to_embed(store: Store, encoder: Encoder, pixels: PixelBlocks) -> int:
    """How many images `embed_images` would send through the encoder's network."""
    return sum(
        stop - start
        for start, stop, digest in pixels.blocks()
        if not store.has(_image_key(store, encoder, digest))
    )


def _image_key(store: Store, encoder: Encoder, pixels: str) -> Key:
    return store.key("image_embeddings", encoder=encoder.digest, pixels=pixels)


def embed_texts(
    store: Store,
    encoder: Encoder,
    texts: Sequence[str],
    *,
    template: str | Sequence[str] | None = None,
    progress: Progress = SILENT,
    clock: Clock | None = None,
) -> Matrix:
    """`T`: the embeddings of words, in their order; a word that stands twice is embedded once.

    Args:
        store: where the embeddings of a whole list are kept.
        encoder: of `load_encoder`.
        texts: `M` words.
        template: None embeds the bare word, as the literature's numbers do. `"a photo of a {}."` puts the
            word in the place of `{}`. Of several templates the embeddings are averaged and normalised again.
        progress: one task over the words, where they are not in the store.
        clock: runs while words go through the network.

    Returns:
        fp32 `(M, D)`, rows of length one.

    Raises:
        InputError: a template without `{}`, a template for given embeddings, a word that they lack.
        CmonError: an embedding that is not finite.
    """
    templates = check_templates(template)
    if isinstance(encoder, PrecomputedEncoder):
        if templates != ("{}",):
            raise InputError(
                "embeddings from a file know words, not templates",
                where="--template",
                hint="leave --template out",
            )
        return np.asarray(encoder.text(texts).numpy(), dtype=np.float32)
    words = list(dict.fromkeys(texts))
    if not words:
        return np.empty((0, encoder.dim), dtype=np.float32)
    key = _text_key(store, encoder, words, templates)
    clock = clock or Clock(encoder.device)
    with store.get_or_make(key, _embed_words(encoder, words, templates, progress, clock)) as entry:
        return _rows(entry, words, texts)


def _text_key(
    store: Store, encoder: Encoder, words: Sequence[str], templates: Sequence[str], **more: JSONValue
) -> Key:
    return store.key(
        "text_embeddings",
        encoder=encoder.digest,
        templates=list(templates),
        texts=sha256(canonical_json(words).encode()).hexdigest(),
        **more,
    )


def _rows(entry: Entry, words: Sequence[str], texts: Sequence[str]) -> Matrix:
    """Of an entry of some words, those of texts, in their order."""
    row = {word: i for i, word in enumerate(words)}
    return np.asarray(entry.read(_NAME)[[row[text] for text in texts]], dtype=np.float32)


@dataclass(frozen=True)
class Listed:
    """A list of words that is embedded as a whole.

    Attributes:
        digest: of the words.
        words: gives them.
    """

    digest: str
    words: Callable[[], Sequence[str]]


def embed_listed(
    store: Store,
    encoder: Encoder,
    texts: Sequence[str],
    listed: Listed | None,
    *,
    template: str | Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Matrix:
    """`embed_texts`, but a word of a list is a row of the list's embeddings.

    So it has one place, whatever else is embedded with it (a network rounds a word in another batch
    differently, 1e-7), and a run that knows its list needs no network for the labels that are of it.

    Args:
        store: as for `embed_texts`.
        encoder: likewise.
        texts: `M` words.
        listed: the list; `None`, or one that cannot be read any more: all words are embedded by themselves.
        template: likewise.
        progress: likewise.

    Returns:
        fp32 `(M, D)`, rows of length one.

    Raises:
        InputError: as `embed_texts`.
        CmonError: likewise.
    """
    words = list(dict.fromkeys(texts))
    if listed is None or not words or isinstance(encoder, PrecomputedEncoder):
        return embed_texts(store, encoder, texts, template=template, progress=progress)
    key = _text_key(store, encoder, words, check_templates(template), listed=listed.digest)
    entry = store.get(key)
    if entry is None:
        try:
            whole = listed.words()
        except InputError as error:
            progress.detail(f"labels are embedded by themselves: {error.what}")
            return embed_texts(store, encoder, texts, template=template, progress=progress)
        of_list = frozenset(whole)
        place: dict[str, npt.NDArray[np.float32]] = {}
        for each in (whole, [word for word in words if word not in of_list]):
            vectors = embed_texts(store, encoder, each, template=template, progress=progress)
            place.update(zip(each, vectors, strict=True))
        entry = store.put(key, {_NAME: np.stack([place[word] for word in words])})
    with entry:
        return _rows(entry, words, texts)


def _embed_words(
    encoder: Encoder, words: Sequence[str], templates: Sequence[str], progress: Progress, clock: Clock
) -> Callable[[Writer], None]:
    def make(writer: Writer) -> None:
        writer.create(_NAME, (len(words), encoder.dim), np.float32)
        with progress.task(f"embedding words ({encoder.name})", len(words), "words") as advance:
            for start in range(0, len(words), TEXT_BLOCK):
                block = words[start : start + TEXT_BLOCK]
                total = torch.zeros(len(block), encoder.dim)
                for template in templates:
                    # Not str.format: words and templates may hold other braces.
                    texts = [template.replace("{}", word) for word in block]
                    with clock():
                        total += encoder.text(texts).cpu()
                if len(templates) > 1:
                    total = torch.nn.functional.normalize(total, dim=-1)
                writer.write(_NAME, start, total.numpy())
                advance(len(block))

    return make


def check_templates(template: str | Sequence[str] | None) -> tuple[str, ...]:
    """The templates as a tuple; `("{}",)`, the bare word, for none.

    Raises:
        InputError: one without `{}`: every word would get the same embedding.
    """
    if template is None:
        return ("{}",)
    templates = (template,) if isinstance(template, str) else tuple(template)
    for one in templates:
        if "{}" not in one:
            raise InputError(f"the template {one!r} has no {{}} for the word", where="--template")
    return tuple(dict.fromkeys(templates)) or ("{}",)
