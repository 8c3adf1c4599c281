"""Explanation methods by name, and `Explainer`, which maps face crops to heat maps.

Importing this module imports neither Keras nor scikit-image.
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

from tfdfd.near_matches import did_you_mean
from tfdfd.runtime import AUTO
from tfdfd.runtime.networks import Scorer
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import locate

if TYPE_CHECKING:
    from tfdfd.detect.results import FaceTrack, FrameScore

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
        fake_probability: of the crop.
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
        seed: of all random draws.
        samples, features: numbers of LIME's samples and features.

    Attributes:
        record: of the weights.
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
        from tfdfd.explain.perturbation import FEATURES, SAMPLES
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
            from tfdfd.weights.mask_head import load_mask_head

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
        from tfdfd.explain.perturbation import lime

        result = lime(explanation.crop, self._score_many, samples=self.samples, seed=self.seed)
        explanation.heat, explanation.segments = result.heat, result.segments
        explanation.features = [(int(i), float(result.weights[i])) for i in result.strongest(self.features)]
        explanation.notes = {
            "Segments": str(len(result.weights)),
            "Samples": str(self.samples),
            "R² of the linear model": f"{result.r2:.2f}",
        }

    def _occlusion(self, explanation: Explanation) -> None:
        from tfdfd.explain.perturbation import occlusion

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
