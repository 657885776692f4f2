"""Build the network that a checkpoint belongs to, and put its weights into it.

Where the name comes from: recognised from the state dict, or `--model` as a NAME of torchvision, timm or
our own CIFAR networks, as `package.module:factory`, or as `file.py:factory`. In every case the network is
built on the meta device first and compared with the state dict name by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from torch import Tensor

from concept_monitor_cli.checkpoints.architectures import Architecture, Shapes, is_below
from concept_monitor_cli.checkpoints.recognition import (
    MODEL_HINT,
    ArchitectureIndex,
    Recognition,
    UnrecognisedError,
    shipped_index,
)
from concept_monitor_cli.checkpoints.transformers_names import Family
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.constructors import (
    LIBRARIES,
    Constructor,
    constructor,
    list_architectures,
)
from concept_monitor_cli.models.differences import Difference, compare, load_weights, shapes_of, stripped
from concept_monitor_cli.models.sources import ModelSource, own_names
from concept_monitor_cli.models.user_code import user_constructor

__all__ = [
    "LIBRARIES",
    "Constructor",
    "Difference",
    "ModelSource",
    "compare",
    "constructor",
    "list_architectures",
    "load_weights",
    "resolve_model",
    "shapes_of",
]


def resolve_model(
    spec: str | None,
    state_dict: Mapping[str, Tensor],
    *,
    said: str | None = None,
    family: Family | None = None,
    config: Mapping[str, Any] | None = None,
) -> ModelSource:
    """Find the network that a state dict belongs to.

    Args:
        spec: None to recognise it; else NAME, `torchvision/NAME`, `timm/NAME`, `cmon/NAME`,
            `package.module:factory` or `file.py:factory`. The last two run the user's code.
        state_dict: the weights, wrappers' prefixes stripped; only names and shapes are looked at.
        said: what the checkpoint calls its architecture (`Checkpoint.arch`). Where several have the same
            names and shapes this decides; otherwise it counts for nothing.
        family: of transformers, where the state dict was translated from its names (`Checkpoint.family`).
        config: what `config.json` says of such a network (`Checkpoint.config`).

    Returns:
        How to build it. Building has been tried on the meta device, and all names and shapes fit.

    Raises:
        InputError: nothing fits, the name is unknown, the factory cannot be imported or fails. Says what
            differs from the network that was named, or from the closest one known.
    """
    shapes = shapes_of(state_dict)
    if spec is None and family is not None:
        return _of_transformers(family, shapes, said, config or {})
    if spec is None:
        return _recognised(shapes, said)
    if ":" in spec:
        return _from_factory(spec, shapes)
    return _named(spec, shapes)


def _of_transformers(
    family: Family, shapes: Shapes, said: str | None, config: Mapping[str, Any]
) -> ModelSource:
    from concept_monitor_cli.models.transformers_nets import resolve_family  # timm takes seconds to import

    if family == "resnet" and config.get("hidden_act", "relu") == "relu":
        with suppress(InputError):  # of the usual sizes it is the same network as torchvision's
            return _recognised(shapes, said)
    return resolve_family(family, shapes, config)


def _recognised(shapes: Shapes, said: str | None) -> ModelSource:
    index = shipped_index()
    try:
        found = index.recognise(shapes)
    except UnrecognisedError as error:
        raise _explained(error, shapes) from None
    fitting = [found.architecture, *found.alternatives]
    named = (said or "").rpartition("/")[2].partition(".")[0].lower()
    fitting.sort(key=lambda entry: entry.name.lower() != named)  # stable: the plainest first otherwise
    failures = []
    for entry in fitting:
        maker = constructor(entry.library, entry.name)
        if maker is None:
            failures.append(f"{entry.label} is not in {entry.library} {version(entry.library)}")
            continue
        this = replace(ArchitectureIndex([entry]).recognise(shapes), alternatives=())
        source, difference = _source(maker, this, shapes)
        if difference:
            failures.append(
                f"{entry.label} differs in {entry.library} {version(entry.library)}: {difference.text()}"
            )
            continue
        others = tuple(other.label for other in fitting if other is not entry)
        notes = [*_ambiguity(others, said if entry.name.lower() == named else None), *source.notes]
        return replace(source, recognised=True, alternatives=others, notes=tuple(notes))
    raise InputError(
        f"recognised, but cannot be built here: {failures[0]}",
        hint=f"install {found.library} {index.made_with.get(found.library, '')}, or {MODEL_HINT}",
    )


def _ambiguity(others: Sequence[str], said: str | None) -> list[str]:
    if not others:
        return []
    shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
    why = "the plainest of several" if said is None else f"the checkpoint calls itself {said}"
    return [f"taken as {why}: the same names and shapes belong to {shown} (--model NAME to choose)"]


def _explained(error: UnrecognisedError, shapes: Shapes) -> InputError:
    """The same error, with what exactly differs from the closest architecture."""
    for near in error.nearest:
        entry = near.architecture
        maker = constructor(entry.library, entry.name)
        if maker is None:
            continue
        difference = _difference_to(maker, entry, shapes)
        return InputError(
            f"no known architecture fits; closest: {entry.label}; {difference.text()}", hint=MODEL_HINT
        )
    return error


def _difference_to(maker: Constructor, entry: Architecture, shapes: Shapes) -> Difference:
    """What differs, apart from the number of classes and channels."""
    difference = compare(shapes, maker.shapes(**entry.kwargs))
    free = {key for key, _ in entry.flexible}
    reshaped = {key: value for key, value in difference.reshaped.items() if key not in free}
    return replace(difference, reshaped=reshaped)


def _source(maker: Constructor, found: Recognition, shapes: Shapes) -> tuple[ModelSource, Difference]:
    """The network as recognised, and what differs when it is built."""
    kwargs = dict(found.kwargs)
    stem: str | None = None
    if "num_classes" in maker.arguments:
        if found.num_classes is not None:
            kwargs["num_classes"] = found.num_classes
        elif "bare" in maker.arguments:
            kwargs["num_classes"] = 0
        else:
            kwargs["num_classes"] = 1  # a placeholder: it is filled with NaN
    if found.in_chans != 3 and "in_chans" in maker.arguments:
        kwargs["in_chans"] = found.in_chans
    elif found.in_chans != 3:
        stem = found.architecture.stem_keys[0]
    notes = found.notes if maker.assumed is None else (*found.notes, f"assumed: {maker.assumed}")
    source = ModelSource(
        library=maker.library,
        name=maker.name,
        kwargs=kwargs,
        num_classes=found.num_classes,
        in_chans=found.in_chans,
        alternatives=tuple(entry.label for entry in found.alternatives),
        notes=notes,
        unused=found.unused,
        code=maker.code,
        factory=maker.factory,
        stem=stem,
    )
    model = source.build("meta")
    own = own_names(model)
    used = {key: shape for key, shape in shapes.items() if key not in set(found.unused)}
    difference = compare(used, stripped(shapes_of(model.state_dict())))
    lacking = difference.missing
    if found.head != "present":
        lacking = tuple(key for key in lacking if not is_below(key, found.architecture.roots))
    untrained = dict.fromkeys(own[key].rpartition(".")[0] for key in difference.missing if key not in lacking)
    return replace(source, untrained=tuple(untrained)), replace(difference, missing=lacking)


def _named(spec: str, shapes: Shapes) -> ModelSource:
    library, slash, name = spec.partition("/")
    if slash and library in LIBRARIES:
        makers = [constructor(library, name)]
    else:
        name = spec
        makers = [constructor(library, name) for library in ("cmon", "torchvision", "timm")]
    known = [maker for maker in makers if maker is not None]
    if not known and (meant := _respelt(spec)) is not None:
        return _named(meant, shapes)
    if not known:
        libraries = (library,) if slash and library in LIBRARIES else LIBRARIES
        names = [name for library in libraries for name in list_architectures(library)]
        near = difflib.get_close_matches(name, dict.fromkeys(names), n=4)
        offered = f"did you mean {', '.join(near)}?" if near else "names are those of torchvision and timm"
        raise InputError(
            f"no architecture is called {spec!r}",
            where="--model",
            hint=f"{offered} For a network of your own: --model file.py:factory",
        )
    differences = []
    for maker in known:
        source, difference = _fitted(maker, shapes)
        if not difference:
            return source
        differences.append((len(difference), source.label, difference.text()))
    _, label, text = min(differences, key=lambda item: item[0])  # the first of equals
    others = "".join(f" (nor {other})" for _, other, _ in differences if other != label)
    raise InputError(
        f"the checkpoint does not fit {label}{others}: {text}",
        where=f"--model {spec}",
        hint="leave out --model to have the architecture recognised",
    )


def _respelt(spec: str) -> str | None:
    """The only architecture whose name differs in nothing but case and separators: `vit-b-16` is vit_b_16."""
    library, slash, rest = spec.partition("/")
    libraries, name = ((library,), rest) if slash and library in LIBRARIES else (LIBRARIES, spec)
    for each in libraries:
        alike = [known for known in list_architectures(each) if _bare(known) == _bare(name)]
        if len(alike) == 1 and alike[0] != name:
            return f"{each}/{alike[0]}"
    return None


def _bare(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def _fitted(maker: Constructor, shapes: Shapes) -> tuple[ModelSource, Difference]:
    """A given architecture with the number of classes and channels of the checkpoint."""
    entries = _entries(maker)
    try:
        found = ArchitectureIndex(entries).recognise(shapes)
    except UnrecognisedError:
        source = ModelSource(maker.library, maker.name, {}, None, 3, code=maker.code, factory=maker.factory)
        difference = _difference_to(maker, entries[0], shapes)
        if not difference:
            raise InputError(
                f"the checkpoint does not fit {source.label}: classifiers of different numbers of classes",
                where="--model",
            ) from None
        return source, difference
    return _source(maker, found, shapes)


def _entries(maker: Constructor) -> list[Architecture]:
    if maker.library == "user":
        return maker.describe()
    shipped = [
        entry
        for entry in shipped_index().architectures
        if (entry.library, entry.name) == (maker.library, maker.name)
    ]
    return shipped or maker.describe()


def _from_factory(spec: str, shapes: Shapes) -> ModelSource:
    path, _, attribute = spec.rpartition(":")
    if not path or not attribute:
        raise InputError(
            f"{spec!r} names no factory", where="--model", hint="package.module:factory or file.py:factory"
        )
    maker = user_constructor(spec, path, attribute)
    try:
        source, difference = _fitted(maker, shapes)
    except ValueError as error:
        raise InputError(f"{spec} cannot be used: {error}", where="--model") from error
    if difference:
        raise InputError(f"the checkpoint does not fit {spec}: {difference.text()}", where="--model")
    return source
