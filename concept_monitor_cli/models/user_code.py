"""Networks that the user's own code makes: `package.module:factory` and `file.py:factory`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from torch import nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.constructors import Constructor
from concept_monitor_cli.usercode import (
    content_of,
    failed,
    find_attribute,
    folder_of,
    importable,
    load_module,
)


def user_constructor(spec: str, path: str, attribute: str) -> Constructor:
    """The factory that `--model PATH:ATTRIBUTE` names. Importing it runs the user's code.

    Args:
        spec: what was given.
        path: a module's name, or a `.py` file.
        attribute: of the module: a function, a class, or a network.

    Raises:
        InputError: it cannot be imported, is not there, or is nothing that makes a network.
    """
    # Such code often imports torchvision or timm itself.
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip

    folder = folder_of(path)
    module = load_module(path, option="--model")
    target = find_attribute(
        module,
        path,
        attribute,
        where=f"--model {spec}",
        hint="define a function that returns the network",
    )
    code = content_of(module)
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
        with importable(folder):
            try:
                model = target(**kwargs)
            except InputError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                if "meta" in str(error).lower():
                    raise  # built with real memory instead
                raise failed(spec, error, "--model") from error
            except Exception as error:
                raise failed(spec, error, "--model") from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"{spec} returned a {type(model).__name__}, not a torch.nn.Module", where="--model"
            )
        return model

    return Constructor("user", spec, factory, arguments=arguments, code=code)


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
