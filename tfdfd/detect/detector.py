"""The main job: files in, verdicts out."""

from __future__ import annotations

import collections
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from tfdfd.detect.results import SCHEMA_VERSION, Detection, FaceTrack, FrameScore
from tfdfd.detect.verdict import choose_deciding, clip_score, rule_for, track_score
from tfdfd.extract.faces_of import Extraction, Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.faces.detectors import check_detector
from tfdfd.faces.tracks import link_faces
from tfdfd.files import sha256
from tfdfd.media.held import HeldInput, held_input
from tfdfd.media.inputs import Input, Inputs, list_inputs
from tfdfd.media.limits import Limits
from tfdfd.media.sampling import FRAMES
from tfdfd.models import spec
from tfdfd.remote.scorer import RemoteScorer, Server
from tfdfd.remote.served import check_served, find_served
from tfdfd.runtime.names import AUTO, RUNTIMES, check_runtime, is_installed
from tfdfd.version import __version__
from tfdfd.weights.records import DEFAULT_MODEL
from tfdfd.weights.store import locate

# The same bytes and model must print the same JSON; the last bits of float32 are not worth that promise.
DIGITS = 6
if TYPE_CHECKING:
    from PIL.Image import Image
Media: TypeAlias = Union[str, os.PathLike, np.ndarray, bytes, "Image"]


