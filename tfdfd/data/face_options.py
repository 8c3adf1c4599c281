"""How a face set is cut: which frames, which faces, what kind of crops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from tfdfd.data.faces_rule import MIN_SCORE
from tfdfd.faces import MARGIN, NO_DETECTOR, check_detector
from tfdfd.media import FRAMES, Limits

FORMATS = ("png", "jpg")
KEEP, DROP = "keep", "drop"
OWN, ORIGINAL = "own", "original"


@dataclass(frozen=True)
class FaceOptions:
    """What decides the bytes of a face set, besides its index and the videos.

    Attributes:
        frames: so many equally spaced frames of a video.
        every_s: instead, of each stretch of so many seconds the first frame.
        first: instead, the first frame.
        all: instead, every frame.
        detector: name of the face detector; `none` takes whole frames as faces.
        detector_options: its arguments.
        size: side of the crops in pixels.
        margin: how much larger than the face's box a crop is.
        format: `png` or `jpg`.
        quality: of JPEG, 1 to 100.
        min_score: the best face of a frame is always kept, others only above this score.
        max_faces: so many faces of a frame at most; None: all.
        drop_frames_above: frames with more faces than so many give no crop; None: no such rule.
        multiple_faces: `drop` leaves out the videos of which more than 10 % of the frames have a second face.
        boxes_from: `original` cuts a fake by the boxes of its original, where the index has it.
        mirror: one crop a video, named like it; needs `first` and `max_faces` 1.
        limits: what one video may cost.
    """

    frames: int = FRAMES
    every_s: float | None = None
    first: bool = False
    all: bool = False
    detector: str = "mtcnn"
    detector_options: dict = field(default_factory=dict)
    size: int = 256
    margin: float = MARGIN
    format: str = "png"
    quality: int = 95
    min_score: float = MIN_SCORE
    max_faces: int | None = None
    drop_frames_above: int | None = None
    multiple_faces: str = KEEP
    boxes_from: str = OWN
    mirror: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self):
        check_detector(self.detector)
        if (self.every_s is not None) + self.first + self.all > 1:
            raise ValueError("every_s, first and all exclude one another; give one of them.")
        choices = {"format": FORMATS, "multiple_faces": (KEEP, DROP), "boxes_from": (OWN, ORIGINAL)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; received {getattr(self, name)!r}.")
        bounds = {"frames": (1, 1024), "size": (8, 2048), "margin": (1, 10), "quality": (1, 100), "min_score": (0, 1)}
        bounds |= {"max_faces": (1, math.inf), "drop_frames_above": (1, math.inf)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}; received {value!r}.")
        if self.every_s is not None and not 0 < self.every_s < math.inf:
            raise ValueError(f"every_s must be greater than 0; received {self.every_s!r}.")
        if self.detector == NO_DETECTOR and self.boxes_from == ORIGINAL:
            raise ValueError(
                "boxes_from 'original' needs a face detector; with the detector 'none' there are no boxes."
            )
        if self.mirror and not (self.first and self.max_faces == 1):
            raise ValueError("a mirrored tree has one crop a video; add --first --max-faces 1.")

    def to_dict(self) -> dict:
        """All of them as JSON takes them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"limits": self.limits.to_dict()}
