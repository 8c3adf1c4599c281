"""Face detectors on OpenCV (MTCNN, a Haar cascade, single-shot detectors), and the search on copies of bounded size.

The search bounds the size, so that its cost does not grow with the resolution.

MTCNN is Zhang et al., IEEE SPL 2016, arXiv:1604.02878. Its three networks in `networks/` are those of the `mtcnn`
package (MIT license), converted to ONNX by `tools/mtcnn_onnx.py`. The package runs them on TensorFlow, one call per
stage, frame and scale; here each call of the second and third takes the boxes of a batch of frames, and the decoding
process needs no TensorFlow.
Thresholds, pyramid and suppression are the package's defaults. `tests/test_mtcnn.py` compares the two, and `make bench`
measures them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from tfdfd.faces import Face, FaceDetector

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
        """Returns four offsets and two logits `(batch, 6, rows, columns)` of the first network.

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


HAAR_CASCADE = "haarcascade_frontalface_alt.xml"


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
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades, HAAR_CASCADE)))  # type: ignore[attr-defined]

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


SSD_INPUT_SIZE = (300, 300)
SSD_THRESHOLD = 0.5


class SsdPreset(NamedTuple):
    """Input of a graph: `(level - mean) * scale` of each channel, in RGB or BGR."""

    mean: tuple[float, float, float]
    scale: float
    rgb: bool


