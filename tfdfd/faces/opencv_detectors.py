"""Face detectors that OpenCV runs as they are: a Haar cascade, and single-shot detectors (SSD)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tfdfd.faces import Face

CASCADE = "haarcascade_frontalface_alt.xml"


class HaarDetector:
    """Haar cascade (Viola and Jones, CVPR 2001) of OpenCV: boxes, without confidence or landmarks.

    The scale factor of 1.1 and 5 neighbors are those of the Celeb-DF study (document S4). Its minimum of 128 px, meant
    for close-ups, finds none of the 43 faces of ordinary photographs, so that the default here is 20 px, as for MTCNN.

    Args:
        min_size: side in pixels of the original frame of the smallest face that is searched for.
        scale_factor: ratio of successive search sizes, above 1.
        min_neighbors: number of overlapping hits that make a face.

    Raises:
        ValueError: this OpenCV has no cascade classifier.
    """

    def __init__(self, min_size: int = 20, scale_factor: float = 1.1, min_neighbors: int = 5):
        if not hasattr(cv2, "CascadeClassifier"):
            raise ValueError(
                f"OpenCV {cv2.__version__} has no cascade classifier (removed in 5.0): "
                "pip install 'opencv-python>=4.11,<5'."
            )
        self.min_size, self.scale_factor, self.min_neighbors = min_size, scale_factor, min_neighbors
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades, CASCADE)))  # type: ignore[attr-defined]

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        """Faces of each frame; see `tfdfd.faces.FaceDetector`."""
        return [self._detect_one(frame, scale) for frame, scale in zip(frames, scales, strict=True)]

    def _detect_one(self, frame: np.ndarray, scale: float) -> list[Face]:
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        smallest = max(1, round(self.min_size * scale))
        boxes = self._cascade.detectMultiScale(
            gray, self.scale_factor, self.min_neighbors, minSize=(smallest, smallest)
        )
        faces = [Face(tuple(float(value) for value in box)) for box in boxes]  # type: ignore[arg-type]
        return sorted(faces, key=lambda face: -face.box[2])


INPUT_SIZE = (300, 300)
THRESHOLD = 0.5


class SsdPreset(NamedTuple):
    """Input of a graph: `(level - mean) * scale` of each channel, in RGB or BGR."""

    mean: tuple[float, float, float]
    scale: float
    rgb: bool


PRESETS = {
    "opencv": SsdPreset((104.0, 177.0, 123.0), 1.0, rgb=False),
    "tf": SsdPreset((0.0, 0.0, 0.0), 1.0, rgb=True),
}
# Suffix of the text file that describes each type of graph.
CONFIG_SUFFIX = {".pb": ".pbtxt", ".caffemodel": ".prototxt"}


class SsdDetector:
    """Single-shot detector (Liu et al., ECCV 2016) in a Caffe or TensorFlow graph: boxes and scores in [0, 1].

    Takes any graph whose output is rows of image number, class, score, left, top, right, bottom, as fractions of the
    frame: OpenCV's own face detector (`opencv_face_detector_uint8.pb`, ResNet-10 at 300 x 300; preset `opencv`), and
    graphs of TensorFlow's Object Detection API (preset `tf`) such as the MobileNet-SSD trained on WIDER FACE that
    document S2 used (`frozen_inference_graph_face.pb`), which take RGB levels and normalize them themselves.

    Args:
        graph: a `.pb` (TensorFlow) or `.caffemodel` (Caffe) file.
        config: its `.pbtxt` or `.prototxt`; None takes the only one in the same folder.
        threshold: score above which a box is a face, in [0, 1].
        preset: of `PRESETS`.
        mean: of the channels in the graph's order, in place of the preset's; one number counts for all three.
        scale: factor after the mean, above 0, in place of the preset's.
        keep_best: accept the best box of a frame whatever its score, as in S2, whose videos have a face in every frame.

    Raises:
        ValueError: a file is missing, has another suffix, or cannot be read by OpenCV; or a setting is invalid.
    """

    def __init__(
        self,
        graph: str | Path,
        config: str | Path | None = None,
        threshold: float = THRESHOLD,
        preset: str = "opencv",
        mean: Sequence[float] | float | None = None,
        scale: float | None = None,
        keep_best: bool = False,
    ):
        if preset not in PRESETS:
            raise ValueError(f"an SSD preset is one of {', '.join(PRESETS)}; received {preset!r}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold of an SSD must be in [0, 1]; received {threshold!r}.")
        if scale is not None and not scale > 0:
            raise ValueError(f"the scale of an SSD must be above 0; received {scale!r}.")
        chosen = PRESETS[preset]
        means = chosen.mean if mean is None else tuple(np.ravel(mean).tolist())
        if len(means) not in (1, 3):
            raise ValueError(f"the mean of an SSD is one number or three; received {mean!r}.")
        self._mean = means * 3 if len(means) == 1 else means
        self._scale = chosen.scale if scale is None else scale
        self._rgb, self._keep_best = chosen.rgb, keep_best
        graph_file, config_file = _check_files(Path(graph), config)
        read = cv2.dnn.readNetFromTensorflow if graph_file.suffix == ".pb" else cv2.dnn.readNetFromCaffe
        weights, layout = (np.frombuffer(file.read_bytes(), np.uint8) for file in (graph_file, config_file))
        try:
            # Read from memory, so that OpenCV receives no path. Caffe's reader takes the description first.
            self._network = read(weights, layout) if graph_file.suffix == ".pb" else read(layout, weights)
        except cv2.error as error:
            raise ValueError(
                f"{graph_file} with {config_file} is no graph that OpenCV reads: {error.err or error}."
            ) from error
        self.threshold = threshold

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        """Faces of each frame; see `tfdfd.faces.FaceDetector`."""
        return [self._detect_one(frame) for frame in frames]

    def _detect_one(self, frame: np.ndarray) -> list[Face]:
        # One frame per call: the graph of OpenCV's own detector has a reshape with a fixed batch.
        blob = cv2.dnn.blobFromImage(frame, self._scale, INPUT_SIZE, self._mean, swapRB=not self._rgb)
        self._network.setInput(blob)
        boxes = self._network.forward().reshape(-1, 7)
        rows = [row for row in boxes if row[2] > self.threshold]
        if not rows and self._keep_best and len(boxes):
            best = max(boxes, key=lambda row: row[2])
            rows = [best] if best[2] > 0 else []
        faces = [_face(row[3:], row[2], frame.shape) for row in rows]
        return sorted((face for face in faces if face is not None), key=lambda face: -face.score)  # type: ignore[operator]


def _face(corners: np.ndarray, score: float, shape: tuple[int, ...]) -> Face | None:
    height, width = shape[:2]
    left, top, right, bottom = np.clip(corners, 0, 1) * [width, height, width, height]
    if right <= left or bottom <= top:
        return None
    return Face((float(left), float(top), float(right - left), float(bottom - top)), float(score))


def _check_files(graph: Path, config: str | Path | None) -> tuple[Path, Path]:
    if graph.suffix not in CONFIG_SUFFIX:
        raise ValueError(f"an SSD graph ends in {' or '.join(CONFIG_SUFFIX)}; received {graph}.")
    if not graph.is_file():
        raise ValueError(f"the SSD graph {graph} does not exist; give the path of a .pb or .caffemodel file.")
    if config is None:
        suffix = CONFIG_SUFFIX[graph.suffix]
        candidates = sorted(graph.parent.glob(f"*{suffix}"))
        if len(candidates) != 1:
            raise ValueError(
                f"{graph} needs its {suffix} file: expected exactly one in its folder, found {len(candidates)}; "
                "name it with --ssd-config."
            )
        config = candidates[0]
    config = Path(config)
    if not config.is_file():
        raise ValueError(f"the SSD description {config} does not exist.")
    return graph, config
