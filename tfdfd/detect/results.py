"""Results of detection as dataclasses, and their JSON (schema: `detect.schema.json` beside this file)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from tfdfd.media import STATUSES
from tfdfd.text import printable_path

SCHEMA_VERSION = 1

VERDICTS = ("fake", "real", "inconclusive")


@dataclass
class FrameScore:
    """One face in one frame.

    Attributes:
        index: frame number in presentation order, from 0 (0 for an image).
        time_s: presentation time in seconds (0.0 for an image).
        box: `(x, y, width, height)` of the face in pixels of the upright frame; for a video whose pixels are not
            square, of the frame as displayed.
        detector_score: the face detector's confidence; None if it has none (Haar).
        fake_probability: in [0, 1], 1 = fake; of a model of clips, that of the span of frames.
        crop: the RGB uint8 crop that was scored, `(height, width, 3)`; not part of the JSON.
        explained: heat maps that explain the score, RGB uint8, by title; not part of the JSON.
        measures: measures of the face in this frame, see `tfdfd.faces.crop`; not part of the JSON.
    """

    index: int
    time_s: float
    box: tuple[int, int, int, int]
    detector_score: float | None
    fake_probability: float
    crop: np.ndarray | None = field(default=None, repr=False, compare=False)
    explained: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    measures: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
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
        track: track number, from 0.
        fake_probability: mean over its frames.
        frames: its frames, in ascending order.
        decides: whether it contributes to the verdict.
        left_out: the reason it does not: `small`, `doubtful` or `passing`, see `tfdfd.detect.verdict`.
        measures: medians over its frames, by name of `tfdfd.faces.crop.MEASURES`; empty for a model without a
            tested range.
    """

    track: int
    fake_probability: float
    frames: list[FrameScore]
    decides: bool = True
    left_out: str | None = None
    measures: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "track": self.track,
            "fake_probability": self.fake_probability,
            "decides": self.decides,
        }
        if self.left_out:
            answer["left_out"] = self.left_out
        if self.measures:
            answer["measures"] = self.measures
        return answer | {"frames": [frame.to_dict() for frame in self.frames]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FaceTrack:
        frames = [FrameScore(**frame | {"box": tuple(frame["box"])}) for frame in values["frames"]]
        measures = values.get("measures", {})
        return cls(
            values["track"], values["fake_probability"], frames, values["decides"], values.get("left_out"), measures
        )


@dataclass
class Detection:
    """The outcome for one input. Any status but `ok` comes without probability and verdict.

    Attributes:
        path: path of the input, or `<array>`, `<bytes>` or `<image>`.
        kind: `image`, `video`, `folder`, or None if unknown.
        status: one of `tfdfd.media.STATUSES`.
        fake_probability: P(fake) of the highest-scoring deciding face, in [0, 1].
        verdict: one of `VERDICTS`.
        message: reason for a status other than `ok`, or notes on the score.
        frames_requested: number of frames to sample (1 for an image).
        frames_scored: number of frames with a deciding face.
        duration_s: duration of a video in seconds, if known.
        elapsed_s: wall clock in seconds.
        faces: all faces, as tracks.
        faces_judged: number of faces that decide.
        threshold, inconclusive_band, correction: the rule that gave the verdict, see `tfdfd.detect.verdict.Rule`.
        frames_damaged: number of sampled frames that were left out because the decoder had to conceal parts of them.
        likelihood_ratio: what the score means, see `tfdfd.detect.evidence.likelihood_ratio`.
        tested_range: whether the model was tested on such faces, see `tfdfd.detect.evidence.compare_with_tested`.
        provenance: what the file states about its origin, see `tfdfd.media.provenance.checked`; None if not read.
        views: reduced copies of whole frames, RGB uint8, by frame index; not part of the JSON.
        frame_size: `(height, width)` in pixels of the frames to which boxes refer; None without views.
        pictures: the pictures for a report, where they were encoded before the views were dropped; not part of the
            JSON.

    Raises:
        ValueError: the status is unknown, or does not agree with the probability.
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
    likelihood_ratio: dict[str, Any] | None = None
    tested_range: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None
    views: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    frame_size: tuple[int, int] | None = field(default=None, repr=False, compare=False)
    pictures: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}; received {self.status!r}.")
        if (self.status == "ok") != (self.fake_probability is not None):
            raise ValueError(
                f"a probability is given for status 'ok' and for no other; received status {self.status!r} "
                f"with fake_probability {self.fake_probability!r}."
            )

    def drop_crops(self) -> None:
        """Drops the pixels, about 200 kB per face and frame, and keeps the rest; for calls over many files."""
        self.views.clear()
        for track in self.faces:
            for frame in track.frames:
                frame.crop = None
                frame.explained.clear()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; undecodable bytes of `path` become `\\xNN`."""
        answer: dict[str, Any] = {
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
                "likelihood_ratio": self.likelihood_ratio,
                "tested_range": self.tested_range,
                "faces": [track.to_dict() for track in self.faces],
            }
        if self.provenance:
            answer["provenance"] = self.provenance
        if self.message:
            answer["message"] = self.message
        return answer

    @classmethod
    def from_dict(cls, result: dict[str, Any]) -> Detection:
        """The detection of a result that `to_dict` made; other keys of it, such as `sha256`, are ignored.

        Raises:
            KeyError, TypeError, ValueError: it is not such a result.
        """
        values = {each.name: result[each.name] for each in fields(cls) if each.name in result}
        values["faces"] = [FaceTrack.from_dict(face) for face in result.get("faces", ())]
        return cls(**values)
