"""`cmon checkpoints` lists the files that `cmon dissect` takes, in its order, for every layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from layout_table import MENDED, STABLE, write

from concept_monitor_cli.checkpoints import Reader
from concept_monitor_cli.cli import checkpoints as listing
from concept_monitor_cli.cli import main
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.study import study as study_module
from concept_monitor_cli.study import training


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layouts hold a network that is in no library: it is told by the names of its weights."""

    def reader(model: str | None, **loading: Any) -> Reader:
        return Reader(**loading, model=model)

    monkeypatch.setattr(training, "reader_of", reader)
    monkeypatch.setattr(study_module, "reader_of", reader)
    known = SimpleNamespace(label="small", alternatives=())
    monkeypatch.setattr(listing._Describer, "_source", lambda self, loaded: known)


@pytest.mark.parametrize("name", [*STABLE, *MENDED])
def test_both_take_the_same(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, (STABLE | MENDED)[name][0])
    main(["checkpoints", str(folder), "--json"])
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    listed = [(row["path"], row["epoch"]) for row in rows if row["epoch"] is not None]
    options = DissectOptions(checkpoints=(str(folder),), layers=("0",), out=str(tmp_path / "out"))
    taken = study_module.Study(options, SILENT).all_files
    assert listed == [(str(file.path), file.epoch) for file in taken]
    assert len(listed) >= 1
    assert all(row["left_out"] for row in rows if row["epoch"] is None)
