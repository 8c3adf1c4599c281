"""Whether an exported network answers what the Keras model answers, before anybody gets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# How far P(fake) may be from the Keras model's; features, from theirs divided by the largest of them.
TOLERANCE = 1e-5
# So many crops a call: as many as are sure to fit, and not all the same number.
_BATCH = 8


def in_batches(function: Callable[[np.ndarray], np.ndarray], crops: np.ndarray) -> np.ndarray:
    """The answers of a function for uint8 crops `(n, size, size, 3)`, computed a few at a time."""
    return np.concatenate([np.asarray(function(crops[i : i + _BATCH])) for i in range(0, len(crops), _BATCH)])


def check_equal(name: str, found: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """The largest difference of two answers, as a share of the largest expected number where that is above 1.

    Raises:
        ValueError: it is above `tolerance`, shapes differ, a number is not finite, or the expected answers are all
            alike, so that nothing is proved.
    """
    if found.shape != expected.shape:
        raise ValueError(f"{name} answers the shape {found.shape}; the Keras model answers {expected.shape}.")
    if not np.ptp(expected, axis=0).max() >= 10 * tolerance:
        raise ValueError(
            f"{name} cannot be proved: the Keras model answers all {len(expected)} crops of the proof alike, within "
            f"{10 * tolerance:g}. Give crops that it tells apart (--data SET), or train it."
        )
    apart = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    if not apart <= tolerance:  # NaN is not equal either
        raise ValueError(f"{name} is {apart:.2g} from the Keras model on the same crops; {tolerance:g} are allowed.")
    return apart
