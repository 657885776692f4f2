from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.space import concept_words, parse_anchors, project, projection, unit_vectors

HOW = {"seed": 0, "neighbors": 15, "min_dist": 0.1}


def test_anchors_from_words_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "anchors.txt"
    file.write_text("﻿field\n\n  stained   glass \nfield\n", encoding="utf-8")
    assert parse_anchors(["windmill", str(file), "windmill"]) == ("windmill", "field", "stained glass")


@pytest.mark.parametrize("values", [[], [""], [" ", ""]])
def test_no_anchor_left_is_an_error(values: list[str]) -> None:
    with pytest.raises(InputError, match="empty"):
        parse_anchors(values)


def test_missing_anchor_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        parse_anchors([str(tmp_path / "nowhere.txt")])


def table(rows: list[tuple[int, int, str, float, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["unit", "rank", "concept", "score", "state"])
    return frame.assign(
        epoch=3, checkpoint="c", layer="l", detector="d", category="", p_value=0.1, interpretable=True
    )


def test_unit_vectors_equal_eq_1_by_hand() -> None:
    words = ["a", "b", "c"]
    embeddings = np.eye(3, dtype=np.float32)
    rows = [
        (0, 1, "b", 1.0, "live"),
        (0, 2, "a", 0.0, "live"),
        (1, 1, "c", 5.0, "live"),  # fewer concepts than the others
        (2, 1, "", float("nan"), "dead"),
        (3, 2, "b", 2.0, "live"),  # rows in any order
        (3, 1, "c", 2.0, "live"),
    ]
    placed = unit_vectors(table(rows), words, embeddings)
    e = np.exp(1.0)
    expected = [[1 / (1 + e), e / (1 + e), 0], [0, 0, 1], [0, 0.5, 0.5]]
    np.testing.assert_allclose(placed.vectors, expected, atol=1e-6)
    assert placed.units["unit"].tolist() == [0, 1, 3]
    assert placed.units["concept"].tolist() == ["b", "c", "c"]
    assert concept_words(table(rows)) == words


def test_pca_finds_the_axes_of_variance_and_repeats() -> None:
    rng = np.random.default_rng(0)
    plane = np.linalg.qr(rng.normal(size=(6, 2)))[0].T
    flat = rng.normal(size=(40, 2)) * [5.0, 1.0]
    points = (flat @ plane).astype(np.float32)
    projected = project(points, method="pca")
    # Distances in the plane are kept.
    expected = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(
        np.linalg.norm(projected[:, None] - projected[None], axis=-1), expected, atol=1e-4
    )
    np.testing.assert_array_equal(projected, project(points, method="pca"))
    assert projected[:, 0].var() > projected[:, 1].var()


def test_few_points_fall_back_to_pca_and_say_so() -> None:
    said: list[str] = []

    class Listener:
        def notice(self, message: str) -> None:
            said.append(message)

    points = np.eye(4, dtype=np.float32)
    projected = project(points, progress=Listener())  # type: ignore[arg-type]
    assert projected.shape == (4, 2)
    assert said
    assert "PCA" in said[0]
    np.testing.assert_array_equal(projected, project(points, method="pca"))


def test_unknown_method() -> None:
    with pytest.raises(InputError, match="tsne"):
        project(np.eye(3, dtype=np.float32), method="tsne")


def three_clusters() -> Any:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(30, 8)) * 0.1 + centre for centre in np.eye(8)[:3] * 3]).astype(
        np.float32
    )


_UMAP = """
import sys
import numpy as np
from concept_monitor_cli.space import project
points = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32).reshape(90, 8)
sys.stdout.buffer.write(project(points, seed=1).tobytes())
"""


def test_umap_gives_the_same_picture_in_every_process_and_separates_clusters() -> None:
    # One process is new; in this one UMAP is used by other tests as well.
    here = project(three_clusters(), seed=1)
    there = subprocess.run(
        [sys.executable, "-c", _UMAP], check=True, capture_output=True, input=three_clusters().tobytes()
    ).stdout
    assert there == here.tobytes()
    points = here.reshape(3, 30, 2)
    centres = points.mean(axis=1)
    within = np.linalg.norm(points - centres[:, None], axis=-1).max()
    between = min(np.linalg.norm(centres[i] - centres[j]) for i in range(3) for j in range(i))
    assert between > within


