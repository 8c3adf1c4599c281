"""Data preparation: the options of face sets and SRM sets with their defaults, and the rules that select faces.

Importing this module is light: parsers of the command line read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from tfdfd.faces import MARGIN, NO_DETECTOR, check_detector
from tfdfd.media import FRAMES, STATUSES, Limits
from tfdfd.srm_kernels import WHOLE

FORMATS = ("png", "jpg")
KEEP, DROP = "keep", "drop"
OWN, ORIGINAL = "own", "original"
# Document S2: "keep the best face always and others above score 0.45".
MIN_SCORE = 0.45
# Document S2: a video is flagged when more than 10 % of its frames have a second face.
MULTIPLE_SHARE = 0.1
MULTIPLE = "multiple_faces"
# Statuses of a video that could be read; every other one is a failure.
READ = ("ok", "no_face", MULTIPLE)
FAILED = tuple(status for status in STATUSES if status not in READ)
NEAR = 7  # copies of a picture have hashes that differ in at most this many of their 64 bits
SRM_STEPS = 127  # gray levels of a file on either side of no noise
LARGEST_RESIDUAL = 3 * 4 * 255  # KV's on the sum of three colors


@dataclass(frozen=True)
class FaceOptions:
    """Options that determine the bytes of a face set, besides its index and the videos.

    Attributes:
        frames: number of equally spaced frames per video.
        every_s: instead, the first frame of each interval of this many seconds.
        first: instead, the first frame.
        all: instead, every frame.
        detector: name of the face detector; `none` takes whole frames as faces.
        detector_options: its arguments.
        size: side of the crops in pixels.
        margin: side of a crop over the longer side of the face's box.
        format: `png` or `jpg`.
        quality: quality of JPEG, 1 to 100.
        min_score: the best face of a frame is always kept, others only above this score.
        max_faces: largest number of faces kept per frame; None: all.
        drop_frames_above: frames with more faces give no crop; None: no such rule.
        multiple_faces: `drop` leaves out the videos of which more than 10 % of the frames have a second face.
        boxes_from: `original` cuts a fake by the boxes of its original, where the index has it.
        mirror: one crop per video, named like it; needs `first` and `max_faces` 1.
        limits: resources that one video may use.

    Raises:
        ValueError: invalid values or combinations.
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

    def __post_init__(self) -> None:
        check_detector(self.detector)
        if (self.every_s is not None) + self.first + self.all > 1:
            raise ValueError("every_s, first and all exclude one another; give one of them.")
        choices = {"format": FORMATS, "multiple_faces": (KEEP, DROP), "boxes_from": (OWN, ORIGINAL)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; received {getattr(self, name)!r}.")
        bounds: dict[str, tuple[float, float]] = {
            "frames": (1, 1024),
            "size": (8, 2048),
            "margin": (1, 10),
            "quality": (1, 100),
            "min_score": (0, 1),
        }
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
            raise ValueError("a mirrored tree has one crop per video; add --first --max-faces 1.")

    def to_dict(self) -> dict:
        """All options as JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return values | {"limits": self.limits.to_dict()}

    def kept(self, scores: Sequence[float | None]) -> list[int]:
        """`kept_faces` with these options."""
        return kept_faces(scores, self.min_score, self.max_faces, self.drop_frames_above)


@dataclass(frozen=True)
class SrmOptions:
    """Options of an SRM set: the residuals and their range.

    Attributes:
        kernels: all three, on the sum of the colors, one per channel of the noise, as in Zhou et al. and the networks
            `srm_*` (`SRM(combine="sum")`); or one, on each color, as in document S4 (`combine="each"`).
        truncate: T in gray levels, above 0, at most 3,060; larger residuals are clipped.

    Raises:
        ValueError: other values.
    """

    kernels: tuple[str, ...] = tuple(WHOLE)
    truncate: float = float(SRM_STEPS)

    def __post_init__(self) -> None:
        unknown = [name for name in self.kernels if name not in WHOLE]
        if unknown or len(self.kernels) not in (1, 3) or len(set(self.kernels)) < len(self.kernels):
            raise ValueError(
                f"kernels must be one of {', '.join(WHOLE)}, or all three, so that the noise has three channels; "
                f"received {' '.join(self.kernels) or 'none'}."
            )
        if not 0 < self.truncate <= LARGEST_RESIDUAL:
            raise ValueError(
                f"truncate must be above 0 and at most {LARGEST_RESIDUAL:,} gray levels; received {self.truncate!r}."
            )

    @property
    def combine(self) -> str:
        """The SRM layer's argument of that name."""
        return "each" if len(self.kernels) == 1 else "sum"


def kept_faces(
    scores: Sequence[float | None],
    min_score: float = MIN_SCORE,
    max_faces: int | None = None,
    drop_above: int | None = None,
) -> list[int]:
    """Selects the faces of one frame that become crops, as positions in `scores`.

    Args:
        scores: scores of the frame's faces, strongest first; None where the detector gives none (such faces pass).
        min_score: the best face is always kept, others only with a score above this one.
        max_faces: largest number of them; None: all.
        drop_above: a frame in which more faces pass `min_score` gives none (document S3 removes frames with many
            faces); None: no frame is left out.
    """
    kept = [i for i, score in enumerate(scores) if i == 0 or score is None or score > min_score]
    if drop_above is not None and len(kept) > drop_above:
        return []
    return kept[:max_faces]


def has_multiple_faces(counts: Sequence[int], share: float = MULTIPLE_SHARE) -> bool:
    """Whether more than `share` of a video's frames have a second face; `counts` has the faces of each frame."""
    return sum(count > 1 for count in counts) > share * len(counts)
