"""Thresholds to choose from, each with what it did on validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked
from tfdfd.metrics.confusion import confusion
from tfdfd.metrics.curves import roc_curve
from tfdfd.metrics.errors import TooFewError
from tfdfd.metrics.metrics import check_resolution

RATES = {"fpr_1": 0.01, "fpr_5": 0.05}
EER, BALANCED = "eer", "balanced"


def operating_points(labels: ArrayLike, scores: ArrayLike) -> dict[str, dict]:
    """Thresholds by name; a score from the threshold up is fake.

    `fpr_1` and `fpr_5` find the most fakes while at most 1 % and 5 % of the real ones are called fake; `eer` has the
    least difference of the two error rates, `balanced` the best balanced accuracy (of several, the least difference).
    A threshold lies in the middle between the two scores that it parts, so that rounding moves none across.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`, of validation.
        scores: P(fake) in [0, 1], `(n,)`.

    Returns:
        For each name `{threshold, fpr, tpr, balanced_accuracy, n_real, n_fake}`, or these with None and a `reason`
        where the set is too small to show such a rate, or no threshold has it.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    fake, scores = checked(labels, scores, both=True)
    curve = roc_curve(fake, scores)
    thresholds = _middles(curve.thresholds)
    unequal = np.abs(curve.fpr + curve.tpr - 1)
    # The curve begins with the threshold that nothing reaches; where a score is 1 there is none.
    possible = thresholds <= 1
    points = {name: _at_rate(fake, scores, curve, thresholds, rate) for name, rate in RATES.items()}
    gain = np.where(possible, curve.tpr - curve.fpr, -np.inf)
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    points[EER] = _point(fake, scores, thresholds[int(np.argmin(np.where(possible, unequal, np.inf)))])
    points[BALANCED] = _point(fake, scores, thresholds[int(best[np.argmin(unequal[best])])])
    return points


def _at_rate(fake, scores, curve, thresholds, rate):
    try:
        check_resolution(int((~fake).sum()), rate)
    except TooFewError as error:
        return _none(fake, str(error))
    within = np.flatnonzero((thresholds <= 1) & (curve.fpr <= rate))
    if not len(within):
        share = curve.fpr[1]
        return _none(fake, f"{share:.1%} of the real ones have the highest score of all; no threshold parts them off.")
    # Of those that find as many fakes, the first has the fewest errors.
    return _point(fake, scores, thresholds[int(within[np.argmax(curve.tpr[within])])])


def _middles(thresholds):
    """Each score's middle to the next lower one; for the infinite one, the middle from the highest score to 1."""
    highest = thresholds[1]
    upper = np.concatenate([[1.0 if highest < 1 else np.inf], thresholds[1:]])
    lower = np.append(thresholds[1:], 0.0)
    middles = (upper + lower) / 2
    # Of two neighbouring floats the middle may be the lower one.
    return np.where(middles > lower, middles, upper)


def _point(fake, scores, threshold):
    found = confusion(fake, scores, float(threshold))
    return {
        "threshold": float(threshold),
        "fpr": found.fpr,
        "tpr": found.tpr,
        "balanced_accuracy": found.balanced_accuracy,
        "n_real": found.n_real,
        "n_fake": found.n_fake,
    }


def _none(fake, reason):
    figures = dict.fromkeys(("threshold", "fpr", "tpr", "balanced_accuracy"))
    return figures | {"n_real": int((~fake).sum()), "n_fake": int(fake.sum()), "reason": reason}