class Detector:
    """Tells deepfaked faces from genuine ones in local images and videos.

    Args:
        model: handle (`tfdfd/meso4.df`) or weights file; its record gives network, polarity and threshold.
        detector: `mtcnn`, `haar` or `ssd`; `none` takes each image as a face crop already.
        frames: how many equally spaced frames of a video are scored.
        threshold: P(fake) from which the verdict is "fake", for each face, without an inconclusive band; None: the
            record's, with its band, and corrected for the number of faces (`tfdfd.detect.verdict.rule_for`).
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
        self._given = threshold
        self.threshold = self.record.threshold if threshold is None else threshold
        # A threshold of one's own leaves nothing open.
        self.inconclusive_band = self.record.inconclusive_band if threshold is None else None
        self._extractor = FaceExtractor(detector, detector_options, limits, workers)
        self._runtime, self._server, self._detector_options = runtime, server, detector_options or {}
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

    def detect(self, media: Media) -> Detection:
        """The outcome of one image or video (for a folder use `detect_many`).

        Args:
            media: a path; an RGB uint8 array `(height, width, 3)` (of OpenCV's BGR give `array[..., ::-1]`); `bytes`
                with the content of an image or video file; or a Pillow image. The last three are read by the same
                processes within the same limits as files; `Detection.path` is then `<array>`, `<bytes>` or `<image>`.

        Raises:
            ValueError: a folder of several files, or an array of another shape or type.
            TypeError: nothing of these.
        """
        inputs = self._inputs([media])
        if len(inputs.items) != 1:
            raise ValueError(
                f"{os.fspath(media)} is a folder with {len(inputs.items)} media files; use detect_many, or "
                "tfdfd.detect with a list."
            )
        (outcome,) = self.iter_detect(inputs)
        return outcome

    def detect_many(self, media: Iterable[Media]) -> list[Detection]:
        """The outcomes of images, videos and (walked, sorted) folders, one an input.

        Without the crops, which would fill the memory over a large folder; `detect` and `iter_detect` give them.

        Raises:
            ValueError, TypeError: as `detect`; or one input instead of a list of them.
        """
        if isinstance(media, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(media, "__array__"):
            raise TypeError(f"detect_many takes a list of inputs; received one {type(media).__name__}: use detect.")
        outcomes = []
        for outcome in self.iter_detect(self._inputs(media)):
            outcome.drop_crops()
            outcomes.append(outcome)
        return outcomes

    def iter_detect(self, inputs: Inputs) -> Iterator[Detection]:
        """The same one by one, as they are done, in order."""
        items = inputs.items
        extractions = self._extractor.map(self._extract, items, sum(item.error is None for item in items))
        if any(item.error is None for item in inputs.items):
            # While the processes decode: importing TensorFlow, where it runs, takes longer than reading a clip.
            self._scorer  # noqa: B018
        for extraction in extractions:
            yield self._score(extraction)

    def model_info(self) -> dict:
        """The contract's `model` object."""
        return {"handle": self.record.handle, "sha256": self.record.sha256, "threshold": self.threshold}

    def settings(self) -> dict:
        """Everything that decides the results besides the inputs, for JSON; files by their digests."""
        files = {name: sha256(file) for name, file in self._detector_options.items() if file and os.path.isfile(file)}
        runtime = self._runtime
        if runtime == AUTO:
            runtime = next(name for name in RUNTIMES if is_installed(name))
        return {
            "tfdfd": __version__,
            "model": self.model_info() | {"inconclusive_band": self.inconclusive_band},
            "detector": {"name": self._detector, **self._detector_options, **files},
            "frames": self._request.frames,
            "limits": self._extractor.limits.to_dict(),
            "runtime": "server" if self._server else runtime,
        }

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

    def _inputs(self, media):
        inputs = Inputs()
        for one in media:
            if isinstance(one, (str, os.PathLike)):
                named = list_inputs([one])
                inputs.items += named.items
                inputs.skipped += named.skipped
            else:
                inputs.items.append(held_input(one, self._extractor.limits))
        return inputs

    def _extract(self, item: Input) -> Extraction:
        if not isinstance(item, HeldInput) or item.error is not None:
            return self._extractor.extract_one(item, self._request)
        with item.as_file() as file:
            extraction = self._extractor.extract_one(file, self._request)
        extraction.path = item.path
        return extraction

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
        faces = [
            FaceTrack(number, round(track_score([f.fake_probability for f in frames]), DIGITS), frames)
            for number, frames in sorted(tracks.items())
        ]
        left_out = choose_deciding(faces, [frame.index for frame in extraction.frames], self._detector)
        deciding = [track for track in faces if track.decides]
        probability = clip_score(deciding or faces)
        rule = rule_for(self.record, len(deciding), self._given)
        return Detection(
            path=extraction.path,
            kind=extraction.kind,
            status="ok",
            fake_probability=probability,
            verdict=rule.verdict(probability) if deciding else "inconclusive",
            message="; ".join(note for note in (extraction.message, left_out, rule.note) if note) or None,
            frames_requested=self._request.frames if extraction.kind == "video" else 1,
            frames_scored=len({frame.index for track in deciding or faces for frame in track.frames}),
            duration_s=extraction.duration_s,
            elapsed_s=round(extraction.elapsed_s + time.monotonic() - begun, 3),
            faces=faces,
            faces_judged=len(deciding),
            threshold=rule.threshold,
            inconclusive_band=rule.band,
            correction=rule.correction,
            frames_damaged=extraction.frames_damaged,
        )


# Loaded detectors by their options, the one used last at the end. A detector holds processes and a network.
_MOST_LOADED = 2
_loaded: collections.OrderedDict[tuple, Detector] = collections.OrderedDict()
_inherited: list = []
_turn = threading.Lock()


def detect(media: Media | list[Media], **options) -> Detection | list[Detection]:
    """Tells deepfaked faces from genuine ones in one line: `tfdfd.detect("clip.mp4").verdict`.

    The detector stays loaded for later calls with the same options, the last two of them until the program ends; calls
    of several threads take turns.

    Args:
        media: as `Detector.detect` takes it, or a list of such: its folders are walked.
        **options: those of `Detector`, such as `model="tfdfd/meso4"`, `detector="none"` or `threshold=0.7`.

    Returns:
        The outcome; for a list the outcomes in order, without crops.

    Raises:
        ValueError: an option, weights or an array that is of no use; or a folder outside of a list.
        TypeError: an input or option of a kind that does not exist.
    """
    several = isinstance(media, (list, tuple))
    with _turn:
        key = _key(options)
        if key not in _loaded:
            _loaded[key] = Detector(**options)
        _loaded.move_to_end(key)
        detector = _loaded[key]
        while len(_loaded) > _MOST_LOADED:
            _loaded.popitem(last=False)[1].close()
        return detector.detect_many(media) if several else detector.detect(media)


def _key(options):
    """Options as a key; a file of weights that has changed is another one."""
    found = []
    for name, value in sorted(options.items()):
        if name == "model" and os.path.exists(value):
            status = os.stat(value)
            value = os.path.abspath(value), status.st_mtime_ns, status.st_size
        found.append((name, tuple(sorted(value.items())) if isinstance(value, dict) else value))
    return tuple(found)


def _after_fork():
    # The processes of these detectors are the parent's: they are neither used nor ended here.
    global _turn
    _inherited.extend(_loaded.values())
    _loaded.clear()
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _link(extraction):
    frames = [[(face.box, face.crop) for face in frame.faces] for frame in extraction.frames]
    if extraction.kind == "image":
        # Faces of one image are different people, however alike.
        return [list(range(len(faces))) for faces in frames]
    return link_faces(frames)
