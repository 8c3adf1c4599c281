"""MTCNN face detector (Zhang et al., IEEE SPL 2016, arXiv:1604.02878) on OpenCV's DNN module.

The three networks in `networks/` are those of the `mtcnn` package (MIT license), converted to ONNX by
`tools/mtcnn_onnx.py`. The package runs them on TensorFlow, one call per stage, frame and scale; here each call of the
second and third takes the boxes of a batch of frames, and the decoding process needs no TensorFlow. Thresholds, pyramid
and suppression are the package's defaults. `tests/test_mtcnn.py` compares the two, and `make bench` measures them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tfdfd.faces import Face

if TYPE_CHECKING:
    from tfdfd.faces.crop import Box

NETWORKS = Path(__file__).parent / "networks"
MIN_FACE_SIZE = 20
CELL = 12
STRIDE = 2
SCALE_FACTOR = 0.709
PROPOSAL_THRESHOLD, REFINE_THRESHOLD, OUTPUT_THRESHOLD = 0.6, 0.7, 0.8
PYRAMID_OVERLAP, OVERLAP = 0.5, 0.7
# Suppression compares all pairs of boxes; this bounds its memory on a frame of noise.
MAX_PROPOSALS = 2000
# The package pads with 0 after (x - 127.5) / 128, which is this pixel value.
BORDER = (127.5, 127.5, 127.5)


class MtcnnDetector:
    """Detects boxes, scores and five landmarks.

    Args:
        min_face_size: side in pixels, in the frame as given, of the smallest face that is searched for.
    """

    def __init__(self, min_face_size: int = MIN_FACE_SIZE):
        self.min_face_size = min_face_size
        self._proposal, self._refine, self._output = map(_read_network, ("pnet", "rnet", "onet"))

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        faces: list[list[Face]] = [[] for _ in frames]
        for shape in dict.fromkeys(frame.shape for frame in frames):
            members = [i for i, frame in enumerate(frames) if frame.shape == shape]
            for i, found in zip(members, self._detect_batch([frames[i] for i in members]), strict=True):
                faces[i] = found
        return faces

    def _detect_batch(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Detects in frames of one shape. Rows of `boxes` are frame number, x1, y1, x2, y2, score."""
        boxes = self._propose(frames)
        boxes, _ = self._refined(frames, boxes, self._refine, 24, REFINE_THRESHOLD)
        boxes = _square(boxes[_survivors(boxes, OVERLAP)])
        boxes, landmarks = self._refined(frames, boxes, self._output, 48, OUTPUT_THRESHOLD)
        kept = _survivors(boxes, OVERLAP, by_smaller=True)
        return _as_faces(boxes[kept], landmarks[kept], frames)

    def _propose(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        height, width = frames[0].shape[:2]
        found = []
        for scale in pyramid(width, height, self.min_face_size):
            size = int(width * scale), int(height * scale)
            cells = self._cells([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
            face = _softmax(cells[:, 4:])
            number, row, column = np.nonzero(face > PROPOSAL_THRESHOLD)
            corner = np.stack([column, row, column, row], axis=1) * STRIDE + [1, 1, CELL, CELL]
            side = CELL - 1
            box = (corner + cells[number, :4, row, column] * side) / scale
            boxes = np.column_stack([number, box, face[number, row, column]])
            boxes = _strongest(boxes, MAX_PROPOSALS)
            found.append(boxes[_survivors(boxes, PYRAMID_OVERLAP)])
        boxes = np.concatenate(found) if found else np.empty((0, 6))
        return _square(boxes[_survivors(boxes, OVERLAP)])

    def _cells(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Four offsets and two logits `(batch, 6, rows, columns)` of the first network.

        One run for each image: the maps of one stay in the processor's cache, which halves the time of eight.
        """
        return np.concatenate([_forward(self._proposal, image[None]).copy() for image in images])

    def _refined(
        self, frames: Sequence[np.ndarray], boxes: np.ndarray, network: cv2.dnn.Net, size: int, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes regressed and rescored by the second or third network, with landmarks from the third."""
        if not len(boxes):
            return boxes, np.empty((0, 10))
        patches = np.stack([_patch(frames[int(box[0])], box[1:5], size) for box in boxes])
        values = _forward(network, patches)
        extent = np.tile(boxes[:, 3:5] - boxes[:, 1:3] + 1, 2)
        moved = np.column_stack([boxes[:, 0], boxes[:, 1:5] + values[:, :4] * extent, _softmax(values[:, -2:])])
        points = np.empty((len(boxes), 10))
        if values.shape[1] > 6:
            points[:, :5] = boxes[:, 1:2] - 1 + values[:, 4:9] * extent[:, :1]
            points[:, 5:] = boxes[:, 2:3] - 1 + values[:, 9:14] * extent[:, 1:2]
        good = moved[:, 5] > threshold
        return moved[good], points[good]


def pyramid(width: int, height: int, min_face_size: int) -> np.ndarray:
    """Scales of the image pyramid on which the 12 px network finds faces from `min_face_size` to the whole frame."""
    smallest = min(width, height)
    if smallest < CELL:
        return np.empty(0)
    count = round(-(np.log(smallest / CELL) / np.log(SCALE_FACTOR) + 1))
    scales = CELL / min_face_size * SCALE_FACTOR ** np.arange(max(count, 0))
    return scales[smallest * scales >= CELL]


def _forward(network: cv2.dnn.Net, images: np.ndarray) -> Any:
    network.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    return network.forward()


def _softmax(logits: np.ndarray) -> np.ndarray:
    """P(face) of `(n, 2, ...)` logits [no face, face]."""
    return 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -50, 50)))


def _patch(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Samples the box at `size` x `size` points, the outer ones on its edges, as TensorFlow's `crop_and_resize` does
    with boxes normalized by the frame's size."""
    height, width = frame.shape[:2]
    x1, x2 = box[[0, 2]] * (width - 1) / width
    y1, y2 = box[[1, 3]] * (height - 1) / height
    to_frame = np.array([[(x2 - x1) / (size - 1), 0, x1], [0, (y2 - y1) / (size - 1), y1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (size, size), None, flags, cv2.BORDER_CONSTANT, BORDER)


def _strongest(boxes: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest-scoring boxes of each frame, in descending order."""
    boxes = boxes[np.argsort(-boxes[:, 5], kind="stable")]
    rank = np.zeros(len(boxes), int)
    for number in np.unique(boxes[:, 0]):
        mine = boxes[:, 0] == number
        rank[mine] = np.arange(mine.sum())
    return boxes[rank < count]


def _survivors(boxes: np.ndarray, threshold: float, by_smaller: bool = False) -> np.ndarray:
    """Non-maximum suppression per frame; indices of the remaining boxes in descending order of score.

    As in the package, a suppressed box still suppresses others.
    """
    kept = []
    for number in np.unique(boxes[:, 0]):
        mine = np.flatnonzero(boxes[:, 0] == number)
        mine = mine[np.argsort(-boxes[mine, 5], kind="stable")]
        overlap = _overlaps(boxes[mine, 1:5].astype(np.float32), by_smaller)
        kept.append(mine[~np.triu(overlap > threshold, k=1).any(axis=0)])
    return np.concatenate(kept) if kept else np.empty(0, int)


def _overlaps(boxes: np.ndarray, by_smaller: bool) -> np.ndarray:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    other = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(other - corner, 0), axis=2)
    whole = np.minimum(area[:, None], area) if by_smaller else area[:, None] + area - shared
    return shared / np.maximum(whole, 1e-9)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Extends the short side of each box about its center."""
    boxes = boxes.copy()
    size = boxes[:, 3:5] - boxes[:, 1:3]
    side = size.max(axis=1, keepdims=True) if len(boxes) else size
    boxes[:, 1:3] += (size - side) / 2
    boxes[:, 3:5] = boxes[:, 1:3] + side
    return boxes


def _as_faces(boxes: np.ndarray, landmarks: np.ndarray, frames: Sequence[np.ndarray]) -> list[list[Face]]:
    faces: list[list[Face]] = [[] for _ in frames]
    for row, points in zip(boxes, landmarks, strict=True):
        frame = frames[int(row[0])]
        limit = np.array([frame.shape[1], frame.shape[0]] * 2) - 1
        x1, y1, x2, y2 = np.clip(row[1:5], 0, limit)
        if x2 > x1 and y2 > y1:
            box: Box = tuple(float(value) for value in (x1, y1, x2 - x1, y2 - y1))  # type: ignore[assignment]
            faces[int(row[0])].append(Face(box, float(row[5]), points.reshape(2, 5).T.astype(np.float32)))
    for found in faces:
        found.sort(key=lambda face: -face.score)  # type: ignore[operator]
    return faces


def _read_network(name: str) -> cv2.dnn.Net:
    try:
        graph = np.fromfile(NETWORKS / f"{name}.onnx", np.uint8)
    except OSError as error:
        raise ValueError(
            f"the network {error.filename} of the face detector 'mtcnn' cannot be read ({error.strerror}): reinstall "
            "tfdfd, or choose --detector haar."
        ) from error
    return cv2.dnn.readNetFromONNX(graph)
