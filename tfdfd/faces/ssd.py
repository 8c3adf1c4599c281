"""A single-shot detector (Liu et al., ECCV 2016) given as a Caffe or TensorFlow graph, run by `cv2.dnn`.

Made for OpenCV's own face detector (`opencv_face_detector_uint8.pb`, ResNet-10 at 300 x 300) and any graph with the
same output: rows of image number, class, score, left, top, right, bottom, as fractions of the frame.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tfdfd.faces.face import Face

INPUT_SIZE = (300, 300)
MEAN_BGR = (104.0, 177.0, 123.0)
THRESHOLD = 0.5
# Which text file describes which kind of graph.
CONFIG_SUFFIX = {".pb": ".pbtxt", ".caffemodel": ".prototxt"}


class SsdDetector:
    """Boxes and scores in [0, 1]; no landmarks.

    Args:
        graph: a `.pb` (TensorFlow) or `.caffemodel` (Caffe) file.
        config: its `.pbtxt` or `.prototxt`; None takes the only one in the same folder.
        threshold: least score of a face, in [0, 1].
    """

    def __init__(self, graph: str | Path, config: str | Path | None = None, threshold: float = THRESHOLD):
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
        # One by one: the graph of OpenCV's own detector fixes the batch in a reshape. Trained on BGR, hence the swap.
        self._network.setInput(cv2.dnn.blobFromImage(frame, 1.0, INPUT_SIZE, MEAN_BGR, swapRB=True))
        rows = [row for row in self._network.forward().reshape(-1, 7) if row[2] > self.threshold]
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
