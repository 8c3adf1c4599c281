"""Detection on a bounded copy of each frame, so that its cost does not grow with the camera."""

from __future__ import annotations

import cv2
import numpy as np

from tfdfd.faces.face import Face, FaceDetector

# Longest side in pixels of the copy that the detector sees. A still is looked at more closely than one frame of many.
VIDEO_SIDE, IMAGE_SIDE = 640, 1280


def detect_bounded(detector: FaceDetector, frames: list[np.ndarray], max_side: int) -> list[list[Face]]:
    """Faces of each RGB uint8 frame in its own pixels, looked for on copies of at most `max_side` pixels."""
    scales = [min(1.0, max_side / max(frame.shape[:2])) for frame in frames]
    copies = [_shrunk(frame, scale) for frame, scale in zip(frames, scales, strict=True)]
    found = detector.detect(copies, scales)
    return [[face.scaled(1 / scale) for face in faces] for faces, scale in zip(found, scales, strict=True)]


def _shrunk(frame, scale):
    if scale == 1:
        return frame
    height, width = frame.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
