"""Makes the helpers beside this file importable, and gives a store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from concept_monitor_cli.store import Store

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def tmp_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
