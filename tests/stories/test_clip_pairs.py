"""`dissect --pairs`: two concepts for a unit, against brute force over texts and similarities."""

from __future__ import annotations

import itertools
import json
from functools import partial

import h5py
import numpy as np
import pytest

from concept_monitor_cli.lenses.names import clip_pairs
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.run import TABLES
from tests.functional import twins

from .conftest import WORDS, Bench

CANDIDATES = 4


def _write_embeddings(bench: Bench) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Embeddings of the photos, of the words, and of every two words in one text."""
    rng = np.random.default_rng(4)
    texts = [*WORDS, *(f"{a} {b}" for a, b in itertools.combinations(WORDS, 2))]
    images, vectors = (rng.normal(size=(count, 16)).astype(np.float32) for count in (40, len(texts)))
    with h5py.File(bench.root / "embeddings.h5", "w") as file:
        file["images"], file["texts"] = images, vectors
        file.create_dataset("concepts", data=texts, dtype=h5py.string_dtype())
    images, vectors = (
        each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images.astype(float), vectors)
    )
    return images, dict(zip(texts, vectors.astype(float), strict=True))


@pytest.mark.parametrize("similarity", ["soft-wpmi", "wpmi", "cos", "cos-cubed"])
def test_pairs_equal_a_literal_twin(
    bench: Bench, cmon, monkeypatch: pytest.MonkeyPatch, similarity: str
) -> None:
    monkeypatch.setattr(clip_pairs, "_SIDE", 5)
    if similarity == "wpmi":
        monkeypatch.setattr(clip_pairs, "_DENSE", 2.0)  # no tiles
    images, vectors = _write_embeddings(bench)
    images = images[load_probe(str(bench.root / "photos")).natural_places]
    # Every unit that is named fires on 5 images or more: all are looked at through as many.
    more = [] if similarity.startswith("cos") else ["--top-k", "5"]
    answer = cmon(*bench.dissect("--similarity", similarity, "--pairs", CANDIDATES, "--epochs", "5", *more))
    assert answer.code == 0, answer.err
    folder = bench.root / "out/tables/epoch_0005"
    kind, digest = json.loads((folder / "layer3.clip-dissect.json").read_text())["recording"].split("/")
    with h5py.File(bench.root / "cache" / kind / digest[:2] / f"{digest}.h5") as file:
        Q = file["pooled"][:].astype(float)
    table = TABLES["concepts"].read_csv(folder / "layer3.clip-dissect.csv")
    live = table[table["rank"] == 1].sort_values("unit")["state"].to_numpy() == "live"
    assert 40 < live.sum() < 64
    units = np.flatnonzero(live)[:8] if similarity.startswith("cos") else np.flatnonzero(live)
    literal = getattr(twins, similarity.replace("-", "_"))
    if more:
        literal = partial(literal, top_k=5)
    P = images @ np.array([vectors[word] for word in WORDS]).T
    single = literal(P, Q[:, units])
    rows = TABLES["pairs"].read_csv(folder / "layer3.clip-dissect.pairs.csv")
    assert sorted(set(rows["unit"])) == np.flatnonzero(live).tolist()
    score = {}
    for a, b in itertools.combinations(range(len(WORDS)), 2):
        extended = np.column_stack([P, images @ vectors[f"{WORDS[a]} {WORDS[b]}"]])
        if similarity.startswith("cos"):
            extended = extended[:, -1:]  # every concept for itself
        score[a, b] = literal(extended, Q[:, units])[:, -1]
    for place, unit in enumerate(units[:12]):
        best = sorted(range(len(WORDS)), key=lambda m: (-single[place, m], m))[:CANDIDATES]
        pairs = sorted(itertools.combinations(sorted(best), 2), key=lambda pair: -score[pair][place])[:5]
        mine = rows[rows["unit"] == unit]
        assert mine["rank"].tolist() == [1, 2, 3, 4, 5]
        assert mine["first"].tolist() == [WORDS[a] for a, _ in pairs]
        assert mine["concept"].tolist() == [f"{WORDS[a]} {WORDS[b]}" for a, b in pairs]
        np.testing.assert_allclose(mine["score"], [score[pair][place] for pair in pairs], atol=2e-3)
        np.testing.assert_allclose(mine["single_score"], single[place].max(), atol=2e-3)


def test_pairs_are_known_again_and_leave_the_concept_table_alone(bench: Bench, cmon) -> None:
    _write_embeddings(bench)
    assert cmon(*bench.dissect("--epochs", "5")).code == 0
    plain = bench.tables()
    answer = cmon(*bench.dissect("--epochs", "5", "--pairs", "3", out="paired"))
    assert answer.code == 0, answer.err
    paired = bench.tables("paired")
    table = "epoch_0005/layer3.clip-dissect.csv"
    assert paired[table] == plain[table]
    answer = cmon(*bench.dissect("--epochs", "5", "--pairs", "3", "--overwrite", "--json", out="paired"))
    assert answer.json()["forward_passes"] == 0
    assert bench.tables("paired") == paired


def test_an_encoder_that_lacks_the_pairs_is_named(bench: Bench, cmon) -> None:
    answer = cmon(*bench.dissect("--pairs", "3"))
    assert answer.code == 2
    assert "embeddings.h5" in answer.err
