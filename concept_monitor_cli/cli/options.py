"""From the declared options of a command to flags, variables and keys, and back to the options' values.

An option is declared once, as a field in `concept_monitor_cli/options/`. A command says which options it has
by the type of its argument, `def stats(console: Console, options: StatsOptions)`; the signature that Typer
reads is made here. An option `--out` is at the same time the environment variable `CMON_OUT` and the key
`out` of the settings file. Flags beat environment, environment beats file, file beats default.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from typer.core import TyperOption

from concept_monitor_cli.cli.config import read_settings, settings_in
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import Declaration, Options, Source, declaration
from concept_monitor_cli.options.declare import OUTPUT, PANELS
from concept_monitor_cli.options.values import check_choice, one_of, path

T = TypeVar("T", bound=Options)

# A type of its own, because Typer would take a plain tuple for several values after the option.
Numbers = NewType("Numbers", tuple[float, ...])


class BadValue(typer.BadParameter):
    """A bad value with a word on what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def parsed(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reader of values as Typer wants it: what it refuses is a `BadValue`."""

    def convert(value: Any) -> Any:
        try:
            return read(value)
        except InputError as error:
            raise BadValue(error.what, error.hint) from error

    return convert


# -- what every command takes: how it prints, and from where it has its settings -----------------

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet/--no-quiet", "-q", rich_help_panel=OUTPUT, help="Only warnings, errors and the result."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose/--no-verbose", "-v", rich_help_panel=OUTPUT, help="Details, and tracebacks of errors."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json/--no-json",
        rich_help_panel=OUTPUT,
        help="The result as one JSON object on standard output; all else goes to standard error.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        parser=parsed(path),
        # Read before the other options get their values.
        is_eager=True,
        callback=read_settings,
        rich_help_panel=OUTPUT,
        show_default="cmon.toml here, else beside the checkpoints",
        help="Settings in TOML: a key for every option.",
    ),
]

CONSOLE_OPTIONS = ("quiet", "verbose", "json", "config")


# -- from the declarations to what Typer reads -----------------------------------------------------


def parameters(kind: type[Options]) -> list[inspect.Parameter]:
    """The options of a command as the parameters of a function that Typer reads, in the order of `--help`.

    Args:
        kind: the options of the command.
    """
    types = get_type_hints(kind)
    offered = [(item, found) for item in fields(kind) if (found := offer(kind, item)) is not None]
    offered.sort(key=lambda pair: -1 if pair[1].panel is None else PANELS.index(pair[1].panel))
    return [_parameter(item, found, types[item.name]) for item, found in offered]


def offer(kind: type[Options], item: Field[Any]) -> Declaration | None:
    """The declaration of a field that can be given on the command line of this command, else None."""
    return None if item.name in kind.without else declaration(item)


def _parameter(item: Field[Any], declared: Declaration, type_: Any) -> inspect.Parameter:
    one, repeats = _of_one(type_)
    words: tuple[str, ...] = get_args(one) if get_origin(one) is Literal else ()
    read = declared.read or (one_of(words) if words and not repeats else None)
    about: dict[str, Any] = {
        "help": declared.help if isinstance(declared.help, str) else declared.help(),
        "metavar": declared.metavar,
        "parser": None if read is None else parsed(read),
        "is_eager": declared.eager,
        "show_default": declared.shown if declared.shown is not None else True,
    }
    default = item.default if item.default_factory is MISSING else item.default_factory()
    if repeats:
        default = list(default) if default is not MISSING else [] if not declared.argument else MISSING
        default = default if default is MISSING else default or None
        if declared.read is not None:
            about["callback"] = _joined
        elif not declared.argument:
            about["callback"] = _word_list(declared, words)
    if declared.argument:
        given = typer.Argument(**about)
    else:
        given = typer.Option(*_flags(item, declared, one), rich_help_panel=declared.panel, **about)
    return inspect.Parameter(
        declared.name_of(item.name),
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=Annotated[_typer_type(one, repeats, default), given, declared],
    )


def _of_one(type_: Any) -> tuple[Any, bool]:
    """The type of one value, without `None`, and whether an option of that type may be repeated."""
    if get_origin(type_) in (Union, UnionType):
        type_ = next(part for part in get_args(type_) if part is not type(None))
    if get_origin(type_) is tuple and get_args(type_)[1:] == (...,):
        return get_args(type_)[0], True
    return type_, False


def _typer_type(one: Any, repeats: bool, default: Any) -> Any:
    if repeats:
        one = list[str if get_origin(one) is Literal else one]  # type: ignore[misc]
    elif get_origin(one) is tuple:
        one = Numbers
    return one | None if default is None else one


def _flags(item: Field[Any], declared: Declaration, one: Any) -> tuple[str, ...]:
    flag = f"--{declared.name_of(item.name)}".replace("_", "-")
    return declared.flags or ((f"{flag}/--no-{flag[2:]}",) if one is bool else (flag,))


def _word_list(declared: Declaration, words: Sequence[str]) -> Callable[..., list[str]]:
    """The callback of a repeated option that also takes a list in one value: `--layer layer3,layer4`."""

    def split(ctx: typer.Context, param: typer.CallbackParam, value: list[str] | None) -> list[str]:
        name, given = param.name or "", value or []
        source = source_of(ctx, name)
        if source == "environment":
            # Typer would split it at white space, and `hot dog` is one word.
            given = [os.environ[variable(name)]]
        # In a list of the settings file, what stands between quotes is one word.
        listed = source == "file" and isinstance(settings_in(ctx).values[name], list)
        if source != "default" and not listed:
            parts = (part.strip() for item in given for part in item.split(declared.separator))
            given = [part for part in parts if part]
        for word in given:
            parsed(lambda word: check_choice(word, words))(word)
            if declared.check is not None:
                parsed(declared.check)(word)
        return list(dict.fromkeys(given))

    return split


def _joined(value: list[Any] | None) -> list[Any]:
    """The values of a repeated option as one list; each may have been a list itself."""
    return list(
        dict.fromkeys(item for part in value or [] for item in (part if isinstance(part, tuple) else (part,)))
    )


# -- from what Typer read to the library's options -----------------------------------------------

_SOURCES: dict[str, Source] = {
    "COMMANDLINE": "flag",
    "ENVIRONMENT": "environment",
    "DEFAULT_MAP": "file",
    "DEFAULT": "default",
}


def variable(name: str) -> str:
    """The environment variable of an option."""
    return f"CMON_{name.upper()}"


def source_of(ctx: Any, name: str) -> Source | None:
    """Where the value of an option came from; None where it has none yet."""
    source = ctx.get_parameter_source(name)
    return None if source is None else _SOURCES[source.name]


def sources(ctx: typer.Context) -> dict[str, Source]:
    """Where the value of each option came from."""
    found = {
        param.name: source
        for param in ctx.command.params
        if isinstance(param, TyperOption) and (source := source_of(ctx, param.name)) is not None
    }
    return dict(sorted(found.items()))


def gather(kind: type[T], ctx: typer.Context) -> T:
    """The options of a command from the values that Typer read.

    An option that was not given and has no default here is left to its field's.
    """
    given: dict[str, Any] = {}
    for item in fields(kind):
        declared = offer(kind, item)
        value = None if declared is None else ctx.params.get(declared.name_of(item.name))
        if value is not None:
            given[item.name] = tuple(value) if isinstance(value, list) else value
    return kind(**given, sources=sources(ctx))


def written(kind: type[Options], options: Options) -> list[str]:
    """The command line of `dissect` that asks for the same: what was given as a flag, and no more.

    Args:
        kind: the options that the command has.
        options: those that were given, of this kind or one that has more.
    """
    places: list[str] = []
    flags: list[str] = []
    for item in fields(kind):
        declared = offer(kind, item)
        if declared is None:
            continue
        value = getattr(options, item.name)
        name = declared.name_of(item.name)
        values = [str(each) for each in (value if isinstance(value, tuple) else (value,))]
        if declared.argument:
            places += values
        elif options.sources.get(name) == "flag":
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                flags.append(flag if value else f"--no-{flag[2:]}")
            else:
                flags += [flag, declared.separator.join(values)]
    return ["cmon", "dissect", *places, *flags]
