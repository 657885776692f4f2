"""The table of known architectures: what an entry holds and how it is made.

An entry holds two sums of 64-bit hashes, one over the names of a network's parameters and buffers, one over
names with shapes. Sums do not depend on order, and what varies within an architecture is taken out by
subtraction: a dimension that depends on the number of classes or of input channels, a head that was removed
or replaced, a table of positions that depends on the image size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from math import isqrt, prod
from typing import Any, Literal, Protocol

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
# A dimension: a number, or a multiple of what varies: ("n", 1) is the number of classes, ("c", 16) sixteen
# times the number of input channels.
Dim = int | tuple[Literal["n", "c"], int]

MASK = (1 << 64) - 1
_SKETCH = 32

# Names that come and go between versions and tools without changing what the network computes: they are
# rebuilt from its configuration, or count batches, or were left behind by FLOP counters.
VOLATILE = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "position_ids",
    "total_ops",
    "total_params",
    "n_averaged",
)

_LIBRARY_ORDER = {"torchvision": 0, "timm": 1, "cmon": 2}


def is_volatile(key: str) -> bool:
    """Whether recognition and loading do without this entry of a state dict (see VOLATILE)."""
    return key.rpartition(".")[2] in VOLATILE


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def name_hash(key: str) -> int:
    """64-bit hash of a parameter's name."""
    return _hash(key)


def item_hash(key: str, shape: Sequence[int]) -> int:
    """64-bit hash of a parameter's name and shape."""
    return _hash(f"{key}|{','.join(map(str, shape))}")


def sketch(keys: Iterable[str]) -> tuple[int, ...]:
    """The 32 lowest 32-bit hashes of a set of names: enough to estimate how much of two sets is shared."""
    return tuple(sorted({name_hash(key) >> 32 for key in keys})[:_SKETCH])


def resemblance(a: Sequence[int], b: Sequence[int]) -> float:
    """Estimated share of names that two sketched sets have in common, of all names (Jaccard; Broder 1997)."""
    lowest = sorted({*a, *b})[:_SKETCH]
    common = {*a} & {*b}
    return sum(value in common for value in lowest) / max(len(lowest), 1)


