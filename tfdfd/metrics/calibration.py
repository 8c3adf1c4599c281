"""Calibration: a rising function of P(fake), fitted on validation, after which it is the share of fakes.

It holds where fakes are as frequent as in validation and alike to those; a model that ranks at chance elsewhere is not
helped by it. Each kind is a small record that plain JSON holds (`to_dict`, `calibrator_of`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.checked import checked, checked_scores
from tfdfd.metrics.errors import CalibrationError

# Float32 sigmoids end in exact 0 and 1, whose logits are infinite; scores are clipped to [this, 1 - this] before.
LOGIT_CLIP = 1e-7
# 1 / temperature is looked for between 1 / this and this.
_STEEPEST = 100.0


@dataclass(frozen=True)
class Temperature:
    """sigmoid(logit / temperature): Guo et al. 2017, section 4.2. A verdict at 0.5 stays.

    Attributes:
        temperature: above 0; above 1 where the model was too sure.
        fitted_on: what set it was fitted on.
    """

    temperature: float
    fitted_on: str
    method: ClassVar[str] = "temperature"

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CalibrationError(f"temperature must be a number above 0; received {self.temperature!r}.")

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of P(fake) `(n,)`."""
        return _sigmoid(logits(scores) / self.temperature)


@dataclass(frozen=True)
class Platt:
    """sigmoid(slope * logit + offset): Platt 1999.

    Attributes:
        slope: above 0.
        offset: in units of the calibrated logit.
        fitted_on: what set it was fitted on.
    """

    slope: float
    offset: float
    fitted_on: str
    method: ClassVar[str] = "platt"

    def __post_init__(self):
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.offset)):
            raise CalibrationError(
                f"slope must be a number above 0, offset any number; received {self.slope!r} and {self.offset!r}."
            )

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of P(fake) `(n,)`."""
        return _sigmoid(self.slope * logits(scores) + self.offset)


@dataclass(frozen=True)
class Isotonic:
    """A rising line through points, level before the first and after the last: Zadrozny and Elkan 2002.

    It makes different scores equal, so that an AUC may change, and may answer 0 or 1; needs some thousand examples.

    Attributes:
        scores: P(fake) of the points, rising, `(k,)`.
        probabilities: their calibrated P(fake), `(k,)`.
        fitted_on: what set it was fitted on.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    fitted_on: str
    method: ClassVar[str] = "isotonic"

    def __post_init__(self):
        # A table read from JSON brings lists.
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "probabilities", tuple(self.probabilities))
        points, values = checked_scores(self.scores), checked_scores(self.probabilities)
        if points.shape != values.shape or (np.diff(points) <= 0).any() or (np.diff(values) < 0).any():
            raise CalibrationError(
                f"isotonic points must rise in both; received {len(points)} scores and {len(values)} probabilities "
                "that do not."
            )

    def apply(self, scores: ArrayLike) -> np.ndarray:
        """Calibrated P(fake), float64 `(n,)`, of P(fake) `(n,)`."""
        return np.interp(checked_scores(scores), self.scores, self.probabilities)


Calibrator = Temperature | Platt | Isotonic
_KINDS = {kind.method: kind for kind in (Temperature, Platt, Isotonic)}
METHODS = tuple(_KINDS)


def fit(method: str, labels: ArrayLike, scores: ArrayLike, fitted_on: str) -> Calibrator:
    """Fits a calibration; give validation scores, never those that are judged afterwards.

    Args:
        method: `temperature`, `platt` or `isotonic`.
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        fitted_on: what they are of, for whoever reads the numbers; counts are added.

    Raises:
        MetricError: see `checked`; both classes are needed.
        CalibrationError: higher scores do not mean more fakes; or, for a temperature, they tell fakes apart without
            an error, so that none is low enough.
        ValueError: no such method, or SciPy is not installed.
    """
    if method not in _KINDS:
        raise ValueError(f"calibration must be one of {', '.join(METHODS)}; received {method!r}.")
    fake, scores = checked(labels, scores, both=True)
    told = f"{fitted_on} ({(~fake).sum():,} real, {fake.sum():,} fake)"
    return {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}[method](fake, scores, told)


