"""Labels and scores as every figure takes them: fake = 1, P(fake) in [0, 1], nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tfdfd.metrics.errors import LabelError, LengthError, OneClassError, ScoreError


def checked(labels: ArrayLike, scores: ArrayLike, both: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool `(n,)`, True for fake, and scores as float64 `(n,)`.

    Args:
        labels: 0 (real) or 1 (fake), `(n,)`.
        scores: P(fake) in [0, 1], `(n,)`.
        both: whether there must be real and fake ones.

    Raises:
        LengthError: other shapes than these, or n = 0.
        LabelError: another label.
        ScoreError: a score that is no number or outside [0, 1].
        OneClassError: `both`, and one class is absent.
    """
    labels, scores = np.asarray(labels), checked_scores(scores)
    if labels.shape != scores.shape:
        raise LengthError(
            f"labels have shape {labels.shape} and scores {scores.shape}; expected the same (n,) of both, a score for "
            "each label."
        )
    fake = labels == 1
    wrong = ~(fake | (labels == 0))
    if wrong.any():
        raise LabelError(f"labels must be 0 (real) or 1 (fake); received {np.unique(labels[wrong])[:5].tolist()}.")
    if both:
        check_both(fake)
    return fake, scores


def checked_scores(scores: ArrayLike) -> np.ndarray:
    """Scores as float64 `(n,)`.

    Raises:
        LengthError: another shape, or n = 0.
        ScoreError: one that is no number or outside [0, 1].
    """
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(f"scores must be numbers in [0, 1]: {error}.") from error
    if scores.ndim != 1 or not scores.size:
        raise LengthError(f"scores have shape {scores.shape}; expected (n,) with n of at least 1.")
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ScoreError(
            f"scores must be P(fake) in [0, 1]; {wrong.sum():,} of {len(scores):,} are not, the first is number "
            f"{first}: {scores[first]}. Give probabilities, after the sigmoid."
        )
    return scores


def check_both(fake: np.ndarray) -> None:
    """Raises `OneClassError` unless there are real and fake ones."""
    if fake.all() or not fake.any():
        name = "fake" if fake.any() else "real"
        raise OneClassError(f"all {len(fake):,} examples are {name}; this figure compares real with fake ones.")


def check_threshold(threshold: float) -> None:
    """Raises `ScoreError` unless it is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ScoreError(f"a threshold of P(fake) must be in [0, 1]; received {threshold!r}.")
