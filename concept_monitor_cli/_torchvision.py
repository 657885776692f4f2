"""Makes `import torchvision` work where its compiled part does not match torch. Import this first.

torchvision registers shape functions for its operators when it is imported, and fails with "operator
torchvision::nms does not exist" where its binary could not be loaded: CPU torch beside a CUDA torchvision, or
two versions that do not belong together. Networks and transforms need none of those operators, so it is
enough to declare the two that are asked for. `torchvision.io` and `torchvision.ops.nms` stay unusable then;
the project decodes with Pillow and detects nothing in boxes.

It is also imported here, without torch's compiler: `torchvision.ops` fetches `torch._dynamo`, which takes as
long to import as torch itself, for a question that it asks when boxes are pooled. timm fetches it for three
methods that the compiler is to leave alone; they are marked here without it.

Use:
    import concept_monitor_cli._torchvision  # isort: skip
    import torchvision  # or timm, or open_clip
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
_COMPILER = "torch._dynamo.utils"

# Declarations last as long as the object that made them.
_declared: list[torch.library.Library] = []


def _is_declared(operator: str) -> bool:
    return hasattr(torch.ops.torchvision, operator)


def _compiled_parts(package: Path) -> list[Path]:
    # `_C.so`, `_C.pyd`, `_C.cpython-311-x86_64-linux-gnu.so`, `_C_stable.so` (torchvision 0.29). None may
    # be missed: an operator that is declared here and registered by the library afterwards ends the process.
    endings = "|".join(map(re.escape, EXTENSION_SUFFIXES))
    return sorted(path for path in package.glob("_C*") if re.fullmatch(rf"_C\w*({endings})", path.name))


def make_importable() -> bool:
    """Prepare the process for `import torchvision`.

    Returns:
        True where torchvision's own compiled operators are in use (or torchvision is absent or already
        imported), False where the two operators had to be declared without an implementation.
    """
    if "torchvision" in sys.modules:
        return not _declared
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    for path in _compiled_parts(Path(spec.origin).parent):
        with suppress(ImportError, OSError):
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    missing = [operator for operator in _OPERATORS if not _is_declared(operator)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in missing:
            library.define(operator + _SCHEMA)  # type: ignore[no-untyped-call]
        _declared.append(library)
    _import_without_compiler()
    return not _declared


def _import_without_compiler() -> None:
    """`import torchvision` while one name stands in for the compiler's module of that name."""
    if _COMPILER in sys.modules:
        return
    stand_in = ModuleType(_COMPILER)
    vars(stand_in)["is_compile_supported"] = _is_compile_supported
    sys.modules[_COMPILER] = stand_in
    try:
        # Where it fails (another version asks for more), the user's own import succeeds or says why.
        with suppress(Exception):
            importlib.import_module("torchvision")
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def _is_compile_supported(device_type: str) -> bool:
    return bool(vars(importlib.import_module(_COMPILER))["is_compile_supported"](device_type))


def _disable_without_compiler(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """`torch.compiler.disable` for plain functions, without importing the compiler."""
    if "torch._dynamo" in sys.modules or not isinstance(fn, FunctionType) or args or kwargs:
        return _disable(fn, *args, **kwargs)  # type: ignore[no-untyped-call]

    @functools.wraps(fn)
    def left_alone(*inner: Any, **named: Any) -> Any:
        return fn(*inner, **named)

    # The mark by which torch's compiler knows what it must not look into.
    vars(left_alone)["_torchdynamo_disable"] = True
    return left_alone


make_importable()
_disable = torch.compiler.disable
vars(torch.compiler)["disable"] = _disable_without_compiler
