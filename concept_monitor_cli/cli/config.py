"""The TOML file: where it is found, and what may stand in it.

    layer = ["layer3", "layer4"]       # for every command that has --layer
    cache-dir = "/scratch/cmon"

    [dissect]                          # for this command only; beats the line above
    top-concepts = 3

A key is an option's name, with `-` or `_`. Nothing is guessed: a key that no command knows and a value of the
wrong type are errors. Values of the right type then go through the same checks as on the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from concept_monitor_cli.cli.options import Option
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "cmon.toml"
# What decides where the settings come from, or ends the command, cannot itself be a setting.
NOT_IN_FILE = ("config", "help", "version")


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


def find_config(named: str | None, checkpoints: Sequence[str] = ()) -> ConfigFile | None:
    """The settings file that counts: the named one, else `cmon.toml` here, else beside the checkpoints.

    Raises:
        InputError: the named file does not exist, or a file is not TOML.
    """
    if named is not None:
        return ConfigFile(Path(named), True, _read(Path(named)))
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


def settings_for(
    config: ConfigFile,
    table: str,
    params: Sequence[click.Parameter],
    commands: Mapping[str, Iterable[Option]],
) -> dict[str, Any]:
    """The values that the file gives to one command, checked and converted.

    Args:
        config: the file.
        table: the name of the command's table, e.g. `dissect`.
        params: the command's parameters.
        commands: the options of every command (and of all commands of a group together), by table name.

    Raises:
        InputError: an unknown table or key, a wrong type, a value out of range.
    """
    everywhere = _by_name(option for options in commands.values() for option in options)
    own = _by_name(param for param in params if isinstance(param, Option))
    found: dict[str, Any] = {}
    for name, value in config.values.items():
        if isinstance(value, dict):
            if name.replace("_", "-") not in commands:
                raise _unknown(config.path, f"[{name}]", [f"[{command}]" for command in commands])
            known = _by_name(commands[name.replace("_", "-")])
            for key, item in value.items():
                label = f"[{name.replace('_', '-')}] {_shown(key)}"
                if key not in known:
                    raise _unknown(config.path, label, list(known))
                _check_type(config.path, label, known[key], item)
        else:
            if name not in everywhere:
                raise _unknown(config.path, _shown(name), list(everywhere))
            if name in own:
                found[name] = (_shown(name), value)
    for key, item in config.values.get(table.replace("-", "_"), {}).items():
        if key in own:
            found[key] = (f"[{table}] {_shown(key)}", item)
    return {name: _converted(config, label, own[name], value) for name, (label, value) in found.items()}


def _by_name(options: Iterable[Option]) -> dict[str, Option]:
    return {option.name: option for option in options if option.name and option.name not in NOT_IN_FILE}


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


def _check_type(path: Path, label: str, option: Option, value: Any) -> None:
    """Compare a TOML value's type with what the option takes."""
    wanted = option.toml_type
    items = value if option.takes_list and isinstance(value, list) else [value]
    for item in items:
        # TOML tells numbers from texts and truth values; Python's bool is an int, so ask for it first.
        fits = (
            isinstance(item, bool)
            if wanted is bool
            else not isinstance(item, bool) and isinstance(item, (int, float) if wanted is float else wanted)
        )
        if not fits:
            many = " or a list of them" if option.takes_list else ""
            raise InputError(
                f"{label} must be {_TYPES[wanted][0]}{many}, not {_type_name(item)}",
                where=path,
                hint=f"write it as {_shown(option.name or '')} = {_TYPES[wanted][1]}",
            )


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


def _converted(config: ConfigFile, label: str, option: Option, value: Any) -> Any:
    _check_type(config.path, label, option, value)
    if not config.trusted and option.risky is not None and option.risky(value):
        raise InputError(
            f"{label} is not obeyed in a file that lies with the checkpoints: who made them may have made it",
            where=config.path,
            hint=f"if you wrote it, name it: --config {config.path}",
        )
    try:
        return option.from_file(value)
    except click.BadParameter as error:
        raise InputError(
            f"{label}: {error.message}", where=config.path, hint=getattr(error, "hint", None)
        ) from error
    except InputError as error:
        raise InputError(f"{label}: {error.what}", where=config.path, hint=error.hint) from error
