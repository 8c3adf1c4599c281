"""Labels and P(fake) in, one number out. `labels` are 0 (real) or 1 (fake), `scores` P(fake) in [0, 1], both `(n,)`.

All raise a `MetricError` where there is no such number, see `tfdfd.metrics.errors`; none returns NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import check_both, checked
from tfdfd.metrics.confusion import confusion
from tfdfd.metrics.curves import precision_recall_curve, roc_curve
from tfdfd.metrics.errors import TooFewError

LOG_LOSS_CLIP = 1e-15


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the share of pairs of a fake and a real one in which the fake has the higher score.

    Equal scores count half (Mann and Whitney 1947; Hanley and McNeil 1982).
    """
    fake, scores = checked(labels, scores, both=True)
    reals = np.sort(scores[~fake])
    below, up_to = (np.searchsorted(reals, scores[fake], side) for side in ("left", "right"))
    return float((below + up_to).sum() / (2 * len(below) * len(reals)))


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """The error rate at which as many real ones are called fake as fake ones real.

    It is where the ROC curve, its points joined by straight lines, meets the line FPR = 1 - TPR.
    """
    curve = roc_curve(labels, scores)
    excess = curve.fpr + curve.tpr - 1  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    before = after - 1
    part = -excess[before] / (excess[after] - excess[before])
    return float(curve.fpr[before] + part * (curve.fpr[after] - curve.fpr[before]))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision at each threshold weighted by the recall it adds, without interpolation (Zhu 2004).

    Chance has the share of fakes, not 0.5.
    """
    curve = precision_recall_curve(labels, scores)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """The largest share of fakes found by any threshold at which at most `fpr` of the real ones are called fake.

    Raises:
        TooFewError: fewer than 1 / fpr real ones: no threshold could show such a rate.
    """
    curve = roc_curve(labels, scores)
    fake, _ = checked(labels, scores)
    check_resolution(int((~fake).sum()), fpr)
    return float(curve.tpr[curve.fpr <= fpr].max())


def check_resolution(count: int, rate: float, kind: str = "real") -> None:
    """Raises `TooFewError` where a single error among `count` examples is already more than `rate`."""
    if not 0 < rate < 1:
        raise ValueError(f"an error rate must be between 0 and 1; received {rate!r}.")
    if count * rate < 1 - 1e-9:
        raise TooFewError(
            f"{count:,} {kind} example{'s' * (count != 1)} cannot show an error rate of {rate:.3g}: one error is "
            f"{1 / max(count, 1):.2g} already; at least {int(np.ceil(1 / rate - 1e-9)):,} are needed."
        )


def accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Share of right verdicts. Never shown without the majority's share: `tfdfd.metrics.confusion`."""
    return confusion(labels, scores, threshold).accuracy


def balanced_accuracy(labels: ArrayLike, scores: ArrayLike, threshold: float) -> float:
    """Mean of the shares of real and of fake ones that are called so; 0.5 for whoever gives one verdict to all."""
    found = confusion(labels, scores, threshold)
    check_both(checked(labels, scores)[0])
    return found.balanced_accuracy


def log_loss(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean of -log of the probability given to what was true, in nats; scores are clipped to [1e-15, 1 - 1e-15]."""
    fake, scores = checked(labels, scores)
    given = np.clip(np.where(fake, scores, 1 - scores), LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    return float(-np.log(given).mean())


def brier(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean squared distance of P(fake) from the label (Brier 1950)."""
    fake, scores = checked(labels, scores)
    return float(np.mean((scores - fake) ** 2))
