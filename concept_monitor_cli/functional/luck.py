"""How likely is what a sentence says, if nothing but luck is at work?

Plain tests of counts and means for statements about whole layers. Units that do alike are no independent
evidence, so every count may be weighed with a share, `design`: a layer of 320 units that count as 80
different ones has a quarter of the evidence. Numbers of trials need therefore not be whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from concept_monitor_cli.errors import InputError

# The normal distribution's tail beyond this many standard errors is no number in double precision.
_MOST_ERRORS = 37.0


def count_by_luck(count: float, total: float, share: float, *, design: float = 1.0) -> float:
    """Probability of that many hits or more in independent trials: the upper tail of the binomial.

        P(X >= k) = sum_{j >= k} C(n, j) q^j (1 - q)^(n - j) = I_q(k, n - k + 1)

    with the regularised incomplete beta function `I`, which also takes numbers that are not whole;
    `k = design count`, `n = design total`.

    Args:
        count: hits.
        total: trials, at least `count`.
        share: `q`, the probability of a hit by luck.
        design: weight of each trial, above 0 and at most 1.

    Returns:
        between 0 and 1; 1 for no hit.

    Raises:
        InputError: the numbers contradict each other.

    Example:
        >>> round(count_by_luck(2, 2, 0.5), 6)
        0.25
    """
    from scipy.special import betainc

    if not (0 <= count <= total and 0 <= share <= 1 and 0 < design <= 1):
        raise InputError(f"{count} of {total} at {share}, weighed {design}: no such trials")
    if count == 0:
        return 1.0
    if share in (0.0, 1.0):
        return share
    return float(betainc(design * count, design * (total - count) + 1, share))


def change_by_luck(gained: float, lost: float, *, design: float = 1.0) -> float:
    """Probability of so uneven a change or more, if gains and losses are equally likely: the sign test.

    McNemar's test in its exact form: of the things that changed, each gained or lost with probability 1/2.
    Two counts of different things are compared the same way, which errs on the side of luck.

    Args:
        gained: things that have it now and had it not.
        lost: things that had it.
        design: weight of each.

    Returns:
        both tails, between 0 and 1.
    """
    if not gained + lost:
        return 1.0
    return min(1.0, 2 * count_by_luck(max(gained, lost), gained + lost, 0.5, design=design))


def mean_by_luck(mean: float, error: float, count: float) -> float:
    """Probability of so large a mean or larger, in either direction, if the true one is 0: Student's t.

    Args:
        mean: of independent numbers.
        error: its standard error.
        count: how many numbers, at least 2.

    Returns:
        both tails; 1 where there are fewer numbers, or the error is not known.
    """
    from scipy.special import stdtr

    if not (math.isfinite(mean) and math.isfinite(error) and count >= 2):
        return 1.0
    if error == 0:
        return float(mean == 0)
    return float(2 * stdtr(count - 1, -abs(mean) / error))


def standard_errors(p: float) -> float:
    """How many standard errors above chance a probability is: `z` with `P(Z >= z) = p`.

    Args:
        p: between 0 and 1.

    Returns:
        at most 37, where double precision ends.
    """
    from scipy.special import ndtri

    if not 0 <= p <= 1:
        raise InputError(f"{p} is no probability")
    return _MOST_ERRORS if p < 1e-299 else float(min(_MOST_ERRORS, -ndtri(p)))


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Which of several statements hold, if at most a share `level` of such lists may hold a false one.

    In the order of their p-values, the `i`-th smallest of `m` (from 0) must be at most `level / (m - i)`;
    the first that is not, and all after it, do not hold.

    Args:
        p: of every statement that was tried, also of those that nobody would report.
        level: probability of one false statement or more.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    held = [False] * len(p)
    for place, row in enumerate(sorted(range(len(p)), key=lambda row: p[row])):
        if not p[row] <= level / (len(p) - place):
            break
        held[row] = True
    return held
