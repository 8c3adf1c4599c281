"""What `detect` answers: the contract's JSON fields as dataclasses (schema: `detect.schema.json` beside this file)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tfdfd.media.errors import STATUSES
from tfdfd.safe_text import printable_path

SCHEMA_VERSION = 1

VERDICTS = ("fake", "real", "inconclusive")


@dataclass
class FrameScore:
    """One face in one frame.

    Attributes:
        index: number of the frame in decoding order, from 0 (0 for an image).
        time_s: presentation time in seconds (0.0 for an image).
        box: `(x, y, width, height)` of the face in pixels of the upright frame; where a video's pixels are not
            square, of the frame as it is displayed.
        detector_score: the face detector's own confidence; None where it has none (Haar).
        fake_probability: in [0, 1], 1 = fake.
        crop: the RGB uint8 crop that was scored, `(height, width, 3)`; not part of the JSON.
        explained: pictures that explain the score, RGB uint8, by title; not part of the JSON.
    """

    index: int
    time_s: float
    box: tuple[int, int, int, int]
    detector_score: float | None
    fake_probability: float
    crop: np.ndarray | None = field(default=None, repr=False, compare=False)
    explained: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict:
        return {
            "index": self.index,
            "time_s": self.time_s,
            "box": list(self.box),
            "detector_score": self.detector_score,
            "fake_probability": self.fake_probability,
        }


@dataclass
class FaceTrack:
    """One person's face over the frames of a clip.

    Attributes:
        track: its number, from 0.
        fake_probability: mean over its frames.
        frames: in which it was found.
        decides: whether the verdict rests on it, too.
        left_out: why it does not decide: `small`, `doubtful` or `passing`, see `tfdfd.detect.verdict`.
    """

    track: int
    fake_probability: float
    frames: list[FrameScore]
    decides: bool = True
    left_out: str | None = None

    def to_dict(self) -> dict:
        answer = {"track": self.track, "fake_probability": self.fake_probability, "decides": self.decides}
        if self.left_out:
            answer["left_out"] = self.left_out
        return answer | {"frames": [frame.to_dict() for frame in self.frames]}


@dataclass
class Detection:
    """The one typed outcome of one input. Any status but `ok` has no probability and no verdict.

    `faces_judged` counts the faces that decide; `threshold`, `inconclusive_band` and `correction` are what the worst of
    them was held against, see `tfdfd.detect.verdict.Rule`.
    `frames_damaged` counts frames that were looked at and left out of the score, since the decoder had to make up
    parts of them.
    """

    path: str
    kind: str | None
    status: str
    fake_probability: float | None = None
    verdict: str | None = None
    message: str | None = None
    frames_requested: int | None = None
    frames_scored: int | None = None
    duration_s: float | None = None
    elapsed_s: float | None = None
    faces: list[FaceTrack] = field(default_factory=list)
    faces_judged: int | None = None
    threshold: float | None = None
    inconclusive_band: tuple[float, float] | None = None
    correction: str | None = None
    frames_damaged: int = 0

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; received {self.status!r}.")
        if (self.status == "ok") != (self.fake_probability is not None):
            raise ValueError(
                f"a probability is given for status 'ok' and for no other; received status {self.status!r} "
                f"with fake_probability {self.fake_probability!r}."
            )

    def drop_crops(self) -> None:
        """Forgets the pixels, some 200 kB a face, and keeps all else: for calls over many files."""
        for track in self.faces:
            for frame in track.frames:
                frame.crop = None
                frame.explained.clear()

    def to_dict(self) -> dict:
        """The contract's JSON object; `path` is made valid Unicode (undecodable bytes as `\\xNN`)."""
        answer = {
            "path": printable_path(self.path),
            "kind": self.kind,
            "status": self.status,
            "fake_probability": self.fake_probability,
            "verdict": self.verdict,
        }
        if self.status == "ok":
            answer |= {
                "frames_requested": self.frames_requested,
                "frames_scored": self.frames_scored,
                "frames_damaged": self.frames_damaged,
                "duration_s": self.duration_s,
                "elapsed_s": self.elapsed_s,
                "faces_judged": self.faces_judged,
                "threshold": self.threshold,
                "inconclusive_band": list(self.inconclusive_band) if self.inconclusive_band else None,
                "correction": self.correction,
                "faces": [track.to_dict() for track in self.faces],
            }
        if self.message:
            answer["message"] = self.message
        return answer
