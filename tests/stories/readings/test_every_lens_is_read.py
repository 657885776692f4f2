"""Every command that reads a run, with every detector: what they need stands in the detector's traits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluation"))

from labelled_world import DIM, FIELD, SIDE, UNITS, WORDS, weights, write_embeddings, write_photos

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.encoders import PrecomputedEncoder
from concept_monitor_cli.lenses.names import compositional, ranges
from concept_monitor_cli.options import (
    CompareOptions,
    DissectOptions,
    EmbedOptions,
    ReportOptions,
    RetentionOptions,
    StatsOptions,
    UnitsOptions,
)
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.compare import compare
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.embed import embed
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.report import report
from concept_monitor_cli.stories.retention import retention
from concept_monitor_cli.stories.stats import stats
from concept_monitor_cli.stories.units import units

EVERY = tuple(detectors())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two epochs of a network whose units are known, named by every detector."""
    root = tmp_path_factory.mktemp("every")
    write_photos(root / "photos")
    write_embeddings(root / "embeddings.h5")
    with h5py.File(root / "embeddings.h5", "r+") as file:  # a label of the photos that is none of the words
        texts = np.concatenate([file["texts"][:], np.eye(1, DIM, dtype=np.float32)])
        del file["texts"], file["concepts"]
        file["texts"] = texts
        file.create_dataset("concepts", data=[*WORDS, "bare"], dtype=h5py.string_dtype())
    (root / "words.txt").write_text("\n".join(WORDS) + "\n")
    (root / "field.py").write_text(FIELD)
    (root / "ckpts").mkdir()
    own = weights()
    for epoch in (0, 1):
        kernel = own["1.weight"].reshape(UNITS, 3, SIDE, SIDE).roll(epoch, 0)
        state = {"0.weight": kernel, "0.bias": own["1.bias"].roll(epoch)}
        torch.save({"state_dict": state, "epoch": epoch}, root / "ckpts" / f"epoch_{epoch}.pth")
    with pytest.MonkeyPatch.context() as patch:
        for lens in (compositional, ranges):
            patch.setattr(lens, "MOST_DRAWS", 3)
        dissect(
            DissectOptions(
                checkpoints=(str(root / "ckpts"),),
                layers=("1",),
                model=f"{root / 'field.py'}:network",
                detectors=EVERY,
                label_rule="iou",
                length=1,
                floors=False,
                stability=False,
                input_size=SIDE,
                mean=(0.0,) * 3,
                std=(1.0,) * 3,
                probe=str(root / "photos"),
                concepts=str(root / "words.txt"),
                encoder=f"embeddings:{root / 'embeddings.h5'}",
                out=root / "run",
                cache_dir=root / "cache",
                device="cpu",
            )
        )
        yield root


def test_every_detector_has_its_table_and_each_pair_its_agreement(root: Path) -> None:
    table = TABLES["concepts"].with_added(pd.read_parquet(root / "run" / "tables" / "concepts.parquet"))
    assert set(table["detector"]) == set(EVERY)
    named = table[(table["rank"] == 1) & (table["concept"] != "")]
    assert (named.groupby("detector")["unit"].nunique() >= 6).all()
    pairs = TABLES["agreement"].read_csv(root / "run" / "tables" / "agreement.csv")
    assert len(pairs) == 2 * len(EVERY) * (len(EVERY) - 1) // 2


def test_stats_counts_every_detector(root: Path) -> None:
    result = stats(StatsOptions(out=root / "run", cache_dir=root / "cache", device="cpu"))
    assert {str(row["detector"]) for row in result.rows} == set(EVERY)
    rows = TABLES["statistics"].read_csv(root / "run" / "tables" / "statistics.csv")
    every = rows[rows["category"] == "all"]
    assert set(every["detector"]) == set(EVERY)
    assert every["held_out"].notna().all()  # each is asked of halves
    assert (every["held_out"] > every["held_out_chance"]).all()


def test_retention_takes_every_detector(root: Path) -> None:
    retention(RetentionOptions(runs=(root / "run",), plot_formats=()))
    rows = TABLES["retention"].read_csv(root / "run" / "tables" / "retention.csv")
    assert set(rows["detector"]) == set(EVERY)


def test_units_shows_the_names_by_every_detector(root: Path) -> None:
    result = units(
        UnitsOptions(
            out=root / "run", cache_dir=root / "cache", device="cpu", units=(0, 6), resamples=0, top=2
        )
    )
    shown = str(result)
    assert all(name in shown for name in EVERY)
    drawn = {path.name for path in result.plots}
    assert {f"unit_6.1.{name}.png" for name in EVERY} <= drawn
    assert [name for name in sorted(drawn) if name.startswith("ranges_")] == [
        "ranges_0.1.ranges.png",
        "ranges_6.1.ranges.png",
    ]


def test_embed_places_the_labels_of_every_detector(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = PrecomputedEncoder.text

    def text(self: PrecomputedEncoder, texts: Sequence[str]) -> torch.Tensor:
        """As an encoder that reads any text: the sum of the words that it knows."""
        words = [[word for word in (*WORDS, "bare") if word in each] for each in texts]
        return torch.nn.functional.normalize(torch.stack([known(self, own).sum(0) for own in words]))

    monkeypatch.setattr(PrecomputedEncoder, "text", text)
    for name in EVERY:
        embed(
            EmbedOptions(
                out=root / "run",
                cache_dir=root / "cache",
                device="cpu",
                detector=name,
                method="pca",
                plot_formats=(),
            )
        )
        rows = TABLES["embedding"].read_csv(root / "run" / "tables" / "embedding.csv")
        assert set(rows["detector"]) == {name}
        assert rows["x"].notna().all()
        assert rows["unit"].nunique() >= 6


def test_compare_a_run_with_itself(root: Path, tmp_path: Path) -> None:
    result = compare(
        CompareOptions(
            run_a=root / "run",
            run_b=root / "run",
            out=tmp_path,
            cache_dir=root / "cache",
            device="cpu",
            plot_formats=(),
        )
    )
    assert all(name in str(result) for name in EVERY)


def test_the_page_has_the_names_by_every_detector(root: Path) -> None:
    report(ReportOptions(out=root / "run", cache_dir=root / "cache", device="cpu", images=1))
    (page,) = (root / "run").glob("*.html")
    text = page.read_text()
    assert all(name in text for name in EVERY)
    # Five ranges at most of each unit at both epochs, by the detector that looks for them.
    opened = OpenRun(root / "run", ReportOptions(out=root / "run", cache_dir=root / "cache"), SILENT)
    known = [opened.ranges(history) for history in opened.histories]
    (rows,) = (each for each in known if each is not None)
    assert set(rows["epoch"]) == {0, 1}
    assert rows.groupby(["epoch", "unit"]).size().max() <= 5
    assert json.dumps(rows["concept"].iloc[0])[1:-1] in text
