"""How far P(fake) is from the share of fakes among those that have it: bins of equal mass, and their mean error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Examples next to each other in score.

    Attributes:
        low: lowest score.
        high: highest score.
        count: how many.
        score: their mean P(fake).
        fakes: share of fakes among them.
    """

    low: float
    high: float
    count: int
    score: float
    fakes: float


def reliability(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> list[Bin]:
    """Examples in the order of their scores, in at most `bins` bins of as many each as equal scores allow.

    Equal scores share a bin, so that the order of examples changes nothing; a bin that would be empty is left out.

    Raises:
        MetricError: see `checked`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; received {bins}.")
    fake, scores = checked(labels, scores)
    order = np.argsort(scores, kind="stable")
    fake, scores = fake[order], scores[order]
    place = np.searchsorted(scores, scores, "left") * bins // len(scores)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.diff(np.append(starts, len(scores)))
    means = np.add.reduceat(scores, starts) / counts
    shares = np.add.reduceat(fake.astype(np.float64), starts) / counts
    ends = starts + counts - 1
    columns = (scores[starts], scores[ends], counts, means, shares)
    return [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = BINS, debiased: bool = False) -> float:
    """Expected calibration error: mean over examples of their bin's |mean P(fake) - share of fakes|.

    Guo et al. 2017, eq. 3, with bins of equal mass and for P(fake), not for the confidence of the verdict.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        bins: how many.
        debiased: chance alone puts shares off, the more the smaller the bins, and so a perfectly calibrated model has
            an error, too. With this what chance adds is estimated and taken off: each bin's error d becomes
            d - (E|X| - d), where X is normal around d with the deviation sqrt(p (1 - p) / n) of the bin's share p of
            n; at least 0 in sum.
            (Kumar, Liang and Ma 2019, for the first power as in their published code, with E|X| in closed form in
            place of draws.) As d itself has the error in it, a part of that remains where the true error is small.

    Raises:
        MetricError: see `checked`.
    """
    found = reliability(labels, scores, bins)
    total = sum(part.count for part in found)
    if not debiased:
        return sum(part.count * abs(part.score - part.fakes) for part in found) / total
    return max(0.0, sum(part.count * _debiased(part) for part in found) / total)


def debiased_calibration_error(labels: ArrayLike, scores: ArrayLike) -> float:
    """`calibration_error` with what chance adds taken off."""
    return calibration_error(labels, scores, debiased=True)


def _debiased(part):
    error = abs(part.score - part.fakes)
    deviation = math.sqrt(part.fakes * (1 - part.fakes) / part.count)
    if not deviation:
        return error
    ratio = error / deviation
    folded = deviation * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + error * math.erf(ratio / math.sqrt(2))
    return 2 * error - folded
