"""Near copies among images: the same photo, packed, resized, brightened, mirrored or cut by a few per cent.

Two steps, both on small pictures of the whole frame. First every pair is compared by what sets an image
apart from the others of its set: its layout of colours, with the variation that is common in the set divided
out, so that chest X-rays, which all look alike, are as different here as photos of anything. Then the few
pairs that are left are laid over each other, one of them cut by up to 10 % and shifted, and their edges
correlated.

Measured on 1,000 ImageNet photos, 598 photos of Broden's kinds and 1,500 chest X-rays of 28 pixels, against
copies of 200 of each (JPEG of quality 30 and 80, half size, cuts of 2 and 5 %, mirrored, 20 % brighter and
darker, more contrast): 97 to 100 % of the copies are found, of those cut by 5 % 91 to 100 % (X-rays: 82 %),
of those cut by 10 % 34 to 67 %. No two different photos are taken for copies; of X-rays 6 pairs of 1,124,250.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

#: Side of the small pictures.
SIDE = 32
#: Cosine of two layouts from which a pair is looked at closely; correlation of edges that makes it a copy.
ALIKE, SAME = 0.65, 0.95

_LAYOUT = 8  # side of the layout of colours
_DIRECTIONS = 64  # of the set's variation that are kept
_IMAGES_PER_DIRECTION = 8  # else what differs between copies would be among them
_LEAST = 0.01  # a direction with less of the variation of the first one is noise
# How much of the side is kept, and where the cut begins, in shares of what there is to choose from.
_CUTS = ((1.0, (0.0,)), (0.975, (-1.0, 1.0)), (0.95, (-1.0, 0.0, 1.0)), (0.9, (-1.0, -1 / 3, 1 / 3, 1.0)))
_ROWS = 2048  # images looked at, at a time
_COSINES = 1 << 24  # of images with all others, at a time
_PAIRS = 2048  # pairs laid over each other at a time


@torch.no_grad()
def near_copies(
    pictures: NDArray[np.uint8], advance: Callable[[int], object] = lambda _: None
) -> NDArray[np.int64]:
    """Pairs of images that are near copies.

    Args:
        pictures: `(N, 32, 32, 3)`, each image's whole frame.
        advance: is told how many images more have been compared with all others.

    Returns:
        `(n, 2)` int64, ascending. The pairs connect every group of copies; not all of its pairs
        need be there.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"pictures of shape {pictures.shape}: need (N, {SIDE}, {SIDE}, 3)")
    joined = np.arange(len(pictures))
    found = []
    for rows, first, second in _alike(pictures):
        for start in range(0, len(first), _PAIRS):
            a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
            fresh = joined[a] != joined[b]  # of a thousand copies not every pair need be looked at
            a, b = a[fresh], b[fresh]
            if not len(a):
                continue
            same = (best_overlap(pictures, a, b) > SAME).numpy()
            for pair in zip(a[same].tolist(), b[same].tolist(), strict=True):
                found.append(pair)
                one, other = joined[pair[0]], joined[pair[1]]
                joined[joined == max(one, other)] = min(one, other)
        advance(rows)
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _alike(pictures: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of images of a like layout, mirrored or not; some images with all later ones at a time."""
    n = len(pictures)
    layouts = torch.cat([_layout(pictures[start : start + _ROWS]) for start in range(0, n, _ROWS)])
    mirrored = layouts.view(n, 3, _LAYOUT, _LAYOUT).flip(3).reshape(n, -1)
    centre = layouts.mean(0)
    directions = _directions(layouts - centre)
    own, mirror = (_unit((each - centre) @ directions) for each in (layouts, mirrored))
    rows = max(1, _COSINES // max(1, n))
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        close = torch.maximum(own[start:stop] @ own[start:].T, own[start:stop] @ mirror[start:].T) > ALIKE
        first, second = (each.numpy() for each in close.triu(1).nonzero(as_tuple=True))
        yield stop - start, first + start, second + start


def _layout(pictures: NDArray[np.uint8]) -> Tensor:
    """Colours on 8 x 8 fields without their mean, of length one: `(n, 192)`."""
    colours = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    small = functional.avg_pool2d(colours, SIDE // _LAYOUT)
    return _unit((small - small.mean((2, 3), keepdim=True)).flatten(1))


def _directions(away: Tensor) -> Tensor:
    """What divides the common variation out: `(192, k)`; all directions alike where there are few images."""
    wanted = min(_DIRECTIONS, len(away) // _IMAGES_PER_DIRECTION)
    variance, vectors = torch.linalg.eigh((away.T.double() @ away.double()) / len(away))
    variance, vectors = variance.flip(0)[:wanted], vectors.flip(1)[:, :wanted]
    if wanted == 0 or not variance[0] > 0:
        return torch.eye(away.shape[1])
    kept = variance > _LEAST * variance[0]
    scaled: Tensor = (vectors[:, kept] / variance[kept].sqrt()).float()
    return scaled


def best_overlap(pictures: NDArray[np.uint8], first: NDArray[np.int64], second: NDArray[np.int64]) -> Tensor:
    """The highest correlation of the edges of two images, one of them cut and shifted, mirrored or not.

    Args:
        pictures: `(N, 32, 32, 3)`.
        first: `(n,)`, numbers of images.
        second: `(n,)`, likewise.

    Returns:
        `(n,)`, between -1 and 1.
    """
    images, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    light = torch.from_numpy(pictures[images]).float().mean(3)[:, None]
    plain, mirrored = _edges(light), _edges(light.flip(3))
    cut = torch.stack([_edges(each) for each in _cuts(light)], 1)  # (images, cuts, fields)
    a, b = (torch.from_numpy(part.reshape(-1)) for part in np.split(place, [len(first)]))
    best = torch.full((len(first),), -1.0)
    for start in range(0, len(first), 256):
        part = slice(start, start + 256)
        one, other = a[part], b[part]
        values = [
            torch.bmm(cut[x], whole[y][:, :, None]).amax((1, 2))
            for x, y in ((one, other), (other, one))
            for whole in (plain, mirrored)
        ]
        best[part] = torch.stack(values).amax(0)
    return best


def _cuts(light: Tensor) -> Iterator[Tensor]:
    """The pictures cut at each place, and brought to the full side again."""
    for kept, places in _CUTS:
        for down in places:
            for right in places:
                if kept == 1.0:
                    yield light
                    continue
                frame = torch.tensor([[kept, 0, (1 - kept) * right], [0, kept, (1 - kept) * down]])
                grid = functional.affine_grid(
                    frame.expand(len(light), 2, 3), list(light.shape), align_corners=False
                )
                yield functional.grid_sample(light, grid, padding_mode="border", align_corners=False)


def _edges(light: Tensor) -> Tensor:
    """What differs from its surroundings, on 16 x 16 fields, of length one: `(n, 256)`."""
    small = functional.avg_pool2d(light, 2)
    around = functional.avg_pool2d(functional.pad(small, (4, 4, 4, 4), mode="reflect"), 9, 1)
    edges = (small - around).flatten(1)
    return _unit(edges - edges.mean(1, keepdim=True))


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return unit
