"""`dissect --basis`: other units than the channels, in every command that reads a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from concept_monitor_cli.bases import Basis

from .conftest import Bench

BASES = "channels,random:6,pca:3,nmf:4"


def pooled_of(bench: Bench, layer: str, epoch: int) -> np.ndarray:
    """What the store has of one layer at one epoch."""
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.store import Key, Store

    for _, record in RunFolder(bench.root / "out").table_records():
        if (record.layer, record.epoch) == (layer, epoch):
            kind, _, digest = record.recording.partition("/")
            entry = Store(bench.root / "cache").get(Key(kind, digest, {}))
            assert entry is not None
            with entry:
                return entry.read("pooled")
    raise AssertionError(f"no table of {layer} at {epoch}")


def test_members_are_read_off_the_channels_at_every_epoch(bench: Bench, cmon) -> None:
    answer = cmon(*bench.dissect("--basis", BASES, "-q"))
    assert answer.code == 0, answer.err
    table = pd.read_parquet(bench.root / "out/tables/concepts.parquet")
    units = table.groupby("layer")["unit"].nunique().to_dict()
    assert units == {"layer3": 64, "layer3@random6": 6, "layer3@pca3": 3, "layer3@nmf4": 4}
    assert table["basis"].unique().tolist() == ["", "nmf4", "pca3", "random6"]
    assert (table["basis"] == table["layer"].str.partition("@")[2]).all()
    channels = pooled_of(bench, "layer3", 0)
    for name in ("random6", "pca3"):
        with np.load(bench.root / f"out/bases/layer3@{name}.npz") as arrays:
            basis = Basis.from_arrays(dict(arrays))
        expected = basis.encode(torch.from_numpy(channels)).numpy()
        assert np.allclose(pooled_of(bench, f"layer3@{name}", 0), expected, atol=1e-4)


def test_a_basis_is_fitted_to_the_only_checkpoint_beside_its_channels(bench: Bench, cmon) -> None:
    """What the basis is fitted to is then recorded in the same visit as what is seen in it."""
    for path in bench.checkpoints.iterdir():
        if "10" not in path.name:
            path.unlink()
    answer = cmon(*bench.dissect("--basis", "channels,pca:3", "--no-floors", "-q"))
    assert answer.code == 0, answer.err
    tables = (bench.root / "out/tables").glob("epoch_*/*.csv")
    assert {path.name.split(".")[0] for path in tables} == {
        "layer3",
        "layer3@pca3",
    }


def test_a_fitted_basis_is_that_of_the_last_checkpoint_whoever_works(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("--basis", "pca:3", "-q")).code == 0
    whole = bench.tables()
    for share in ("1/2", "2/2"):
        assert cmon(*bench.dissect("--basis", "pca:3", "--shard", share, "-q", out="shared")).code == 0
    assert bench.tables("shared") == whole
    bench.add(15)  # a later checkpoint is seen in the basis that the tables are in
    assert cmon(*bench.dissect("--basis", "pca:3", "-q")).code == 0
    assert {name: bench.tables()[name] for name in whole if "epoch_" in name} == {
        name: content for name, content in whole.items() if "epoch_" in name
    }


def test_two_files_of_one_name_are_not_mixed_in_a_run(bench: Bench, cmon) -> None:
    for number, folder in enumerate(("a", "b")):
        (bench.root / folder).mkdir()
        np.save(bench.root / folder / "sae.npy", np.random.default_rng(number).normal(size=(64, 5)))
    assert cmon(*bench.dissect("--basis", f"saved:{bench.root / 'a/sae.npy'}", "-q")).code == 0
    answer = cmon(*bench.dissect("--basis", f"saved:{bench.root / 'b/sae.npy'}", "-q"))
    assert answer.code == 2
    assert "another basis called layer3@saved-sae" in answer.err


@pytest.mark.parametrize(
    "command",
    [
        ["stats"],
        ["units", "--resamples", "10"],
        ["units", "--layer", "layer3@pca3", "--unit", "1"],
        ["embed", "--anchors", "red,sky", "--layer", "layer3@pca3", "--method", "pca"],
        ["report"],
        ["evaluate", "--measure", "simulation,clarity"],
    ],
    ids=lambda command: "-".join(word for word in command[:2] if "/" not in word),
)
def test_every_command_that_reads_a_run_reads_a_basis(bench: Bench, cmon, command: list[str]) -> None:
    assert cmon(*bench.dissect("--basis", "channels,pca:3", "-q")).code == 0
    answer = cmon(*command, "--out", bench.root / "out", "--cache-dir", bench.root / "cache", "-q")
    assert answer.code == 0, answer.err


def test_two_runs_are_compared_in_a_basis(bench: Bench, cmon, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert cmon(*bench.dissect("--basis", "random:6", "-q", out=out)).code == 0
    runs = [bench.root / "a", bench.root / "b"]
    answer = cmon("compare", *runs, "--cache-dir", bench.root / "cache", "--out", tmp_path / "c", "-q")
    assert answer.code == 0, answer.err
    matches = pd.read_csv(tmp_path / "c/tables/matches.csv")
    assert (matches["unit_a"] == matches["unit_b"]).all()
