"""The detectors by name. A new one is a file with a `FaceDetector` and a row here.

The factories import lazily: choosing Haar must not read MTCNN's weights, and listing the names must not import cv2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfdfd.near_matches import did_you_mean

if TYPE_CHECKING:
    from tfdfd.faces.face import FaceDetector

DETECTORS = ("mtcnn", "haar", "ssd")
# Instead of a detector: each image is a face crop already.
NO_DETECTOR = "none"


def check_detector(name: str) -> None:
    """Raises `ValueError` for a name that is neither a detector's nor `none`."""
    names = (*DETECTORS, NO_DETECTOR)
    if name not in names:
        hint = did_you_mean(name, names, 1, "it is none of them.")
        raise ValueError(f"unknown face detector {name!r}; expected one of {', '.join(names)}; {hint}")


def build_detector(name: str = "mtcnn", **options) -> FaceDetector | None:
    """The detector of that name, None for `none`; `options` are its constructor's (`ssd` needs `graph`)."""
    check_detector(name)
    if name == "mtcnn":
        from tfdfd.faces.mtcnn import MtcnnDetector

        return MtcnnDetector(**options)
    if name == "haar":
        from tfdfd.faces.haar import HaarDetector

        return HaarDetector(**options)
    if name == "ssd":
        if not options.get("graph"):
            raise ValueError(
                "the detector 'ssd' needs its network: pass --ssd GRAPH.pb (or .caffemodel), "
                "in Python detector_options={'graph': path}."
            )
        from tfdfd.faces.ssd import SsdDetector

        return SsdDetector(**options)
    return None