SSD_PRESETS = {
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
        preset: one of `SSD_PRESETS`.
        mean: mean of the channels in the graph's order, in place of the preset's; one number counts for all three.
        scale: factor after the mean, above 0, in place of the preset's.
        keep_best: accept the best box of a frame whatever its score, as in S2, whose videos have a face in every frame.

    Raises:
        ValueError: a file is missing, has another suffix, or cannot be read by OpenCV; or a setting is invalid.
    """

    def __init__(
        self,
        graph: str | Path,
        config: str | Path | None = None,
        threshold: float = SSD_THRESHOLD,
        preset: str = "opencv",
        mean: Sequence[float] | float | None = None,
        scale: float | None = None,
        keep_best: bool = False,
    ):
        if preset not in SSD_PRESETS:
            raise ValueError(f"an SSD preset is one of {', '.join(SSD_PRESETS)}; received {preset!r}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold of an SSD must be in [0, 1]; received {threshold!r}.")
        if scale is not None and not scale > 0:
            raise ValueError(f"the scale of an SSD must be above 0; received {scale!r}.")
        chosen = SSD_PRESETS[preset]
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
                f"{graph_file} with {config_file} is not a graph that OpenCV reads: {error.err or error}."
            ) from error
        self.threshold = threshold

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        """Faces of each frame; see `tfdfd.faces.FaceDetector`."""
        return [self._detect_one(frame) for frame in frames]

    def _detect_one(self, frame: np.ndarray) -> list[Face]:
        # One frame per call: the graph of OpenCV's own detector has a reshape with a fixed batch.
        blob = cv2.dnn.blobFromImage(frame, self._scale, SSD_INPUT_SIZE, self._mean, swapRB=not self._rgb)
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


# Longest side in pixels of the copy that the detector sees. An image gets more detail than one of many video frames.
VIDEO_SIDE, IMAGE_SIDE = 640, 1280
# An image whose sides have at least this ratio is searched in parts along its long side: a copy of a whole scrolled
# screenshot would keep no detail.
ELONGATED = 3
# An image whose copy is scaled below the first value (above about 30 megapixels) is searched again in parts, unless
# the copy shows a face at least as wide as the second value, in pixels.
SECOND_LOOK, CLEAR_FACE = 0.2, 32
# Scale of the copies in that second search. It finds faces from 40 px; smaller ones are too small to be scored.
PART_SCALE = 0.5
# Total pixels of all parts, so that an image of any size takes seconds.
MOST_PIXELS = 32_000_000
# Faces from different parts are the same if their boxes share this fraction of the smaller one.
SAME = 0.5


def detect_bounded(detector: FaceDetector, frames: list[np.ndarray], max_side: int) -> list[list[Face]]:
    """Faces of each RGB uint8 frame, in its own pixels, found on copies whose sides are at most `max_side` pixels."""
    scales = [min(1.0, max_side / max(frame.shape[:2])) for frame in frames]
    copies = [_shrunk(frame, scale) for frame, scale in zip(frames, scales, strict=True)]
    detected = detector.detect(copies, scales)
    return [[face.scaled(1 / scale) for face in faces] for faces, scale in zip(detected, scales, strict=True)]


def detect_still(detector: FaceDetector, image: np.ndarray, max_side: int) -> tuple[list[Face], float]:
    """Faces of an RGB uint8 image, in its own pixels and in descending order of score, and the largest scale searched.

    An image of usual proportions is searched as by `detect_bounded`; a large one again in parts if that finds no clear
    face. An elongated image is searched in parts from the start. No side of a copy exceeds `max_side` pixels.
    """
    short, long = sorted(image.shape[:2])
    scale = whole = min(1.0, max_side / long)
    elongated = long >= ELONGATED * short and whole < 1
    if elongated:
        # Parts twice as long as wide that overlap by half: one of them contains a face as wide as the image.
        scale = max(whole, _affordable(min(1.0, max_side / (2 * short)), image, overlapping=2))
        parts = _detect_parts(detector, image, max_side, scale, min(short, max_side / scale / 2))
    else:
        parts = [[(face, False) for face in detect_bounded(detector, [image], max_side)[0]]]
    finer = _affordable(PART_SCALE, image, overlapping=1.5)
    clear = any(face.box[2] * scale >= CLEAR_FACE for part in parts for face, _ in part)
    if scale < finer and (elongated or (whole < SECOND_LOOK and not clear)):
        # A face that all of these parts cut is wider than a quarter of a part; the first search has found it.
        parts += _detect_parts(detector, image, max_side, finer, max_side / finer / 4)
        scale = finer
    return (_merge(parts) if len(parts) > 1 else [face for face, _ in parts[0]]), scale


def _affordable(scale: float, image: np.ndarray, overlapping: float) -> float:
    return min(scale, math.sqrt(MOST_PIXELS / (overlapping * image.shape[0] * image.shape[1])))


def _detect_parts(
    detector: FaceDetector, image: np.ndarray, max_side: int, scale: float, overlap: float
) -> list[list[tuple[Face, bool]]]:
    """For each part of the image, its faces, and whether a border inside the image cuts each."""
    height, width = image.shape[:2]
    side = max_side / scale
    parts = []
    for left, right in _spans(width, side, overlap):
        for top, bottom in _spans(height, side, overlap):
            part = image[top:bottom, left:right]
            faces = detector.detect([_shrunk(part, scale)], [scale])[0]
            parts.append([_moved(face.scaled(1 / scale), (left, top, right, bottom), width, height) for face in faces])
    return parts


def _spans(length: int, side: float, overlap: float) -> Iterator[tuple[int, int]]:
    """Equal intervals of at most `side` that cover `length`; successive ones share at least `overlap`."""
    side = min(int(side), length)
    count = 1 if side >= length else 1 + math.ceil((length - side) / max(1, side - overlap))
    for number in range(count):
        start = 0 if count == 1 else round(number * (length - side) / (count - 1))
        yield start, start + side


def _moved(face: Face, part: tuple[int, int, int, int], width: int, height: int) -> tuple[Face, bool]:
    left, top, right, bottom = part
    x, y, w, h = face.box
    near = 0.02 * max(w, h)
    cut = (x < near and left > 0) or (y < near and top > 0)
    cut = cut or (x + w > right - left - near and right < width) or (y + h > bottom - top - near and bottom < height)
    landmarks = None if face.landmarks is None else face.landmarks + np.float32([left, top])  # type: ignore[arg-type,operator]
    return Face((x + left, y + top, w, h), face.score, landmarks), cut


def _merge(parts: Iterable[list[tuple[Face, bool]]]) -> list[Face]:
    """The faces of all parts without duplicates: whole faces take precedence over cut ones, then higher scores."""
    ranked = [(cut, *_rank(face), number, face) for number, part in enumerate(parts) for face, cut in part]
    kept: list[tuple[int, Face]] = []
    for *_, number, face in sorted(ranked, key=lambda item: item[:4]):
        # Faces of one part are distinct: the detector has merged duplicates.
        if all(number == other or _shared(face.box, kept_face.box) < SAME for other, kept_face in kept):
            kept.append((number, face))
    return sorted((face for _, face in kept), key=_rank)


def _rank(face: Face) -> tuple[float, float]:
    """Sort key for descending scores; descending sizes if the detector gives no score."""
    return -(face.score or 0), -face.box[2]


def _shared(box: Box, other: Box) -> float:
    """Area of the intersection of two boxes as a fraction of the smaller."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / max(min(box[2] * box[3], other[2] * other[3]), 1e-9)


def _shrunk(frame: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return frame
    height, width = frame.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
