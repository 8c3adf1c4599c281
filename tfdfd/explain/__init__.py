"""Explanation methods by name, and `Explainer`, which maps face crops to heat maps, LIME and occlusion among them.

Importing this module imports neither Keras nor scikit-image. LIME and occlusion need scores alone, for every network
and runtime. Crops are RGB uint8 `(size, size, 3)`; a score function maps uint8 crops `(n, size, size, 3)` to P(fake),
float32 `(n,)`. Heat maps are float32 `(size, size)`: positive toward fake, negative toward real.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tfdfd.runtime import AUTO
from tfdfd.runtime.networks import Scorer
from tfdfd.text import did_you_mean
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import locate

if TYPE_CHECKING:
    from tfdfd.detect.results import FaceTrack, FrameScore

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
        weights: weights of each segment, float64 `(segments,)`: the increase of P(fake) when it is shown.
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
        seed: seed of the selections.
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


LIME, GRADCAM, INTEGRATED, OCCLUSION = "lime", "gradcam", "integrated-gradients", "occlusion"
MASK = "mask"
ACTIVATION, KERNELS = "activation", "kernels"
# Methods that explain a crop, and methods that show the network.
OF_CROPS = (LIME, GRADCAM, INTEGRATED, OCCLUSION, MASK)
OF_NETWORKS = (ACTIVATION, KERNELS)
METHODS = OF_CROPS + OF_NETWORKS
NEED_KERAS = (GRADCAM, INTEGRATED, MASK, *OF_NETWORKS)
_LIBRARIES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
# Standard deviation, as a share of the side, of the blur that makes single pixels readable.
_SMOOTHING = 1 / 56


def check_methods(names: str, known: tuple[str, ...] = METHODS) -> tuple[str, ...]:
    """Parses comma-separated method names.

    Raises:
        ValueError: an unknown or repeated name, or a missing library.
    """
    methods = tuple(name.strip() for name in names.split(","))
    for method in methods:
        if method not in known:
            hint = did_you_mean(method, known, 1, otherwise="there is no such method.")
            raise ValueError(f"the method must be one of {', '.join(known)}; received {method!r}; {hint}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"each method may be given once; received {names!r}.")
    missing = [name for module, name in _LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if LIME in methods and missing:
        raise ValueError(
            f"lime needs {' and '.join(missing)}, which is not installed: run pip install 'tfdfd[explain]'."
        )
    return methods


@dataclass
class Explanation:
    """One method's explanation of one crop.

    Attributes:
        method: name of the method.
        crop: RGB uint8 `(size, size, 3)`.
        fake_probability: P(fake) of the crop.
        heat: float32 `(size, size)`; positive toward fake, negative toward real.
        seconds: elapsed time.
        segments: LIME only: segment index of each pixel.
        features: LIME only: `(segment, weight)`, strongest first.
        notes: further facts, as name and text.
    """

    method: str
    crop: np.ndarray = field(repr=False)
    fake_probability: float
    heat: np.ndarray = field(repr=False)
    seconds: float
    segments: np.ndarray | None = field(default=None, repr=False)
    features: list[tuple[int, float]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


class Explainer:
    """Explains face crops with one model.

    Args:
        model: handle or weights file, as for `tfdfd.Detector`.
        methods: methods that will be used; their requirements are loaded here, once.
        runtime: runtime that scores crops, as for `tfdfd.Detector`.
        seed: seed of all random draws.
        samples, features: numbers of LIME's samples and features.

    Attributes:
        record: record of the weights.
        size: side of the crops in pixels.
        score: P(fake) of uint8 crops.
        model: the Keras model; None if no method needs it.

    Raises:
        ValueError: see `check_methods` and `locate`; or a method does not support the network.
    """

    def __init__(
        self,
        model: str | os.PathLike = DEFAULT_MODEL,
        methods: tuple[str, ...] = (LIME,),
        *,
        runtime: str = AUTO,
        seed: int = 0,
        samples: int | None = None,
        features: int | None = None,
    ):
        check_methods(",".join(methods))
        from tfdfd.models import load, refuse_clips

        self.samples = SAMPLES if samples is None else samples
        self.features = FEATURES if features is None else features
        if self.samples < 2 or self.features < 1:
            raise ValueError(
                f"LIME needs at least 2 samples and 1 feature; received {self.samples} and {self.features}."
            )
        if seed < 0:
            raise ValueError(f"the seed must be a nonnegative integer; received {seed}.")
        self.seed = seed
        self.record, path = locate(model)
        refuse_clips(self.record, "an explanation")
        self.model = load(self.record, path) if set(methods) & set(NEED_KERAS) else None
        self._maps: list[int] | None
        self._gradients: Callable | None
        self._mask_network: Any
        self._maps = self._gradients = self._mask_network = None
        self._check_network(methods, path)
        if set(methods) & set(OF_CROPS):
            self._open_scorers(path, runtime)

    def explain(self, crop: np.ndarray, method: str = LIME) -> Explanation:
        """Explains one crop, RGB uint8 `(size, size, 3)`, by a method of `OF_CROPS`."""
        if crop.dtype != np.uint8 or crop.shape != (self.size, self.size, 3):
            raise ValueError(
                f"crops of {self.record.handle} are RGB uint8 {(self.size, self.size, 3)}; received {crop.dtype} "
                f"{crop.shape}."
            )
        fake_probability = float(self.score(crop[None])[0])
        start = time.perf_counter()
        explanation = Explanation(method, crop, fake_probability, np.zeros(0), 0.0)
        {
            LIME: self._lime,
            GRADCAM: self._grad_cam,
            INTEGRATED: self._integrated,
            OCCLUSION: self._occlusion,
            MASK: self._mask,
        }[method](explanation)
        explanation.seconds = time.perf_counter() - start
        return explanation

    def _check_network(self, methods: Sequence[str], path: Any) -> None:
        """Checks that the methods support the network, before any work."""
        if not set(methods) & set(NEED_KERAS):
            return
        from tfdfd.explain import gradients

        if GRADCAM in methods:
            self._maps = gradients.last_maps(self.model)
        if INTEGRATED in methods:
            self._gradients = gradients.logit_gradients(self.model)
        if MASK in methods:
            from tfdfd.weights.loading import load_mask_head

            self._mask_network = load_mask_head(self.model, path, self.record.handle)
        if ACTIVATION in methods:
            gradients.head_weights(self.model)
        if KERNELS in methods:
            gradients.first_kernels(self.model)

    def _open_scorers(self, path: Any, runtime: str) -> None:
        from tfdfd.runtime.networks import open_network

        network, self.runtime_note = open_network(self.record, path, runtime)
        self.score = Scorer(network)
        self.size = network.size
        self._score_many = Scorer(network.rounded()) if hasattr(network, "rounded") else self.score

    def _lime(self, explanation: Explanation) -> None:
        result = lime(explanation.crop, self._score_many, samples=self.samples, seed=self.seed)
        explanation.heat, explanation.segments = result.heat, result.segments
        explanation.features = [(int(i), float(result.weights[i])) for i in result.strongest(self.features)]
        explanation.notes = {
            "Segments": str(len(result.weights)),
            "Samples": str(self.samples),
            "R² of the linear model": f"{result.r2:.2f}",
        }

    def _occlusion(self, explanation: Explanation) -> None:
        explanation.heat = occlusion(explanation.crop, self.score)

    def _grad_cam(self, explanation: Explanation) -> None:
        from tfdfd.explain.gradients import grad_cam

        explanation.heat = grad_cam(self.model, _as_input(explanation.crop), self._maps)

    def _mask(self, explanation: Explanation) -> None:
        mask = np.asarray(self._mask_network.predict_on_batch(_as_input(explanation.crop)[None]))[0, ..., 0]
        explanation.heat = cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        explanation.notes = {"Altered, of the crop": f"{float(mask.mean()):.0%}"}

    def _integrated(self, explanation: Explanation) -> None:
        from tfdfd.explain.gradients import integrated_gradients

        contributions, error = integrated_gradients(self.model, _as_input(explanation.crop), gradients=self._gradients)
        explanation.heat = cv2.GaussianBlur(contributions.sum(axis=-1), (0, 0), _SMOOTHING * self.size)
        explanation.notes = {"Sum off by (logits)": f"{error:.3f}"}


def telling_frame(track: FaceTrack, threshold: float) -> FrameScore | None:
    """The frame that contributes most to the verdict of its face track; None without crops."""
    frames = [frame for frame in track.frames if frame.crop is not None]
    side = max if track.fake_probability >= threshold else min
    return side(frames, key=lambda frame: frame.fake_probability, default=None)


def _as_input(crop: np.ndarray) -> np.ndarray:
    return crop.astype(np.float32) / np.float32(255)
