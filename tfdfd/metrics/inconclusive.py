"""Between which scores a verdict would be wrong too often to be given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.calibration import logits
from tfdfd.metrics.checked import check_threshold, checked, checked_scores
from tfdfd.metrics.metrics import check_resolution

BOUND = 0.05
# The spread of the tail of genuine scores is measured on this share of them, and on at least so many.
TAIL_SHARE, TAIL_LEAST = 0.2, 10
_DIGITS = 6


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


def genuine_tails(domains: Mapping[str, ArrayLike]) -> list[dict]:
    """Upper tails of genuine scores: what thresholds for several faces are read from, see `tfdfd.detect.verdict`.

    Args:
        domains: by name, P(fake) in [0, 1] of genuine videos or pictures, `(n,)`, of validation.

    Returns:
        `{domain, n, highest, n_above, mean_excess}` of each, as in a model card: the highest scores, as many as are
        ever asked for, and by how much the logits of the n_above highest exceed the next one on average.

    Raises:
        TooFewError: fewer than 1 / `BOUND` in a domain.
        MetricError: see `checked_scores`.
    """
    return [_tail(name, scores) for name, scores in domains.items()]


def _tail(domain, scores):
    ordered = np.sort(checked_scores(scores))[::-1]
    check_resolution(len(ordered), BOUND, "genuine")
    # No more than this share of two faces may be called fake.
    share = 1 - (1 - BOUND) ** 0.5
    highest = ordered[: max(1, _within(share, len(ordered) + 1))]
    above = max(TAIL_LEAST, int(TAIL_SHARE * len(ordered)))
    values = logits(ordered)
    return {
        "domain": domain,
        "n": len(ordered),
        "highest": [round(float(score), _DIGITS) for score in highest],
        "n_above": above,
        "mean_excess": round(float((values[:above] - values[above]).mean()), _DIGITS),
    }


def _within(bound, count):
    return int(bound * count + 1e-9)
