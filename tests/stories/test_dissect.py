"""`dissect` and `embed` from the command line, on a small real network."""

from __future__ import annotations

import json
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from concept_monitor_cli.functional import neuron_embedding, soft_wpmi
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.run import TABLES

from .conftest import WORDS, Bench, make_network


def test_tables_hold_what_the_mathematics_says(bench: Bench, cmon) -> None:
    """From pixels to the table, against the functions called by hand."""
    answer = cmon(*bench.dissect("--save-scores", "--quiet"))
    assert answer.code == 0, answer.err
    with h5py.File(bench.root / "embeddings.h5") as file:
        images, texts = (torch.from_numpy(file[name][:]) for name in ("images", "texts"))
    # The file has the images in the order of their names, the recording in that of their content.
    images = images[torch.from_numpy(load_probe(str(bench.root / "photos")).natural_places)]
    P = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    recording = json.loads((bench.root / "out/tables/epoch_0005/layer3.clip-dissect.json").read_text())[
        "recording"
    ]
    kind, digest = recording.split("/")
    with h5py.File(bench.root / "cache" / kind / digest[:2] / f"{digest}.h5") as file:
        Q = torch.from_numpy(file["pooled"][:])
    table = pd.read_csv(bench.root / "out/tables/epoch_0005/layer3.clip-dissect.csv", keep_default_na=False)
    assert list(table.columns) == list(TABLES["concepts"].columns)
    best = table[table["rank"] == 1].sort_values("unit")
    # A unit that fires on fewer than five photos has no label, and no part in the prior.
    live = (best["state"] == "live").to_numpy()
    assert set(best["state"][~live]) <= {"sparse"}
    assert live.sum() > 55
    expected = soft_wpmi(P, Q[:, torch.from_numpy(live.copy())], top_k=10)
    assert (best["concept"][~live] == "").all()
    best, table = best[live], table[table["state"] == "live"]
    assert best["concept"].tolist() == [WORDS[i] for i in expected.argmax(1)]
    np.testing.assert_allclose(best["score"].astype(float), expected.amax(1), atol=1e-4)
    assert table.groupby("unit").size().eq(5).all()
    with h5py.File(bench.root / "out/scores/epoch_0005/layer3.clip-dissect.h5") as file:
        np.testing.assert_allclose(file["scores"][:][live], expected, atol=1e-4)
        assert [word.decode() for word in file["concepts"][:]] == list(WORDS)

    # ... and the embedding, against eq. 1 by hand.
    assert (
        cmon(
            "embed",
            "--anchors",
            "red,dog",
            "--out",
            bench.root / "out",
            "--cache-dir",
            bench.root / "cache",
            "--method",
            "pca",
            "--units",
            "0",
            "-q",
        ).code
        == 0
    )
    embedding = pd.read_csv(bench.root / "out/tables/embedding.csv")
    T = torch.nn.functional.normalize(texts, dim=1)
    u = torch.nn.functional.normalize(neuron_embedding(expected, T), dim=1)
    distance = 1 - u @ T[[WORDS.index("red"), WORDS.index("dog")]].T
    now = embedding[embedding["epoch"] == 5].sort_values("unit")
    np.testing.assert_allclose(now["anchor_distance"], distance.amin(1), atol=1e-4)
    assert now["nearest_anchor"].tolist() == [("red", "dog")[i] for i in distance.argmin(1)]
    assert pd.read_csv(bench.root / "out/tables/anchors.csv")["anchor"].tolist() == ["red", "dog"]
    assert (bench.root / "out/plots/embedding.layer3.clip-dissect.png").stat().st_size > 10_000
    assert (bench.root / "out/plots/trajectories.layer3.clip-dissect.png").is_file()


