"""A single-shot detector (Liu et al., ECCV 2016) given as a Caffe or TensorFlow graph, run by `cv2.dnn`.

For graphs whose output is rows of image number, class, score, left, top, right, bottom, as fractions of the frame: the
face detector of OpenCV (`opencv_face_detector_uint8.pb`, ResNet-10 at 300 x 300; preset `opencv`), and graphs of
TensorFlow's Object Detection API such as the MobileNet-SSD trained on WIDER FACE that document S2 used
(`frozen_inference_graph_face.pb`; preset `tf`), which take RGB levels and normalize them themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from tfdfd.faces.face import Face

INPUT_SIZE = (300, 300)
THRESHOLD = 0.5


class SsdPreset(NamedTuple):
    """What a graph takes: `(level - mean) * scale` of each channel, in RGB or BGR."""

    mean: tuple[float, float, float]
    scale: float
    rgb: bool


PRESETS = {
    "opencv": SsdPreset((104.0, 177.0, 123.0), 1.0, rgb=False),
    "tf": SsdPreset((0.0, 0.0, 0.0), 1.0, rgb=True),
}
# Which text file describes which kind of graph.
CONFIG_SUFFIX = {".pb": ".pbtxt", ".caffemodel": ".prototxt"}


class SsdDetector:
    """Boxes and scores in [0, 1]; no landmarks.

    Args:
        graph: a `.pb` (TensorFlow) or `.caffemodel` (Caffe) file.
        config: its `.pbtxt` or `.prototxt`; None takes the only one in the same folder.
        threshold: score above which a box is a face, in [0, 1].
        preset: of `PRESETS`.
        mean: of the channels in the graph's order, instead of the preset's; one number counts for all three.
        scale: instead of the preset's.
        keep_best: whether the best box of a frame is a face whatever its score, as in S2, whose videos have a face in
            every frame.

    Raises:
        ValueError: files or settings that no graph has.
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
        graph, config = _check_files(graph, config)
        read = cv2.dnn.readNetFromTensorflow if graph.suffix == ".pb" else cv2.dnn.readNetFromCaffe
        weights, layout = (np.frombuffer(file.read_bytes(), np.uint8) for file in (graph, config))
        try:
            # Read as bytes: a name never reaches OpenCV. Caffe's reader takes the description first.
            self._network = read(weights, layout) if graph.suffix == ".pb" else read(layout, weights)
        except cv2.error as error:
            raise ValueError(f"{graph} with {config} is no graph that OpenCV reads: {error.err or error}.") from error
        self.threshold = threshold

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        return [self._detect_one(frame) for frame in frames]

    def _detect_one(self, frame):
        # One by one: the graph of OpenCV's own detector fixes the batch in a reshape.
        blob = cv2.dnn.blobFromImage(frame, self._scale, INPUT_SIZE, self._mean, swapRB=not self._rgb)
        self._network.setInput(blob)
        found = self._network.forward().reshape(-1, 7)
        rows = [row for row in found if row[2] > self.threshold]
        if not rows and self._keep_best and len(found):
            best = max(found, key=lambda row: row[2])
            rows = [best] if best[2] > 0 else []
        faces = [_face(row[3:], row[2], frame.shape) for row in rows]
        return sorted((face for face in faces if face is not None), key=lambda face: -face.score)


def _face(corners, score, shape):
    height, width = shape[:2]
    left, top, right, bottom = np.clip(corners, 0, 1) * [width, height, width, height]
    if right <= left or bottom <= top:
        return None
    return Face((float(left), float(top), float(right - left), float(bottom - top)), float(score))


def _check_files(graph, config):
    graph = Path(graph)
    if graph.suffix not in CONFIG_SUFFIX:
        raise ValueError(f"an SSD graph ends in {' or '.join(CONFIG_SUFFIX)}; received {graph}.")
    if not graph.is_file():
        raise ValueError(f"the SSD graph {graph} does not exist; give the path of a .pb or .caffemodel file.")
    if config is None:
        suffix = CONFIG_SUFFIX[graph.suffix]
        found = sorted(graph.parent.glob(f"*{suffix}"))
        if len(found) != 1:
            raise ValueError(
                f"{graph} needs its {suffix} file: expected exactly one in its folder, found {len(found)}; "
                "name it with --ssd-config."
            )
        config = found[0]
    config = Path(config)
    if not config.is_file():
        raise ValueError(f"the SSD description {config} does not exist.")
    return graph, config
