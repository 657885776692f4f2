"""`P = I @ T.T`, held as a matrix or as its two factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import (
    Workspace,
    empty,
    grain,
    on_cpu,
    run_blocks,
    spans,
    worth_compiling,
)

#: Of some images: a sum of powers, and the smallest and the largest exponent, `(n,)` each.
Sums = tuple[Tensor, Tensor, Tensor]


class Stretch(NamedTuple):
    """Where a part of `P` lies: `source[rows, first:]`.

    Attributes:
        images: which images.
        source: C-contiguous.
        first: column of the first concept.
        rows: `(n,)`, those of the images.
    """

    images: slice
    source: Tensor
    first: int
    rows: Tensor


class _Product:
    """`P` of few images or concepts, made when it is first asked for, by whichever thread."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self._factors = images, texts
        self._made: Tensor | None = None
        self._making = Lock()

    def __call__(self) -> Tensor:
        with self._making:
            if self._made is None:
                images, texts = self._factors
                self._made = torch.mm(
                    images, texts.T, out=empty(len(images), len(texts), device=images.device)
                )
            return self._made


class ConceptActivations:
    """How strongly each concept is present in each image: `P[i, m] = I[i] . T[m]`, made block by block.

    Every similarity takes a matrix `P` or one of these. From embeddings, `P` (5 GB for 63,000 images and
    20,000 concepts) is never made: only blocks of it are, unless `keep` allows for it. What depends on all
    concepts of an image, the normaliser of the softmax, is computed once and kept; no result depends on how
    the blocks are cut.

    Example:
        >>> I = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0]]), dim=1)
        >>> T = torch.eye(2)
        >>> P = ConceptActivations.from_embeddings(I, T)
        >>> P.n_images, P.n_concepts
        (2, 2)
        >>> bool(torch.allclose(P.block(slice(0, 2)), I @ T.T))
        True
    """

    def __init__(
        self,
        matrix: Tensor | None,
        images: Tensor | None,
        texts: Tensor | None,
        log_normalisers: Mapping[float, Tensor] | None = None,
        product: _Product | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self._matrix = matrix
        self._images = images
        self._texts = texts
        self._product = product
        # Which rows of the matrix, or of the product, the images are; None: all.
        self._chosen = rows
        # By temperature, `(3, N)`; NaN is not known yet.
        self._sums: dict[float, Tensor] = {}
        for a, given in (log_normalisers or {}).items():
            unknown = torch.full((2, len(given)), torch.nan, device=self.device)
            self._sums[a] = torch.cat([given[None].to(self.device), unknown])

    @classmethod
    def from_matrix(cls, P: Tensor) -> ConceptActivations:
        """From the whole matrix `P`, `(N, M)`."""
        if P.ndim != 2 or 0 in P.shape:
            raise InputError(f"P of shape {tuple(P.shape)}: need (images, concepts), at least one of each")
        return cls(P.detach().float(), None, None)

    @classmethod
    def from_embeddings(
        cls,
        images: Tensor,
        texts: Tensor,
        *,
        log_normalisers: Mapping[float, Tensor] | None = None,
        keep: int = 0,
    ) -> ConceptActivations:
        """From embeddings with normalised rows: `images` `(N, D)` and `texts` `(M, D)`.

        Args:
            images: image embeddings.
            texts: concept embeddings.
            log_normalisers: what `log_normaliser(a)` gave before, by `a`: where these are only some of the
                concepts that the softmax is over.
            keep: bytes of a `P` that is made but once, on a processor: where it is asked for again and again,
                and all of it takes no more than that.
        """
        if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
            shapes = f"{tuple(images.shape)} and {tuple(texts.shape)}"
            raise InputError(f"embeddings of shapes {shapes}: need (N, D) and (M, D) of the same encoder")
        if 0 in images.shape or 0 in texts.shape:
            raise InputError("no images or no concepts")
        images, texts = images.detach().float(), texts.detach().float()
        small = on_cpu(images.device) and 4 * len(images) * len(texts) <= keep
        product = _Product(images, texts) if small else None
        return cls(None, images, texts, log_normalisers, product)

    @property
    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        """`(I, T)`, or None where only the matrix is known."""
        if self._images is None or self._texts is None:
            return None
        return self._images, self._texts

    def _rows(self) -> Tensor:
        rows = self._matrix if self._matrix is not None else self._images
        assert rows is not None
        return rows

    @property
    def n_images(self) -> int:
        """`N`."""
        return self._rows().shape[0] if self._chosen is None else self._chosen.numel()

    @property
    def n_concepts(self) -> int:
        """`M`."""
        columns = self._matrix.shape[1] if self._matrix is not None else None
        return columns if columns is not None else self._texts_or_raise().shape[0]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self._rows().device

    def _texts_or_raise(self) -> Tensor:
        assert self._texts is not None
        return self._texts

    def tile(self, concepts: slice, images: slice, out: Tensor) -> Tensor:
        """`P[images, concepts]` in `out`, `(n, m)` float32, which the caller may overwrite; returns it."""
        whole = self._whole()
        if whole is None:
            return torch.mm(self._rows()[images], self._texts_or_raise()[concepts].T, out=out)
        if self._chosen is None:
            return out.copy_(whole[images, concepts])
        return torch.index_select(whole[:, concepts], 0, self._chosen[images], out=out)

    def _whole(self) -> Tensor | None:
        """The matrix, or the product that is kept; None where there is neither."""
        return self._matrix if self._product is None else self._product()

    def stretches(self, concepts: slice, images: slice, space: Workspace) -> Iterator[Stretch]:
        """`P[images, concepts]` for a compiled loop: all at once where it lies, or made tile by tile."""
        if self.is_whole:
            whole = self._whole()
            assert whole is not None
            chosen = torch.arange(self.n_images) if self._chosen is None else self._chosen
            yield Stretch(images, whole, concepts.start, chosen[images])
            return
        width = concepts.stop - concepts.start
        rows = max(1, 4 * grain(self.device) // width)
        for start in range(images.start, images.stop, rows):
            some = slice(start, min(start + rows, images.stop))
            n = some.stop - some.start
            yield Stretch(some, self.tile(concepts, some, space("tile", n, width)), 0, torch.arange(n))

    @property
    def is_whole(self) -> bool:
        """Whether `stretches` gives all images at once."""
        return self._product is not None or (self._matrix is not None and self._matrix.is_contiguous())

    def block(self, concepts: slice, images: slice | None = None) -> Tensor:
        """`P[images, concepts]` as a new float32 tensor `(n, m)` that the caller may overwrite."""
        images = slice(0, self.n_images) if images is None else images
        n, m = images.stop - images.start, concepts.stop - concepts.start
        return self.tile(concepts, images, torch.empty(n, m, device=self.device))

    def select(self, images: Tensor) -> ConceptActivations:
        """The same concepts on some images; `images` `(n,)` are indices in ascending order.

        From embeddings this copies `n` rows of `I`; from a matrix it copies nothing. A `P` that is kept is
        shared.
        """
        if images.numel() == self.n_images:
            return self
        own = None if self._images is None else self._images.index_select(0, images)
        if self._matrix is None and self._product is None:
            return ConceptActivations(None, own, self._texts)
        chosen = images if self._chosen is None else self._chosen[images]
        return ConceptActivations(self._matrix, own, self._texts, product=self._product, rows=chosen)

    def log_normaliser(self, a: float, images: Tensor | None = None) -> Tensor:
        """`logsumexp_m(a * P[i, m])` over all concepts, `(N,)`; computed once for every `a` and image.

        `softmax(a * P)[i, m] = exp(a * P[i, m] - log_normaliser(a)[i])`.

        Args:
            a: temperature.
            images: `(n,)` indices, ascending: only these are computed, where they were not before, and the
                result is `(n,)`.
        """
        return self._kept(a, images)[0]

    def softmax_range(self, a: float, images: Tensor | None = None) -> tuple[float, float]:
        """The smallest and the largest value of `softmax(a * P)` at some images; kept like the normaliser.

        Of the images whose values are numbers; 0 and 1 where there is none.
        """
        log_normaliser, low, high = self._kept(a, images)
        smallest, largest = (low - log_normaliser).exp(), (high - log_normaliser).exp()
        return float(smallest.nan_to_num(1.0).min()), float(largest.nan_to_num(0.0).max()) or 1.0

    def _kept(self, a: float, images: Tensor | None) -> Tensor:
        """`logsumexp_m`, `min_m` and `max_m` of `a * P[i, m]`, `(3, n)`."""
        if a not in self._sums:
            self._sums[a] = torch.full((3, self.n_images), torch.nan, device=self.device)
        kept = self._sums[a]
        unknown = kept[1].isnan() if images is None else kept[1].index_select(0, images).isnan()
        missing = unknown.nonzero().view(-1) if images is None else images[unknown]
        if len(missing):
            # Of the whole, not of what is missing: an image's sum must not depend on what was asked before.
            compiled = worth_compiling(self.n_images * self.n_concepts, self.device)
            found = self.select(missing)._row_sums(a, compiled=compiled)
            given = kept[0].index_select(0, missing)
            found[0] = torch.where(given.isnan(), found[0], given)
            kept[:, missing] = found
        return kept if images is None else kept.index_select(1, images)

    def _row_sums(self, a: float, *, compiled: bool) -> Tensor:
        """What `_kept` keeps, of these concepts."""
        n, m = self.n_images, self.n_concepts
        result = torch.empty(3, n, device=self.device)
        self._whole()  # a product is made on all threads here; blocks are made by one each
        # A matrix is read along its rows; from embeddings, both sides are cut so that a product fits the
        # cache. The cut does not depend on the number of threads: products of other shapes are rounded
        # otherwise.
        width = m if self._matrix is not None else min(m, 1024)
        rows = max(1, 4 * grain(self.device) // width)
        if compiled and self._matrix is not None:
            rows = max(rows, n // 32)
        # In powers of two: `exp` is three times slower than `exp2` in some builds of torch.
        scale = a * math.log2(math.e)
        add_up = self._add_up_compiled if compiled else self._add_up
        space = Workspace(self.device)

        def reduce(images: slice) -> None:
            total, low, high = result[:, images]
            total.zero_()
            low.fill_(torch.inf)
            high.fill_(-torch.inf)
            for concepts in spans(m, width):
                add_up(concepts, images, scale, space, (total, low, high))
            total.log2_().add_(high)

        run_blocks(reduce, spans(n, rows), self.device)
        return result.mul_(math.log(2))

    def _add_up(self, concepts: slice, images: slice, scale: float, space: Workspace, sums: Sums) -> None:
        """Take further concepts into `sum_m 2 ** (x[m] - high)`, `low` and `high` of `x = scale * P[i]`."""
        total, low, high = sums
        tile = self.tile(concepts, images, space("tile", len(total), concepts.stop - concepts.start))
        ends = tile.amin(1).mul_(scale), tile.amax(1).mul_(scale)
        torch.minimum(low, torch.minimum(*ends), out=low)
        above = torch.maximum(high, torch.maximum(*ends))
        torch.add(above[:, None].neg(), tile, alpha=scale, out=tile).exp2_()
        total.mul_(torch.exp2(high - above)).add_(tile.sum(1))
        high.copy_(above)

    def _add_up_compiled(
        self, concepts: slice, images: slice, scale: float, space: Workspace, sums: Sums
    ) -> None:
        """The same."""
        from concept_monitor_cli.functional._kernels import add_up

        width = concepts.stop - concepts.start
        for stretch in self.stretches(concepts, images, space):
            part = slice(stretch.images.start - images.start, stretch.images.stop - images.start)
            running = (each[part].numpy() for each in sums)
            add_up(
                stretch.source.numpy(),
                stretch.first,
                width,
                stretch.rows.numpy(),
                np.float32(scale),
                *running,
            )


def as_activations(P: Tensor | ConceptActivations, n_images: int | None = None) -> ConceptActivations:
    """`P` as `ConceptActivations`; checks that it is about `n_images` images."""
    activations = P if isinstance(P, ConceptActivations) else ConceptActivations.from_matrix(P)
    if n_images is not None and activations.n_images != n_images:
        raise InputError(
            f"P is about {activations.n_images} images and the activations about {n_images}",
            hint="both must come from the same probe set, in the same order",
        )
    return activations