def test_recorded_activations_are_the_networks_own(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q")).code == 0
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision.transforms import v2

    from concept_monitor_cli.probe import load_probe

    info = json.loads((bench.root / "out/run.json").read_text())
    wanted = info["model"]["preprocessing"]
    geometry = wanted["geometry"]
    assert geometry["size"] == 32
    probe = load_probe(str(bench.root / "photos"))
    transform = v2.Compose(
        [
            v2.Resize(geometry["resize"]) if geometry["resize"] else v2.Identity(),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(wanted["mean"], wanted["std"]),
        ]
    )
    batch = torch.stack([transform(probe.image(i)) for i in range(len(probe))])
    network = make_network(10)
    outputs: list[torch.Tensor] = []
    network.get_submodule("layer3").register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.inference_mode():
        network(batch)
    recording = json.loads((bench.root / "out/tables/epoch_0010/layer3.clip-dissect.json").read_text())[
        "recording"
    ]
    kind, digest = recording.split("/")
    with h5py.File(bench.root / "cache" / kind / digest[:2] / f"{digest}.h5") as file:
        np.testing.assert_allclose(file["pooled"][:], outputs[0].mean((2, 3)), atol=1e-4)


def test_a_second_run_repeats_the_bytes_without_a_forward_pass(bench: Bench, cmon) -> None:
    first = cmon(*bench.dissect("--json")).json()
    assert first["forward_passes"] == 3
    before = bench.tables()
    again = cmon(*bench.dissect("--json")).json()
    assert again["forward_passes"] == 0
    assert bench.tables() == before
    # Another folder, and nothing of the store: the same bytes.
    other = cmon(*bench.dissect("--json", "--cache-dir", bench.root / "cache2", out="out2")).json()
    assert other["forward_passes"] == 3
    assert bench.tables("out2") == before


def test_what_needs_no_image_is_begun_before_the_forward_pass(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.stories import dissect as pipeline

    told = []
    monkeypatch.setattr(ClipDissect, "prepare", lambda self, context: told.append("prepare"))
    real = pipeline.record_missing
    monkeypatch.setattr(pipeline, "record_missing", lambda *given: (told.append("pass"), real(*given)))
    cmon(*bench.dissect("-q"))
    assert told[:2] == ["prepare", "pass"]
    del told[:]
    cmon(*bench.dissect("-q"))
    assert "prepare" not in told


def test_the_encoder_s_seconds_are_said_and_none_where_all_is_known(bench: Bench, cmon) -> None:
    given = cmon(*bench.dissect("--json")).json()
    assert given["forward_seconds"] > 0
    assert given["encoder_seconds"] == 0  # embeddings come from a file
    builtin = bench.dissect("--encoder", "builtin", "--json", out="builtin")
    begin = time.perf_counter()
    first, again = cmon(*builtin).json(), cmon(*builtin).json()
    assert 0 < first["encoder_seconds"] < time.perf_counter() - begin
    assert (again["forward_seconds"], again["encoder_seconds"]) == (0, 0)


def test_equal_names_and_sizes_never_share_a_result(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q")).code == 0
    before = bench.tables()
    path = bench.checkpoints / "epoch_5.pth"
    stat = path.stat()
    bench.add(5, seed=77)
    assert path.stat().st_size == stat.st_size
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    answer = cmon(*bench.dissect("--json")).json()
    assert answer["forward_passes"] == 1
    after = bench.tables()
    # Besides those that are made of all of them.
    changed = {name for name in after if "/" in name and after[name] != before[name]}
    assert changed == {"epoch_0005/layer3.clip-dissect.csv"}
    assert after["concepts.parquet"] != before["concepts.parquet"]


def test_nothing_of_the_old_weights_stays_when_a_file_is_written_anew(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q", layer="layer2,layer3")).code == 0
    words = ("--out", bench.root / "out", "--cache-dir", bench.root / "cache", "-q")
    assert cmon("stats", *words).code == 0
    bench.add(5, seed=77)
    answer = cmon(*bench.dissect())
    assert "epoch_5.pth has other weights than before" in answer.err
    assert "layer2 (clip-dissect)" in answer.err
    tables = bench.tables()
    assert "epoch_0005/layer2.clip-dissect.csv" not in tables
    assert "epoch_0000/layer2.clip-dissect.csv" in tables
    # What is made of all tables is made of those that are left.
    statistics = tables["statistics.csv"].decode().splitlines()
    assert not [row for row in statistics if row.startswith("5,layer2,")]
    assert [row for row in statistics if row.startswith("0,layer2,")]
    table = pd.read_parquet(bench.root / "out/tables/concepts.parquet")
    assert set(table.loc[table["layer"] == "layer2", "epoch"]) == {0, 10}
    # The whole again: as if nothing had been there before.
    assert cmon(*bench.dissect("-q", layer="layer2,layer3")).code == 0
    assert cmon(*bench.dissect("-q", layer="layer2,layer3", out="fresh")).code == 0
    assert bench.tables() == bench.tables("fresh")


def test_a_file_that_was_broken_for_a_while_is_known_to_have_other_weights(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q", layer="layer2")).code == 0
    path = bench.add(5, seed=77)
    whole = torch.load(path)
    name = next(iter(whole["state_dict"]))
    broken = {"state_dict": {**whole["state_dict"], name: whole["state_dict"][name] * torch.nan}, "epoch": 5}
    torch.save(broken, path)
    assert cmon(*bench.dissect("-q", layer="layer3")).code == 3
    torch.save(whole, path)
    assert cmon(*bench.dissect("-q", layer="layer3")).code == 0
    assert "epoch_0005/layer2.clip-dissect.csv" not in bench.tables()


def test_the_next_checkpoint_is_read_while_one_is_worked_on(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.stories import dissect as pipeline

    bench.add(15)
    bench.add(20).write_bytes(b"cut off")
    real, seen, threads, most = pipeline.load_usable, [], set(), []

    def load(study: Any, file: Any, **more: Any) -> Any:
        threads.add(threading.current_thread().name)
        checkpoint = real(study, file, **more)
        seen.append((file.epoch, weakref.ref(checkpoint)))
        most.append(sum(known() is not None for _, known in seen))
        return checkpoint

    monkeypatch.setattr(pipeline, "load_usable", load)
    answer = cmon(*bench.dissect("-q"))
    assert answer.code == 3
    assert [epoch for epoch, _ in seen] == [0, 5, 10, 15]  # each once
    assert threads == {"cmon-load_0"}
    assert max(most) == 2  # one at work, one waiting
    assert sum("epoch" in name for name in bench.tables()) == 4


def test_a_run_that_is_stopped_stops_what_is_read_ahead(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.stories import dissect as pipeline

    real, stops = pipeline.load_usable, []

    def load(study: Any, file: Any, *, stop: threading.Event) -> Any:
        stops.append(stop)
        return real(study, file, stop=stop)

    def die(*args: Any, **kwargs: Any) -> None:
        assert not stops[0].is_set()
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "load_usable", load)
    monkeypatch.setattr(RunFolder, "write_table", die)
    assert cmon(*bench.dissect("-q")).code == 75
    assert stops[0].is_set()


def test_an_error_of_a_checkpoint_that_was_read_ahead_is_its_own(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.stories import dissect as pipeline
    from concept_monitor_cli.study import UnusableCheckpointError

    real = pipeline.load_usable

    def load(study: Any, file: Any, **more: Any) -> Any:
        if file.epoch == 5:
            raise UnusableCheckpointError("vanished", where=file.path)
        return real(study, file, **more)

    monkeypatch.setattr(pipeline, "load_usable", load)
    answer = cmon(*bench.dissect("-q", "--json"))
    assert answer.code == 3
    assert answer.json()["failed"] == {"epoch_5.pth": "vanished"}
    assert {Path(name).parent.name for name in bench.tables()} - {""} == {"epoch_0000", "epoch_0010"}


def test_tables_of_a_killed_run_are_known_to_have_other_weights(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.run import RunFolder

    real = RunFolder.write_table

    def die_after_the_first(self: RunFolder, *arguments: Any) -> None:
        real(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_table", die_after_the_first)
        patch.setattr(RunFolder, "combine", lambda *args, **kwargs: None)
        assert cmon(*bench.dissect("-q", "--epochs", "5", layer="layer2,layer3")).code == 75
    assert "epoch_0005/layer2.clip-dissect.csv" in bench.tables()
    bench.add(5, seed=77)
    assert cmon(*bench.dissect("-q", "--epochs", "5", layer="layer3")).code == 0
    assert "epoch_0005/layer2.clip-dissect.csv" not in bench.tables()


def test_what_a_forward_pass_assumed_is_said_again_by_a_cached_run(bench: Bench, cmon) -> None:
    layer, run = "layer2.0.relu", bench.root / "out/run.json"
    assert "is called 2 times" in " ".join(cmon(*bench.dissect(layer=layer)).err.split())
    first = json.loads(run.read_text())
    answer = cmon(*bench.dissect(layer=layer))
    assert "is called 2 times" in " ".join(answer.err.split())
    assert json.loads(run.read_text())["notices"] == first["notices"]
    # A later run of another layer does not make the first one's assumption undone.
    assert cmon(*bench.dissect("-q")).code == 0
    assert any("is called 2 times" in notice for notice in json.loads(run.read_text())["notices"])


def test_a_new_head_leaves_the_layers_before_it_known(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q")).code == 0
    network = make_network(10)
    with torch.no_grad():
        network.fc.weight += 1
    torch.save({"state_dict": network.state_dict(), "epoch": 11}, bench.checkpoints / "epoch_11.pth")
    assert cmon(*bench.dissect("--json")).json()["forward_passes"] == 0
    assert cmon(*bench.dissect("--json", layer="fc")).json()["forward_passes"] == 4


def test_all_layers_in_one_pass_and_adding_one_later(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("--json", layer="layer2,layer3")).json()["forward_passes"] == 3
    assert cmon(*bench.dissect("--json", layer="layer1")).json()["forward_passes"] == 3
    table = pd.read_parquet(bench.root / "out/tables/concepts.parquet")
    assert set(table["layer"]) == {"layer1", "layer2", "layer3"}
    assert table.groupby("layer")["unit"].nunique().to_dict() == {"layer1": 16, "layer2": 32, "layer3": 64}


@pytest.mark.parametrize("similarity", ["cos", "cos-cubed", "rank-reorder", "wpmi", "soft-wpmi"])
def test_every_similarity_fills_the_table(bench: Bench, cmon, similarity: str) -> None:
    answer = cmon(*bench.dissect("--similarity", similarity, "--epochs", "last", "--json"))
    assert answer.code == 0, answer.err
    table = pd.read_csv(bench.root / "out/tables/epoch_0010/layer3.clip-dissect.csv")
    assert table["p_value"].between(0, 1, inclusive="right").all()
    assert np.isfinite(table["score"]).all()
    # Embeddings drawn at random have nothing to do with the images.
    assert table[table["rank"] == 1]["interpretable"].mean() <= 0.06


def test_dead_units_have_no_concept(bench: Bench, cmon) -> None:
    network = make_network(3)
    with torch.no_grad():
        network.layer3[2].bn2.weight[:7] = 0
        network.layer3[2].bn2.bias[:7] = -1000
    torch.save({"state_dict": network.state_dict(), "epoch": 20}, bench.checkpoints / "epoch_20.pth")
    assert cmon(*bench.dissect("--epochs", "20", "-q")).code == 0
    table = pd.read_csv(
        bench.root / "out/tables/epoch_0020/layer3.clip-dissect.csv",
        keep_default_na=False,
        na_values={"score": [""]},
    )
    dead = table[table["state"] == "dead"]
    assert dead["unit"].tolist() == list(range(7))
    assert dead["concept"].eq("").all()
    assert dead["score"].isna().all()
    assert not dead["interpretable"].any()
    answer = cmon(
        "embed",
        "--anchors",
        "red",
        "--method",
        "pca",
        "--out",
        bench.root / "out",
        "--cache-dir",
        bench.root / "cache",
        "--json",
    )
    assert answer.code == 0, answer.err
    assert answer.json()["units"] == 64 - 7


def test_probe_smaller_than_the_top_images_is_said(bench: Bench, cmon) -> None:
    answer = cmon(*bench.dissect())
    assert "40 images, so soft-wpmi looks at 10 instead of 100 top images" in answer.err


def test_one_concept_is_nothing_to_choose_from(bench: Bench, cmon) -> None:
    words = bench.root / "one.txt"
    words.write_text("red\n")
    assert (
        "the only concept; give more to choose from"
        in cmon(*bench.dissect("--concepts", words, "--epochs", "last")).err
    )
    assert (
        "the only concept" not in cmon(*bench.dissect("--epochs", "last", "--out", bench.root / "more")).err
    )


def test_shares_of_two_processes_make_the_whole(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q")).code == 0
    for share in ("2/2", "1/2"):
        assert (
            cmon(*bench.dissect("-q", "--shard", share, "--cache-dir", bench.root / "c2", out="shared")).code
            == 0
        )
    assert bench.tables("shared") == bench.tables()


def test_run_json_says_what_was_run_on_what(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q", "--seed", "3")).code == 0
    info = json.loads((bench.root / "out/run.json").read_text())
    assert info["schema_version"] == 1
    assert info["options"]["seed"] == 3
    assert info["option_sources"]["seed"] == "flag"
    assert [item["epoch"] for item in info["checkpoints"]] == [0, 5, 10]
    assert {item["status"] for item in info["checkpoints"]} == {"done"}
    assert info["probe"]["images"] == 40
    assert info["model"]["name"] == "cifar_resnet20"
    assert info["versions"]["torch"] == torch.__version__


def test_what_did_not_fit_the_memory_is_not_tried_again(bench: Bench, cmon, monkeypatch) -> None:
    from concept_monitor_cli.models.taps import Tap

    real, tried = Tap.__call__, []

    def greedy(self: Tap, images: Any) -> Any:
        tried.append(len(images))
        if len(images) > 10:
            raise MemoryError
        return real(self, images)

    monkeypatch.setattr(Tap, "__call__", greedy)
    answer = cmon(*bench.dissect("--batch-size", 40, "--no-floors"))
    assert answer.code == 0, answer.err
    assert tried == [40, 20, *[10] * 4 * 3]
    assert " ".join(answer.err.split()).count("out of memory on cpu") == 2
