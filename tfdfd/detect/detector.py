"""`Detector`: files in, verdicts out; and `detect`, the same in one call."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from tfdfd.detect import evidence
from tfdfd.detect.results import SCHEMA_VERSION, Detection, FaceTrack, FrameScore
from tfdfd.detect.verdict import choose_deciding, clip_score, rule_for, track_score
from tfdfd.extract.extraction import Extraction, Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.extract.sandbox import AUTO as SANDBOX_AUTO
from tfdfd.faces import check_detector
from tfdfd.faces.crop import equal_parts, link_faces
from tfdfd.files import sha256
from tfdfd.media import FRAMES, Limits, MediaError
from tfdfd.media.inputs import Input, Inputs, list_inputs, memory_input
from tfdfd.models import clip_frames, spec
from tfdfd.remote import RemoteScorer, Server, check_served, find_served
from tfdfd.runtime import AUTO, RUNTIMES, check_runtime, is_installed
from tfdfd.version import __version__
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import locate

# Decimals of a probability. The same bytes and model must give the same JSON, which the last bits of float32 may not.
DIGITS = 6
_log = logging.getLogger(__name__)
if TYPE_CHECKING:
    from PIL.Image import Image

    from tfdfd.runtime.networks import Scorer
Media: TypeAlias = Union[str, os.PathLike, np.ndarray, bytes, "Image"]


class Detector:
    """Detects deepfaked faces in local images and videos. Use as a context manager, or call `close`.

    A model of clips (`temporal`) scores each face over spans of sampled frames, see `spans_of`; the score of a frame is
    that of its span. It has no score for a photograph and for a face that is in one frame only.

    Args:
        model: handle (`tfdfd/meso4.df`) or weights file; its record gives network, polarity and threshold.
        detector: `mtcnn`, `haar` or `ssd`; `none` takes each image as a face crop already.
        frames: number of evenly spaced frames of a video that are scored.
        threshold: P(fake) from which the verdict is "fake", for each face, without an inconclusive band; None: the
            record's, with its band, and corrected for the number of faces (`tfdfd.detect.verdict.rule_for`).
        limits: budget of one input.
        detector_options: keyword arguments of the face detector, such as `{"graph": "face.pb"}` for `ssd`.
        workers: number of decoding processes; None: as many as are useful.
        runtime: `tensorflow`, `openvino` (extra `edge`) or `auto`, the fastest installed. Their scores agree to 1e-4;
            the same runtime gives the same scores each time.
        server: a model server that scores the crops in place of this machine; `model` is then as for
            `tfdfd.remote.find_served`, and scoring may raise `tfdfd.remote.RemoteError`.
        views: maximum number of whole frames per input that `Detection.views` keeps as reduced copies, for pictures.
        view_side: longest side of these copies in pixels.
        sandbox: `auto` seals the decoding processes where the kernel can (Landlock and seccomp of Linux), `require`
            refuses to decode without, `off` does not seal.

    Attributes:
        record: record of the weights.
        given_threshold: as given, or None.
        threshold: as given, or the record's.
        inconclusive_band: the record's; None with a given threshold.
        runtime_note: why `auto` did not use the fastest runtime that is installed, or why nothing proves that the
            server has these weights; known after the first score; else None. It is also a `RuntimeWarning`.
        sandbox_note: why the decoding processes are not sealed, known after the first input; else None. It is also a
            `RuntimeWarning`.

    Raises:
        ValueError: an argument is invalid, or the weights are unknown, absent or altered.
    """

    def __init__(
        self,
        model: str | os.PathLike = DEFAULT_MODEL,
        detector: str = "mtcnn",
        *,
        frames: int = FRAMES,
        threshold: float | None = None,
        limits: Limits | None = None,
        detector_options: dict[str, Any] | None = None,
        workers: int | None = None,
        runtime: str = AUTO,
        server: Server | None = None,
        sandbox: str = SANDBOX_AUTO,
        views: int = 0,
        view_side: int = 640,
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
        self._clip_frames = clip_frames(self.record)
        if self._clip_frames and frames < 2:
            raise ValueError(
                f"{self.record.handle} scores clips of {self._clip_frames} frames, so frames must be at least 2; "
                f"received {frames!r}."
            )
        self.given_threshold = threshold
        self.threshold = self.record.threshold if threshold is None else threshold
        # A given threshold leaves no inconclusive band.
        self.inconclusive_band = self.record.inconclusive_band if threshold is None else None
        self._extractor = FaceExtractor(detector, detector_options, limits, workers, sandbox, provenance=True)
        self._runtime, self._server, self._detector_options = runtime, server, detector_options or {}
        self._sandbox = sandbox
        self.runtime_note: str | None = None
        self.sandbox_note: str | None = None
        self._loaded: Scorer | RemoteScorer | None = None
        self._request = Request(
            frames=frames,
            size=(self.record.input_shape or spec(self.record.model).input_shape)[0],
            measure=self.record.tested_range is not None,
            views=views,
            view_side=view_side,
        )
        self._arguments: dict[str, Any] = {
            "model": model,
            "detector": detector,
            "frames": frames,
            "threshold": threshold,
            "limits": limits,
            "detector_options": detector_options,
            "runtime": runtime,
            "server": server,
            "sandbox": sandbox,
            "views": views,
            "view_side": view_side,
        }
        weakref.finalize(self, self._extractor.close)

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the decoding processes and the connection to a server."""
        self._extractor.close()
        if self._server and self._loaded:
            self._loaded.close()  # type: ignore[union-attr]
            self._loaded = None

    def detect(self, media: Media) -> Detection:
        """The outcome for one image or video (for a folder, use `detect_many`).

        Args:
            media: a path; an RGB uint8 array `(height, width, 3)` (for OpenCV's BGR, give `array[..., ::-1]`); `bytes`
                with the content of an image or video file; or a Pillow image. The same processes read all of them,
                within the same limits; `Detection.path` is `<array>`, `<bytes>` or `<image>` for an input in memory.

        Raises:
            ValueError: the path is a folder of several files, or the array has another shape or dtype.
            TypeError: the input is none of these.
        """
        inputs = self._inputs([media])
        if len(inputs.items) != 1:
            raise ValueError(
                f"{media!s} is a folder with {len(inputs.items)} media files; use detect_many, or "
                "tfdfd.detect with a list."
            )
        (outcome,) = self.iter_detect(inputs)
        return outcome

    def detect_many(self, media: Iterable[Media]) -> list[Detection]:
        """The outcomes for images, videos and folders (walked in sorted order), one per input.

        They come without crops, which would fill the memory for a large folder; `detect` and `iter_detect` keep them.

        Raises:
            ValueError, TypeError: as `detect`; or `media` is one input instead of a list.
        """
        if isinstance(media, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(media, "__array__"):
            raise TypeError(f"detect_many takes a list of inputs; received one {type(media).__name__}: use detect.")
        outcomes = []
        for outcome in self.iter_detect(self._inputs(media)):
            outcome.drop_crops()
            outcomes.append(outcome)
        return outcomes

    def iter_detect(self, inputs: Inputs) -> Iterator[Detection]:
        """Yields the outcomes in order, as they are done, with their crops."""
        if _log.isEnabledFor(logging.INFO):
            settings = self.settings()
            _log.info("model: %s", settings["model"])
            names = ("detector", "frames", "runtime", "limits")
            _log.info("settings: %s", {name: settings[name] for name in names} | {"sandbox": self._sandbox})
        items = [self._refuse_still(item) for item in inputs.items] if self._clip_frames else inputs.items
        extractions = self._extractor.extract(items, self._request)
        if any(item.error is None for item in items):
            # Meanwhile the processes decode: importing TensorFlow takes longer than reading a clip.
            self._scorer  # noqa: B018
        for extraction in extractions:
            if self._extractor.sandbox_note and not self.sandbox_note:
                self.sandbox_note = self._extractor.sandbox_note
                warnings.warn(self.sandbox_note, RuntimeWarning, stacklevel=2)
            yield self._score(extraction)

    def first_score(self, path: str | os.PathLike) -> FrameScore | None:
        """The score of one face in the first frames of a video, long before the outcome; None if there is none there.

        It is not a verdict, and not among the frames that `detect` scores. A model of clips has none.
        """
        if self._clip_frames:
            return None
        request = replace(self._request, frames=2, every_s=0.5, views=0)
        (extraction,) = self._extractor.extract([Input(os.fspath(path))], request)
        frame = next((frame for frame in extraction.frames if frame.faces), None)
        if frame is None:
            return None
        face = frame.faces[0]
        score = round(float(self._scorer(face.crop[None])[0]), DIGITS)
        return FrameScore(frame.index, frame.time_s, face.box, face.score, score, face.crop)

    def whole_frames(self, item: Input, start: int, count: int, side: int) -> list[tuple[int, float, np.ndarray]]:
        """Index, time in seconds, and a reduced copy of frames of a video, without detection.

        Args:
            item: the video.
            start, count: the frames, in the order of the video; the answer ends where the video does.
            side: longest side of the copies in pixels.

        Raises:
            ValueError: the video cannot be decoded; or the copies have too many bytes.
        """
        boxes = tuple((index, ()) for index in range(start, start + count))
        request = Request(frames=count, boxes=boxes, views=count, view_side=side)
        extraction = self._extractor.extract_one(item, request)
        if extraction.status not in ("ok", "no_face"):
            raise ValueError(f"{item.path} cannot be decoded again: {extraction.message}.")
        return [(frame.index, frame.time_s, frame.view) for frame in extraction.frames if frame.view is not None]

    def arguments(self) -> dict[str, Any]:
        """The arguments of a detector with the same outcomes, for another process; files by their absolute paths."""
        options = {name: _absolute(value) for name, value in self._detector_options.items()}
        return self._arguments | {"model": _absolute(self._arguments["model"]), "detector_options": options}

    def model_info(self) -> dict[str, Any]:
        """The `model` object of the JSON document."""
        return {"handle": self.record.handle, "sha256": self.record.sha256, "threshold": self.threshold}

    def report_info(self) -> dict[str, Any]:
        """The model as `tfdfd.report` takes it."""
        return self.model_info() | {"inconclusive_band": self.inconclusive_band, "card": self.record.card}

    def settings(self) -> dict[str, Any]:
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

    def to_json(self, detections: Iterable[Detection]) -> dict[str, Any]:
        """The JSON document of `--json` (schema: `detect.schema.json`)."""
        results = [detection.to_dict() for detection in detections]
        return {"schema": SCHEMA_VERSION, "model": self.model_info(), "results": results}

    @property
    def _scorer(self) -> Scorer | RemoteScorer:
        if self._loaded is None:
            self._loaded, self.runtime_note = self._open_remote() if self._server else self._open()
            if self.runtime_note:
                warnings.warn(self.runtime_note, RuntimeWarning, stacklevel=2)
        return self._loaded

    def _open(self) -> tuple[Scorer | RemoteScorer, str | None]:
        from tfdfd.runtime.networks import Scorer, open_network

        network, note = open_network(self.record, self._weights, self._runtime)
        return Scorer(network), note

    def _open_remote(self) -> tuple[RemoteScorer, str | None]:
        served = self._served
        scorer = RemoteScorer(self._server, served.name, served.version, self._request.size, self._clip_frames)  # type: ignore[arg-type]
        try:
            return scorer, check_served(scorer, served, self._server.address)  # type: ignore[union-attr]
        except BaseException:
            scorer.close()
            raise

    def _inputs(self, media: Iterable[Media]) -> Inputs:
        inputs = Inputs()
        for one in media:
            if isinstance(one, (str, os.PathLike)):
                files = list_inputs([one])
                inputs.items += files.items
                inputs.skipped += files.skipped
            else:
                inputs.items.append(memory_input(one, self._extractor.limits))
        return inputs

    def _score(self, extraction: Extraction) -> Detection:
        start = time.monotonic()
        self._log_extraction(extraction)
        if extraction.status != "ok":
            return Detection(
                extraction.path,
                extraction.kind,
                extraction.status,
                message=extraction.message,
                provenance=extraction.provenance,
            )
        tracks: dict[int, list[FrameScore]] = {}
        numbers = _link(extraction)
        scores = iter(self._scores(extraction, numbers))
        _log.info("%s: scores took %.3f s", extraction.path, time.monotonic() - start)
        for frame, frame_numbers in zip(extraction.frames, numbers, strict=True):
            for face, number in zip(frame.faces, frame_numbers, strict=True):
                score = next(scores)
                if score is not None:
                    scored = FrameScore(frame.index, frame.time_s, face.box, face.score, score, face.crop)
                    scored.measures = face.measures
                    tracks.setdefault(number, []).append(scored)
        if not tracks:
            return self._too_few(extraction)
        faces = [
            FaceTrack(
                number,
                round(track_score([f.fake_probability for f in frames]), DIGITS),
                frames,
                measures=evidence.median_measures([f.measures for f in frames]),
            )
            for number, frames in sorted(tracks.items())
        ]
        left_out = choose_deciding(faces, [frame.index for frame in extraction.frames], self._detector)
        deciding = [track for track in faces if track.decides]
        _log_faces(extraction.path, faces)
        probability = clip_score(deciding or faces)
        rule = rule_for(self.record, len(deciding), self.given_threshold)
        tested = evidence.compare_with_tested(self.record, deciding)
        verdict = rule.verdict(probability) if deciding else "inconclusive"
        rule_text = f"threshold {rule.threshold:g}, band {rule.band}, correction {rule.correction}"
        _log.info("%s: P(fake) %g is %s: %s", extraction.path, probability, verdict, rule_text)
        notes = (
            extraction.message,
            left_out,
            self._clip_note(deciding or faces, numbers),
            rule.note,
            evidence.outside_note(tested),
        )
        return Detection(
            path=extraction.path,
            kind=extraction.kind,
            status="ok",
            fake_probability=probability,
            verdict=evidence.tested_verdict(verdict, rule, deciding, tested),
            message="; ".join(note for note in notes if note) or None,
            frames_requested=self._request.frames if extraction.kind == "video" else 1,
            frames_scored=len({frame.index for track in deciding or faces for frame in track.frames}),
            duration_s=extraction.duration_s,
            elapsed_s=round(extraction.elapsed_s + time.monotonic() - start, 3),
            faces=faces,
            faces_judged=len(deciding),
            threshold=rule.threshold,
            inconclusive_band=rule.band,
            correction=rule.correction,
            frames_damaged=extraction.frames_damaged,
            likelihood_ratio=evidence.likelihood_ratio(self.record, extraction.kind, probability, len(deciding)),
            tested_range=tested,
            provenance=extraction.provenance,
            views={frame.index: frame.view for frame in extraction.frames if frame.view is not None},
            frame_size=extraction.frame_size,
        )

    def _log_extraction(self, extraction: Extraction) -> None:
        if not _log.isEnabledFor(logging.INFO):
            return
        path, frames = extraction.path, extraction.frames
        _log.info("%s: %s, %s, %s", path, extraction.kind, extraction.decoder or "not decoded", extraction.status)
        if frames:
            choice = "the picture"
            if extraction.kind == "video":
                choice = f"equally spaced, {self._request.frames} asked for"
            faces = sum(len(frame.faces) for frame in frames)
            _log.info(
                "%s: %d frames (%s), %d damaged ones left out, %d faces by %s",
                *(path, len(frames), choice, extraction.frames_damaged, faces, self._detector),
            )
        stages = {"in all": round(extraction.elapsed_s, 3), **extraction.seconds}
        _log.info("%s: decoding process: %s", path, ", ".join(f"{name} {value:g} s" for name, value in stages.items()))

    def _scores(self, extraction: Extraction, tracks: Sequence[Sequence[int]]) -> list[float | None]:
        """P(fake) of each face, in the order of frames and faces; None for one that is in no clip."""
        crops = [face.crop for frame in extraction.frames for face in frame.faces]
        if not self._clip_frames:
            return [round(float(score), DIGITS) for score in self._scorer(np.stack(crops))]
        of_tracks = collections.defaultdict(list)
        for position, number in enumerate(itertools.chain.from_iterable(tracks)):
            of_tracks[number].append(position)
        scores: list[float | None] = [None] * len(crops)
        for positions in of_tracks.values():
            for span in spans_of(positions, self._clip_frames):
                # One at a time: repeated crops of many short tracks would fill the memory.
                clip = np.stack([crops[span[place]] for place in equal_parts(len(span), self._clip_frames)])
                score = round(float(self._scorer(clip[None])[0]), DIGITS)
                for position in span:
                    scores[position] = score
        return scores

    def _refuse_still(self, item: Input) -> Input:
        """The input, refused if its content is an image."""
        if item.error is None:
            try:
                file, kind = item.open(self._extractor.limits)
            except MediaError:
                return item  # reported when it is read
            file.close()
            if kind == "image":
                message = (
                    f"{self.record.handle} scores clips of {self._clip_frames} frames, and this is a still image; give "
                    "a video, or a model of single faces"
                )
                return replace(item, kind=kind, error=MediaError("unsupported", message))
        return item

    def _too_few(self, extraction: Extraction) -> Detection:
        message = (
            f"too few frames: no face was found in two of the {len(extraction.frames)} frames looked at, and "
            f"{self.record.handle} scores clips of {self._clip_frames} frames of one face; increase --frames, or give "
            "a model of single faces"
        )
        if extraction.message:
            message += f"; {extraction.message}"
        return Detection(
            extraction.path, extraction.kind, "unsupported", message=message, provenance=extraction.provenance
        )

    def _clip_note(self, scored: Sequence[FaceTrack], tracks: Sequence[Sequence[int]]) -> str | None:
        """Notes on clips with repeated frames, and on faces without a score."""
        if not self._clip_frames:
            return None
        fewest = min(len(track.frames) for track in scored)
        notes = []
        if fewest < self._clip_frames:
            notes.append(f"a clip of {self._clip_frames} frames repeats some, as its face was found in {fewest}")
        counts = collections.Counter(itertools.chain.from_iterable(tracks))
        single = sum(count < 2 for count in counts.values())
        if single:
            notes.append(f"{single} face{'s' * (single > 1)} in a single frame without a score")
        return "; ".join(notes) or None


def spans_of(positions: Sequence[int], frames: int) -> list[Sequence[int]]:
    """The spans of a face's sampled frames that have one score each, for a model of clips.

    A span has at least `FRAMES` sampled frames (or `frames`, if these are more), so one face of a video has one span
    at the default number of frames. Its clip has `frames` of them, equally spaced (`tfdfd.faces.crop.equal_parts`),
    as in training and evaluation; fewer are repeated.

    Args:
        positions: positions of one face, in order of time.
        frames: frames of a clip.

    Returns:
        Consecutive spans of equal length, to one; none for a single position, which shows no motion.
    """
    if len(positions) < 2:
        return []
    count = max(1, len(positions) // max(FRAMES, frames))
    ends = [len(positions) * number // count for number in range(count + 1)]
    return [positions[start:end] for start, end in itertools.pairwise(ends)]


# Loaded detectors by their options, the most recently used last. Each holds processes and a network.
_MOST_LOADED = 2
_loaded: collections.OrderedDict[tuple, Detector] = collections.OrderedDict()
_inherited: list = []
_lock = threading.Lock()


def detect(media: Media | list[Media], **options: Any) -> Detection | list[Detection]:
    """Detects deepfaked faces in one line: `tfdfd.detect("clip.mp4").verdict`.

    The detector stays loaded for later calls with the same options; the two most recent ones stay until the program
    ends. Calls from several threads run one after another.

    Args:
        media: an input as for `Detector.detect`, or a list of inputs and folders.
        **options: those of `Detector`, such as `model="tfdfd/meso4"`, `detector="none"` or `threshold=0.7`.

    Returns:
        The outcome; for a list, the outcomes in order, without crops.

    Raises:
        ValueError: an option, weights or an array is invalid; or a folder is given outside a list.
        TypeError: an option is unknown, or an input has an unknown type.
    """
    with _lock:
        key = _key(options)
        if key not in _loaded:
            _loaded[key] = Detector(**options)
        _loaded.move_to_end(key)
        detector = _loaded[key]
        while len(_loaded) > _MOST_LOADED:
            _loaded.popitem(last=False)[1].close()
        return detector.detect_many(media) if isinstance(media, (list, tuple)) else detector.detect(media)


def _key(options: dict[str, Any]) -> tuple:
    """Hashable options; a weights file that has changed gives another key."""
    items = []
    for name, value in sorted(options.items()):
        if name == "model" and os.path.exists(value):
            status = os.stat(value)
            value = os.path.abspath(value), status.st_mtime_ns, status.st_size
        items.append((name, tuple(sorted(value.items())) if isinstance(value, dict) else value))
    return tuple(items)


def _log_faces(path: str, faces: Sequence[FaceTrack]) -> None:
    for track in faces:
        reason = f"does not decide: {track.left_out}" if track.left_out else "decides"
        summary = f"P(fake) {track.fake_probability:g} over {len(track.frames)} frames, {reason}"
        _log.info("%s: face %d: %s", path, track.track + 1, summary)
        for frame in track.frames:
            values = f"box {frame.box}, detector {frame.detector_score}, P(fake) {frame.fake_probability:g}"
            _log.debug("%s: face %d, frame %d at %.3f s: %s", path, track.track + 1, frame.index, frame.time_s, values)


def _absolute(value: Any) -> Any:
    """The absolute path of what exists in the current folder; anything else as it is."""
    is_path = isinstance(value, (str, os.PathLike)) and os.fspath(value) and os.path.exists(value)
    return os.path.abspath(value) if is_path else value


def _after_fork() -> None:
    # The processes of these detectors belong to the parent: this one neither uses nor ends them.
    global _lock
    _inherited.extend(_loaded.values())
    _loaded.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _link(extraction: Extraction) -> list[list[int]]:
    frames = [[(face.box, face.crop) for face in frame.faces] for frame in extraction.frames]
    if extraction.kind == "image":
        # Faces in one image are different people, however alike.
        return [list(range(len(faces))) for faces in frames]
    return link_faces(frames)  # type: ignore[arg-type]
