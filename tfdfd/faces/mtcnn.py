"""MTCNN (Zhang et al., IEEE SPL 2016, arXiv:1604.02878) with the networks of the `mtcnn` package, run by OpenCV.

The package's own cascade runs on TensorFlow, one stage call a frame and scale. Here its weights are read from the
installed package and its three networks run through `cv2.dnn`, a batch of frames at a time: the detection process
needs no TensorFlow, and finds the same boxes several times faster (`tests/test_mtcnn.py` compares the two, and
`make bench` measures them). Thresholds, pyramid and suppression are the package's defaults.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import cv2
import numpy as np

from tfdfd.faces.face import Face
from tfdfd.faces.onnx_graph import serialize

MIN_FACE_SIZE = 20
CELL = 12
STRIDE = 2
SCALE_FACTOR = 0.709
PROPOSAL_THRESHOLD, REFINE_THRESHOLD, OUTPUT_THRESHOLD = 0.6, 0.7, 0.8
PYRAMID_OVERLAP, OVERLAP = 0.5, 0.7
# Suppression compares all pairs: a frame of noise must not turn that into gigabytes.
MAX_PROPOSALS = 2000
# Outside the frame the package feeds 0 after (x - 127.5) / 128.
BORDER = (127.5, 127.5, 127.5)


class MtcnnDetector:
    """Boxes, scores and five landmarks; faces from 20 px (in the frame as given) upwards."""

    def __init__(self, min_face_size: int = MIN_FACE_SIZE):
        self.min_face_size = min_face_size
        self._proposal, self._refine, self._output = (
            cv2.dnn.readNetFromONNX(np.frombuffer(graph, np.uint8)) for graph in _load_networks()
        )

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        faces: list[list[Face]] = [[] for _ in frames]
        for shape in dict.fromkeys(frame.shape for frame in frames):
            members = [i for i, frame in enumerate(frames) if frame.shape == shape]
            for i, found in zip(members, self._detect_batch([frames[i] for i in members]), strict=True):
                faces[i] = found
        return faces

    def _detect_batch(self, frames):
        """`frames` of one shape. Rows of `boxes` are frame number, x1, y1, x2, y2, score."""
        boxes = self._propose(frames)
        boxes, _ = self._judge(frames, boxes, self._refine, 24, REFINE_THRESHOLD)
        boxes = _square(boxes[_survivors(boxes, OVERLAP)])
        boxes, landmarks = self._judge(frames, boxes, self._output, 48, OUTPUT_THRESHOLD)
        kept = _survivors(boxes, OVERLAP, by_smaller=True)
        return _as_faces(boxes[kept], landmarks[kept], frames)

    def _propose(self, frames):
        height, width = frames[0].shape[:2]
        found = []
        for scale in pyramid(width, height, self.min_face_size):
            size = int(width * scale), int(height * scale)
            small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
            cells = _forward(self._proposal, small)  # (batch, 6, rows, columns): four offsets, two logits
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

    def _judge(self, frames, boxes, network, size, threshold):
        """Boxes moved and scored anew by the second or third network, with landmarks from the third."""
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
    """Scales at which a 12 px network looks for faces from `min_face_size` to the whole frame."""
    smallest = min(width, height)
    if smallest < CELL:
        return np.empty(0)
    count = round(-(np.log(smallest / CELL) / np.log(SCALE_FACTOR) + 1))
    scales = CELL / min_face_size * SCALE_FACTOR ** np.arange(max(count, 0))
    return scales[smallest * scales >= CELL]


def _forward(network, images):
    network.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    return network.forward()


def _softmax(logits):
    """P(face) of `(n, 2, ...)` logits [no face, face]."""
    return 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -50, 50)))


def _patch(frame, box, size):
    """`box` of the frame sampled at `size` x `size` points, border points on its edges, as TensorFlow's
    `crop_and_resize` does with boxes divided by the frame's size."""
    height, width = frame.shape[:2]
    x1, x2 = box[[0, 2]] * (width - 1) / width
    y1, y2 = box[[1, 3]] * (height - 1) / height
    to_frame = np.array([[(x2 - x1) / (size - 1), 0, x1], [0, (y2 - y1) / (size - 1), y1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (size, size), None, flags, cv2.BORDER_CONSTANT, BORDER)


def _strongest(boxes, count):
    """The `count` best boxes of each frame, best first."""
    boxes = boxes[np.argsort(-boxes[:, 5], kind="stable")]
    rank = np.zeros(len(boxes), int)
    for number in np.unique(boxes[:, 0]):
        mine = boxes[:, 0] == number
        rank[mine] = np.arange(mine.sum())
    return boxes[rank < count]


def _survivors(boxes, threshold, by_smaller=False):
    """Indices, best first, of the boxes that no better box of the same frame overlaps by more than `threshold`.

    As in the package, a box is also dropped for one that is itself dropped.
    """
    kept = []
    for number in np.unique(boxes[:, 0]):
        mine = np.flatnonzero(boxes[:, 0] == number)
        mine = mine[np.argsort(-boxes[mine, 5], kind="stable")]
        overlap = _overlaps(boxes[mine, 1:5].astype(np.float32), by_smaller)
        kept.append(mine[~np.triu(overlap > threshold, k=1).any(axis=0)])
    return np.concatenate(kept) if kept else np.empty(0, int)


def _overlaps(boxes, by_smaller):
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    other = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.maximum(other - corner, 0), axis=2)
    whole = np.minimum(area[:, None], area) if by_smaller else area[:, None] + area - shared
    return shared / np.maximum(whole, 1e-9)


def _square(boxes):
    """Grows the short side of each box around its centre."""
    boxes = boxes.copy()
    size = boxes[:, 3:5] - boxes[:, 1:3]
    side = size.max(axis=1, keepdims=True) if len(boxes) else size
    boxes[:, 1:3] += (size - side) / 2
    boxes[:, 3:5] = boxes[:, 1:3] + side
    return boxes


def _as_faces(boxes, landmarks, frames):
    faces = [[] for _ in frames]
    for row, points in zip(boxes, landmarks, strict=True):
        frame = frames[int(row[0])]
        limit = np.array([frame.shape[1], frame.shape[0]] * 2) - 1
        x1, y1, x2, y2 = np.clip(row[1:5], 0, limit)
        if x2 > x1 and y2 > y1:
            box = tuple(float(value) for value in (x1, y1, x2 - x1, y2 - y1))
            faces[int(row[0])].append(Face(box, float(row[5]), points.reshape(2, 5).T.astype(np.float32)))
    for found in faces:
        found.sort(key=lambda face: -face.score)
    return faces


def _load_networks():
    """ONNX bytes of the proposal, refinement and output network.

    Found without importing the package, whose first line imports TensorFlow.
    """
    import joblib
    import lz4.frame

    spec = importlib.util.find_spec("mtcnn")
    if spec is None:
        raise ValueError(
            "the face detector 'mtcnn' needs the mtcnn package, which is not installed: run pip install 'mtcnn>=1.0' "
            "or choose --detector haar."
        )
    folder = Path(spec.submodule_search_locations[0], "assets", "weights")
    # Unpacked first: lz4's own file object complains at its end under Python 3.13.
    packed = [(folder / name).read_bytes() for name in ("pnet.lz4", "rnet.lz4", "onet.lz4")]
    proposal, refine, output = (joblib.load(io.BytesIO(lz4.frame.decompress(data))) for data in packed)
    return _proposal_network(proposal), _refine_network(refine), _output_network(output)


class _Chain:
    """Collects the nodes of a network whose layers follow one another."""

    def __init__(self, name, size):
        self.input_shape = (1, 3, size, size)
        self.name, self.nodes, self.weights, self.tensor = name, [], {}, "image"

    def conv_prelu(self, name, kernel, bias, slope=None):
        self._add("Conv", f"{name}", {"w": kernel.transpose(3, 2, 0, 1), "b": bias}, kernel_shape=kernel.shape[:2])
        if slope is not None:
            self._add("PRelu", f"{name}_prelu", {"slope": slope.reshape(-1, 1, 1)})

    def pool(self, name, size, ceil):
        self._add("MaxPool", name, {}, kernel_shape=[size, size], strides=[2, 2], ceil_mode=ceil)

    def dense(self, name, kernel, bias):
        self._add("Gemm", name, {"w": kernel, "b": bias})

    def flatten(self):
        self._add("Flatten", "flatten", {}, axis=1)

    def prelu(self, name, slope):
        self._add("PRelu", name, {"slope": slope})

    def serialize(self):
        return serialize(self.name, self.nodes, self.weights, self.input_shape, self.tensor)

    def _add(self, operator, name, weights, **attributes):
        keys = [f"{name}_{key}" for key in weights]
        self.weights.update(zip(keys, weights.values(), strict=True))
        attributes = {key: value if isinstance(value, int) else list(value) for key, value in attributes.items()}
        self.nodes.append((operator, [self.tensor, *keys], name, attributes))
        self.tensor = name


def _scaled_first(kernel, bias):
    """The first convolution with (x - 127.5) / 128 folded in: it then takes pixels 0..255 as they are."""
    return kernel / 128, bias - kernel.sum(axis=(0, 1, 2)) * (127.5 / 128)


def _proposal_network(w):
    net = _Chain("pnet", 12)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 2, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.conv_prelu("conv3", *w[6:9])
    net.conv_prelu("conv4", np.concatenate([w[9], w[11]], axis=3), np.concatenate([w[10], w[12]]))
    return net.serialize()


def _refine_network(w):
    net = _Chain("rnet", 24)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 3, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.pool("pool2", 3, ceil=0)
    net.conv_prelu("conv3", *w[6:9])
    net.flatten()
    net.dense("fc4", _channels_first(w[9], 3, 64), w[10])
    net.prelu("fc4_prelu", w[11])
    net.dense("fc5", np.concatenate([w[12], w[14]], axis=1), np.concatenate([w[13], w[15]]))
    return net.serialize()


def _output_network(w):
    net = _Chain("onet", 48)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 3, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.pool("pool2", 3, ceil=0)
    net.conv_prelu("conv3", *w[6:9])
    net.pool("pool3", 2, ceil=1)
    net.conv_prelu("conv4", *w[9:12])
    net.flatten()
    net.dense("fc5", _channels_first(w[12], 3, 128), w[13])
    net.prelu("fc5_prelu", w[14])
    kernels, biases = w[15::2], w[16::2]  # box offsets, landmarks, logits
    net.dense("fc6", np.concatenate(kernels, axis=1), np.concatenate(biases))
    return net.serialize()


def _channels_first(kernel, side, channels):
    """Rows of a dense kernel that follow (column, row, channel), as the package flattens, put in the order
    (channel, row, column) in which OpenCV flattens."""
    return kernel.reshape(side, side, channels, -1).transpose(2, 1, 0, 3).reshape(kernel.shape)
