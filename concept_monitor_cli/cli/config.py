"""The TOML file: where it is found, and what may stand in it.

    layer = ["layer3", "layer4"]       # for every command that has --layer
    cache-dir = "/scratch/cmon"

    [dissect]                          # for this command only; beats the line above
    top-concepts = 3

A key is an option's name, with `-` or `_`. Nothing is guessed: a key that no command knows and a value of the
wrong type are errors. Values of the right type then go through the same checks as on the command line.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args, get_origin

import typer
from typer.core import TyperGroup, TyperOption

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import Declaration, nearest
from concept_monitor_cli.options.values import of_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "cmon.toml"
# What decides where the settings come from, or ends the command, cannot itself be a setting.
NOT_IN_FILE = ("config", "help", "version")
# Commands that dissect, with all options of `cmon dissect`.
_DISSECT_TOO = ("watch", "submit")


@dataclass(frozen=True)
class ConfigFile:
    """A settings file.

    Attributes:
        path: where it is.
        trusted: False for a file that was found beside the checkpoints. Whoever made the checkpoints may
            have made it too, so it cannot switch on what runs code or deletes files.
        values: its content, with `_` for `-` in the keys.
    """

    path: Path
    trusted: bool
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a file says to one command.

    Attributes:
        path: the file; None where there is none.
        values: as they stand in the file, by the name of the option.
        labels: how to call them in an error, e.g. `[dissect] beam`.
    """

    path: Path | None
    values: Mapping[str, Any]
    labels: Mapping[str, str]


_NO_SETTINGS = Settings(None, {}, {})
_META = "concept_monitor_cli.settings"


def settings_in(ctx: Any) -> Settings:
    """The settings that a command was given."""
    return cast(Settings, ctx.meta.get(_META, _NO_SETTINGS))


def read_settings(ctx: typer.Context, value: Path | None) -> Path | None:
    """The callback of `--config`: values of the file stand in for defaults.

    Typer converts and checks them as it does with those of the command line.
    """
    if ctx.resilient_parsing:
        return value
    given = ctx.params.get("checkpoints") or ctx.params.get("checkpoint") or []
    config = find_config(value, [given] if isinstance(given, str) else given)
    if config is not None:
        settings = ctx.meta[_META] = settings_for(config, ctx)
        ctx.default_map = {
            name: _as_typer_wants(settings_of(ctx.command)[name], value)
            for name, value in settings.values.items()
        }
    return value


def _as_typer_wants(takes: Takes, value: Any) -> Any:
    return [value] if takes.repeats and not isinstance(value, list) else value


def find_config(named: Path | None, checkpoints: Sequence[str] = ()) -> ConfigFile | None:
    """The settings file that counts: the named one, else `cmon.toml` here, else beside the checkpoints.

    Raises:
        InputError: the named file does not exist, or a file is not TOML.
    """
    if named is not None:
        return ConfigFile(named, True, _read(named))
    beside = list(dict.fromkeys(_folder_of(spec) for spec in checkpoints))
    for folder in [Path(), *beside]:
        path = folder / FILE_NAME
        if path.is_file():
            trusted = folder.resolve() not in [other.resolve() for other in beside]
            return ConfigFile(path, trusted, _read(path))
    return None


def _folder_of(spec: str) -> Path:
    """The folder that holds the checkpoints: of a glob, the part before the first wildcard."""
    parts = Path(spec).parts
    path = Path(*parts[: _first_wildcard(parts)])
    return path if path.is_dir() else path.parent


def _first_wildcard(parts: Sequence[str]) -> int:
    return next((i for i, part in enumerate(parts) if any(char in part for char in "*?[")), len(parts))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        values = tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        hint = 'write settings as `layer = "layer4"`: text in quotes, lists in brackets'
        raise InputError(f"this is not TOML: {error}", where=path, hint=hint) from error
    except UnicodeDecodeError as error:
        raise InputError("the file is not UTF-8 text", where=path, hint="save it as UTF-8") from error
    except RecursionError as error:
        raise InputError("the lists in this file are nested too deeply", where=path) from error
    except OSError as error:
        raise InputError(
            f"the settings file cannot be read: {error.strerror}",
            where=path,
            hint="name a file with --config",
        ) from error
    return _underscored(values, path)


