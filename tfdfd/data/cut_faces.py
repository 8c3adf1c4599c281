"""Face crops of one video of a face set: detection, cropping, and the files that record the result.

The work on a video is a function of its job and of files that no longer change: repeated, it leaves the same bytes. Any
process may do it, on this machine or on another that sees the same files.

Boxes are stored as JSON as in document S2, so that crops can be cut again without detection: an object with an entry
per frame, a list of its faces, strongest first, each with `top`, `bottom`, `left`, `right` in pixels of the upright
frame (lower and right edge exclusive), the detector's `score` (null where it gives none) and the face's `track`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from tfdfd.data import DROP, MULTIPLE, READ, FaceOptions, has_multiple_faces, kept_faces
from tfdfd.data.tables import IndexRow
from tfdfd.extract.extraction import MAX_CROPS, Extraction, FrameFaces, Request, damage_note, too_damaged
from tfdfd.extract.pool import FaceExtractor
from tfdfd.faces import NO_DETECTOR
from tfdfd.faces.crop import link_faces
from tfdfd.files import sync_folder, write_atomically
from tfdfd.media import MediaError
from tfdfd.media.inputs import Input
from tfdfd.version import __version__

_log = logging.getLogger(__name__)
DETECTED, OF_ORIGINAL, STORED = "detected", "original", "stored"
# Library versions that determine the bytes.
VERSIONS = {"tfdfd": __version__, "opencv": cv2.__version__}
# Frames per request where a video is read piece by piece: up to four faces of each fit into `MAX_CROPS`.
WINDOW = MAX_CROPS // 4
_THUMB = 24


@dataclass
class VideoRecord:
    """The result for one video or image.

    Attributes:
        video: its path in the index.
        status: one of `tfdfd.media.STATUSES`, or `multiple_faces` where that rule left it out.
        message: reason of a failure, or other notes.
        kind: `image` or `video` by content.
        duration_s: duration in seconds of a video that was read to its end.
        frames: number of frames examined.
        multiple_faces: whether more than 10 % of its frames have a second face.
        boxes: their origin: `detected`, `original`, `stored`.
        crops: the fields of `FaceRow` that are the crop's own.
    """

    video: str
    status: str
    message: str | None = None
    kind: str | None = None
    duration_s: float | None = None
    frames: int = 0
    multiple_faces: bool = False
    boxes: str | None = None
    crops: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class FaceBox:
    """A face in one frame.

    Attributes:
        box: `(x, y, width, height)`, integer pixels.
        score: score of the detector; None where it gives none.
        track: number of the face's track in the video.
    """

    box: tuple[int, int, int, int]
    score: float | None
    track: int


def read_record(path: str | os.PathLike) -> VideoRecord:
    """The record in a file.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError: other content.
    """
    return VideoRecord(**json.loads(Path(path).read_bytes()))


def write_boxes(path: str | os.PathLike, frames: dict[int, list[FaceBox]]) -> None:
    """Writes the faces of each frame atomically."""
    lines = [f'"{frame}": {json.dumps([_box_to_json(face) for face in frames[frame]])}' for frame in sorted(frames)]
    write_atomically(path, "{" + ",".join(f"\n {line}" for line in lines) + "\n}\n")


def read_boxes(path: str | os.PathLike) -> dict[int, list[FaceBox]]:
    """The faces of each frame.

    Raises:
        ValueError: no such file, or other content; names the file.
    """
    path = Path(path)
    try:
        frames = json.loads(path.read_bytes())
        return {_check_number(int(frame)): _read_frame(frame, faces) for frame, faces in frames.items()}
    except OSError as error:
        raise ValueError(f"the boxes {path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} holds no boxes: {type(error).__name__}: {error}; expected JSON such as "
            '{"0": [{"top": 1, "bottom": 9, "left": 2, "right": 8, "score": 0.9, "track": 0}]}.'
        ) from error


class VideoCut:
    """Cuts the faces of one video into the folder `partial`: `crops/` and `boxes.json`.

    Args:
        options: options of the face set.
        partial: the folder, which holds an empty `found/`.
        ask: sends a request about this video to a decoding process.
    """

    def __init__(self, options: FaceOptions, partial: Path, ask: Callable[[Request], Extraction]):
        self._options, self._partial, self._ask = options, partial, ask

    def run(self, row: IndexRow, boxes: dict[int, list[FaceBox]] | None, origin: str | None) -> VideoRecord:
        """Cuts by known boxes of a given origin, or detects faces (None)."""
        parts = self._detected() if boxes is None else self._by_boxes(boxes)
        looked_at: list[tuple[FrameFaces, list[np.ndarray], list[int], list[str]]] = []
        notes, kind, duration, damaged = [], row.kind, None, 0
        for part in parts:
            kind, duration = part.kind or kind, part.duration_s
            damaged += part.frames_damaged
            if part.status not in ("ok", "no_face"):
                return VideoRecord(row.path, part.status, part.message, kind)
            # The message of a part without a face begins with that; the whole video may have some.
            faceless, _, rest = (part.message or "").partition("; ")
            note = part.message if part.status == "ok" else rest
            notes += [note] if note and note not in notes else []
            for frame in part.frames:
                scores = [face.score for face in frame.faces]
                # With known boxes, only those that become crops were requested.
                kept = self._options.kept(scores) if boxes is None else list(range(len(scores)))
                digests = [self._write(frame.index, i, frame.faces[i].crop) for i in kept]
                thumbs = [cv2.resize(f.crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA) for f in frame.faces]
                for face in frame.faces:
                    face.crop = None  # type: ignore[assignment]
                looked_at.append((frame, thumbs, kept, digests))
        if refusal := too_damaged(damaged, len(looked_at)):
            return VideoRecord(row.path, "decode_error", refusal, kind)
        if damaged and (note := damage_note(damaged, len(looked_at))) not in notes:
            notes.insert(0, note)  # type: ignore[arg-type]
        if boxes is None:
            by_frame = self._tracked(looked_at)
        else:
            by_frame = {frame.index: boxes[frame.index] for frame, *_ in looked_at}
        write_boxes(self._partial / "boxes.json", by_frame)
        counts = [len(kept_faces([f.score for f in faces], self._options.min_score)) for faces in by_frame.values()]
        record = VideoRecord(row.path, "ok", None, kind, duration, len(by_frame), has_multiple_faces(counts), origin)
        if record.multiple_faces and self._options.multiple_faces == DROP:
            record.status = MULTIPLE
            notes.insert(0, f"{sum(n > 1 for n in counts)} of the {len(counts)} frames have a second face")
        else:
            record.crops = list(self._crops(looked_at, by_frame, boxes is not None))
            if not record.crops:
                record.status = "no_face"
                where = "the image" if kind == "image" else f"the {len(by_frame)} frames looked at"
                crowd = f" of at most {self._options.drop_frames_above} faces" if any(by_frame.values()) else ""
                # The message about an image says how closely it was searched.
                message = kind == "image" and not crowd and faceless
                notes.insert(0, message or f"no face was found in {where}{crowd}")
        record.message = "; ".join(notes) or None
        return record

    def _request(self, **others: Any) -> Request:
        return Request(size=self._options.size, margin=self._options.margin, whole_pixels=True, **others)

    def _detected(self) -> Iterator[Extraction]:
        options = self._options
        if not options.all and options.every_s is None:
            yield self._ask(self._request(frames=1 if options.first else options.frames, in_order=options.first))
            return
        for skip in range(0, options.limits.max_frames, WINDOW):
            part = self._ask(self._request(frames=WINDOW, in_order=True, every_s=options.every_s, skip=skip))
            yield part
            if len(part.frames) + part.frames_damaged < WINDOW:
                return

    def _by_boxes(self, boxes: dict[int, list[FaceBox]]) -> Iterator[Extraction]:
        for window in self._windows(boxes):
            part = self._ask(self._request(frames=max(1, len(window)), boxes=tuple(window)))
            yield part
            if len(part.frames) + part.frames_damaged < len(window):
                return

    def _windows(self, boxes: dict[int, list[FaceBox]]) -> Iterator[list]:
        """Frames with the faces to cut from them, in pieces that fit into a response."""
        faces = 0
        window: list[list] = []
        for index in sorted(boxes):
            cut = [[*face.box, face.score] for face in self._kept(boxes[index])]
            if window and (len(window) == WINDOW or faces + len(cut) > MAX_CROPS):
                yield window
                window, faces = [], 0
            window.append([index, cut])
            faces += len(cut)
        yield window

    def _kept(self, faces: Sequence[FaceBox]) -> list[FaceBox]:
        return [faces[i] for i in self._options.kept([face.score for face in faces])]

    def _tracked(self, looked_at: list) -> dict[int, list[FaceBox]]:
        numbers = link_faces(
            [
                [(face.box, thumb) for face, thumb in zip(frame.faces, thumbs, strict=True)]
                for frame, thumbs, _, _ in looked_at
            ]
        )
        return {
            frame.index: [FaceBox(face.box, face.score, track) for face, track in zip(frame.faces, tracks, strict=True)]
            for (frame, *_), tracks in zip(looked_at, numbers, strict=True)
        }

    def _write(self, frame: int, position: int, crop: np.ndarray) -> str:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._options.quality] if self._options.format == "jpg" else []
        data = cv2.imencode(f".{self._options.format}", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
        (self._partial / "found" / f"{frame}-{position}").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _crops(self, looked_at: list, by_frame: dict[int, list[FaceBox]], stored: bool) -> Iterator[dict[str, Any]]:
        """Renames crops by frame and track; yields the fields of `FaceRow` of each."""
        (self._partial / "crops").mkdir()
        for frame, _, kept, digests in looked_at:
            faces = self._kept(by_frame[frame.index]) if stored else [by_frame[frame.index][i] for i in kept]
            each = sorted(zip(faces, kept, digests, strict=True), key=lambda of: of[0].track)
            for face, position, digest in each:
                name = f"{frame.index:06d}-{face.track}.{self._options.format}"
                os.rename(self._partial / "found" / f"{frame.index}-{position}", self._partial / "crops" / name)
                crop = {"file": name, "frame": frame.index, "time_s": frame.time_s, "track": face.track}
                yield crop | {"box": face.box, "score": face.score, "sha256": digest}


@dataclass(frozen=True)
class VideoJob:
    """One video or image to be done.

    Attributes:
        row: row of the index.
        name: name of its files in the face set, without suffix.
        original: name of the original whose boxes are used, where that has some.
    """

    row: IndexRow
    name: str
    original: str | None = None


@dataclass(frozen=True)
class FaceWork:
    """Configuration and folders of a face set, with the work on one video; can be pickled.

    Attributes:
        options: options of the face set.
        root: the folder that the paths of the index are relative to.
        folder: folder of the face set.
        stored: another face set whose boxes are used; None: faces are detected.
        versions: versions of the libraries of the process that started the set.
    """

    options: FaceOptions
    root: Path
    folder: Path
    stored: Path | None
    versions: dict[str, str]

    @property
    def partial(self) -> Path:
        """The folder of incomplete files."""
        return self.folder / ".partial"

    def open(self, workers: int) -> FaceExtractor:
        """The extractor that decodes and detects for `do`."""
        detects = (NO_DETECTOR, {}) if self.stored else (self.options.detector, self.options.detector_options)
        return FaceExtractor(*detects, self.options.limits, workers)

    def check(self) -> None:
        """Checks that this machine would give the same bytes as the one that started the set.

        Raises:
            RuntimeError: it has other versions, or does not see the folders.
        """
        host = socket.gethostname()
        if self.versions != VERSIONS:
            raise RuntimeError(
                f"the machine {host} has {VERSIONS}, the one that started the set has {self.versions}; the bytes would "
                "differ. Install the same versions on all of them."
            )
        for folder in filter(None, (self.partial, self.root, self.stored)):
            if not folder.is_dir():
                raise RuntimeError(
                    f"the machine {host} has no folder {folder}; the data set and the face set must be on a file "
                    "system that all machines see in the same place."
                )

    def file_of(self, part: str, name: str) -> Path:
        """The file of a video in `records` or `boxes`."""
        return self.folder / part / f"{name}.json"

    def crops_of(self, name: str) -> Path:
        """The folder of a video's crops; in a mirrored tree, the single crop."""
        return self.folder / "crops" / (f"{name}.{self.options.format}" if self.options.mirror else name)

    def record(self, name: str) -> VideoRecord | None:
        """The record of a video that is done, else None."""
        try:
            record = read_record(self.file_of("records", name))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        complete = not record.crops or self.crops_of(name).exists()
        return record if complete and (record.boxes is None or self.file_of("boxes", name).exists()) else None

    def do(self, job: VideoJob, extractor: FaceExtractor) -> VideoRecord:
        """Cuts the faces of one video, unless it is done.

        Raises:
            ValueError: the stored boxes or the detector are invalid.
            OSError: the folder cannot be written.
        """
        done = self.record(job.name)
        if done is not None:
            return done
        with self._temporary_folder() as partial:
            (partial / "found").mkdir()
            boxes, origin, refused = self._known_boxes(job)
            cut = VideoCut(self.options, partial, self._ask(job.row, extractor))
            return self._publish(job, refused or cut.run(job.row, boxes, origin), partial)

    def give_up(self, job: VideoJob, status: str, message: str) -> VideoRecord:
        """Records the failure of a video that ends every process working on it."""
        with self._temporary_folder() as partial:
            return self._publish(job, VideoRecord(job.row.path, status, message, job.row.kind), partial)

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        partial = Path(tempfile.mkdtemp(dir=self.partial))
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _known_boxes(self, job: VideoJob) -> tuple[dict[int, list[FaceBox]] | None, str, VideoRecord | None]:
        """Known boxes (None: detect), their origin, and a record instead of them where the stored set failed."""
        if self.stored:
            file = self.stored / "records" / f"{job.name}.json"
            try:
                before = read_record(file)
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"the face set {self.stored} lacks a valid {file}: {error}.") from error
            if before.status not in READ:
                return None, STORED, VideoRecord(job.row.path, before.status, before.message, before.kind)
            return read_boxes(self.stored / "boxes" / f"{job.name}.json"), STORED, None
        if job.original is not None and self.file_of("boxes", job.original).exists():
            boxes = read_boxes(self.file_of("boxes", job.original))
            if any(boxes.values()):
                return boxes, OF_ORIGINAL, None
        return None, DETECTED, None

    def _ask(self, row: IndexRow, extractor: FaceExtractor) -> Callable[[Request], Extraction]:
        """A function from a request to the extraction from this video."""
        error = None
        pure = PurePosixPath(row.path)
        if pure.is_absolute() or ".." in pure.parts:
            error = MediaError("unsupported", "the path leads out of the data set's folder")
        item = Input(os.path.join(self.root, row.path), row.kind, error)

        def ask(request: Request) -> Extraction:
            answer = extractor.extract_one(item, request)
            details = answer.decoder or answer.message, len(answer.frames), answer.frames_damaged, answer.seconds
            _log.info("%s: %s, %s, %d frames, %d damaged ones left out, seconds %s", row.path, answer.status, *details)
            # Somebody may have ended the process: only a file that ends it twice is at fault.
            return extractor.extract_one(item, request) if answer.process_died else answer

        return ask

    def _publish(self, job: VideoJob, record: VideoRecord, partial: Path) -> VideoRecord:
        """Moves crops and boxes into the set, then the record, which marks the video as done."""
        done = self.record(job.name)
        if done is not None:
            # By a machine that was considered lost: the bytes are the same and must not disappear even briefly.
            return done
        crops = self.crops_of(job.name)
        if crops.is_dir():
            shutil.rmtree(crops)
        if record.crops:
            # After a power cut a record must not list crops that never reached the disk.
            sync_folder(partial / "crops")
            crops.parent.mkdir(parents=True, exist_ok=True)
            made = [partial / "crops" / PurePosixPath(crop["file"]) for crop in record.crops]
            os.replace(made[0] if self.options.mirror else partial / "crops", crops)
            for crop in record.crops:
                name = crops if self.options.mirror else crops / crop["file"]
                crop["file"] = name.relative_to(self.folder).as_posix()
        if record.boxes is not None:
            self.file_of("boxes", job.name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / "boxes.json", self.file_of("boxes", job.name))
        self.file_of("records", job.name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(partial / "record.json", json.dumps(asdict(record), indent=1) + "\n")
        os.replace(partial / "record.json", self.file_of("records", job.name))
        return record


def _box_to_json(face: FaceBox) -> dict[str, Any]:
    x, y, width, height = face.box
    edges = {"top": y, "bottom": y + height, "left": x, "right": x + width}
    return edges | {"score": face.score, "track": face.track}


def _read_frame(frame: int, faces: Any) -> list[FaceBox]:
    boxes = [_read_box(face) for face in faces]
    if len({face.track for face in boxes}) < len(boxes):
        raise ValueError(f"two faces of frame {frame} have the same track")
    return boxes


def _read_box(face: Any) -> FaceBox:
    top, bottom, left, right = (face[edge] for edge in ("top", "bottom", "left", "right"))
    if not all(type(edge) is int and abs(edge) < 2**31 for edge in (top, bottom, left, right)):
        raise ValueError(f"edges must be whole numbers; received {face}")
    if bottom < top or right < left:
        raise ValueError(f"bottom and right must not be less than top and left; received {face}")
    score = face["score"]
    if score is not None and not math.isfinite(score):
        raise ValueError(f"score must be a number or null; received {score!r}")
    return FaceBox((left, top, right - left, bottom - top), score, _check_number(face["track"]))


def _check_number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the number of a frame or track must be at least 0; received {value!r}")
    return value
