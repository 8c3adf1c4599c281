"""What a face detector finds, and the one interface of all detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass
class Face:
    """One face in one frame.

    Attributes:
        box: `(x, y, width, height)` in pixels of the frame; may reach over its border.
        score: the detector's confidence; in [0, 1] for MTCNN and SSD, None for Haar, which has none.
        landmarks: `(5, 2)` float32 x, y pixels: left eye, right eye (as seen), nose, left and right corner of
            the mouth; None where the detector gives none.
    """

    box: tuple[float, float, float, float]
    score: float | None = None
    landmarks: np.ndarray | None = None

    def scaled(self, factor: float) -> Face:
        """The same face in a frame `factor` times as large."""
        landmarks = None if self.landmarks is None else self.landmarks * np.float32(factor)
        return Face(tuple(value * factor for value in self.box), self.score, landmarks)


class FaceDetector(Protocol):
    """Finds faces in a batch of frames."""

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        """Faces of each frame, strongest first.

        Args:
            frames: RGB uint8 arrays `(height, width, 3)`; sizes may differ.
            scales: size of each frame relative to the original it was reduced from, in (0, 1]; for limits
                that are stated in pixels of the original.
        """
        ...