@dataclass(frozen=True)
class PositionTable:
    """A parameter with a row per image patch (and `extra` ones), the only one that depends on the image size.

    Attributes:
        key: its name.
        shape: its shape at the factory's default image size.
        dim: which dimension counts the rows.
        patch: side of a patch, pixels.
        extra: rows that belong to no patch (class token, registers).
        argument: what the factory calls the image size.
    """

    key: str
    shape: Shape
    dim: int
    patch: int
    extra: int
    argument: str

    def image_size(self, shape: Shape) -> int | None:
        """The image size for which the table has this shape; None where no square image gives it."""
        if len(shape) != len(self.shape):
            return None
        if any(a != b for i, (a, b) in enumerate(zip(shape, self.shape, strict=True)) if i != self.dim):
            return None
        patches = shape[self.dim] - self.extra
        side = isqrt(max(patches, 0))
        return side * self.patch if side and side * side == patches else None

    @classmethod
    def between(
        cls, key: str, sizes: tuple[int, int], shapes: tuple[Shape, Shape], argument: str
    ) -> PositionTable | None:
        """The table that has these two shapes at these two image sizes; None where it is of another kind."""
        one, other = shapes
        if len(one) != len(other):
            return None
        changed = [dim for dim, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        if len(changed) != 1:
            return None
        dim = changed[0]
        # rows = (size / patch)^2 + extra, at two sizes
        squared, rest = divmod(sizes[1] ** 2 - sizes[0] ** 2, other[dim] - one[dim])
        patch = isqrt(max(squared, 0))
        if rest or patch == 0 or patch * patch != squared or sizes[0] % patch:
            return None
        extra = one[dim] - (sizes[0] // patch) ** 2
        return cls(key, one, dim, patch, extra, argument) if extra >= 0 else None


@dataclass(frozen=True)
class Architecture:
    """One entry of the table.

    Attributes:
        library: torchvision, timm or cmon.
        name: the factory's name there.
        kwargs: arguments of the factory beside the number of classes (a variant).
        keys: sum of `name_hash` over all names, volatile ones left out.
        fixed: sum of `item_hash` over all names whose shape does not vary.
        flexible: names whose shape varies, with its pattern.
        roots: the modules below which names depend on the number of classes ("fc"; "head", "head_dist").
        trunk_keys: as `keys`, without anything below `roots`.
        trunk_fixed: as `fixed`, without anything below `roots`.
        numel: parameters and buffer elements with a fixed shape, to tell widths apart.
        bare_keys: as `keys`, for the network built without a classifier, where that takes out more than the
            parameters that depend on the number of classes; None otherwise.
        positions: the table of positions, where the only thing that depends on the image size is that table.
        sketch: sketch of the names.
    """

    library: str
    name: str
    kwargs: Mapping[str, Any]
    keys: int
    fixed: int
    flexible: tuple[tuple[str, tuple[Dim, ...]], ...]
    roots: tuple[str, ...]
    trunk_keys: int
    trunk_fixed: int
    numel: int
    bare_keys: int | None
    positions: PositionTable | None
    sketch: tuple[int, ...] = field(repr=False)

    @property
    def label(self) -> str:
        """Library and name (and the variant's arguments): "timm/resnet18"."""
        variant = "".join(f", {key}={value!r}" for key, value in self.kwargs.items())
        return f"{self.library}/{self.name}" + (f" ({variant[2:]})" if variant else "")

    @property
    def plainness(self) -> tuple[int, int, int, str]:
        """Sorting key, plainest first: torchvision, then timm; no extra arguments; the shortest name."""
        return (_LIBRARY_ORDER.get(self.library, 9), len(self.kwargs), len(self.name), self.name)

    @cached_property
    def class_keys(self) -> tuple[str, ...]:
        """Names whose shape depends on the number of classes."""
        return tuple(key for key, dims in self.flexible if any(_is(dim, "n") for dim in dims))

    @cached_property
    def stem_keys(self) -> tuple[str, ...]:
        """Names whose shape depends on the number of input channels."""
        return tuple(key for key, dims in self.flexible if any(_is(dim, "c") for dim in dims))

    def to_json(self) -> list[Any]:
        """The entry as plain lists."""
        table = self.positions
        return [
            self.library,
            self.name,
            dict(self.kwargs),
            f"{self.keys:x}",
            f"{self.fixed:x}",
            [[key, list(dims)] for key, dims in self.flexible],
            list(self.roots),
            f"{self.trunk_keys:x}",
            f"{self.trunk_fixed:x}",
            self.numel,
            None if self.bare_keys is None else f"{self.bare_keys:x}",
            None
            if table is None
            else [table.key, list(table.shape), table.dim, table.patch, table.extra, table.argument],
            list(self.sketch),
        ]

    @classmethod
    def from_json(cls, row: list[Any]) -> Architecture:
        """The inverse of `to_json`."""
        (
            library,
            name,
            kwargs,
            keys,
            fixed,
            flexible,
            roots,
            trunk_keys,
            trunk_fixed,
            numel,
            bare,
            table,
            low,
        ) = row
        return cls(
            library=library,
            name=name,
            kwargs=kwargs,
            keys=int(keys, 16),
            fixed=int(fixed, 16),
            flexible=tuple(
                (key, tuple(dim if isinstance(dim, int) else (dim[0], dim[1]) for dim in dims))
                for key, dims in flexible
            ),
            roots=tuple(roots),
            trunk_keys=int(trunk_keys, 16),
            trunk_fixed=int(trunk_fixed, 16),
            numel=numel,
            bare_keys=None if bare is None else int(bare, 16),
            positions=None if table is None else PositionTable(table[0], tuple(table[1]), *table[2:]),
            sketch=tuple(low),
        )


def _is(dim: Dim, letter: str) -> bool:
    return not isinstance(dim, int) and dim[0] == letter


def numel(shape: Shape) -> int:
    """Number of elements of a tensor of that shape."""
    return prod(shape)


def is_below(key: str, modules: Iterable[str]) -> bool:
    """Whether a parameter belongs to one of these modules."""
    return any(key == module or key.startswith(f"{module}.") for module in modules)


# Two values of each thing that a shape may depend on; primes that no network has as a width.
_PROBES: dict[Literal["n", "c"], tuple[int, int]] = {"n": (11, 13), "c": (3, 4)}


def vary(before: Shape, after: Shape) -> tuple[Dim, ...] | None:
    """The pattern of a shape that was seen with 11 and 13 classes and with 3 and 4 input channels.

    Returns:
        The pattern, or None where some dimension is no multiple of either.
    """
    if len(before) != len(after):
        return None
    dims: list[Dim] = []
    for one, other in zip(before, after, strict=True):
        if one == other:
            dims.append(one)
            continue
        for letter, (low, high) in _PROBES.items():
            if one % low == 0 and one // low * high == other:
                dims.append((letter, one // low))
                break
        else:
            return None
    return tuple(dims)


def solve(pattern: tuple[Dim, ...], shape: Shape) -> dict[str, int] | None:
    """The values of "n" and "c" with which the pattern is the shape; None where there are none."""
    if len(pattern) != len(shape):
        return None
    values: dict[str, int] = {}
    for dim, size in zip(pattern, shape, strict=True):
        if isinstance(dim, int):
            if dim != size:
                return None
            continue
        letter, times = dim
        value, rest = divmod(size, times)
        if rest or values.setdefault(letter, value) != value:
            return None
    return values


class Build(Protocol):
    """Builds a network with these arguments (on the meta device) and tells its shapes; may raise anything."""

    def __call__(self, **kwargs: Any) -> Shapes:
        """Names and shapes of the state dict, in order."""


def describe(
    library: str,
    name: str,
    build: Build,
    *,
    kwargs: Mapping[str, Any] | None = None,
    arguments: frozenset[str] = frozenset({"num_classes"}),
    image_size: tuple[str, int] | None = None,
    stem: bool = False,
) -> Architecture:
    """Make an entry by building a network a few times and looking at what changes.

    Args:
        library: torchvision, timm, cmon or anything else.
        name: the factory's name.
        build: the factory, as shapes.
        kwargs: further arguments, kept in the entry.
        arguments: which of "num_classes", "in_chans" the factory takes; "bare" where `num_classes=0` means
            a network without classifier.
        image_size: the factory's argument for the image size and its default, where it has one.
        stem: for a factory without `in_chans`: take the one convolution of three channels as dependent on it.

    Returns:
        The entry.

    Raises:
        ValueError: a shape depends on the number of classes in a way that is no multiple of it.
        Exception: whatever the factory raises with the default arguments.
    """
    kwargs = dict(kwargs or {})
    classes = {"num_classes": _PROBES["n"][0]} if "num_classes" in arguments else {}
    base = _settled(build(**kwargs, **classes))
    flexible = _flexible(base, build, kwargs, arguments)
    if stem and not any(_is(dim, "c") for dims in flexible.values() for dim in dims):
        stems = [key for key, shape in base.items() if len(shape) == 4 and shape[1] == 3]
        if len(stems) == 1:
            out, _, *kernel = base[stems[0]]
            flexible[stems[0]] = (out, ("c", 1), *kernel)
    class_keys = [key for key, dims in flexible.items() if any(_is(dim, "n") for dim in dims)]
    roots = tuple(dict.fromkeys(key.partition(".")[0] for key in class_keys))
    if 2 * sum(is_below(key, roots) for key in base) > len(base):  # the first component is the whole network
        roots = tuple(dict.fromkeys(key.rpartition(".")[0] for key in class_keys))
    trunk = [key for key in base if not is_below(key, roots)]
    return Architecture(
        library=library,
        name=name,
        kwargs=kwargs,
        keys=sum(map(name_hash, base)) & MASK,
        fixed=sum(item_hash(key, base[key]) for key in base if key not in flexible) & MASK,
        flexible=tuple(sorted(flexible.items())),
        roots=roots,
        trunk_keys=sum(map(name_hash, trunk)) & MASK,
        trunk_fixed=sum(item_hash(key, base[key]) for key in trunk if key not in flexible) & MASK,
        numel=sum(numel(shape) for key, shape in base.items() if key not in flexible),
        bare_keys=_bare_keys(base, class_keys, build, kwargs) if "bare" in arguments else None,
        positions=_positions(base, build, {**kwargs, **classes}, image_size) if image_size else None,
        sketch=sketch(base),
    )


def _settled(shapes: Shapes) -> dict[str, Shape]:
    return {key: tuple(shape) for key, shape in shapes.items() if not is_volatile(key)}


def _flexible(
    base: Shapes, build: Build, kwargs: Mapping[str, Any], arguments: frozenset[str]
) -> dict[str, tuple[Dim, ...]]:
    changed = {"num_classes": _PROBES["n"][1], "in_chans": _PROBES["c"][1]}
    changed = {argument: value for argument, value in changed.items() if argument in arguments}
    if not changed:
        return {}
    try:
        other = _settled(build(**kwargs, **changed))
    except Exception:
        # Many a network takes the argument and then insists on three channels.
        if changed.pop("in_chans", None) is None or not changed:
            raise
        other = _settled(build(**kwargs, **changed))
    if other.keys() != base.keys():
        raise ValueError("names depend on the number of classes or of input channels")
    flexible: dict[str, tuple[Dim, ...]] = {}
    for key, shape in base.items():
        if other[key] != shape:
            pattern = vary(shape, other[key])
            if pattern is None:
                raise ValueError(f"{key}: {shape} becomes {other[key]} with 13 classes and 4 channels")
            flexible[key] = pattern
    return flexible


def _bare_keys(
    base: Shapes, class_keys: Sequence[str], build: Build, kwargs: Mapping[str, Any]
) -> int | None:
    try:
        bare = _settled(build(**kwargs, num_classes=0))
    except Exception:
        return None
    if bare.keys() == base.keys() - set(class_keys):
        return None
    return sum(map(name_hash, bare)) & MASK


def _positions(
    base: Shapes, build: Build, kwargs: Mapping[str, Any], image_size: tuple[str, int]
) -> PositionTable | None:
    argument, size = image_size
    try:
        other = _settled(build(**kwargs, **{argument: 2 * size}))
    except Exception:
        return None
    changed = [key for key in base if other.get(key) != base[key]]
    if len(changed) != 1 or other.keys() != base.keys():
        return None
    key = changed[0]
    if _settled(build(**kwargs, **{argument: size}))[key] != base[key]:  # not the factory's default after all
        return None
    return PositionTable.between(key, (size, 2 * size), (base[key], other[key]), argument)