def to_dict(calibrator: Calibrator) -> dict:
    """What JSON holds of it."""
    told = {"method": calibrator.method} | asdict(calibrator)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def calibrator_of(told: dict) -> Calibrator:
    """The calibration that `to_dict` was taken of.

    Raises:
        CalibrationError: it is none.
    """
    try:
        values = dict(told)
        return _KINDS[values.pop("method")](**values)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"no calibration: {type(error).__name__}: {error}; received {told!r:.200}.") from error


def logits(scores: ArrayLike) -> np.ndarray:
    """log(p / (1 - p)) of P(fake), float64 `(n,)`, clipped to ±16.1 (see `LOGIT_CLIP`)."""
    scores = np.clip(checked_scores(scores), LOGIT_CLIP, 1 - LOGIT_CLIP)
    return np.log(scores) - np.log1p(-scores)


def _sigmoid(values):
    return 1 / (1 + np.exp(-np.clip(values, -700, 700)))  # beyond, exp overflows


def _temperature(fake, scores, told):
    optimize = _scipy_optimize()
    values = logits(scores)

    def slope_of_loss(steepness):
        return np.mean((_sigmoid(steepness * values) - fake) * values)

    if slope_of_loss(1 / _STEEPEST) >= 0:
        raise CalibrationError(
            f"no temperature up to {_STEEPEST:g} is high enough: on {told} the scores are of no use as logits. Use "
            "platt, or train on."
        )
    if slope_of_loss(_STEEPEST) <= 0:
        raise CalibrationError(
            f"no temperature down to {1 / _STEEPEST:g} is low enough: on {told} the scores tell all fakes apart. Use "
            "platt or a larger validation set."
        )
    steepness = optimize.brentq(slope_of_loss, 1 / _STEEPEST, _STEEPEST, xtol=1e-14, rtol=1e-14)
    return Temperature(float(1 / steepness), told)


def _platt(fake, scores, told):
    """Platt's targets, a little off 0 and 1, keep the slope finite where the scores tell all fakes apart."""
    optimize = _scipy_optimize()
    values = logits(scores)
    n_real, n_fake = (~fake).sum(), fake.sum()
    targets = np.where(fake, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    # In units of their own deviation around their mean, logits of any size converge alike.
    centre, unit = values.mean(), values.std()
    if unit < 1e-9:
        raise CalibrationError(f"all scores are the same on {told}; there is nothing to calibrate.")
    design = np.stack([(values - centre) / unit, np.ones(len(values))])

    def gradient(weights):
        return design @ (_sigmoid(weights @ design) - targets) / len(values)

    def hessian(weights):
        given = _sigmoid(weights @ design)
        return (design * (given * (1 - given))) @ design.T / len(values)

    # The loss is strictly convex, so that where its gradient is 0 is its minimum.
    found = optimize.root(gradient, np.zeros(2), jac=hessian, tol=1e-14).x
    if np.abs(gradient(found)).max() > 1e-9:
        raise CalibrationError(f"Platt's equations have no solution near the start on {told}; use temperature.")
    slope = found[0] / unit
    if found[0] <= 1e-9:
        raise CalibrationError(
            f"higher scores do not mean more fakes on {told}: Platt's slope is {slope:.3g}, and must be above 0. The "
            "model ranks no better than chance; there is nothing to calibrate."
        )
    return Platt(float(slope), float(found[1] - slope * centre), told)


def _isotonic(fake, scores, told):
    optimize = _scipy_optimize()
    points, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(places, fake) / counts
    values = optimize.isotonic_regression(shares, weights=counts).x
    if values[0] == values[-1]:
        raise CalibrationError(
            f"higher scores do not mean more fakes on {told}: the rising line is level. The model ranks no better "
            "than chance; there is nothing to calibrate."
        )
    # Of a level stretch its ends are enough.
    inner = np.zeros(len(values), bool)
    inner[1:-1] = (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])
    values = np.clip(values[~inner], 0, 1)
    return Isotonic(tuple(points[~inner].tolist()), tuple(values.tolist()), told)


def _scipy_optimize():
    try:
        from scipy import optimize
    except ImportError as error:
        raise ValueError(
            "fitting a calibration needs SciPy, which is not installed: run pip install 'tfdfd[train]'."
        ) from error
    return optimize
