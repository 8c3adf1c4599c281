"""Decision thresholds chosen on validation: operating points, the inconclusive band and tails of genuine scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics import (
    RocCurve,
    TooFewError,
    check_resolution,
    check_threshold,
    checked,
    checked_scores,
    confusion,
    roc_curve,
)
from tfdfd.metrics.calibration import logits

RATES = {"fpr_1": 0.01, "fpr_5": 0.05}
EER, BALANCED = "eer", "balanced"
# Largest error rate that a verdict outside the inconclusive band may have.
BOUND = 0.05
# The tail of genuine scores is fitted to this share of them, and to at least this many.
TAIL_SHARE, TAIL_LEAST = 0.2, 10
_DIGITS = 6


def operating_points(labels: ArrayLike, scores: ArrayLike) -> dict[str, dict]:
    """Thresholds by name; scores at or above a threshold are called fake.

    `fpr_1` and `fpr_5` have the highest true positive rate at a false positive rate of at most 1 % and 5 %; `eer` has
    the smallest difference between the two error rates, `balanced` the highest balanced accuracy (ties: the smallest
    difference). A threshold lies halfway between the two scores it separates, so that rounding moves none across.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`, of validation.
        scores: P(fake) in [0, 1], `(n,)`.

    Returns:
        For each name `{threshold, fpr, tpr, balanced_accuracy, n_real, n_fake}`, or these with None and a `reason`
        if the set is too small for such a rate or no threshold reaches it.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    fake, scores = checked(labels, scores, both=True)
    curve = roc_curve(fake, scores)
    thresholds = _midpoints(curve.thresholds)
    unequal = np.abs(curve.fpr + curve.tpr - 1)
    # The curve starts with a threshold above all scores; if a score is 1 there is no such threshold in [0, 1].
    possible = thresholds <= 1
    points = {name: _at_rate(fake, scores, curve, thresholds, rate) for name, rate in RATES.items()}
    gain = np.where(possible, curve.tpr - curve.fpr, -np.inf)
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    points[EER] = _point(fake, scores, thresholds[int(np.argmin(np.where(possible, unequal, np.inf)))])
    points[BALANCED] = _point(fake, scores, thresholds[int(best[np.argmin(unequal[best])])])
    return points


def inconclusive_band(
    labels: ArrayLike, scores: ArrayLike, threshold: float, bound: float = BOUND
) -> tuple[float, float] | None:
    """The band `(low, high)`, ends included, of P(fake) in which no verdict is given.

    A score p permits the verdict fake if at most `bound` of the real examples score p or more, and the verdict real if
    at most `bound` of the fake examples score p or less. Inside the band neither holds. The band is extended to the
    threshold if that lies outside, so that on this set at most `bound` of each class get the wrong verdict.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`, of validation.
        scores: P(fake) in [0, 1] as used for verdicts (calibrated, of videos), `(n,)`.
        threshold: scores at or above it, outside the band, are called fake.
        bound: between 0 and 1.

    Returns:
        None if every score permits a verdict.

    Raises:
        TooFewError: fewer than 1 / bound real or fake examples.
        MetricError: see `checked`.
    """
    fake, scores = checked(labels, scores, both=True)
    check_threshold(threshold)
    reals, fakes = np.sort(scores[~fake]), np.sort(scores[fake])
    for kind, part in (("real", reals), ("fake", fakes)):
        check_resolution(len(part), bound, kind)
    # The bound permits this many errors; the next example is one too many.
    high = reals[-1 - count_within(bound, len(reals))]
    low = fakes[count_within(bound, len(fakes))]
    low, high = min(float(low), threshold), max(float(high), threshold)
    return (low, high) if low < high else None


def genuine_tails(domains: Mapping[str, ArrayLike]) -> list[dict]:
    """Upper tails of genuine scores, from which the thresholds for several faces derive (`tfdfd.detect.verdict`).

    Args:
        domains: P(fake) in [0, 1] of genuine validation videos or pictures, `(n,)`, by domain.

    Returns:
        `{domain, n, highest, n_above, mean_excess}` of each, as in a model card: the highest scores, as many as are
        ever needed, and the mean difference of the logits of the n_above highest scores to that of the next one.

    Raises:
        TooFewError: fewer than 1 / `BOUND` scores in a domain.
        MetricError: see `checked_scores`.
    """
    return [_tail(name, scores) for name, scores in domains.items()]


def _at_rate(
    fake: np.ndarray, scores: np.ndarray, curve: RocCurve, thresholds: np.ndarray, rate: float
) -> dict[str, Any]:
    try:
        check_resolution(int((~fake).sum()), rate)
    except TooFewError as error:
        return _no_point(fake, str(error))
    within = np.flatnonzero((thresholds <= 1) & (curve.fpr <= rate))
    if not len(within):
        share = curve.fpr[1]
        return _no_point(fake, f"{share:.1%} of the real examples have the highest score; no threshold excludes them.")
    # Among equal true positive rates the first has the fewest errors.
    return _point(fake, scores, thresholds[int(within[np.argmax(curve.tpr[within])])])


def _midpoints(thresholds: np.ndarray) -> np.ndarray:
    """Midpoint of each score and the next lower one; for infinity, of the highest score and 1."""
    highest = thresholds[1]
    upper = np.concatenate([[1.0 if highest < 1 else np.inf], thresholds[1:]])
    lower = np.append(thresholds[1:], 0.0)
    midpoints = (upper + lower) / 2
    # The midpoint of two adjacent floats may equal the lower one.
    return np.where(midpoints > lower, midpoints, upper)


def _point(fake: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    matrix = confusion(fake, scores, float(threshold))
    names = ("fpr", "tpr", "balanced_accuracy", "n_real", "n_fake")
    return {"threshold": float(threshold)} | {name: getattr(matrix, name) for name in names}


def _no_point(fake: np.ndarray, reason: str) -> dict[str, Any]:
    point = dict.fromkeys(("threshold", "fpr", "tpr", "balanced_accuracy"))
    return point | {"n_real": int((~fake).sum()), "n_fake": int(fake.sum()), "reason": reason}


def _tail(domain: str, scores: ArrayLike) -> dict[str, Any]:
    ordered = np.sort(checked_scores(scores))[::-1]
    check_resolution(len(ordered), BOUND, "genuine")
    # At most this share of two faces may be called fake.
    share = 1 - (1 - BOUND) ** 0.5
    highest = ordered[: max(1, count_within(share, len(ordered) + 1))]
    above = max(TAIL_LEAST, int(TAIL_SHARE * len(ordered)))
    values = logits(ordered)
    return {
        "domain": domain,
        "n": len(ordered),
        "highest": [round(float(score), _DIGITS) for score in highest],
        "n_above": above,
        "mean_excess": round(float((values[:above] - values[above]).mean()), _DIGITS),
    }


def count_within(bound: float, count: int) -> int:
    """Largest number of `count` examples that is at most the share `bound` of them."""
    return int(bound * count + 1e-9)
