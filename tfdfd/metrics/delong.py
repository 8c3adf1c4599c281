"""DeLong's variance of the AUC, and of the difference of two models' AUCs on the same examples.

DeLong, DeLong and Clarke-Pearson 1988, in O(n log n) as by Sun and Xu 2014 (IEEE Signal Processing Letters 21(11)):
they rank where the definition compares every pair. Examples are taken as independent: give videos, not frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked
from tfdfd.metrics.errors import TooFewError


@dataclass(frozen=True)
class AucVariance:
    """An AUC with its variance.

    Attributes:
        auc: in [0, 1].
        variance: of that number; 0 where real and fake do not overlap, which then says nothing of its error.
        interval: `(low, high)`, of the normal distribution, cut to [0, 1].
    """

    auc: float
    variance: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class AucDifference:
    """Two models' AUCs on the same examples.

    Attributes:
        auc: of both.
        difference: the first's less the second's.
        variance: of the difference.
        interval: `(low, high)` of the difference, of the normal distribution.
        z: difference in units of its deviation; 0 for two equal rankings, None where the variance is 0 otherwise.
        p: two-sided probability of such a z by chance; None as `z` is.
    """

    auc: tuple[float, float]
    difference: float
    variance: float
    interval: tuple[float, float]
    z: float | None
    p: float | None


def auc_variance(labels: ArrayLike, scores: ArrayLike, level: float = 0.95) -> AucVariance:
    """The AUC of one model with its variance and interval.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        level: of the interval.

    Raises:
        MetricError: see `checked`; or fewer than two of a class.
    """
    auc, variance = _mean_and_variance(*_placements(*checked(labels, scores, both=True)))
    low, high = _interval(auc, variance, level)
    return AucVariance(auc, variance, (max(low, 0.0), min(high, 1.0)))


def auc_difference(labels: ArrayLike, scores: ArrayLike, others: ArrayLike, level: float = 0.95) -> AucDifference:
    """Whether one model ranks the same examples better than another.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) of one model, `(n,)`.
        others: P(fake) of the other model, `(n,)`, in the same order.
        level: of the interval.

    Raises:
        MetricError: see `checked`; or fewer than two of a class.
    """
    one = _placements(*checked(labels, scores, both=True))
    other = _placements(*checked(labels, others))
    difference, variance = _mean_and_variance(*(a - b for a, b in zip(one, other, strict=True)))
    if variance:
        z = difference / variance**0.5
        p = 2 * NormalDist().cdf(-abs(z))
    else:
        z, p = (0.0, 1.0) if difference == 0 else (None, None)
    aucs = _mean_and_variance(*one)[0], _mean_and_variance(*other)[0]
    return AucDifference(aucs, difference, variance, _interval(difference, variance, level), z, p)


def _placements(fake, scores):
    """Twice the number of real ones below each fake, and of fakes above each real one: whole numbers, so that what is
    equal stays equal."""
    fakes, reals = scores[fake], scores[~fake]
    return _twice_below(reals, fakes), 2 * len(fakes) - _twice_below(fakes, reals)


def _twice_below(several, of):
    """For each of `of`, twice the number of `several` that are smaller; equal ones count half."""
    several = np.sort(several)
    return np.searchsorted(several, of, "left") + np.searchsorted(several, of, "right")


def _mean_and_variance(of_fakes, of_reals):
    n_fake, n_real = len(of_fakes), len(of_reals)
    few = min(n_fake, n_real)
    if few < 2:
        raise TooFewError(f"{few} example of a class has no variance; at least two real and two fake ones are needed.")
    mean = of_fakes.sum() / (2 * n_fake * n_real)
    variance = of_fakes.var(ddof=1) / (2 * n_real) ** 2 / n_fake + of_reals.var(ddof=1) / (2 * n_fake) ** 2 / n_real
    return float(mean), float(variance)


def _interval(value, variance, level):
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1; received {level!r}.")
    reach = NormalDist().inv_cdf((1 + level) / 2) * variance**0.5
    return value - reach, value + reach
