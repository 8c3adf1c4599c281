"""Face detectors by name, their common interface, and the faces they return. Imports no library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tfdfd.text import did_you_mean

if TYPE_CHECKING:
    import numpy as np

# A new detector is a class with the interface `FaceDetector`, a name here and a branch in `build_detector`.
DETECTORS = ("mtcnn", "haar", "ssd")
# In place of a detector: each image is a face crop already.
NO_DETECTOR = "none"
# Default side of a crop relative to the long side of the face's box (document S2).
MARGIN = 1.3


@dataclass
class Face:
    """One face in one frame.

    Attributes:
        box: `(x, y, width, height)` in pixels of the frame; may extend beyond its border.
        score: the detector's confidence; in [0, 1] for MTCNN and SSD, None for Haar, which has none.
        landmarks: `(5, 2)` float32 x, y pixels: left eye and right eye as seen, nose, left and right corner of the
            mouth; None if the detector finds none.
    """

    box: tuple[float, float, float, float]
    score: float | None = None
    landmarks: np.ndarray | None = None

    def scaled(self, factor: float) -> Face:
        """The same face in a frame `factor` times as large."""
        landmarks = None if self.landmarks is None else self.landmarks * self.landmarks.dtype.type(factor)
        x, y, width, height = self.box
        return Face((x * factor, y * factor, width * factor, height * factor), self.score, landmarks)


class FaceDetector(Protocol):
    """Detects faces in a batch of frames."""

    def detect(self, frames: list[np.ndarray], scales: list[float]) -> list[list[Face]]:
        """Faces of each frame, in descending order of score.

        Args:
            frames: RGB uint8 arrays `(height, width, 3)`; sizes may differ.
            scales: size of each frame relative to the original it was reduced from, in (0, 1]; for limits that are
                stated in pixels of the original.
        """
        ...


def check_detector(name: str) -> None:
    """Raises `ValueError` unless `name` is a detector's or `none`."""
    names = (*DETECTORS, NO_DETECTOR)
    if name not in names:
        hint = did_you_mean(name, names, 1, "it is none of them.")
        raise ValueError(f"unknown face detector {name!r}; expected one of {', '.join(names)}; {hint}")


def build_detector(name: str = "mtcnn", **options: Any) -> FaceDetector | None:
    """Builds a detector; imports its libraries and reads its networks only now.

    Args:
        name: one of `DETECTORS`, or `none`, which gives None.
        **options: keyword arguments of the detector's class; `ssd` needs `graph`.

    Raises:
        ValueError: the name is unknown, or a network is missing or unreadable.
    """
    check_detector(name)
    if name == "mtcnn":
        from tfdfd.faces.detectors import MtcnnDetector

        return MtcnnDetector(**options)
    if name == "haar":
        from tfdfd.faces.detectors import HaarDetector

        return HaarDetector(**options)
    if name == "ssd":
        if not options.get("graph"):
            raise ValueError(
                "the detector 'ssd' needs its network: pass --ssd GRAPH.pb (or .caffemodel), "
                "in Python detector_options={'graph': path}."
            )
        from tfdfd.faces.detectors import SsdDetector

        return SsdDetector(**options)
    return None
