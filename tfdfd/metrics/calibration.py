"""Calibration of P(fake) on validation, to the share of fakes and to likelihood ratios (LRs), and decision thresholds.

A calibration holds where fakes are as frequent as in validation and look alike; it does not help a model that ranks at
chance. Each method is a small record that round-trips through JSON (`to_dict`, `from_dict`).

The LR of a score is how many times as probable the score is for fakes as for genuine faces of one data domain. It does
not depend on how frequent fakes are. Logistic regression gives LRs of any size, so they are limited to those that the
number of calibration scores supports (`bounds`). Terms: Brümmer and du Preez, Application-independent evaluation of
speaker detection, 2006 (Cllr and its minimum); Vergeer et al., Numerical likelihood ratios outputted by LR systems are
often based on extrapolation, 2016 (bounds).

Thresholds are operating points, the inconclusive band, and the tails of genuine scores.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics import (
    CalibrationError,
    RocCurve,
    TooFewError,
    check_resolution,
    check_threshold,
    checked,
    checked_scores,
    confusion,
    roc_curve,
)

# Float32 sigmoids saturate at exactly 0 and 1, whose logits are infinite; scores are clipped to [this, 1 - this].
LOGIT_CLIP = 1e-7
# 1 / temperature is searched between 1 / this and this.
_STEEPEST = 100.0


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling: sigmoid(logit / temperature), Guo et al. 2017, section 4.2. Verdicts at 0.5 do not change.

    Attributes:
        temperature: above 0; above 1 if the model was overconfident.
        fitted_on: description of the validation set.
    """

    temperature: float
    fitted_on: str
    method: ClassVar[str] = "temperature"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CalibrationError(f"temperature must be a finite number above 0; received {self.temperature!r}.")

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of raw P(fake) `(n,)`."""
        return _sigmoid(logits(scores) / self.temperature)


@dataclass(frozen=True)
class Platt:
    """Platt scaling: sigmoid(slope * logit + offset), Platt 1999.

    Attributes:
        slope: above 0.
        offset: in units of the calibrated logit.
        fitted_on: description of the validation set.
    """

    slope: float
    offset: float
    fitted_on: str
    method: ClassVar[str] = "platt"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.offset)):
            raise CalibrationError(
                f"slope must be finite and above 0, offset finite; received {self.slope!r} and {self.offset!r}."
            )

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of raw P(fake) `(n,)`."""
        return _sigmoid(self.slope * logits(scores) + self.offset)


@dataclass(frozen=True)
class Isotonic:
    """Isotonic regression: an increasing piecewise linear function, constant outside its points.

    Zadrozny and Elkan 2002. It maps different scores to equal ones, so the AUC may change, and may return exactly 0 or
    1; it needs some thousand examples.

    Attributes:
        scores: P(fake) of the points, strictly increasing, `(k,)`.
        probabilities: their calibrated P(fake), nondecreasing, `(k,)`.
        fitted_on: description of the validation set.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    fitted_on: str
    method: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        # JSON yields lists.
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "probabilities", tuple(self.probabilities))
        points, values = checked_scores(self.scores), checked_scores(self.probabilities)
        if points.shape != values.shape or (np.diff(points) <= 0).any() or (np.diff(values) < 0).any():
            raise CalibrationError(
                f"isotonic points must increase in both coordinates; received {len(points)} scores and {len(values)} "
                "probabilities that do not."
            )

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of raw P(fake) `(n,)`."""
        return np.interp(checked_scores(scores), self.scores, self.probabilities)


Calibrator = Temperature | Platt | Isotonic
_KINDS = {kind.method: kind for kind in (Temperature, Platt, Isotonic)}
METHODS = tuple(_KINDS)


def fit(method: str, labels: ArrayLike, scores: ArrayLike, fitted_on: str) -> Calibrator:
    """Fits a calibration. Pass validation scores, never those that are evaluated afterward.

    Args:
        method: `temperature`, `platt` or `isotonic`.
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        fitted_on: description of the set, for readers of the record; class counts are appended.

    Raises:
        MetricError: see `checked`; both classes are needed.
        CalibrationError: higher scores do not mean more fakes; or, for a temperature, the scores separate the classes
            perfectly, so that no temperature is low enough.
        ValueError: unknown method, or SciPy or scikit-learn is not installed.
    """
    if method not in _KINDS:
        raise ValueError(f"calibration must be one of {', '.join(METHODS)}; received {method!r}.")
    fake, scores = checked(labels, scores, both=True)
    described = f"{fitted_on} ({(~fake).sum():,} real, {fake.sum():,} fake)"
    try:
        fits: dict[str, Any] = {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}
        return fits[method](fake, scores, described)
    except ImportError as error:
        raise ValueError(
            "fitting a calibration needs SciPy and scikit-learn, which are not installed: run "
            "pip install 'tfdfd[train]'."
        ) from error


def to_dict(calibrator: Calibrator) -> dict:
    """The record as a dict for JSON."""
    values = {"method": calibrator.method} | asdict(calibrator)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def from_dict(values: dict) -> Calibrator:
    """The calibration that `to_dict` returned.

    Raises:
        CalibrationError: the values are not a calibration.
    """
    try:
        arguments = dict(values)
        return _KINDS[arguments.pop("method")](**arguments)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"not a calibration: {type(error).__name__}: {error}; received {values!r:.200}."
        ) from error


