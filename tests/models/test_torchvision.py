"""torchvision is imported with its own binary where that fits torch, whatever the binary is called."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from concept_monitor_cli import _torchvision


@pytest.mark.parametrize("stem", ["_C", "_C_stable"])
def test_the_binary_is_found_by_any_name_that_it_had(stem: str, tmp_path: Path) -> None:
    own = sorted(tmp_path / f"{stem}{suffix}" for suffix in EXTENSION_SUFFIXES)
    others = ("image.so", "_C.cpython-27-x86_64-linux-gnu.so", "_C.py", "_C.so.old", "_C.txt")
    for path in (*own, *(tmp_path / name for name in others)):
        path.touch()
    assert _torchvision._compiled_parts(tmp_path) == own


def test_what_is_installed_here_is_found() -> None:
    import torchvision

    package = Path(torchvision.__file__).parent
    assert bool(_torchvision._compiled_parts(package)) == any(package.glob("_C*"))