def _underscored(table: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in values:
            raise InputError(f"{prefix}{key} is set twice", where=path, hint="keep one of them")
        values[name] = _underscored(value, path, f"{key}.") if isinstance(value, dict) else value
    return values


@dataclass(frozen=True)
class Takes:
    """What a settings file may give to one option.

    Attributes:
        kinds: the TOML types that one value may have: of str, int, float and bool.
        many: whether a list may be given.
        repeats: whether the option is one that repeats on the command line.
        risky: whether a value would run code or delete files.
    """

    kinds: tuple[type, ...]
    many: bool
    repeats: bool
    risky: Callable[[Any], bool]


def settings_of(command: Any) -> dict[str, Takes]:
    """The options of a command that can be set in a file, read from the signature of its function."""
    parameters = inspect.signature(command.callback).parameters
    return {
        param.name: _takes(parameters[param.name].annotation)
        for param in command.params
        if isinstance(param, TyperOption) and param.name not in NOT_IN_FILE
    }


def _takes(annotation: Any) -> Takes:
    type_, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if get_origin(type_) in (Union, types.UnionType):
        type_ = next(item for item in get_args(type_) if item is not type(None))
    # Red, green and blue are a type made of a tuple. Other types of our own are written as text.
    made_of = getattr(type_, "__supertype__", None)
    inner = made_of if get_origin(made_of) is tuple else type_
    many = get_origin(inner) in (list, tuple)
    item = get_args(inner)[0] if many else inner
    declared = next((mark for mark in marks if isinstance(mark, Declaration)), Declaration(help=""))
    kinds = (item,) if item in (bool, int, float) else (str,)
    # A time may be a number of seconds or written as `2h`.
    if isinstance(declared.read, of_text) and str not in kinds:
        kinds = (str, *kinds)
    return Takes(kinds, many, get_origin(inner) is list, declared.risky)


def _commands(group: TyperGroup, ctx: Any) -> Iterator[tuple[str, list[Any]]]:
    """Every command of `cmon` with what can be set for it; for a command with subcommands, all of theirs."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, TyperGroup):
            yield name, [command.get_command(ctx, child) for child in command.list_commands(ctx)]
        else:
            yield name, [command]


def settings_for(config: ConfigFile, ctx: Any) -> Settings:
    """What the file gives to one command, its keys and types checked. Values are checked when they are used.

    Args:
        config: the file.
        ctx: the context of the command.

    Raises:
        InputError: an unknown table or key, or a wrong type, also where another command is spoken to.
    """
    root = ctx.find_root()
    tables = {
        table: {name: takes for command in commands for name, takes in settings_of(command).items()}
        for table, commands in _commands(cast(TyperGroup, root.command), root)
    }
    everywhere = {name: takes for known in tables.values() for name, takes in known.items()}
    own = settings_of(ctx.command)
    table = ctx.command_path.split()[1]
    labels: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, value in config.values.items():
        if isinstance(value, dict):
            if _shown(name) not in tables:
                raise _unknown(config.path, f"[{_shown(name)}]", [f"[{known}]" for known in tables])
            for key, item in value.items():
                label = f"[{_shown(name)}] {_shown(key)}"
                known = tables[_shown(name)]
                if key not in known:
                    raise _unknown(config.path, label, list(known))
                _check_type(config.path, label, key, known[key], item)
        else:
            if name not in everywhere:
                raise _unknown(config.path, _shown(name), list(everywhere))
            if name in own:
                labels[name], values[name] = _shown(name), value
    # What holds for `dissect` holds where it is done by another command, unless that has its own word.
    for name in [table] if table not in _DISSECT_TOO else ["dissect", table]:
        for key, item in config.values.get(name.replace("-", "_"), {}).items():
            if key in own:
                labels[key], values[key] = f"[{name}] {_shown(key)}", item
    for name, value in values.items():
        _check_type(config.path, labels[name], name, own[name], value)
        if not config.trusted and own[name].risky(value):
            raise InputError(
                f"{labels[name]} is not obeyed in a file that lies with the checkpoints: "
                "who made them may have made it",
                where=config.path,
                hint=f"if you wrote it, name it: --config {config.path}",
            )
    return Settings(config.path, values, labels)


def _shown(name: str) -> str:
    return name.replace("_", "-")


def _unknown(path: Path, label: str, names: Sequence[str]) -> InputError:
    key = label.split("] ")[-1]
    if _shown(key) in NOT_IN_FILE:
        return InputError(
            f"{key} cannot be set in a settings file", where=path, hint="give it on the command line"
        )
    alike = nearest(_shown(key), sorted({_shown(name) for name in names}))
    hint = f"did you mean {' or '.join(alike)}?" if alike else "`cmon COMMAND --help` lists the options"
    return InputError(f"there is no setting {label}", where=path, hint=hint)


def _check_type(path: Path, label: str, name: str, takes: Takes, value: Any) -> None:
    """Compare a TOML value's type with what the option takes."""
    for item in value if takes.many and isinstance(value, list) else [value]:
        if not any(_is_a(kind, item) for kind in takes.kinds):
            wanted = " or ".join(_TYPES[kind][0] for kind in takes.kinds)
            many = " or a list of them" if takes.many else ""
            raise InputError(
                f"{label} must be {wanted}{many}, not {_type_name(item)}",
                where=path,
                hint=f"write it as {_shown(name)} = {_TYPES[takes.kinds[0]][1]}",
            )


def _is_a(kind: type, item: Any) -> bool:
    """Whether a TOML value is of a type. TOML tells numbers from truth values; Python's bool is an int."""
    if kind is bool or isinstance(item, bool):
        return kind is bool and isinstance(item, bool)
    return isinstance(item, (int, float) if kind is float else kind)


_TYPES: dict[type, tuple[str, str]] = {
    str: ("a text", '"..." (in quotes)'),
    int: ("a whole number", "16 (without quotes)"),
    float: ("a number", "0.1 (without quotes)"),
    bool: ("true or false", "true (without quotes)"),
}


def _type_name(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return next((_TYPES[kind][0] for kind in (bool, int, float, str) if isinstance(value, kind)), "a date")
