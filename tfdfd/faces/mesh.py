"""MediaPipe's 468-point face mesh on LiteRT, read from the mediapipe wheel without installation.

The network (`face_landmark.tflite`, Apache-2.0, https://github.com/google-ai-edge/mediapipe) takes an upright face,
192 x 192 RGB in [0, 1], in a square 1.5 times as wide as the face. It returns points in pixels of that square and the
logit of a face's presence. The first square covers the crop; the points of the first pass give the second square.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np

from tfdfd.text import optional_import

MEMBER = "mediapipe/modules/face_landmark/face_landmark.tflite"
SHA256 = "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814"
POINTS = 468
# Minimum confidence of a mesh. Above `_SURE`, no other first square is tried.
MIN_SCORE = 0.5
_SURE = 0.9
_SIDE = 192
# Outer corners of the eyes, left and right in the image.
_LEFT_EYE, _RIGHT_EYE = 33, 263
# Sides of the first squares relative to the crop's longer side; some crops are tighter than others.
_FIRST_SQUARES = (1.25, 1.0, 1.5)


class FaceMesh:
    """Detects the mesh of the face in a crop. Not thread-safe.

    Args:
        source: `mediapipe` wheel (0.10.14), or the `face_landmark.tflite` from it.

    Raises:
        ValueError: LiteRT is not installed, or `source` does not contain this network.
    """

    def __init__(self, source: str | os.PathLike):
        with optional_import("the face mesh runs on LiteRT", "export"):
            from ai_edge_litert.interpreter import Interpreter
        self._network = Interpreter(model_content=_read(Path(source)), num_threads=1)
        self._network.allocate_tensors()
        self._input = self._network.get_input_details()[0]["index"]
        outputs = {int(np.prod(output["shape"])): output["index"] for output in self._network.get_output_details()}
        self._points, self._score = outputs[3 * POINTS], outputs[1]

    def __call__(self, crop: np.ndarray) -> tuple[np.ndarray, float]:
        """The mesh of the face in a crop, float32 `(468, 2)` xy pixels, and the network's confidence in [0, 1].

        Args:
            crop: RGB uint8 `(height, width, 3)`, mostly filled by one face.

        Raises:
            ValueError: `crop` is not such an image, or the confidence is below `MIN_SCORE`.
        """
        crop = np.asarray(crop)
        if crop.ndim != 3 or crop.shape[2] != 3 or crop.dtype != np.uint8 or not crop.size:
            raise ValueError(f"crop is {crop.dtype} {crop.shape}; expected RGB uint8 (height, width, 3)")
        height, width = crop.shape[:2]
        points, score = np.empty((0, 2)), -1.0
        for share in _FIRST_SQUARES:
            center, side, angle = np.array([width, height]) / 2, share * max(width, height), 0.0
            for _ in range(2):
                candidate, confidence = self._run(crop, center, side, angle)
                if confidence > score:
                    points, score = candidate, confidence
                low, high = candidate.min(axis=0), candidate.max(axis=0)
                center, side = (low + high) / 2, 1.5 * (high - low).max()
                across = candidate[_RIGHT_EYE] - candidate[_LEFT_EYE]
                angle = np.arctan2(across[1], across[0])
                if confidence < 0.1 or side < 1:
                    break
            if score > _SURE:
                break
        if score < MIN_SCORE:
            raise ValueError(
                f"no face mesh in the crop of {width}x{height} pixels: the network's confidence is {score:.2f}, below "
                f"{MIN_SCORE}; expected a crop that one face fills"
            )
        return points.astype(np.float32), score

    def _run(self, crop: np.ndarray, center: np.ndarray, side: float, angle: float) -> tuple[np.ndarray, float]:
        """Points in pixels of the crop, and the confidence, from one pass on a rotated square."""
        cos, sin, scale = np.cos(angle), np.sin(angle), side / _SIDE
        rotation = scale * np.array([[cos, -sin], [sin, cos]])
        matrix = np.column_stack([rotation, center - rotation @ np.full(2, _SIDE / 2)]).astype(np.float32)
        square = cv2.warpAffine(
            crop,
            matrix,
            (_SIDE, _SIDE),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        self._network.set_tensor(self._input, square[None].astype(np.float32) / 255)
        self._network.invoke()
        points = self._network.get_tensor(self._points).reshape(POINTS, 3)[:, :2]
        logit = float(self._network.get_tensor(self._score).ravel()[0])
        return points @ matrix[:, :2].T + matrix[:, 2], float(1 / (1 + np.exp(-logit)))


def _read(source: Path) -> bytes:
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                data = wheel.read(MEMBER)
        else:
            data = source.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{source} cannot be read as the face mesh: {error}. Give the wheel that 'pip download --no-deps "
            "mediapipe==0.10.14' fetches, or the face_landmark.tflite in it."
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{source} is not the face mesh of mediapipe 0.10.14: its SHA-256 is {digest}; expected {SHA256}."
        )
    return data
