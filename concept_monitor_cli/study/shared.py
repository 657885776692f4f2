"""The images of one checkpoint, shared over tasks: each visits its part, whoever finds all parts joins them.

The parts of a recording lie in the store until then, under keys that hold everything the recording depends
on and how the images were shared: a part of other images, weights or batches is never taken for one of
these. A task that was killed left nothing or a whole part; the same task, started again, goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.record import RecordInfo
from concept_monitor_cli.record.parts import (
    Part,
    PartStore,
    SeenPart,
    can_be_joined,
    parts_of,
    save_part,
)
from concept_monitor_cli.record.requests import Cost, Masks
from concept_monitor_cli.store import Entry, Key
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.passes import (
    Opened,
    Seen,
    further_passes,
    not_recorded,
    open_entries,
    run_pass,
    tell_of_size,
)
from concept_monitor_cli.study.study import LostEntryError, Study
from concept_monitor_cli.wording import counted

Visited = Callable[[RecordInfo], None]


class NotJoinableError(InputError):
    """Something wanted cannot be put together from parts of the images.

    Attributes:
        recording: the digest of its key.
    """

    def __init__(self, seen: Seen) -> None:
        self.recording = seen.key.digest
        super().__init__(
            f"what is recorded of {seen.layer.name} ({seen.request.kind}) cannot be put together from parts",
            where="--shard-images",
            hint="share the checkpoints instead (--shard I/N), or leave that detector out",
        )


class PartsMissingError(CmonError):
    """This task's part is recorded, and another's is not there yet: no failure, only not the end.

    Attributes:
        parts: which are missing, `2/3`, in order.
    """

    def __init__(self, parts: Iterable[str]) -> None:
        self.parts = tuple(sorted(set(parts), key=lambda part: int(part.partition("/")[0])))
        super().__init__(f"parts of the images are not recorded yet: {', '.join(self.parts)}")


def record_shared(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Seen],
    make: Callable[[], nn.Module],
    visited: Visited,
    *,
    all_parts: bool = False,
) -> None:
    """Record this task's part of everything wanted, and join what all parts are there of.

    Args:
        study: the inputs, with this task's part of the images.
        architecture: the network and its images.
        wanted: what should be in the store.
        make: builds the network, with its weights.
        visited: called after each pass.
        all_parts: go on with the parts that no other task is at, for what the work cannot go on without.

    Raises:
        PartsMissingError: parts are missing; all that could be joined is.
        NotJoinableError: something wanted cannot be put together from parts.
    """
    own = study.image_shard
    assert own is not None
    parts = parts_of(len(architecture.pixels), study.options.batch_size, own.count)
    wanted = [_roomier(each, parts) for each in wanted]
    tell_of_size(study, wanted, len(architecture.pixels))
    if own.index not in [part.index for part in parts]:
        batch = f"{counted(len(parts), 'batches')} of {study.options.batch_size} images"
        study.notice(f"no images for part {own}: there are {batch}; a smaller --batch-size makes more")
    # The own part first, then those of the tasks that come after this one: two tasks rarely want the same.
    for part in sorted(parts, key=lambda part: (part.index - own.index) % own.count):
        if part.index == own.index or all_parts:
            _record_part(study, architecture, wanted, part, make, visited)
    _join_parts(study, architecture, wanted, parts, make, visited)


def own_costs(study: Study, architecture: Architecture, missing: Iterable[Seen]) -> list[Cost]:
    """What it will take this task to record what is missing: no pass where its part of the images is there.

    Args:
        study: the inputs.
        architecture: the network and its images.
        missing: what is not in the store.
    """
    images, own = len(architecture.pixels), study.image_shard
    if own is None:
        return [each.request.cost(each.layer, images) for each in missing]
    parts = parts_of(images, study.options.batch_size, own.count)
    left = [part for part in parts if part.index == own.index]
    return [
        cost
        if any(not study.store.has(_part_key(study, part, each.key)) for part in left)
        else replace(cost, passes=0)
        for each in missing
        for cost in [_roomier(each, parts).request.cost(each.layer, images)]
    ]


def _roomier(seen: Seen, parts: Sequence[Part]) -> Seen:
    """The same, where each part may keep as much for a while as one task may keep of all images."""
    if isinstance(seen.request, Masks):
        request = replace(seen.request, spool_bytes=len(parts) * seen.request.spool_bytes)
        return replace(seen, request=request)
    return seen


def _part_key(study: Study, part: Part, recording: Key) -> Key:
    return study.store.key(
        "part",
        recording=recording.digest,
        images=[part.start, part.stop],
        batch=study.options.batch_size,
        # Another kind of device rounds differently.
        device=study.device.type,
    )


def _record_part(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Seen],
    part: Part,
    make: Callable[[], nn.Module],
    visited: Visited,
) -> None:
    def of(key: Key) -> Key:
        return _part_key(study, part, key)

    def lacking(some: Sequence[Seen]) -> list[Seen]:
        return [each for each in not_recorded(study, some) if not study.store.proved(of(each.key))]

    missing = lacking(wanted)
    if not missing:
        return
    with ExitStack() as locks:
        for key in sorted((of(each.key) for each in missing), key=lambda key: key.digest):
            locks.enter_context(study.store.lock(key))
        missing = lacking(missing)
        if not missing:
            return
        with ExitStack() as stack:
            place = PartStore(study.store, part, of)
            opened = open_entries(stack, architecture, missing, place)
            for each in opened:
                if not can_be_joined(each.todo):
                    raise NotJoinableError(each.seen)
            info = run_pass(study, architecture, make(), opened, slice(part.start, part.stop))
            visited(info)
            for each in opened:
                rows, layer = place.rows[each.seen.key.digest], each.seen.look.tapped.name
                save_part(each.todo, rows)
                rows.meta["part"] = {
                    "non_finite": info.non_finite[layer],
                    "assumptions": list(info.assumptions[layer]),
                }


def _join_parts(
    study: Study,
    architecture: Architecture,
    wanted: Sequence[Seen],
    parts: Sequence[Part],
    make: Callable[[], nn.Module],
    visited: Visited,
) -> None:
    """Join what all parts are there of.

    Raises:
        PartsMissingError: of something, not all are.
    """
    missing = not_recorded(study, wanted)
    lacking: list[str] = []
    with ExitStack() as locks:
        for each in sorted(missing, key=lambda each: each.key.digest):
            locks.enter_context(study.store.lock(each.key))
        whole = []
        for each in not_recorded(study, missing):
            absent = [str(part) for part in parts if not study.store.proved(_part_key(study, part, each.key))]
            lacking += absent
            if not absent:
                whole.append(each)
        if whole:
            _join(study, architecture, whole, parts, make, visited)
    for each in wanted:
        if study.store.has(each.key):
            for part in parts:
                study.store.path(_part_key(study, part, each.key)).unlink(missing_ok=True)
    if lacking:
        raise PartsMissingError(lacking)


def _join(
    study: Study,
    architecture: Architecture,
    whole: Sequence[Seen],
    parts: Sequence[Part],
    make: Callable[[], nn.Module],
    visited: Visited,
) -> None:
    network: list[nn.Module] = []

    def model() -> nn.Module:
        if not network:
            study.notice("maps are too large to be kept for a while: one task visits all images once more")
            network.append(make())
        return network[0]

    with ExitStack() as stack:
        opened = open_entries(stack, architecture, whole, study.store)
        joined = []
        for each in opened:
            entries = [
                stack.enter_context(_entry(study, _part_key(study, part, each.seen.key))) for part in parts
            ]
            for place, consumer in enumerate(each.todo.consumers):
                consumer.start(each.seen.layer, len(architecture.pixels))
                for part, entry in zip(parts, entries, strict=True):
                    consumer.join(SeenPart(entry, place, part))  # type: ignore[attr-defined]
                consumer.finish()
            joined.append((each, _joined_info(architecture, each, [entry.meta["part"] for entry in entries])))
        further_passes(study, architecture, model, joined, visited)


def _entry(study: Study, key: Key) -> Entry:
    entry = study.store.get(key)
    if entry is None:
        raise LostEntryError("a part of the images is gone from the cache", where=study.store.path(key))
    return entry


def _joined_info(
    architecture: Architecture, opened: Opened, metas: Sequence[Mapping[str, Any]]
) -> RecordInfo:
    """What one task's pass over all images would have said of a layer."""
    layer = opened.seen.look.tapped.name
    said = (sentence for meta in metas for sentence in meta["assumptions"])
    return RecordInfo(
        images=len(architecture.pixels),
        seconds=0.0,
        seconds_forward=0.0,
        seconds_reading=0.0,
        seconds_consuming=0.0,
        layers={layer: opened.seen.look.tapped},
        pooling={},
        non_finite={layer: sum(meta["non_finite"] for meta in metas)},
        assumptions={layer: tuple(dict.fromkeys(said))},
        geometry=architecture.preprocessing.geometry,
    )
