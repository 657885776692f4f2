"""How well an encoder names the renderings: the protocol of the shipped numbers and of the tests.

Zero-shot accuracy of a category: over pictures in which one word of the category dominates (`dominant`),
the share whose nearest bare word, by cosine among the words of that category, is the dominant one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.builtin.vocabulary import BY_CATEGORY, INDEX, VOCABULARY

LEAST = {"color": 0.4, "texture": 0.15, "material": 0.2, "part": 0.04, "object": 0.05, "scene": 1.0}
"""Share of the picture that a word must cover to dominate its category."""

LEAD = {"color": 1.5, "texture": 2.0, "material": 1.5, "part": 2.0, "object": 2.0, "scene": 1.0}
"""How many times more than the category's second word it must cover."""


def members(category: str) -> NDArray[np.int64]:
    """Positions in `VOCABULARY` of the category's words."""
    return np.array([INDEX[word] for word in BY_CATEGORY[category]], np.int64)


def dominant(coverage: NDArray[np.floating], category: str) -> NDArray[np.int64]:
    """The word that dominates the category in each picture.

    Args:
        coverage: (N, words) shares of the picture.
        category: one of Broden's six.

    Returns:
        (N,) positions within `BY_CATEGORY[category]`, -1 where no word dominates.
    """
    shares = np.asarray(coverage, np.float64)[:, members(category)]
    order = np.sort(shares, axis=1)
    first, second = order[:, -1], order[:, -2]
    # half a pixel in 96 x 96, so that a coverage kept in half precision decides the same
    clear = (first >= LEAST[category] - 5e-4) & (first >= LEAD[category] * second)
    return np.where(clear, shares.argmax(axis=1), -1)


def zero_shot_accuracy(
    images: NDArray[np.floating], texts: NDArray[np.floating], coverage: NDArray[np.floating]
) -> dict[str, float]:
    """Zero-shot accuracy per category.

    Args:
        images: (N, D) image embeddings, rows of length 1.
        texts: (words, D) embeddings of `VOCABULARY`'s bare words in order, rows of length 1.
        coverage: (N, words).
    """
    similarity = np.asarray(images) @ np.asarray(texts).T
    result = {}
    for category in BY_CATEGORY:
        truth = dominant(coverage, category)
        chosen = similarity[:, members(category)].argmax(axis=1)
        result[category] = float((chosen == truth)[truth >= 0].mean())
    return result


def concept_ranks(
    images: NDArray[np.floating],
    texts: NDArray[np.floating],
    coverage: NDArray[np.floating],
    *,
    top: int = 30,
    sharpness: float = 10.0,
) -> dict[str, int]:
    """Rank of each word among all words, for a unit that fires on the pictures that the word covers most.

    A stand-in for Soft-WPMI: the mean log-softmax over the unit's `top` pictures minus its mean over all
    pictures. 0 is the best rank. Ties in coverage go to the earlier picture.
    """
    logits = sharpness * (np.asarray(images, np.float64) @ np.asarray(texts, np.float64).T)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    mean = log_p.mean(axis=0)
    ranks = {}
    for position, (word, _) in enumerate(VOCABULARY):
        best = np.argsort(-np.asarray(coverage)[:, position], kind="stable")[:top]
        score = log_p[best].mean(axis=0) - mean
        ranks[word] = int((score > score[position]).sum())
    return ranks
