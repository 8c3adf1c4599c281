"""Equality proof: two forms of a network give the same answers for the same crops.

Every conversion, export, copy and served model is compared here with the network that it must equal. The bound of each
comparison is a row of `BOUNDS`. Imports NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Crops, and clips, which have several crops each.
PROOF_CROPS, PROOF_CLIPS = 8, 4
# A few crops per call: as many as are sure to fit in memory, and not all calls of the same size.
_BATCH = 8


@dataclass(frozen=True)
class Bound:
    """Largest difference allowed between two forms of a network.

    Attributes:
        tolerance: largest absolute difference, as a share of the largest expected magnitude where that exceeds `unit`.
        unit: 1 leaves P(fake) as it is; 0 makes every difference relative.
        spread: the expected answers must differ by at least this between crops: a network that gives one answer to
            everything proves nothing. 0: not checked.
    """

    tolerance: float
    unit: float = 1.0
    spread: float = 0.0


BOUNDS = {
    # OpenVINO against Keras: P(fake).
    "runtime": Bound(1e-4, spread=1e-3),
    # Exported formats against Keras: P(fake) and features.
    "export": Bound(1e-5, spread=1e-4),
    # The tf_keras twin that is pruned, against Keras.
    "twin": Bound(1e-5),
    "twin features": Bound(1e-5, unit=0.0, spread=float(np.finfo(np.float32).tiny)),
    # A rebuilt Keras network against the published SavedModel.
    "layer": Bound(1e-5),
    # A SavedModel made from carried weights against the scores in their model card.
    "card": Bound(1e-4),
    # A server against the model card. GPUs may round to 10 bits (TF32); other weights are further apart.
    "server": Bound(5e-3),
}


class NotProved(ValueError):
    """The expected answers are alike for all crops, so equality cannot be proved."""


def check_equal(name: str, found: np.ndarray, expected: np.ndarray, bound: str) -> float:
    """Compares the answers of two forms of a network for the same crops.

    Args:
        name: subject of the error message, such as `features of the ONNX model`.
        found: answers of one form, first axis crops.
        expected: answers of the network that it must equal.
        bound: row of `BOUNDS`.

    Returns:
        The largest difference, in the unit of the bound.

    Raises:
        NotProved: the expected answers do not differ between crops.
        ValueError: the difference exceeds the bound, shapes differ, or a value is not finite.
    """
    limits = BOUNDS[bound]
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise ValueError(f"{name} has the shape {found.shape}; expected {expected.shape}.")
    for values in (found, expected):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} cannot be compared: {np.count_nonzero(~np.isfinite(values))} values are not finite."
            )
    if np.ptp(expected, axis=0).max() < limits.spread:
        raise NotProved(
            f"{name} cannot be proved: all {len(expected)} crops get the same answer, to {limits.spread:g}."
        )
    apart = float(np.abs(found - expected).max() / max(limits.unit, np.abs(expected).max()))
    if not apart <= limits.tolerance:
        raise ValueError(f"{name} differs by {apart:.2g} on the same crops; {limits.tolerance:g} is allowed.")
    return apart


def check_twin(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Compares the answers of a network's twin, or of the pruned network read back, with the network's own.

    Args:
        found: `features` `(n, d)` and `fake_probability` `(n, 1)` of the twin.
        expected: those of the network.

    Returns:
        The largest difference of `fake_probability`, that of `features` relative to the largest feature, and the number
        of `crops`.

    Raises:
        ValueError: as `check_equal`.
    """
    apart = {
        name: check_equal(f"{name} of the network's twin", found[name], expected[name], bound)
        for name, bound in (("fake_probability", "twin"), ("features", "twin features"))
    }
    return apart | {"crops": len(expected["features"])}


def in_batches(function: Callable[[np.ndarray], np.ndarray], crops: np.ndarray) -> np.ndarray:
    """Answers of a function for uint8 crops `(n, size, size, 3)` or clips, computed a few crops at a time."""
    batch = _BATCH if crops.ndim == 4 else max(1, _BATCH // crops.shape[1])
    return np.concatenate([np.asarray(function(crops[i : i + batch])) for i in range(0, len(crops), batch)])


def proof_crops(size: int, count: int | None = None, frames: int | None = None) -> np.ndarray:
    """Crops or clips to compare networks on, the same each time: coarse and fine noise of rising strength.

    Args:
        size: side of the crops in pixels.
        count: count of crops or clips; None for `PROOF_CROPS` or `PROOF_CLIPS`.
        frames: frames of a clip; None for single crops.

    Returns:
        uint8 RGB `(count, size, size, 3)`, or `(count, frames, size, size, 3)`.
    """
    if frames is not None:
        count = count or PROOF_CLIPS
        return proof_crops(size, count * frames).reshape(count, frames, size, size, 3)
    count = count or PROOF_CROPS
    draw = np.random.default_rng(0)
    cell = np.arange(size) * 8 // size
    crops = []
    for number in range(1, count + 1):
        coarse = draw.uniform(-1, 1, (8, 8, 3))[cell][:, cell]
        fine = draw.uniform(-1, 1, (size, size, 3))
        crops.append((127.5 + 127.5 * (number / count) * (0.7 * coarse + 0.3 * fine)).astype(np.uint8))
    return np.stack(crops)
