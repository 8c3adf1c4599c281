"""Between which scores a verdict would be wrong too often to be given."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import check_threshold, checked
from tfdfd.metrics.metrics import check_resolution

BOUND = 0.05


def inconclusive_band(
    labels: ArrayLike, scores: ArrayLike, threshold: float, bound: float = BOUND
) -> tuple[float, float] | None:
    """The band `(low, high)`, ends included, of P(fake) without a verdict.

    A score p allows the verdict fake if at most `bound` of the real ones score p or more, and the verdict real if at
    most `bound` of the fake ones score p or less. In the band neither holds. It is widened to the threshold where that
    lies outside, so that on this set at most `bound` of the real ones are called fake, and of the fake ones real.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`, of validation.
        scores: P(fake) in [0, 1] as they are judged (calibrated, of videos), `(n,)`.
        threshold: from which up the verdict outside of the band is fake.
        bound: between 0 and 1.

    Returns:
        None where a verdict can be given to every score.

    Raises:
        TooFewError: fewer than 1 / bound real or fake ones.
        MetricError: see `checked`.
    """
    fake, scores = checked(labels, scores, both=True)
    check_threshold(threshold)
    reals, fakes = np.sort(scores[~fake]), np.sort(scores[fake])
    for kind, part in (("real", reals), ("fake", fakes)):
        check_resolution(len(part), bound, kind)
    # So many errors are within the bound; the next example is the first too much.
    high = reals[-1 - _within(bound, len(reals))]
    low = fakes[_within(bound, len(fakes))]
    low, high = min(float(low), threshold), max(float(high), threshold)
    return (low, high) if low < high else None


def _within(bound, count):
    return int(bound * count + 1e-9)
