"""Haar cascade `haarcascade_frontalface_alt.xml` (Viola and Jones, CVPR 2001), which OpenCV carries.

Scale factor 1.1 and 5 neighbours as in the Celeb-DF study (document S4). Its minimum of 128 px, stated for
close-ups, finds none of the 43 faces of ordinary photographs (README, "Face detectors"), so the minimum is an
argument and starts at 20 px, MTCNN's.
"""

from pathlib import Path

import cv2
import numpy as np

from tfdfd.faces.face import Face

CASCADE = "haarcascade_frontalface_alt.xml"


class HaarDetector:
    """Boxes only: the cascade gives neither confidence nor landmarks.

    Args:
        min_size: smallest face in pixels of the original frame (the document uses 128).
        scale_factor: step between searched sizes, above 1.
        min_neighbours: how many overlapping hits make a face.
    """

    def __init__(self, min_size: int = 20, scale_factor: float = 1.1, min_neighbours: int = 5):
        if not hasattr(cv2, "CascadeClassifier"):
            raise ValueError(
                f"OpenCV {cv2.__version__} has no cascade classifier (removed in 5.0): "
                "pip install 'opencv-python>=4.11,<5'."
            )
        self.min_size, self.scale_factor, self.min_neighbours = min_size, scale_factor, min_neighbours
        self._cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades, CASCADE)))

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        return [self._detect_one(frame, scale) for frame, scale in zip(frames, scales, strict=True)]

    def _detect_one(self, frame, scale):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        smallest = max(1, round(self.min_size * scale))
        boxes = self._cascade.detectMultiScale(
            grey, self.scale_factor, self.min_neighbours, minSize=(smallest, smallest)
        )
        faces = [Face(tuple(float(value) for value in box)) for box in boxes]
        return sorted(faces, key=lambda face: -face.box[2])
