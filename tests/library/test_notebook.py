"""The notebook is the script, and every cell of it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.notebook import EXAMPLES, notebook

from .conftest import REPOSITORY


def test_the_notebook_is_the_script() -> None:
    kept = json.loads((EXAMPLES / "live_model.ipynb").read_text("utf-8"))
    assert kept == notebook((EXAMPLES / "live_model.py").read_text("utf-8")), "run python -m scripts.notebook"
    code = ["".join(cell["source"]) for cell in kept["cells"] if cell["cell_type"] == "code"]
    script = (EXAMPLES / "live_model.py").read_text("utf-8")
    assert len(code) == script.count("# %%") > 3
    assert all(each in script for each in code)


def test_every_cell_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "examples"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    found = nbformat.read(EXAMPLES / "live_model.ipynb", as_version=4)
    nbformat.validate(found)
    # timm needs torchvision, whose binaries may not match torch: the package makes it importable.
    found.cells.insert(0, nbformat.v4.new_code_cell("import concept_monitor_cli._torchvision"))
    nbclient.NotebookClient(
        found, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "".join(
        output.get("text", "")
        for cell in found.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "units are interpretable at 5 % false discoveries" in said
    assert (tmp_path / "live-run" / "run.json").is_file()
