"""Near copies: which pictures are found, and which are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from concept_monitor_cli.functional.copies import SAME, SIDE, best_overlap, near_copies

Pictures = np.ndarray


def scenes(count: int, seed: int = 0, size: int = 96) -> list[Image.Image]:
    """Different pictures of one kind: some rectangles on a slope of colour."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ramp = np.linspace(0, 1, size)
        away = generator.uniform(-60, 60, (2, 3))
        picture = 128 + ramp[:, None, None] * away[0] + ramp[None, :, None] * away[1]
        for _ in range(7):
            top, left = generator.integers(0, size - 12, 2)
            high, wide = generator.integers(8, 40, 2)
            picture[top : top + high, left : left + wide] = generator.uniform(0, 255, 3)
        made.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    return made


def small(pictures: list[Image.Image]) -> Pictures:
    return np.stack([np.asarray(each.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for each in pictures])


CHANGES = {
    "mirrored": lambda each: each.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "darker": lambda each: ImageEnhance.Brightness(each).enhance(0.8),
    "cut": lambda each: each.crop((3, 1, each.width - 1, each.height - 3)),
    "half": lambda each: each.resize((each.width // 2, each.height // 2), Image.Resampling.BILINEAR),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("count", [6, 80])
def test_copies_are_found_and_others_are_not(change: str, count: int) -> None:
    originals = scenes(count)
    copies = [CHANGES[change](each) for each in originals[:5]]
    pairs = near_copies(small([*originals, *copies])).tolist()
    assert pairs == [[number, count + number] for number in range(5)]


def test_many_copies_of_one_picture_are_one_group() -> None:
    originals = scenes(40)
    pairs = near_copies(small([*originals, *[originals[3]] * 30]))
    joined = {3}
    for a, b in pairs.tolist():
        assert (a in joined) or (b in joined) or a >= 40
        joined |= {a, b}
    assert joined == {3, *range(40, 70)}


@pytest.mark.parametrize("cosines", [1, 100, 10**6])
def test_blocks_change_no_group(monkeypatch: pytest.MonkeyPatch, cosines: int) -> None:
    """However many cosines are held at a time."""
    originals = scenes(6)
    pictures = small([*originals, *[originals[3]] * 4, *originals[:2]])
    expected = near_copies(pictures)
    monkeypatch.setattr("concept_monitor_cli.functional.copies._COSINES", cosines)
    links = np.eye(len(pictures), dtype=bool), np.eye(len(pictures), dtype=bool)
    for matrix, pairs in zip(links, (expected, near_copies(pictures)), strict=True):
        for first, second in pairs.tolist():
            matrix[first, second] = matrix[second, first] = True
    reached = [np.linalg.matrix_power(matrix.astype(float), len(pictures)) > 0 for matrix in links]
    assert np.array_equal(*reached)
    assert reached[0].sum() == 5 * 5 + 2 * 4 + 3


def test_flat_pictures_and_few() -> None:
    assert near_copies(np.zeros((5, SIDE, SIDE, 3), dtype=np.uint8)).tolist() == []
    assert near_copies(small(scenes(1))).tolist() == []
    with pytest.raises(ValueError, match="pictures of shape"):
        near_copies(np.zeros((5, 8, 8, 3), dtype=np.uint8))


def test_the_overlap_of_whole_pictures_is_the_correlation_of_their_edges() -> None:
    """A float64 twin of the part without cuts: no overlap is lower than it."""
    pictures = small(scenes(4))
    first, second = np.array([0, 1, 2]), np.array([1, 3, 2])
    best = best_overlap(pictures, first, second)

    def edges(picture: Pictures) -> np.ndarray:
        light = picture.astype(float).mean(2)
        half = light.reshape(16, 2, 16, 2).mean((1, 3))
        padded = np.pad(half, 4, mode="reflect")
        around = np.array([[padded[i : i + 9, j : j + 9].mean() for j in range(16)] for i in range(16)])
        away = half - around
        away = away - away.mean()
        return away / np.linalg.norm(away)

    for a, b, value in zip(first, second, best.tolist(), strict=True):
        plain = (edges(pictures[a]) * edges(pictures[b])).sum()
        flipped = (edges(pictures[a]) * edges(pictures[b][:, ::-1])).sum()
        assert value >= max(plain, flipped) - 1e-4
    assert best[2] == pytest.approx(1, abs=1e-5)
    assert torch.all(best[:2] < SAME)
