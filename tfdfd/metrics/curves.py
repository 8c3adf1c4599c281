"""What happens at each threshold, from which up a score is fake: the ROC curve and the precision-recall curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked


@dataclass(frozen=True)
class RocCurve:
    """Points from (0, 0), nothing called fake, to (1, 1).

    Attributes:
        thresholds: float64 `(k,)`, falling: infinity, then every score that occurs.
        fpr: share of real ones called fake at each, rising.
        tpr: share of fake ones called fake at each, rising.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Points from the highest threshold to the lowest.

    Attributes:
        thresholds: float64 `(k,)`, falling: every score that occurs.
        precision: share of fakes among what is called fake at each.
        recall: share of fake ones called fake at each, rising.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve (Fawcett 2006, algorithm 1): equal scores make one point.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    thresholds, fakes, reals = _counts(*checked(labels, scores, both=True))
    return RocCurve(
        np.concatenate([[np.inf], thresholds]),
        np.concatenate([[0.0], reals / reals[-1]]),
        np.concatenate([[0.0], fakes / fakes[-1]]),
    )


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> PrecisionRecallCurve:
    """The precision-recall curve of the fakes.

    Raises:
        MetricError: see `checked`; both classes are needed.
    """
    thresholds, fakes, reals = _counts(*checked(labels, scores, both=True))
    return PrecisionRecallCurve(thresholds, fakes / (fakes + reals), fakes / fakes[-1])


def thinned(curve: RocCurve | PrecisionRecallCurve, most: int = 500) -> RocCurve | PrecisionRecallCurve:
    """The same curve with at most so many points, the ends among them: for drawing, not for figures."""
    columns = vars(curve)
    count = len(curve.thresholds)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return type(curve)(**{name: column[chosen] for name, column in columns.items()})


def _counts(fake, scores):
    """Each score that occurs, falling, and how many fake and how many real ones are at or above it."""
    order = np.argsort(-scores, kind="stable")
    fake, scores = fake[order], scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    fakes = np.cumsum(fake)[last]
    return scores[last], fakes, last + 1 - fakes
