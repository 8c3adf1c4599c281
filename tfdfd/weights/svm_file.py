"""RBF support vector machine as plain float64 arrays, and its safetensors file."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tfdfd.files import write_atomically


@dataclass(frozen=True, eq=False)
class SvmArrays:
    """A fitted scaler, RBF SVM and Platt scaling as float64 arrays: n support vectors of d features.

    With `z = (features - mean) / scale`::

        decision = sum_i dual_coef[i] * exp(-gamma * |z - support_vectors[i]|^2) + intercept
        P(fake) = sigmoid(slope * decision + offset)

    Attributes:
        mean: (d,), mean of the training features.
        scale: (d,), their standard deviation, above 0.
        support_vectors: (n, d), scaled.
        dual_coef: (n,), positive for one class and negative for the other.
        intercept: scalar.
        gamma: inverse squared width of the kernel, above 0.
        slope: slope of the Platt scaling.
        offset: offset of the Platt scaling.

    Raises:
        ValueError: shapes do not match, values are not finite, or scale or gamma are not above 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    support_vectors: np.ndarray
    dual_coef: np.ndarray
    intercept: np.ndarray
    gamma: np.ndarray
    slope: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _numbers(field.name, getattr(self, field.name)))
        if self.support_vectors.ndim != 2 or 0 in self.support_vectors.shape:
            raise ValueError(
                "support_vectors must have the shape (count, dims), neither of them 0; "
                f"received: {self.support_vectors.shape}"
            )
        n, d = self.support_vectors.shape
        expected = {"mean": (d,), "scale": (d,), "dual_coef": (n,)}
        for name in ("mean", "scale", "dual_coef", "intercept", "gamma", "slope", "offset"):
            shape = getattr(self, name).shape
            if shape != expected.get(name, ()):
                raise ValueError(
                    f"{name} must have the shape {expected.get(name, ())} beside support_vectors of shape {(n, d)}; "
                    f"received: {shape}"
                )
        for name in ("scale", "gamma"):
            smallest = getattr(self, name).min()
            if smallest <= 0:
                raise ValueError(f"{name} must be above 0; received: {smallest}")

    def fake_probability(self, features: np.ndarray) -> np.ndarray:
        """Returns P(fake), float64 `(m, 1)`, of features `(m, d)`, computed in float64.

        Raises:
            ValueError: the features have another shape, or are not finite.
        """
        features = _numbers("features", features)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must have the shape (m, {len(self.mean)}); received: {features.shape}")
        z, s = (features - self.mean) / self.scale, self.support_vectors
        squares = (z * z).sum(axis=1)[:, None] + (s * s).sum(axis=1) - 2 * z @ s.T
        decision = np.exp(-self.gamma * np.maximum(squares, 0)) @ self.dual_coef + self.intercept
        return np.exp(-np.logaddexp(0, -(self.slope * decision + self.offset)))[:, None]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the arrays by name to a safetensors file."""
        from safetensors.numpy import save

        write_atomically(path, save({field.name: getattr(self, field.name) for field in fields(self)}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> SvmArrays:
        """Reads a file of `save`.

        Raises:
            ValueError: the file is missing, is not safetensors, or contains no valid SVM.
        """
        from tfdfd.weights.reading import read_safetensors

        try:
            arrays = read_safetensors(Path(path))
        except ValueError as error:
            raise ValueError(f"{error}; expected one that SvmArrays.save wrote.") from error
        names = {field.name for field in fields(cls)}
        if arrays.keys() != names:
            raise ValueError(
                f"{os.fspath(path)} holds no SVM: it lacks {sorted(names - arrays.keys())}, and has "
                f"{sorted(arrays.keys() - names)} besides; expected a file that SvmArrays.save wrote."
            )
        try:
            return cls(**arrays)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} holds no usable SVM: {error}") from error


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    try:
        values = np.array(values, np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers; received: {type(values).__name__} ({error})") from error
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite; received: {np.count_nonzero(~np.isfinite(values))} NaN or infinite values"
        )
    values.setflags(write=False)
    return values
