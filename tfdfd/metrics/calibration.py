"""Calibration of P(fake) on validation: monotone maps to the share of fakes, and to likelihood ratios (LRs).

A calibration holds where fakes are as frequent as in validation and look alike; it does not help a model that ranks at
chance. Each method is a small record that round-trips through JSON (`to_dict`, `from_dict`).

The LR of a score is how many times as probable the score is for fakes as for genuine faces of one data domain. It does
not depend on how frequent fakes are. Logistic regression extrapolates without limit, so LRs are bounded by what the
number of calibration scores supports (`bounds`). Terms: Brümmer and du Preez, Application-independent evaluation of
speaker detection, 2006 (Cllr and its minimum); Vergeer et al., Numerical likelihood ratios outputted by LR systems are
often based on extrapolation, 2016 (bounds).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics import CalibrationError, checked, checked_scores

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