def test_a_unit_that_meets_no_label_has_no_place() -> None:
    rows = [(0, 1, "a", 1.0, "live"), (1, 1, "", float("nan"), "live")]
    placed = unit_vectors(table(rows), ["a"], np.eye(1, dtype=np.float32))
    assert placed.units["unit"].tolist() == [0]


def test_eq_1_takes_five_concepts_however_many_the_table_has() -> None:
    words = list("abcdefg")
    rows = [(0, rank, word, 10.0 - rank, "live") for rank, word in enumerate(words, start=1)]
    vectors = unit_vectors(table(rows), words, np.eye(7, dtype=np.float32)).vectors
    assert (vectors[0, :5] > 0).all()
    assert (vectors[0, 5:] == 0).all()


def test_many_points_are_placed_among_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters stay clusters, the anchors are fitted, and a rerun gives the same."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 12))
    cluster = rng.integers(0, 4, 900)
    points = (centres[cluster] + 0.1 * rng.normal(size=(900, 12))).astype(np.float32)
    monkeypatch.setattr(projection, "MOST_FITTED", 500)
    monkeypatch.setattr(projection, "SAMPLED", 200)
    fitted: list[np.ndarray] = []

    def fit(some: np.ndarray, **how: object) -> np.ndarray:
        fitted.append(some)
        return some[:, :2] * 3

    said, placed = [], []

    class Told(Silent):
        def notice(self, message: str) -> None:
            said.append(message)

    with monkeypatch.context() as patched:
        patched.setitem(projection.PROJECTIONS, "umap", fit)
        found = project(points, seed=1, keep=3, progress=Told(), advance=placed.append)
        again = project(points, seed=1, keep=3)
        project(points, seed=2, keep=3)
        project(points[:500], seed=1)
    np.testing.assert_array_equal(found, again)
    assert sum(placed) == 900
    assert [len(each) for each in fitted] == [200, 200, 200, 500]
    assert said == [
        "900 points: UMAP is fitted to 200 of them, drawn by --seed; each of the others lies between the 15 "
        "of those that are nearest to it"
    ]
    np.testing.assert_array_equal(fitted[0][-3:], points[-3:])
    assert (fitted[0] != fitted[2]).any()
    inside = (points[:, None] == fitted[0]).all(2).any(1)
    assert inside.sum() == 200
    np.testing.assert_array_equal(found[inside], points[inside, :2] * 3)
    # The others lie within reach of where their own direction would have put them.
    assert np.abs(found - points[:, :2] * 3)[~inside].max() < 1.5
    np.testing.assert_array_equal(project(points, method="pca"), projection._pca(points, **HOW))


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, 4500])
def test_umap_joins_the_points_that_it_would_join_by_itself(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs below 4,096 points; beyond that it searches, and finds nearly all neighbours."""
    import umap

    points = np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)
    models, real = [], umap.UMAP

    def kept(**how: object) -> object:
        models.append(real(**how))
        return models[-1]

    monkeypatch.setattr(umap, "UMAP", kept)
    project(points)
    own = real(n_neighbors=15, metric="cosine", random_state=0).fit(points)
    difference = abs(models[0].graph_ - own.graph_)
    if n < 4096:
        assert difference.max() < 1e-3
    assert difference.sum() < 0.01 * own.graph_.sum()


@pytest.mark.slow
def test_a_sampled_map_keeps_neighbours_as_a_whole_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share of the ten nearest in the plane that are of the same cluster, beside luck (one in eight)."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 8, 3000)
    points = (rng.normal(size=(8, 24))[cluster] + 0.6 * rng.normal(size=(3000, 24))).astype(np.float32)

    def kept(places: np.ndarray, labels: np.ndarray) -> float:
        distance = ((places[:, None] - places) ** 2).sum(2)
        near = np.argsort(distance, axis=1)[:, 1:11]
        return float((labels[near] == labels[:, None]).mean())

    whole = kept(project(points), cluster)
    monkeypatch.setattr(projection, "MOST_FITTED", 1000)
    monkeypatch.setattr(projection, "SAMPLED", 500)
    places = project(points)
    assert kept(places, cluster) > whole - 0.03
    assert kept(places, rng.permutation(cluster)) < 0.2
