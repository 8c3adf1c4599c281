"""Whether two forms of a network are the same function: features and P(fake) of the same crops."""

from __future__ import annotations

import numpy as np

# Of P(fake) as it is, of features in units of the largest.
APART = 1e-5


def differences(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, float]:
    """How far two forms are apart.

    Args:
        expected: `features` `(n, d)` and `fake_probability` `(n, 1)` of one.
        found: the same of the other.

    Returns:
        `fake_probability`: largest distance; `features`: largest distance in units of the largest feature; `crops`: n.

    Raises:
        ValueError: other shapes, numbers that are none, features that are the same for all crops, which prove nothing,
            or a distance above `APART`.
    """
    for name, values in expected.items():
        if values.shape != found[name].shape:
            raise ValueError(f"the twin's {name} have the shape {found[name].shape}; expected {values.shape}.")
        if not (np.isfinite(values).all() and np.isfinite(found[name]).all()):
            raise ValueError(f"{name} of the network or of its twin are no numbers: its weights are damaged.")
    features, scores = expected["features"], expected["fake_probability"]
    scale = np.abs(features).max()
    if len(features) < 2 or not np.ptp(features, axis=0).any():
        raise ValueError("the network answers the same to all crops of the proof, which proves nothing.")
    apart = {
        "fake_probability": float(np.abs(scores - found["fake_probability"]).max()),
        "features": float(np.abs(features - found["features"]).max() / scale),
    }
    for name, distance in apart.items():
        if distance > APART:
            raise ValueError(
                f"the twin is not the network: {name} are up to {distance:.2g} apart; {APART:g} is allowed."
            )
    return apart | {"crops": len(features)}
