"""Likelihood ratios (LRs) of P(fake): a calibration by logistic regression, its bounds, and its measures.

The LR of a score is how many times as probable the score is for fakes as for genuine faces of one data domain. It does
not depend on how frequent fakes are. Logistic regression extrapolates without limit, so LRs are bounded by what the
number of calibration scores supports (`bounds`).

Terms: Brümmer and du Preez, Application-independent evaluation of speaker detection, 2006 (Cllr and its minimum);
Vergeer et al., Numerical likelihood ratios outputted by LR systems are often based on extrapolation, 2016 (bounds).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.calibration import fit, logits
from tfdfd.metrics.metrics import checked

FOLDS = 10
# Points of a Tippett curve in a model card.
_POINTS = 100
_DIGITS = 4


def fit_likelihood_ratio(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Fits `log10(LR) = slope * logit(P(fake)) + offset`, bounded.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`; one score per video or picture.
        scores: P(fake) in [0, 1], `(n,)`.

    Returns:
        `{n_real, n_fake, slope, offset, log10_bounds}`, as in a model card.

    Raises:
        MetricError, CalibrationError, ValueError: as `tfdfd.metrics.calibration.fit`.
    """
    fake, scores = checked(labels, scores, both=True)
    platt = fit("platt", fake, scores, "calibration scores")
    n_real, n_fake = int((~fake).sum()), int(fake.sum())
    # Logistic regression yields posterior odds for the classes as frequent as they are here.
    slope, offset = (value / np.log(10) for value in (platt.slope, platt.offset - np.log(n_fake / n_real)))  # type: ignore[union-attr]
    values = slope * logits(scores) + offset
    low, high = bounds(fake, values)
    return {
        "n_real": n_real,
        "n_fake": n_fake,
        "slope": round(float(slope), 6),
        "offset": round(float(offset), 6),
        "log10_bounds": [round(low, _DIGITS), round(high, _DIGITS)],
    }


def apply(fitted: dict[str, Any], scores: ArrayLike) -> np.ndarray:
    """log10(LR) of P(fake), float64 `(n,)`."""
    return np.clip(fitted["slope"] * logits(scores) + fitted["offset"], *fitted["log10_bounds"])


def bounds(labels: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """The lowest and the highest log10(LR) that calibration scores support; 0 is always within.

    An LR of t is supported if t or more is at least t times as frequent among fakes as among genuine faces, of which
    one more than there are is counted as reaching t; n genuine faces thus never support more than n + 1. The lower
    bound is the same with the classes swapped.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        values: their log10(LR), `(n,)`.
    """
    fake, values = np.asarray(labels, bool), np.asarray(values, np.float64)
    return -_highest(values=-values, fake=~fake), _highest(values, fake)


def _highest(values: np.ndarray, fake: np.ndarray) -> float:
    best = 0.0
    for value in np.unique(values[values > 0]):
        reached = values >= value
        share = reached[fake].mean() / ((reached[~fake].sum() + 1) / ((~fake).sum() + 1))
        supported = np.log10(share) if share > 0 else -np.inf
        # Both shares are constant from one value to the next.
        if supported < value:
            return float(max(best, supported))
        best = float(value)
    return best


def cllr(labels: ArrayLike, values: ArrayLike) -> float:
    """Log-likelihood-ratio cost of log10(LR) `(n,)` in bits: 0 is perfect, 1 says nothing, more misleads."""
    fake, natural = np.asarray(labels, bool), np.asarray(values, np.float64) * np.log(10)
    return float((np.logaddexp(0, -natural[fake]).mean() + np.logaddexp(0, natural[~fake]).mean()) / 2 / np.log(2))


def cllr_min(labels: ArrayLike, scores: ArrayLike) -> float:
    """The Cllr of the best increasing calibration of these very scores: what is lost by ranking alone."""
    from sklearn.isotonic import IsotonicRegression

    fake, scores = checked(labels, scores, both=True)
    weights = np.where(fake, 1 / fake.sum(), 1 / (~fake).sum())
    shares = IsotonicRegression(y_min=0, y_max=1).fit_transform(scores, fake, sample_weight=weights)
    with np.errstate(divide="ignore"):
        return cllr(fake, np.log10(shares) - np.log10(1 - shares))


def cross_fitted(labels: ArrayLike, scores: ArrayLike, sources: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """log10(LR) of each score by a calibration that saw no score of its source, float64 `(n,)`.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        sources: source of each, by which the scores are put into at most `FOLDS` folds.
        seed: of the assignment.

    Raises:
        MetricError, CalibrationError, ValueError: as `fit_likelihood_ratio`; the rest of a fold needs both classes.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    names = list(dict.fromkeys(sources))
    order = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    fold_of = dict(zip(names, order.tolist(), strict=True))
    folds = np.array([fold_of[source] for source in sources])
    values = np.empty(len(scores))
    for fold in np.unique(folds):
        inside = folds == fold
        values[inside] = apply(fit_likelihood_ratio(labels[~inside], scores[~inside]), scores[inside])
    return values


def tippett(labels: ArrayLike, values: ArrayLike) -> dict[str, list[float]]:
    """Tippett plot: `{log10_lr, real, fake}`, the share of each class whose log10(LR) is at least each value."""
    fake, values = np.asarray(labels, bool), np.asarray(values, np.float64)
    points = np.unique(values)
    if len(points) > _POINTS:
        points = np.unique(np.quantile(points, np.linspace(0, 1, _POINTS), method="nearest"))
    shares = {name: [(values[part][:, None] >= points).mean(0)] for name, part in (("real", ~fake), ("fake", fake))}
    return {"log10_lr": np.round(points, _DIGITS).tolist()} | {
        name: np.round(share, _DIGITS).tolist() for name, (share,) in shares.items()
    }
