"""Calibration: monotone maps of P(fake), fitted on validation, after which P(fake) is the share of fakes.

A calibration holds where fakes are as frequent as in validation and look alike; it does not help a model that ranks at
chance. Each method is a small record that round-trips through JSON (`to_dict`, `from_dict`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.metrics import CalibrationError, checked, checked_scores

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
