from __future__ import annotations

from pathlib import Path

import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.stories.demo import demo


@pytest.mark.parametrize("name", ["epoch_06.pth", "mine.pth"])
def test_a_demo_does_not_mix_with_other_checkpoints(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "ckpts"
    folder.mkdir()
    (folder / "epoch_00.pth").touch()
    (folder / name).touch()
    with pytest.raises(InputError, match=name):
        demo(tmp_path, epochs=5)
    assert {path.name for path in folder.iterdir()} == {"epoch_00.pth", name}
