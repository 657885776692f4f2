"""Networks that the user's own code makes: `package.module:factory` and `file.py:factory`."""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.constructors import Constructor


def user_constructor(spec: str, path: str, attribute: str) -> Constructor:
    """The factory that `--model PATH:ATTRIBUTE` names. Importing it runs the user's code.

    Args:
        spec: what was given.
        path: a module's name, or a `.py` file.
        attribute: of the module: a function, a class, or a network.

    Raises:
        InputError: it cannot be imported, is not there, or is nothing that makes a network.
    """
    folder = Path(path).resolve().parent if path.endswith(".py") else Path.cwd()
    if path.endswith(".py"):
        module = _import_file(folder / Path(path).name)
    else:
        module = _import_module(path, folder)
    made = module
    for part in attribute.split("."):
        if not hasattr(made, part):
            names = [
                name for name, value in vars(made).items() if callable(value) and not name.startswith("_")
            ]
            near = difflib.get_close_matches(part, names, n=3, cutoff=0.4) or sorted(names)[:5]
            raise InputError(
                f"{path} has no {part!r}",
                where=f"--model {spec}",
                hint=f"it has {', '.join(near)}" if near else "define a function that returns the network",
            )
        made = getattr(made, part)
    target: Any = made
    source = inspect.getsourcefile(module)
    code = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else ""
    # Such a file often changes a network of theirs.
    code = " ".join([code, *(f"{library}-{version(library)}" for library in ("torchvision", "timm"))])
    if isinstance(target, nn.Module):
        return Constructor("user", spec, lambda: copy.deepcopy(target), arguments=frozenset(), code=code)
    if not callable(target):
        raise InputError(
            f"{attribute} in {path} is a {type(target).__name__}, not a function that returns a network",
            where=f"--model {spec}",
        )
    arguments = _accepted(spec, target)

    def factory(**kwargs: Any) -> nn.Module:
        with _importable(folder):
            try:
                model = target(**kwargs)
            except InputError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                if "meta" in str(error).lower():
                    raise  # built with real memory instead
                raise _failed(spec, error) from error
            except Exception as error:
                raise _failed(spec, error) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{spec} returned a {type(model).__name__}, not a torch.nn.Module", where="--model"
            )
        return model

    return Constructor("user", spec, factory, arguments=arguments, code=code)


def _failed(spec: str, error: Exception) -> InputError:
    text = " ".join(str(error).split())[:200]
    return InputError(
        f"{spec} failed: {type(error).__name__}: {text}", where="--model", hint="--verbose shows where"
    )


def _accepted(spec: str, target: Callable[..., Any]) -> frozenset[str]:
    """Which of our arguments the factory takes."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    names = {parameter.name for parameter in parameters}
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ("num_classes", "in_chans")
    ]
    if required:
        raise InputError(
            f"{spec} needs arguments that cannot be known: {', '.join(required)}",
            where="--model",
            hint="write a function that fills them in; it may take num_classes and in_chans",
        )
    accepted = names & {"num_classes", "in_chans"}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        accepted.add("num_classes")
    return frozenset(accepted)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A folder in front of the import path, as for a script that is run from there."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


@lru_cache(maxsize=32)
def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise InputError("no such file", where=f"--model {file}")
    name = f"_cmon_user_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", where=f"--model {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    try:
        with _importable(file.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(str(file), error) from error
    return module


def _import_module(name: str, folder: Path) -> ModuleType:
    try:
        with _importable(folder):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = None if error.name == name else f"it needs {error.name}, which is not installed"
        raise InputError(
            f"there is no module {name}",
            where="--model",
            hint=hint or "the folder above the package must be the working directory or installed",
        ) from error
    except Exception as error:
        raise _failed(name, error) from error
