"""Which architecture has these parameter names and shapes? Answered from a table, without building anything.

The table (`architectures.json.gz`, made by scripts/build_architecture_index.py) has an entry for every
classifier of torchvision and timm and for the bundled CIFAR networks. No torch, torchvision or timm is
imported here; the winner is verified by building it on the meta device (models/build.py), name by name.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Literal

from concept_monitor_cli.checkpoints.architectures import (
    MASK,
    Architecture,
    Shapes,
    is_below,
    is_volatile,
    item_hash,
    name_hash,
    numel,
    resemblance,
    sketch,
    solve,
)
from concept_monitor_cli.errors import InputError

SCHEMA = 1

Head = Literal["present", "absent", "replaced"]


@dataclass(frozen=True)
class Recognition:
    """What a state dict turned out to be.

    Attributes:
        architecture: the entry that was taken, the plainest of those that fit.
        num_classes: outputs of its classifier; None where it has no classifier of its own.
        in_chans: channels of the images.
        kwargs: further arguments for the factory (the image size of a vision transformer, a variant).
        head: "present"; "absent" (the network was saved without classifier) or "replaced" (by layers that
            the architecture does not have): then only the layers before it can be dissected.
        unused: names in the state dict that are no part of the architecture (the classifier's replacement).
        missing: names of the architecture that the state dict lacks, below `architecture.roots`.
        alternatives: the other entries that fit as well, plainest first.
        notes: sentences for the user on what is left out.
    """

    architecture: Architecture
    num_classes: int | None
    in_chans: int
    kwargs: Mapping[str, Any]
    head: Head
    unused: tuple[str, ...]
    alternatives: tuple[Architecture, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The factory's name in its library."""
        return self.architecture.name

    @property
    def library(self) -> str:
        """torchvision, timm or cmon."""
        return self.architecture.library


@dataclass(frozen=True)
class Neighbour:
    """An architecture that does not fit, and how close it comes.

    Attributes:
        architecture: the entry.
        resemblance: estimated share of names in common; 1.0 where all names are the same.
    """

    architecture: Architecture
    resemblance: float


class UnrecognisedError(InputError):
    """No known architecture has these names and shapes.

    Attributes:
        nearest: the closest entries, closest first; empty where nothing resembles it at all.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        nearest: Sequence[Neighbour] = (),
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.nearest = tuple(nearest)


MODEL_HINT = (
    "--model NAME (torchvision, timm or bundled), --model package.module:factory, --model file.py:factory"
)


@dataclass(frozen=True)
class _Match:
    architecture: Architecture
    values: Mapping[str, int]
    kwargs: Mapping[str, Any]
    resized: bool


class ArchitectureIndex:
    """The table, with the ways of looking something up in it.

    Args:
        architectures: the entries.
        made_with: versions of the libraries that they were taken from.
    """

    def __init__(
        self, architectures: Sequence[Architecture], made_with: Mapping[str, str] | None = None
    ) -> None:
        self.architectures = tuple(sorted(architectures, key=lambda entry: entry.plainness))
        self.made_with = dict(made_with or {})
        self._by_keys: dict[int, list[Architecture]] = defaultdict(list)
        self._by_bare_keys: dict[int, list[Architecture]] = defaultdict(list)
        self._by_trunk_keys: dict[int, list[Architecture]] = defaultdict(list)
        for entry in self.architectures:
            self._by_keys[entry.keys].append(entry)
            self._by_trunk_keys[entry.trunk_keys].append(entry)
            headless = entry.keys - sum(map(name_hash, entry.class_keys))
            self._by_bare_keys[headless & MASK].append(entry)
            if entry.bare_keys is not None:
                self._by_bare_keys[entry.bare_keys].append(entry)

    def __len__(self) -> int:
        return len(self.architectures)

    def find(self, library: str, name: str) -> Architecture | None:
        """The entry of that name, its plainest variant; None where there is none."""
        return next(
            (entry for entry in self.architectures if (entry.library, entry.name) == (library, name)), None
        )

    def recognise(self, shapes: Shapes) -> Recognition:
        """Name the architecture with these parameters.

        Args:
            shapes: name -> shape of every tensor of a state dict, wrappers' prefixes stripped.

        Returns:
            The plainest architecture that fits, with all others that fit.

        Raises:
            UnrecognisedError: none fits; says which comes closest.
        """
        found = self.fitting(shapes)
        if found is None:
            raise self._unrecognised(shapes, {key: name_hash(key) for key in shapes if not is_volatile(key)})
        return found

    def fitting(self, shapes: Shapes) -> Recognition | None:
        """As `recognise`; None where no architecture fits."""
        names = {key: name_hash(key) for key in shapes if not is_volatile(key)}
        items = {key: item_hash(key, shapes[key]) for key in names}
        all_names, all_items = sum(names.values()), sum(items.values())

        matches = self._with_head(shapes, all_names, all_items, items)
        if matches:
            return _recognition(matches, head="present", unused=())
        matches = self._without_head(shapes, all_names, items)
        if matches:
            return _recognition(matches, head="absent", unused=())
        for group in _first_components(names):
            rest = {key for key in names if key not in group}
            matches = self._trunk(shapes, names, items, rest)
            if matches:
                head: Head = "replaced" if group else "absent"
                return _recognition(matches, head=head, unused=tuple(sorted(group)))
        return None

    @cached_property
    def name_sums(self) -> frozenset[int]:
        """The sums of `name_hash` over a set of names that some architecture may have."""
        return frozenset({*self._by_keys, *self._by_bare_keys, *self._by_trunk_keys} - {0})

    def _with_head(
        self, shapes: Shapes, all_names: int, all_items: int, items: Mapping[str, int]
    ) -> list[_Match]:
        candidates = self._by_keys.get(all_names & MASK, ())
        return _exact_first(_match(entry, shapes, items, all_items, entry.fixed) for entry in candidates)

    def _without_head(self, shapes: Shapes, all_names: int, items: Mapping[str, int]) -> list[_Match]:
        # What is left below the roots (a norm in the head, say) agrees by name; shapes are compared above.
        candidates = self._by_bare_keys.get(all_names & MASK, ())
        return _exact_first(_match_trunk(entry, shapes, items, items) for entry in candidates)

    def _trunk(
        self, shapes: Shapes, names: Mapping[str, int], items: Mapping[str, int], rest: set[str]
    ) -> list[_Match]:
        candidates = self._by_trunk_keys.get(sum(names[key] for key in rest) & MASK, ())
        return _exact_first(_match_trunk(entry, shapes, items, rest) for entry in candidates)

    def neighbours(self, shapes: Shapes, limit: int = 3) -> list[Neighbour]:
        """The entries closest to these parameters by names, then by size; closest first."""
        names = [key for key in shapes if not is_volatile(key)]
        low = sketch(names)
        whole = sum(map(name_hash, names)) & MASK
        size = sum(numel(shapes[key]) for key in names)
        found = [
            Neighbour(entry, 1.0 if entry.keys == whole else min(resemblance(low, entry.sketch), 0.99))
            for entry in self.architectures
        ]
        found = [neighbour for neighbour in found if neighbour.resemblance > 0.05]
        found.sort(
            key=lambda near: (
                -near.resemblance,
                abs(near.architecture.numel - size),
                near.architecture.plainness,
            )
        )
        return found[:limit]

    def _unrecognised(self, shapes: Shapes, names: Mapping[str, int]) -> UnrecognisedError:
        nearest = self.neighbours(shapes)
        if not nearest:
            first = ", ".join(list(names)[:3])
            what = f"no known architecture resembles these {len(names)} parameters (first: {first})"
        else:
            closest = nearest[0]
            if closest.resemblance == 1.0:
                share = "all names agree, shapes differ"
            else:
                share = f"about {closest.resemblance:.0%} of the names agree"
            what = f"no known architecture fits; closest: {closest.architecture.label} ({share})"
        return UnrecognisedError(what, hint=MODEL_HINT, nearest=nearest)


def _first_components(keys: Iterable[str]) -> Iterator[set[str]]:
    """Sets of names to try without: none, then everything below one first component, small sets first."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        groups[key.partition(".")[0]].add(key)
    yield set()
    yield from sorted(groups.values(), key=len)


def _match(
    entry: Architecture, shapes: Shapes, items: Mapping[str, int], total: int, target: int
) -> _Match | None:
    """The entry with its free values, where items that sum to `total` are those of `target`.

    `shapes` may lack flexible names; these are then no part of `total` either.
    """
    values: dict[str, int] = {}
    rest = total
    for key, pattern in entry.flexible:
        if key not in shapes:
            continue
        found = solve(pattern, shapes[key])
        if found is None or any(values.setdefault(letter, value) != value for letter, value in found.items()):
            return None
        rest -= items[key]
    if rest & MASK == target:
        return _Match(entry, values, entry.kwargs, resized=False)
    table = entry.positions
    if table is None or table.key not in shapes:
        return None
    size = table.image_size(shapes[table.key])
    rest += item_hash(table.key, table.shape) - items[table.key]
    if size is None or rest & MASK != target:
        return None
    return _Match(entry, values, {**entry.kwargs, table.argument: size}, resized=True)


def _match_trunk(
    entry: Architecture, shapes: Shapes, items: Mapping[str, int], present: Iterable[str]
) -> _Match | None:
    trunk = {key: shapes[key] for key in present if not is_below(key, entry.roots)}
    return _match(entry, trunk, items, sum(items[key] for key in trunk), entry.trunk_fixed)


def _exact_first(found: Iterable[_Match | None]) -> list[_Match]:
    """The matches; those at another image size only where there is none at the entry's own."""
    matches = [match for match in found if match is not None]
    return [match for match in matches if not match.resized] or matches


def _recognition(matches: Sequence[_Match], *, head: Head, unused: tuple[str, ...]) -> Recognition:
    matches = sorted(matches, key=lambda match: match.architecture.plainness)
    chosen, others = matches[0], matches[1:]
    alternatives = tuple(match.architecture for match in others)
    notes: list[str] = []
    if head == "absent":
        notes.append("saved without its classifier: the layers before it can be dissected")
    if head == "replaced":
        shown = ", ".join(unused[:3]) + (" ..." if len(unused) > 3 else "")
        notes.append(
            f"its classifier was replaced by layers unknown to {chosen.architecture.label} ({shown}): "
            "the layers before it can be dissected; --model file.py:factory for the whole network"
        )
    return Recognition(
        architecture=chosen.architecture,
        num_classes=chosen.values.get("n"),
        in_chans=chosen.values.get("c", 3),
        kwargs=chosen.kwargs,
        head=head,
        unused=unused,
        alternatives=alternatives,
        notes=tuple(notes),
    )


@lru_cache(maxsize=1)
def shipped_index() -> ArchitectureIndex:
    """The table that comes with the package."""
    source = resources.files("concept_monitor_cli.checkpoints").joinpath("architectures.json.gz")
    return load_index(source.read_bytes())


def load_index(data: bytes) -> ArchitectureIndex:
    """Read a table from gzipped JSON; ValueError where it is of another schema."""
    content = json.loads(gzip.decompress(data))
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
    return ArchitectureIndex(
        [Architecture.from_json(row) for row in content["architectures"]], content["made_with"]
    )


def dump_index(index: ArchitectureIndex) -> bytes:
    """The table as gzipped JSON, the same bytes for the same table."""
    content = {
        "schema": SCHEMA,
        "made_with": index.made_with,
        "architectures": [entry.to_json() for entry in index.architectures],
    }
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), compresslevel=9, mtime=0)


def recognise(shapes: Shapes) -> Recognition:
    """Name the architecture with these parameter names and shapes; see `ArchitectureIndex.recognise`."""
    return shipped_index().recognise(shapes)
