"""Code of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from concept_monitor_cli.usercode import load_module


def test_a_file_whose_path_is_no_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    (folder / "net.py").write_text("VALUE = 3\n")
    assert load_module(f"{folder}/net.py", option="--model").VALUE == 3