def logits(scores: ArrayLike) -> np.ndarray:
    """log(p / (1 - p)) of P(fake), float64 `(n,)`, clipped to +-16.1 (see `LOGIT_CLIP`)."""
    scores = np.clip(checked_scores(scores), LOGIT_CLIP, 1 - LOGIT_CLIP)
    return np.log(scores) - np.log1p(-scores)  # type: ignore[operator]


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -700, 700)))  # np.exp overflows beyond


def _temperature(fake: np.ndarray, scores: np.ndarray, fitted_on: str) -> Temperature:
    from scipy.optimize import brentq

    values = logits(scores)

    def slope_of_loss(steepness: float) -> np.floating:
        return np.mean((_sigmoid(steepness * values) - fake) * values)

    if slope_of_loss(1 / _STEEPEST) >= 0:
        raise CalibrationError(
            f"no temperature up to {_STEEPEST:g} is high enough: on {fitted_on} the scores are uninformative as "
            "logits. Use platt, or train longer."
        )
    if slope_of_loss(_STEEPEST) <= 0:
        raise CalibrationError(
            f"no temperature down to {1 / _STEEPEST:g} is low enough: on {fitted_on} the scores separate the classes "
            "perfectly. Use platt or a larger validation set."
        )
    steepness = brentq(slope_of_loss, 1 / _STEEPEST, _STEEPEST, xtol=1e-14, rtol=1e-14)
    return Temperature(float(1 / steepness), fitted_on)


def _platt(fake: np.ndarray, scores: np.ndarray, fitted_on: str) -> Platt:
    """Logistic regression on Platt's targets, which stay off 0 and 1 and keep the slope finite for separable scores."""
    from sklearn.linear_model import LogisticRegression

    values = logits(scores)
    n_real, n_fake = (~fake).sum(), fake.sum()
    targets = np.where(fake, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    # Standardized, logits of any scale converge alike.
    center, unit = values.mean(), values.std()
    if unit < 1e-9:
        raise CalibrationError(f"all scores on {fitted_on} are equal; there is nothing to calibrate.")
    # A soft target t is one example of each class, weighted by t and 1 - t.
    design = np.tile(((values - center) / unit)[:, None], (2, 1))
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-13, max_iter=1000)
    regression.fit(design, np.repeat([1, 0], len(values)), np.concatenate([targets, 1 - targets]))
    slope = float(regression.coef_[0, 0] / unit)
    if regression.coef_[0, 0] <= 1e-9:
        raise CalibrationError(
            f"higher scores do not mean more fakes on {fitted_on}: Platt's slope is {slope:.3g}, expected above 0. The "
            "model ranks no better than chance; there is nothing to calibrate."
        )
    return Platt(slope, float(regression.intercept_[0] - slope * center), fitted_on)


def _isotonic(fake: np.ndarray, scores: np.ndarray, fitted_on: str) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0, y_max=1).fit(scores, fake)
    points, values = regression.X_thresholds_.tolist(), regression.y_thresholds_.tolist()
    if values[0] == values[-1]:
        raise CalibrationError(
            f"higher scores do not mean more fakes on {fitted_on}: the isotonic fit is constant. The model ranks no "
            "better than chance; there is nothing to calibrate."
        )
    return Isotonic(tuple(points), tuple(values), fitted_on)


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
        seed: seed of the assignment.

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


RATES = {"fpr_1": 0.01, "fpr_5": 0.05}
EER, BALANCED = "eer", "balanced"
# Largest error rate that a verdict outside the inconclusive band may have.
BOUND = 0.05
# The tail of genuine scores is fitted to this share of them, and to at least this many.
TAIL_SHARE, TAIL_LEAST = 0.2, 10
_THRESHOLD_DIGITS = 6


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

    Above it lie at most `bound` of the real examples, and below it at most `bound` of the fake ones. Its ends lie
    halfway between two scores. The band is extended to the threshold if that lies outside, so that on this set at most
    `bound` of each class get the wrong verdict.

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
    low = between(fakes, count_within(bound, len(fakes)))
    high = between(reals, len(reals) - count_within(bound, len(reals)))
    low, high = min(low, threshold), max(high, threshold)
    return (low, high) if low < high else None


def between(scores: np.ndarray, count: int) -> float:
    """A value that `count` of the scores lie below and all others above, unless equal scores stand there.

    An end of a band that is a score itself would leave that example to the last digits: another runtime may put it on
    either side.

    Args:
        scores: P(fake) in [0, 1], ascending, `(n,)`.
        count: 0 to n.

    Returns:
        The mean of the two scores there; 0 stands before the first score and 1 after the last.
    """
    padded = np.concatenate([[0.0], scores, [1.0]])
    return float(padded[count : count + 2].mean())


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
        "highest": [round(float(score), _THRESHOLD_DIGITS) for score in highest],
        "n_above": above,
        "mean_excess": round(float((values[:above] - values[above]).mean()), _THRESHOLD_DIGITS),
    }


def count_within(bound: float, count: int) -> int:
    """Largest number of `count` examples that is at most the share `bound` of them."""
    return int(bound * count + 1e-9)
