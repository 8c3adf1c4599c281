"""LIME and occlusion: explanations from scores alone, for every network and runtime.

Crops are RGB uint8 `(size, size, 3)`. `score` maps uint8 crops `(n, size, size, 3)` to P(fake), float32 `(n,)`.
Heat maps are float32 `(size, size)`: positive toward fake, negative toward real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# As in document S2.
SAMPLES, FEATURES = 2000, 10
# Defaults of the LIME package: kernel width over cosine distances, and strength of the ridge penalty.
_KERNEL_WIDTH, _ALPHA = 0.25, 1.0
# Pictures that are scored together; bounds the memory.
_BATCH = 64
# P(fake) is clipped here: float32 cannot resolve smaller distances from 1.
_LEAST = 1e-6


@dataclass(frozen=True)
class LimeResult:
    """Result of LIME.

    Attributes:
        segments: segment index of each pixel, int `(size, size)`, from 0.
        weights: of each segment, float64 `(segments,)`: the increase of P(fake) when it is shown.
        r2: coefficient of determination of the linear model, with the weights of its fit.
    """

    segments: np.ndarray
    weights: np.ndarray
    r2: float

    @property
    def heat(self) -> np.ndarray:
        """Weight of each pixel's segment."""
        return self.weights[self.segments].astype(np.float32)

    def strongest(self, count: int = FEATURES) -> np.ndarray:
        """Indices of the segments with the largest absolute weights, largest first."""
        return np.argsort(-np.abs(self.weights), kind="stable")[:count]


def quickshift_segments(crop: np.ndarray, seed: int = 0) -> np.ndarray:
    """Superpixels by quickshift, with the LIME package's defaults."""
    from skimage.segmentation import quickshift

    return quickshift(crop, kernel_size=4, max_dist=200, ratio=0.2, rng=seed)


def lime(
    crop: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    hide_color: int | None = 0,
    segments: np.ndarray | None = None,
) -> LimeResult:
    """LIME for images (Ribeiro et al., KDD 2016): weighted ridge regression of P(fake) on which segments are shown.

    For the same seed and segments the coefficients equal those of the LIME package with all features.

    Args:
        crop: the face.
        score: P(fake) of crops.
        samples: number of random selections of segments that are scored, the whole crop included.
        seed: of the selections.
        hide_color: gray level of hidden segments; None: the mean color of each.
        segments: int `(size, size)` from 0 without gaps; None: `quickshift_segments`.

    Raises:
        ValueError: fewer than two samples, or a crop with a single segment.
    """
    from sklearn.linear_model import Ridge

    if samples < 2:
        raise ValueError(f"LIME needs at least 2 samples; received {samples}.")
    segments = quickshift_segments(crop, seed) if segments is None else segments
    count = int(segments.max()) + 1
    if count < 2:
        raise ValueError("the crop is a single segment, so LIME has nothing to compare; give a crop of a face.")
    shown = np.random.RandomState(seed).randint(0, 2, samples * count).reshape(samples, count).astype(np.uint8)
    shown[0] = 1
    hidden = _hidden(crop, segments, hide_color)
    parts = []
    for i in range(0, samples, _BATCH):
        pictures = np.repeat(hidden[None], min(_BATCH, samples - i), axis=0)
        for picture, row in zip(pictures, shown[i : i + _BATCH], strict=True):
            cv2.copyTo(crop, row[segments], picture)
        parts.append(score(pictures))
    scores = np.concatenate(parts)
    number = shown.sum(axis=1, dtype=np.float64)
    distances = 1 - np.sqrt(number / count)  # cosine distance to the whole crop
    weights = np.exp(-(distances**2) / _KERNEL_WIDTH**2) ** 0.5
    ridge = Ridge(alpha=_ALPHA).fit(shown, scores, sample_weight=weights)
    return LimeResult(segments, ridge.coef_, float(ridge.score(shown, scores, sample_weight=weights)))


def occlusion(crop: np.ndarray, score: Callable[[np.ndarray], np.ndarray], *, windows: int = 7) -> np.ndarray:
    """Occlusion sensitivity: the decrease of the log-odds of fake when a square is filled with the crop's mean color.

    As in Zeiler and Fergus (ECCV 2014, arXiv:1311.2901). Squares overlap by half; a pixel gets the mean over the
    squares that cover it.

    Args:
        crop: the face.
        score: P(fake) of crops.
        windows: number of squares in a row without overlap.

    Returns:
        The heat map.
    """
    size = crop.shape[0]
    side = max(2, round(size / windows))
    starts = np.unique(np.linspace(0, size - side, 2 * windows - 1).round().astype(int))
    corners = [(y, x) for y in starts for x in starts]
    fill = crop.mean(axis=(0, 1)).round().astype(np.uint8)
    drops = []
    whole = log_odds(score(crop[None]))[0]
    for i in range(0, len(corners), _BATCH):
        part = corners[i : i + _BATCH]
        pictures = np.repeat(crop[None], len(part), axis=0)
        for picture, (y, x) in zip(pictures, part, strict=True):
            picture[y : y + side, x : x + side] = fill
        drops.append(whole - log_odds(score(pictures)))
    heat, covered = np.zeros((size, size)), np.zeros((size, size))
    for drop, (y, x) in zip(np.concatenate(drops), corners, strict=True):
        heat[y : y + side, x : x + side] += drop
        covered[y : y + side, x : x + side] += 1
    return (heat / covered).astype(np.float32)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities, float64, finite."""
    p = np.clip(np.asarray(probabilities, np.float64), _LEAST, 1 - _LEAST)
    return np.log(p) - np.log1p(-p)


def _hidden(crop: np.ndarray, segments: np.ndarray, hide_color: Any) -> np.ndarray:
    if hide_color is not None:
        return np.full_like(crop, hide_color)
    sums = np.stack([np.bincount(segments.ravel(), crop[..., channel].ravel()) for channel in range(3)], axis=-1)
    means = sums / np.bincount(segments.ravel())[:, None]
    return means.astype(np.uint8)[segments]
