"""The images that excite a unit most, the same ones in every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import ordered_bits, run_blocks, spans
from concept_monitor_cli.functional.groups import ImageGroups

_LOW = 0xFFFF_FFFF
# Keys that are made at once: on a processor few enough that they and their values stay in the cache.
_CPU_KEYS = 1 << 17
_DEVICE_KEYS = 1 << 23
# Activations whose groups are looked through at once.
_GROUPED = 1 << 22


def top_rows(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest values of every row, largest first, ties to the lower column.

    Args:
        values: `(rows, n)`.
        k: how many; `n` where the row is shorter.

    Returns:
        indices `(rows, min(k, n))`, int64, and the values there, of the input's type. NaN counts as minus
        infinity when compared (and comes back as NaN).

    Where the largest values differ, no rule for ties is needed. In other rows (of a unit that is silent on
    most images, say) the order is made unique instead of being repaired afterwards: value and column are
    packed into one 64-bit key, so that no two keys are equal and any selection algorithm gives the same
    answer.
    """
    if values.ndim != 2 or k < 1:
        raise InputError(f"top {k} of a tensor of shape {tuple(values.shape)}: need two axes and k >= 1")
    rows, n = values.shape
    k = min(k, n)
    if values.dtype == torch.float64:  # does not fit the key: a full stable sort
        clean = torch.where(values.isnan(), -torch.inf, values)
        indices = torch.sort(clean, dim=1, descending=True, stable=True).indices[:, :k].contiguous()
        return indices, values.gather(1, indices)
    if values.device.type == "mps":  # no 64-bit selection there
        found, _ = top_rows(values.cpu(), k)
        indices = found.to(values.device)
        return indices, values.gather(1, indices)
    if values.dtype == torch.float32:
        largest, found = torch.topk(values, min(k + 1, n), dim=1)
        indices = found[:, :k].contiguous()
        tied = (~(largest[:, :-1] > largest[:, 1:]).all(1)).nonzero().view(-1)  # NaN is larger than nothing
    else:
        indices = torch.empty(rows, k, dtype=torch.int64, device=values.device)
        tied = torch.arange(rows, device=values.device)
    column = _LOW - torch.arange(n, dtype=torch.int64, device=values.device)
    together = _CPU_KEYS if values.device.type == "cpu" else _DEVICE_KEYS
    for some in spans(len(tied), together // max(1, n)):
        part = tied[some]
        keys = (ordered_bits(values[part]).long() << 32) | column
        indices[part] = _LOW - (torch.topk(keys, k, dim=1).values & _LOW)
    return indices, values.gather(1, indices)


@torch.no_grad()
def top_images(Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` images that excite each unit most, ordered from the highest activation down.

    Ties go to the lower image index, so that a run repeats exactly: for a unit that is zero on
    most images (ReLU) this decides most of the list. NaN counts as minus infinity.

    Args:
        Q: `(N, C)` pooled activations.
        k: how many images; `N` where there are fewer.

    Returns:
        indices `(K, C)`, int64, and activations `(K, C)`, `K = min(k, N)`.

    Raises:
        InputError: `Q` is not two-dimensional or `k < 1`.

    Example:
        >>> Q = torch.tensor([[0.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
        >>> indices, values = top_images(Q, 2)
        >>> indices.tolist()
        [[1, 2], [0, 0]]
    """
    if Q.ndim != 2 or k < 1:
        raise InputError(f"top {k} images of activations of shape {tuple(Q.shape)}: need (N, C) and k >= 1")
    n, units = Q.shape
    k = min(k, n)
    indices = torch.empty(k, units, dtype=torch.int64, device=Q.device)
    together = 4 * _CPU_KEYS if Q.device.type == "cpu" else _DEVICE_KEYS

    def select(part: slice) -> None:
        columns = Q[:, part].contiguous()  # torch transposes a whole tensor twice as fast as part of one
        indices[:, part] = top_rows(columns.T.contiguous(), k)[0].T

    run_blocks(select, spans(units, max(16, together // max(1, n))), Q.device)
    return indices, Q.gather(0, indices)


@torch.no_grad()
def top_images_of_groups(Q: Tensor, k: int, groups: ImageGroups) -> tuple[Tensor, Tensor]:
    """The `k` groups of images that excite each unit most, each by its most exciting image.

    Copies of a photo or frames of a video are one piece of evidence, not many: each group has one place among
    the top images. Where every image is a group of its own these are the `top_images`.

    Args:
        Q: `(N, C)` pooled activations.
        k: how many groups; `G` where there are fewer.
        groups: of the images.

    Returns:
        indices `(K, C)`, int64, one image of each group, and activations `(K, C)`, `K = min(k, G)`. Of level
        images of a group the first one; ties between groups go to the one whose first image is lower. NaN
        counts as minus infinity.

    Raises:
        InputError: groups of another number of images, or as for `top_images`.

    Example:
        >>> Q = torch.tensor([[3.0], [4.0], [1.0], [2.0]])
        >>> top_images_of_groups(Q, 2, ImageGroups.read([0, 0, 1, 1]))[0].tolist()
        [[1], [3]]
    """
    if Q.ndim == 2 and groups.n_images != Q.shape[0]:
        raise InputError(f"groups of {groups.n_images} images for activations of {Q.shape[0]}")
    if groups.are_single or Q.ndim != 2 or k < 1:
        return top_images(Q, k)
    images, units = Q.shape
    of = torch.from_numpy(groups.of).to(Q.device)
    number = torch.arange(images, device=Q.device)[:, None]
    indices = torch.empty(min(k, groups.n_groups), units, dtype=torch.int64, device=Q.device)
    for part in spans(units, max(16, min(256, _GROUPED // max(1, images)))):
        values = Q[:, part].nan_to_num(nan=-torch.inf)
        rows = of[:, None].expand_as(values)
        highest = values.new_empty(groups.n_groups, values.shape[1])
        highest.scatter_reduce_(0, rows, values, "amax", include_self=False)
        first = torch.where(values == highest[of], number, images)
        image = first.new_empty(highest.shape)
        image.scatter_reduce_(0, rows, first, "amin", include_self=False)
        indices[:, part] = image.gather(0, top_images(highest, k)[0])
    return indices, Q.gather(0, indices)


def check_images(numbers: Sequence[Tensor], n_images: int) -> None:
    """Refuse numbers of images that are not there: compiled loops would read and write beside their arrays.

    Raises:
        InputError: one of them is below 0, or `n_images` or more.
    """
    extremes = [torch.stack([each.min(), each.max()]) for each in numbers if each.numel()]
    if not extremes:
        return
    low, high = torch.stack([torch.stack(extremes).min(), torch.stack(extremes).max()]).tolist()
    if low < 0 or high >= n_images:
        raise InputError(f"top images from {low} to {high} of {n_images}")


@torch.no_grad()
def activation_range(Q: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest activation of each unit, NaN left out.

    Args:
        Q: `(N, C)` pooled activations.

    Returns:
        two `(C,)`; +inf and -inf for a unit without a number. Ranges of parts of the images combine by the
        smaller and the larger.
    """
    if Q.ndim != 2:
        raise InputError(f"activations of shape {tuple(Q.shape)}: need (N, C)")
    if Q.shape[0] == 0:
        return Q.new_full((Q.shape[1],), torch.inf), Q.new_full((Q.shape[1],), -torch.inf)
    missing = Q.isnan()
    return Q.masked_fill(missing, torch.inf).amin(0), Q.masked_fill(missing, -torch.inf).amax(0)


def without_range(low: Tensor, high: Tensor) -> Tensor:
    """The rule for a dead unit, `(C,)` bool: its range, of `activation_range`, holds no two numbers."""
    return ~(high > low)


@torch.no_grad()
def exciting_images(Q: Tensor, k: int) -> Tensor:
    """The `k` top images of the units that have that many.

    Where a unit is silent on most images (ReLU), the end of its list of top images is decided by their order
    and says nothing about the unit. So units with fewer than `k` images above their lowest activation have no
    list.

    Args:
        Q: `(N, C)` pooled activations.
        k: how many images.

    Returns:
        `(k, C)` int64; a column of -1 for a unit without a list.

    Raises:
        InputError: fewer than `k` images, or as for `top_images`.

    Example:
        >>> exciting_images(torch.tensor([[0.0, 1.0], [0.0, 3.0], [2.0, 0.0]]), 2).tolist()
        [[-1, 1], [-1, 0]]
    """
    indices, values = top_images(Q, k)
    if len(indices) < k:
        raise InputError(f"{k} of {len(indices)} images: there are not that many")
    lowest, _ = activation_range(Q)
    return torch.where(values[-1] > lowest, indices, -1)


def dead_units(Q: Tensor) -> Tensor:
    """Units that say nothing about the images: the same activation on every one of them.

    A similarity computed for such a unit is well defined (the tie rule picks the first images) and means
    nothing; it is reported as dead, with no concept. NaNs are left out of the comparison; a unit with no
    number at all is dead.

    Args:
        Q: `(N, C)` pooled activations.

    Returns:
        `(C,)` bool.

    Example:
        >>> dead_units(torch.tensor([[0.0, 1.0, 5.0], [0.0, 2.0, 5.0]])).tolist()
        [True, False, True]
    """
    return without_range(*activation_range(Q))
