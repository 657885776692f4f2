"""Code of the user's own: what `file.py:name` and `package.module:name` stand for. Importing it runs it."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from concept_monitor_cli.errors import InputError


def folder_of(place: str) -> Path:
    """The folder from which imports of that code work, as for a script that is run from there."""
    return Path(place).resolve().parent if place.endswith(".py") else Path.cwd()


def load_module(place: str, *, option: str) -> ModuleType:
    """Import a module.

    Args:
        place: a `.py` file, or a module's name, importable or below the working directory.
        option: the flag that names it, for errors.

    Raises:
        InputError: it is not there, or its code fails.
    """
    folder = folder_of(place)
    if place.endswith(".py"):
        file = folder / Path(place).name
        if not file.is_file():
            raise InputError("no such file", where=f"{option} {file}")
        try:
            code = file.read_bytes()
        except OSError as error:
            raise failed(str(file), error, option) from error
        return _import_file(file, code, option)
    return _import_module(place, folder, option)


def find_attribute(module: ModuleType, place: str, attribute: str, *, where: str, hint: str) -> Any:
    """A function or class of a module, by its name, which may have dots.

    Args:
        module: what was imported.
        place: as it was named.
        attribute: which.
        where: the flag with its value, for errors.
        hint: what to do where the module has nothing that could be meant.

    Raises:
        InputError: there is none of that name; names the nearest.
    """
    made: Any = module
    for part in attribute.split("."):
        if not hasattr(made, part):
            names = [name for name, value in vars(made).items() if callable(value) and name[0] != "_"]
            near = difflib.get_close_matches(part, names, n=3, cutoff=0.4) or sorted(names)[:5]
            raise InputError(
                f"{place} has no {part!r}", where=where, hint=f"it has {', '.join(near)}" if near else hint
            )
        made = getattr(made, part)
    return made


def content_of(module: ModuleType) -> str:
    """Hex SHA-256 of a module's file, for keys; empty where it has none."""
    source = inspect.getsourcefile(module)
    return hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""


def failed(what: str, error: Exception, option: str) -> InputError:
    """What to say of an error in the user's code."""
    text = " ".join(str(error).split())[:200]
    return InputError(
        f"{what} failed: {type(error).__name__}: {text}", where=option, hint="--verbose shows where"
    )


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """A folder in front of the import path, as for a script that is run from there."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@lru_cache(maxsize=32)
def _import_file(file: Path, code: bytes, option: str) -> ModuleType:
    """The module of a file's content: a file that changed since is another module, not the one of before."""
    name = f"_cmon_user_{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=f"{option} {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    try:
        with importable(file.parent):
            # The loader would take its compiled copy where a change kept the size and the second.
            exec(compile(code, str(file), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise failed(str(file), error, option) from error
    return module


def _import_module(name: str, folder: Path, option: str) -> ModuleType:
    try:
        with importable(folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = None if error.name == name else f"it needs {error.name}, which is not installed"
        raise InputError(
            f"there is no module {name}",
            where=option,
            hint=hint or "the folder above the package must be the working directory or installed",
        ) from error
    except Exception as error:
        raise failed(name, error, option) from error
