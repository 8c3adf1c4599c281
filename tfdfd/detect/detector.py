"""The main job: files in, verdicts out."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator

import numpy as np

from tfdfd.detect.results import SCHEMA_VERSION, Detection, FaceTrack, FrameScore
from tfdfd.detect.verdict import clip_score, counting_tracks, track_score, verdict_of
from tfdfd.extract.faces_of import Extraction, Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.faces.detectors import check_detector
from tfdfd.faces.tracks import link_faces
from tfdfd.media.inputs import Inputs, list_inputs
from tfdfd.media.limits import Limits
from tfdfd.media.sampling import FRAMES
from tfdfd.models import spec
from tfdfd.remote.scorer import RemoteScorer, Server
from tfdfd.remote.served import check_served, find_served
from tfdfd.runtime.names import AUTO, check_runtime
from tfdfd.weights.records import DEFAULT_MODEL
from tfdfd.weights.store import locate

# The same bytes and model must print the same JSON; the last bits of float32 are not worth that promise.
DIGITS = 6


class Detector:
    """Tells deepfaked faces from genuine ones in local images and videos.

    Args:
        model: handle (`tfdfd/meso4.df`) or weights file; its record gives network, polarity and threshold.
        detector: `mtcnn`, `haar` or `ssd`; `none` takes each image as a face crop already.
        frames: how many equally spaced frames of a video are scored.
        threshold: P(fake) from which the verdict is "fake"; None: the record's, with its inconclusive band.
        limits: what one input may cost.
        detector_options: arguments of the face detector, such as `{"graph": "face.pb"}` for `ssd`.
        workers: decoding processes; None: as many as help.
        runtime: what runs the network: `tensorflow`, `openvino` (extra `edge`) or `auto`, the fastest installed.
            Their scores agree to 1e-4; the same runtime gives the same scores each time.
        server: a model server that scores the crops in place of this machine; `model` then is as
            `tfdfd.remote.served.find_served` takes it, and scoring may raise `tfdfd.remote.scorer.RemoteError`.

    Attributes:
        runtime_note: why `auto` did not use the fastest runtime that is installed, or why nothing proves that the
            server has these weights, known after the first score; else None. It is a `RuntimeWarning`, too.

    Raises:
        ValueError: an argument is of no use, or the weights are unknown, absent or altered.

    Decoding processes live until `close` (or the end of a `with` block, or of the object).
    """

    def __init__(
        self,
        model: str | os.PathLike = DEFAULT_MODEL,
        detector: str = "mtcnn",
        *,
        frames: int = FRAMES,
        threshold: float | None = None,
        limits: Limits | None = None,
        detector_options: dict | None = None,
        workers: int | None = None,
        runtime: str = AUTO,
        server: Server | None = None,
    ):
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"the threshold must be between 0 and 1; received {threshold!r}.")
        check_detector(detector)
        check_runtime(runtime)
        self._detector = detector
        if server is None:
            self.record, self._weights = locate(model)
        elif runtime != AUTO:
            raise ValueError(f"the runtime is the server's choice; received {runtime!r} with a server.")
        else:
            self._served = find_served(model)
            self.record = self._served.record
        self.threshold = self.record.threshold if threshold is None else threshold
        # A threshold of one's own leaves nothing open.
        self.inconclusive_band = self.record.inconclusive_band if threshold is None else None
        self._extractor = FaceExtractor(detector, detector_options, limits, workers)
        self._runtime, self._server = runtime, server
        self.runtime_note: str | None = None
        self._loaded = None
        self._request = Request(frames=frames, size=(self.record.input_shape or spec(self.record.model).input_shape)[0])
        weakref.finalize(self, self._extractor.close)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Ends the decoding processes, and the connection to a server."""
        self._extractor.close()
        if self._server and self._loaded:
            self._loaded.close()
            self._loaded = None

    def detect(self, path: str | os.PathLike) -> Detection:
        """The outcome of one image or video (for a folder use `detect_many`)."""
        inputs = list_inputs([path])
        if len(inputs.items) != 1:
            raise ValueError(f"{os.fspath(path)} is a folder with {len(inputs.items)} media files; use detect_many.")
        (outcome,) = self.iter_detect(inputs)
        return outcome

    def detect_many(self, paths: Iterable[str | os.PathLike]) -> list[Detection]:
        """The outcomes of images, videos and (walked, sorted) folders, one an input.

        Without the crops, which would fill the memory over a large folder; `detect` and `iter_detect` give them.
        """
        outcomes = []
        for outcome in self.iter_detect(list_inputs(paths)):
            outcome.drop_crops()
            outcomes.append(outcome)
        return outcomes

    def iter_detect(self, inputs: Inputs) -> Iterator[Detection]:
        """The same one by one, as they are done, in order."""
        extractions = self._extractor.extract(inputs.items, self._request)
        if any(item.error is None for item in inputs.items):
            # While the processes decode: importing TensorFlow, where it runs, takes longer than reading a clip.
            self._scorer  # noqa: B018
        for extraction in extractions:
            yield self._score(extraction)

    def model_info(self) -> dict:
        """The contract's `model` object."""
        return {"handle": self.record.handle, "sha256": self.record.sha256, "threshold": self.threshold}

    def to_json(self, detections: Iterable[Detection]) -> dict:
        """The contract's JSON document."""
        results = [detection.to_dict() for detection in detections]
        return {"schema": SCHEMA_VERSION, "model": self.model_info(), "results": results}

    @property
    def _scorer(self):
        if self._loaded is None:
            self._loaded, self.runtime_note = self._open_remote() if self._server else self._open()
            if self.runtime_note:
                warnings.warn(self.runtime_note, RuntimeWarning, stacklevel=2)
        return self._loaded

    def _open(self):
        from tfdfd.detect.scorer import Scorer
        from tfdfd.runtime.opening import open_network

        network, note = open_network(self.record, self._weights, self._runtime)
        return Scorer(network), note

    def _open_remote(self):
        scorer = RemoteScorer(self._server, self._served.name, self._served.version, self._request.size)
        try:
            return scorer, check_served(scorer, self._served, self._server.address)
        except BaseException:
            scorer.close()
            raise

    def _score(self, extraction: Extraction) -> Detection:
        begun = time.monotonic()
        if extraction.status != "ok":
            return Detection(extraction.path, extraction.kind, extraction.status, message=extraction.message)
        crops = np.stack([face.crop for frame in extraction.frames for face in frame.faces])
        scores = iter(round(float(score), DIGITS) for score in self._scorer(crops))
        tracks: dict[int, list[FrameScore]] = {}
        numbers = _link(extraction)
        for frame, frame_numbers in zip(extraction.frames, numbers, strict=True):
            for face, number in zip(frame.faces, frame_numbers, strict=True):
                scored = FrameScore(frame.index, frame.time_s, face.box, face.score, next(scores), face.crop)
                tracks.setdefault(number, []).append(scored)
        all_faces = [
            FaceTrack(number, round(track_score([f.fake_probability for f in frames]), DIGITS), frames)
            for number, frames in sorted(tracks.items())
        ]
        faces, left_out = counting_tracks(all_faces, [frame.index for frame in extraction.frames], self._detector)
        probability = clip_score(faces)
        return Detection(
            path=extraction.path,
            kind=extraction.kind,
            status="ok",
            fake_probability=probability,
            verdict=verdict_of(probability, self.threshold, self.inconclusive_band),
            message="; ".join(note for note in (extraction.message, left_out) if note) or None,
            frames_requested=self._request.frames if extraction.kind == "video" else 1,
            frames_scored=len({frame.index for track in faces for frame in track.frames}),
            duration_s=extraction.duration_s,
            elapsed_s=round(extraction.elapsed_s + time.monotonic() - begun, 3),
            faces=faces,
            frames_damaged=extraction.frames_damaged,
        )


def _link(extraction):
    frames = [[(face.box, face.crop) for face in frame.faces] for frame in extraction.frames]
    if extraction.kind == "image":
        # Faces of one image are different people, however alike.
        return [list(range(len(faces))) for faces in frames]
    return link_faces(frames)
