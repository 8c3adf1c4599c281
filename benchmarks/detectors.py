"""Recall of the face detectors on annotated photographs, compared with their own libraries on the whole frame.

    python -m benchmarks.detectors ../shared/data/detection/dlib_faces \
        --ssd ../shared/data/detection/opencv_ssd/opencv_face_detector_uint8.pb

The folder holds photographs and dlib's XML files (`testing.xml`, `training.xml`). A box is found by a detection with an
intersection over union of at least 0.4; each detection matches one box. The library's MTCNN needs TensorFlow.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import print_table
from tfdfd.faces import build_detector
from tfdfd.faces.detectors import HAAR_CASCADE, IMAGE_SIDE, detect_bounded

MIN_IOU = 0.4
Boxes = list[tuple[float, float, float, float]]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ssd", type=Path, required=True, help="SSD graph, with its description beside it")
    arguments = parser.parse_args(argv)
    photographs = read_annotations(arguments.folder)
    faces = sum(len(boxes) for _, boxes in photographs)
    print(f"{len(photographs)} photographs, {faces} boxes, IoU >= {MIN_IOU}\n")
    columns = ("detector", "tfdfd finds", "wrong", "ms a photograph", "its library finds", "wrong", "ms a photograph")
    detectors = {
        "mtcnn": (ours("mtcnn"), library_mtcnn()),
        "ssd": (ours("ssd", graph=arguments.ssd), library_ssd(arguments.ssd)),
        "haar": (ours("haar"), library_haar()),
    }
    rows = []
    for name, finders in detectors.items():
        cells = [name]
        for find in finders:
            start = time.perf_counter()
            found, wrong = evaluate(find, photographs)
            cells += [found, wrong, f"{(time.perf_counter() - start) / len(photographs) * 1000:.0f}"]
        rows.append(cells)
    print_table(columns, rows)
    return 0


def annotated_boxes(folder: Path) -> dict[Path, Boxes]:
    """The annotated boxes of each photograph named in dlib's two XML files."""
    boxes = {}
    for name in ("testing.xml", "training.xml"):
        for image in ElementTree.parse(folder / name).getroot().iter("image"):  # noqa: S314
            boxes[folder / image.get("file")] = [
                tuple(int(box.get(key)) for key in ("left", "top", "width", "height")) for box in image.iter("box")
            ]
    return boxes


def read_annotations(folder: Path) -> list[tuple[np.ndarray, Boxes]]:
    """`(RGB image, annotated boxes)` of each photograph."""
    return [(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), boxes) for file, boxes in annotated_boxes(folder).items()]


def evaluate(find: Callable[[np.ndarray], Boxes], photographs) -> tuple[int, int]:
    """Numbers of annotated boxes found, and of detections without a box."""
    found = wrong = 0
    for image, annotated in photographs:
        free = list(find(image))
        for box in annotated:
            best = max(free, key=lambda other: iou(box, other), default=None)
            if best is not None and iou(box, best) >= MIN_IOU:
                free.remove(best)
                found += 1
        wrong += len(free)
    return found, wrong


def iou(a, b) -> float:
    """Intersection over union of two boxes `(x, y, width, height)`."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def ours(name: str, **options) -> Callable[[np.ndarray], Boxes]:
    """A detector of `tfdfd.faces` as used by `tfdfd detect` on an image."""
    detector = build_detector(name, **options)
    return lambda image: [face.box for face in detect_bounded(detector, [image], IMAGE_SIDE)[0]]


def library_mtcnn() -> Callable[[np.ndarray], Boxes]:
    """The mtcnn package itself."""
    from mtcnn import MTCNN

    detector = MTCNN()
    return lambda image: [tuple(face["box"]) for face in detector.detect_faces(image)]


def library_haar() -> Callable[[np.ndarray], Boxes]:
    """OpenCV's cascade itself, scale 1.1, 5 neighbors, no minimum size."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades, HAAR_CASCADE)))

    def find(image):
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return [tuple(map(float, box)) for box in cascade.detectMultiScale(gray, 1.1, 5)]

    return find


def library_ssd(graph: Path) -> Callable[[np.ndarray], Boxes]:
    """OpenCV's network as in its sample: the whole frame at 300 x 300, mean 104, 177, 123, score above 0.5."""
    network = cv2.dnn.readNet(str(graph), str(next(graph.parent.glob("*.pbtxt"))))

    def find(image):
        height, width = image.shape[:2]
        network.setInput(cv2.dnn.blobFromImage(image[..., ::-1], 1.0, (300, 300), (104, 177, 123)))
        rows = network.forward()[0, 0]
        corners = rows[rows[:, 2] > 0.5, 3:7] * [width, height, width, height]
        return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners.tolist()]

    return find


if __name__ == "__main__":
    raise SystemExit(main())
