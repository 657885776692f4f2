"""What is exported is read back with the other program's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_runs import make_images, make_run

from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.monitor.statistics import category_statistics
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.report.exports import (
    Points,
    require_tensorboard,
    write_projector,
    write_scalars,
    write_tables,
)
from concept_monitor_cli.run import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", layers={"layer1": 12, "layer2": 20}, epochs=[0, 3, 10])


def read_scalars(logdir: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(logdir), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_come_back_from_tensorboards_own_reader(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    embedding = pd.read_csv(run.tables / "embedding.csv")
    statistics = category_statistics(run.concepts(), None, embedding)
    files = write_scalars(tmp_path / "tb", statistics, time=1.0)
    assert [file.parent.name for file in files] == ["clip-dissect"]
    scalars = read_scalars(files[0].parent)
    for layer in ("layer1", "layer2"):
        rows = statistics[statistics["layer"] == layer]
        for category, group in rows.groupby("category"):
            tag = f"interpretable/{layer}" + ("" if category == "all" else f"/{category}")
            assert scalars[tag] == [
                (int(e), float(n)) for e, n in zip(group["epoch"], group["interpretable"], strict=True)
            ]
        whole = rows[rows["category"] == "all"]
        for name in ("distinct_concepts", "dead", "anchor_distance"):
            assert [value for _, value in scalars[f"{name}/{layer}"]] == pytest.approx(
                whole[name].tolist(), rel=1e-6
            )
        # Unknown everywhere: no curve, rather than one of zeros.
        assert f"spread/{layer}" not in scalars


def test_a_second_export_replaces_the_first_and_leaves_other_files(run: RunFolder, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    statistics = category_statistics(run.concepts())
    [first] = write_scalars(tmp_path / "tb", statistics, time=1.0)
    other = first.with_name("events.out.tfevents.123.training")
    other.write_bytes(b"")
    written = write_scalars(tmp_path / "tb", statistics, time=2.0)
    assert len(written) == 1
    assert other.exists()
    assert len(list(first.parent.iterdir())) == 2
    assert all(len(points) == 3 for points in read_scalars(first.parent).values())


def test_the_projector_finds_vectors_labels_and_pictures(tmp_path: Path) -> None:
    plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    probe = load_probe(str(make_images(tmp_path / "photos", 5)))
    vectors = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    labels = pd.DataFrame({"unit": range(7), "concept": ["a\tb", "c\nd", "<b>", "é", "", "x", "y"]})
    images = np.array([4, 0, 1, -1, 2, 3, 4])
    (tmp_path / "tb" / "projector").mkdir(parents=True)
    write_projector(tmp_path / "tb", [Points("layer4/conv\n2", vectors, labels, images)], probe)
    folder = tmp_path / "tb" / "projector"
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [entry] = config.embeddings
    assert entry.tensor_name == "layer4/conv\n2"
    back = plugin._read_tensor_tsv_file(str(folder / entry.tensor_path))
    assert back.shape == tuple(entry.tensor_shape) == (7, 16)
    assert np.allclose(back, vectors, rtol=1e-5)
    lines = (folder / entry.metadata_path).read_text(encoding="utf-8").split("\n")
    assert lines[:4] == ["unit\tconcept", "0\ta b", "1\tc d", "2\t<b>"]
    assert len(lines) == 9
    side = entry.sprite.single_image_dim[0]
    sprite = Image.open(folder / entry.sprite.image_path)
    assert sprite.size == (3 * side, 3 * side)
    # Row by row: point 1 shows image 0, point 3 shows none, point 6 shows image 4 again.
    for place, number in ((1, 0), (6, 4)):
        spot = (place % 3 * side + side // 2, place // 3 * side + side // 2)
        wanted = probe.image(number).getpixel((32, 24))
        assert np.abs(np.subtract(sprite.getpixel(spot), wanted)).max() <= 2
    assert sprite.getpixel((side // 2, side + side // 2)) == (128, 128, 128)
    # Without pictures, and in the place of the earlier files.
    write_projector(tmp_path / "tb", [Points("b", vectors, labels)])
    assert len(list(folder.iterdir())) == 3


def test_tables_in_other_formats_hold_the_same(run: RunFolder, tmp_path: Path) -> None:
    concepts = run.concepts()
    files = write_tables(run, concepts, tmp_path / "csv", "csv")
    assert [file.name for file in files] == ["concepts.csv", "embedding.csv", "anchors.csv"]
    assert (tmp_path / "csv" / "embedding.csv").read_bytes() == (run.tables / "embedding.csv").read_bytes()
    write_tables(run, concepts, tmp_path / "parquet", "parquet")
    # Texts, whatever pandas held them as.
    texts = concepts.astype(dict.fromkeys(concepts.select_dtypes("category"), "str"))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "parquet" / "concepts.parquet"), texts)
    back = pd.read_csv(files[0], keep_default_na=False, na_values={"score": [""], "p_value": [""]})
    assert back["concept"].tolist() == concepts["concept"].tolist()
    assert back["score"].to_numpy() == pytest.approx(concepts["score"].to_numpy(), nan_ok=True)


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CmonError, match="not installed") as raised:
        require_tensorboard()
    assert "concept-monitor-cli[tensorboard]" in (raised.value.hint or "")


def test_the_page_needs_no_tensorboard() -> None:
    code = (
        "import sys, concept_monitor_cli.report.exports, concept_monitor_cli.report.page\n"
        "sys.exit('tensorboard' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_writes_page_and_exports(run: RunFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "concept_monitor_cli", "report", "--out", str(run.root), "--json"]
    places = ["--csv", str(tmp_path / "csv"), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, *places, "--units", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert Path(result["page"]) == run.root / "report.html"
    assert result["bytes"] == (run.root / "report.html").stat().st_size
    assert result["units"] == 32
    assert [Path(path).name for path in result["exports"]] == ["concepts.csv", "embedding.csv", "anchors.csv"]
    # No recording in this cache: said, in the page and here, and no failure.
    assert any("cmon dissect" in sentence for sentence in result["left_out"])
