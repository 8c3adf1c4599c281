"""From an index of videos to a set of face crops: resumable, bounded in memory, the same bytes however often it stops.

A folder holds
    crops/      the crops of each video in a folder of its own (or, mirrored, one file each)
    boxes/      the detected faces of each video (`tfdfd.data.boxes`)
    records/    what became of each video; written last, so that a video with a record is done
    faces.csv   a row a crop (`FaceRow`), sorted by video, frame and track
    status.csv  a row a video (`StatusRow`)
    run.json    versions, arguments, digest of the index; in the end the counts

Whatever is not whole lies in `.partial`, which the next run clears. The work on a video is a function of its row that
any ordered map may run, `FaceExtractor.map` being the one of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from tfdfd.data.boxes import FaceBox, read_boxes, write_boxes
from tfdfd.data.face_options import DROP, ORIGINAL, FaceOptions
from tfdfd.data.faces_rule import has_multiple_faces, kept_faces
from tfdfd.data.safe_names import safe_names
from tfdfd.data.tables import FAKE, FaceRow, IndexRow, read_table, write_table
from tfdfd.extract.faces_of import MAX_CROPS, Extraction, FrameFaces, Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.faces.detectors import NO_DETECTOR
from tfdfd.faces.tracks import link_faces
from tfdfd.files import write_atomically
from tfdfd.media.errors import MediaError
from tfdfd.media.inputs import Input
from tfdfd.version import __version__

SCHEMA = 1
# Frames of one answer where a video is read piece by piece: up to four faces of each are within `MAX_CROPS`.
WINDOW = MAX_CROPS // 4
MULTIPLE = "multiple_faces"
# A video that was read; any other status says why it could not be.
READ = ("ok", "no_face", MULTIPLE)
DETECTED, OF_ORIGINAL, STORED = "detected", "original", "stored"
_THUMB = 24
# Where the boxes are stored ones, these are of the run that stored them.
_OF_BOXES = ("frames", "every_s", "first", "all", "detector", "detector_options", "boxes_from")


@dataclass
class Record:
    """What became of one video or image.

    Attributes:
        video: its path in the index.
        status: one of `tfdfd.media.errors.STATUSES`, or `multiple_faces` where that rule left it out.
        message: why, or what else is to be known of it.
        kind: `image` or `video` by content.
        duration_s: of a video that was read to its end.
        frames: how many were looked at.
        multiple_faces: whether more than 10 % of its frames have a second face.
        boxes: `detected`, or whose they are: `original`, `stored`.
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
class StatusRow:
    """One row of `status.csv`: a `Record` with its crops counted."""

    video: str
    kind: str | None
    status: str
    frames: int
    crops: int
    multiple_faces: int
    boxes: str | None
    message: str | None


class FaceSet:
    """A face set in the making, or a finished one.

    Args:
        index: an `index.csv`.
        root: the folder that its paths are relative to.
        folder: where the set is or will be.
        options: how it is cut.
        stored: another face set of the same index whose boxes are used: nothing is detected, its choice of frames
            and its detector hold.
        workers: decoding processes; None: one a core.

    Attributes:
        rows: of the index.
        pending: those that are still to be done.

    Use as a context manager: it keeps other runs out of the folder.

    Raises:
        ValueError: the index or `stored` is of no use, or the folder holds something else.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        index: str | os.PathLike,
        root: str | os.PathLike,
        folder: str | os.PathLike,
        options: FaceOptions | None = None,
        stored: str | os.PathLike | None = None,
        workers: int | None = None,
    ):
        self.options = options or FaceOptions()
        self.rows = sorted(read_table(index, IndexRow), key=lambda row: os.fsencode(row.path))
        self._root, self._folder = Path(root), Path(folder)
        if not self._root.is_dir():
            raise ValueError(
                f"{root} is no folder; give the folder that the paths of {index} are relative to (--root)."
            )
        self._by_path = {row.path: row for row in self.rows}
        if len(self._by_path) < len(self.rows):
            twice = next(a.path for a, b in zip(self.rows, self.rows[1:], strict=False) if a.path == b.path)
            raise ValueError(f"{index} lists {twice!r} more than once; every path may be there once only.")
        self._names = safe_names(self._by_path)
        self._stored = Path(stored) if stored is not None else None
        self._settings = {
            "schema": SCHEMA,
            "tfdfd": __version__,
            "opencv": cv2.__version__,
            "index_sha256": hashlib.sha256(Path(index).read_bytes()).hexdigest(),
            "arguments": self.options.to_dict() | {"detector_options": self._digests(), "stored": None},
        }
        if self._stored:
            self._settings["arguments"] |= self._arguments_of_stored()
        if workers is None:
            workers = max(1, min(os.cpu_count() or 1, len(self.rows)))
        detects = (NO_DETECTOR, {}) if self._stored else (self.options.detector, self.options.detector_options)
        self._extractor = FaceExtractor(*detects, self.options.limits, workers)
        self._partial = self._folder / ".partial"
        self._lock = _locked(self._folder)
        try:
            self._open()
            done = {row.path for row in self.rows if self._record(row) is not None}
        except BaseException:
            self.close()
            raise
        self.pending = [row for row in self.rows if row.path not in done]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._extractor.close()
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        shutil.rmtree(self._partial, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def extract(self, ordered_map: Callable | None = None) -> Iterator[Record]:
        """Does what is pending, originals before the fakes that use their boxes, and gives each record as it is done.

        Args:
            ordered_map: `(function, rows, count) -> iterator of results in the order of rows`; None: on this machine.

        Raises:
            OSError: the folder cannot be written (a full disk); what was done stays.
        """
        ordered_map = ordered_map or self._extractor.map
        later = [row for row in self.pending if self._original_of(row) is not None]
        waits = {row.path for row in later}
        for rows in ([row for row in self.pending if row.path not in waits], later):
            if rows:
                yield from ordered_map(self._do, rows, len(rows))

    def finish(self) -> dict:
        """Writes the tables and the counts, once every row has its record; returns the counts."""
        statuses, faces = {}, 0
        flagged = 0
        for row in self.rows:
            record = self._record(row)
            statuses[record.status] = statuses.get(record.status, 0) + 1
            faces += len(record.crops)
            flagged += record.multiple_faces
        write_table(self._folder / "faces.csv", self._face_rows(), FaceRow)
        write_table(self._folder / "status.csv", (_status_row(self._record(row)) for row in self.rows), StatusRow)
        counts = {"videos": len(self.rows), "crops": faces, MULTIPLE: flagged}
        counts["statuses"] = dict(sorted(statuses.items()))
        shutil.rmtree(self._partial, ignore_errors=True)
        self._write_run(counts)
        return counts

    def _face_rows(self):
        for row in self.rows:
            of_video = {"dataset": row.dataset, "video": row.path, "label": row.label, "method": row.method}
            of_video |= {"source_id": row.source_id, "identity": row.identity, "compression": row.compression}
            for crop in self._record(row).crops:
                yield FaceRow(**crop | {"box": tuple(crop["box"])}, **of_video, split=row.split)

    def _digests(self):
        """The detector's options, files among them by what is in them."""
        options = self.options.detector_options.items()
        files = {name: Path(value) for name, value in options if value and Path(str(value)).is_file()}
        return dict(options) | {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}

    def _arguments_of_stored(self):
        run = self._stored / "run.json"
        try:
            data = run.read_bytes()
            told = json.loads(data)
            finished, arguments = told["finished"], told["arguments"]
            same_index = told["index_sha256"] == self._settings["index_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._stored} is no face set whose boxes could be used: {error}.") from error
        if not finished:
            raise ValueError(f"the face set {self._stored} is not finished; run its 'tfdfd extract' to the end first.")
        if not same_index:
            raise ValueError(
                f"the face set {self._stored} was made of another index (SHA-256 {told['index_sha256']}, here "
                f"{self._settings['index_sha256']}); its boxes fit no other."
            )
        if arguments["detector"] == NO_DETECTOR:
            raise ValueError(f"the face set {self._stored} has whole frames for faces; it has no boxes to cut by.")
        if self.options.mirror and not arguments["first"]:
            raise ValueError(
                f"a mirrored tree has one crop a video; {self._stored} has the boxes of more than one frame."
            )
        return {key: arguments[key] for key in _OF_BOXES} | {"stored": hashlib.sha256(data).hexdigest()}

    def _open(self):
        """Makes the folder this set's, or makes sure that it is."""
        for left_over in self._folder.glob(".tfdfd-*.tmp"):
            left_over.unlink()
        shutil.rmtree(self._partial, ignore_errors=True)
        run = self._folder / "run.json"
        if run.exists():
            self._compare(run)
        else:
            if any(self._folder.iterdir()):
                raise ValueError(f"{self._folder} is not empty and holds no face set; give a new or an empty folder.")
            self._write_run(None)
        self._partial.mkdir()

    def _compare(self, run):
        try:
            before = json.loads(run.read_bytes())
            before = _flat({key: before[key] for key in self._settings})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{run} is no record of a face set: {type(error).__name__}: {error}.") from error
        now = _flat(json.loads(json.dumps(self._settings)))
        differing = [key for key in now | before if now.get(key) != before.get(key)]
        if differing:
            told = "; ".join(f"{key} was {before.get(key)!r}, now {now.get(key)!r}" for key in differing)
            raise ValueError(
                f"{self._folder} was begun otherwise: {told}. Give the same again to go on, or another folder."
            )

    def _write_run(self, counts):
        answer = self._settings | {"finished": counts is not None, "counts": counts}
        write_atomically(self._folder / "run.json", json.dumps(answer, indent=1) + "\n")

    def _place(self, part, row):
        return self._folder / part / f"{self._names[row.path]}.json"

    def _crops_place(self, row):
        name = self._names[row.path]
        return self._folder / "crops" / (f"{name}.{self.options.format}" if self.options.mirror else name)

    def _record(self, row):
        """The record of a video that is done, else None."""
        try:
            record = Record(**json.loads(self._place("records", row).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        whole = not record.crops or self._crops_place(row).exists()
        return record if whole and (record.boxes is None or self._place("boxes", row).exists()) else None

    def _original_of(self, row):
        """The row whose boxes are to be used for this one."""
        if self.options.boxes_from != ORIGINAL or self._stored or row.label != FAKE:
            return None
        original = self._by_path.get(row.original)
        return original if original is not None and original.label != FAKE else None

    def _do(self, row: IndexRow) -> Record:
        """Everything for one video: a function of its row and of files that no longer change."""
        partial = self._partial / self._names[row.path]
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "found").mkdir(parents=True)
        try:
            boxes, whose, refused = self._known_boxes(row)
            cut = refused or _VideoCut(self.options, partial, self._ask(row)).run(row, boxes, whose)
            self._publish(row, cut, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cut

    def _known_boxes(self, row):
        """Boxes to cut by (None: detect), whose they are, and a record in their place where there can be none."""
        if self._stored:
            place = self._stored / "records" / f"{self._names[row.path]}.json"
            try:
                before = Record(**json.loads(place.read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                raise ValueError(f"the face set {self._stored} lacks a sound {place}: {error}.") from error
            if before.status not in READ:
                return None, STORED, Record(row.path, before.status, before.message, before.kind)
            return read_boxes(self._stored / "boxes" / f"{self._names[row.path]}.json"), STORED, None
        original = self._original_of(row)
        if original is not None and self._place("boxes", original).exists():
            boxes = read_boxes(self._place("boxes", original))
            if any(boxes.values()):
                return boxes, OF_ORIGINAL, None
        return None, DETECTED, None

    def _ask(self, row):
        """A function from a request to the outcome of this video."""
        error = None
        pure = PurePosixPath(row.path)
        if pure.is_absolute() or ".." in pure.parts:
            error = MediaError("unsupported", "the path leads out of the data set's folder")
        item = Input(os.path.join(self._root, row.path), row.kind, error)

        def ask(request):
            answer = self._extractor.extract_one(item, request)
            # Somebody may have ended the process: only a file that does so twice is itself to blame.
            return self._extractor.extract_one(item, request) if answer.process_died else answer

        return ask

    def _publish(self, row, record, partial):
        """Crops and boxes to their places, then the record, which makes the video done."""
        crops = self._crops_place(row)
        if crops.is_dir():
            shutil.rmtree(crops)
        if record.crops:
            crops.parent.mkdir(parents=True, exist_ok=True)
            made = [partial / "crops" / PurePosixPath(crop["file"]) for crop in record.crops]
            os.replace(made[0] if self.options.mirror else partial / "crops", crops)
            for crop in record.crops:
                name = crops if self.options.mirror else crops / crop["file"]
                crop["file"] = name.relative_to(self._folder).as_posix()
        if record.boxes is not None:
            self._place("boxes", row).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / "boxes.json", self._place("boxes", row))
        self._place("records", row).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(partial / "record.json", json.dumps(asdict(record), indent=1) + "\n")
        os.replace(partial / "record.json", self._place("records", row))


class _VideoCut:
    """One video being cut into `partial`: `crops/`, `boxes.json`."""

    def __init__(self, options: FaceOptions, partial: Path, ask: Callable[[Request], Extraction]):
        self._options, self._partial, self._ask = options, partial, ask

    def run(self, row, boxes, whose):
        parts = self._detected() if boxes is None else self._by_boxes(boxes)
        looked_at: list[tuple[FrameFaces, list[np.ndarray], list[int], list[str]]] = []
        notes, kind, duration = [], row.kind, None
        for part in parts:
            kind, duration = part.kind or kind, part.duration_s
            if part.status not in ("ok", "no_face"):
                return Record(row.path, part.status, part.message, kind)
            # A part without a face begins its message with that; the whole may have some.
            note = part.message if part.status == "ok" else (part.message or "").partition("; ")[2]
            notes += [note] if note and note not in notes else []
            for frame in part.frames:
                stored = None if boxes is None else self._kept(boxes[frame.index])
                kept = list(range(len(stored))) if boxes is not None else self._kept_of(frame)
                digests = [self._write(frame.index, i, frame.faces[i].crop) for i in kept]
                thumbs = [cv2.resize(f.crop, (_THUMB, _THUMB), interpolation=cv2.INTER_AREA) for f in frame.faces]
                for face in frame.faces:
                    face.crop = None
                looked_at.append((frame, thumbs, kept, digests))
        if boxes is None:
            found = self._tracked(looked_at)
        else:
            found = {frame.index: boxes[frame.index] for frame, *_ in looked_at}
        write_boxes(self._partial / "boxes.json", found)
        counts = [len(kept_faces([face.score for face in faces], self._options.min_score)) for faces in found.values()]
        record = Record(row.path, "ok", None, kind, duration, len(found), has_multiple_faces(counts), whose)
        if record.multiple_faces and self._options.multiple_faces == DROP:
            record.status = MULTIPLE
            notes.insert(0, f"{sum(n > 1 for n in counts)} of the {len(counts)} frames have a second face")
        else:
            record.crops = list(self._crops(looked_at, found, boxes is not None))
            if not record.crops:
                record.status = "no_face"
                where = "the image" if kind == "image" else f"the {len(found)} frames looked at"
                crowd = f" of at most {self._options.drop_frames_above} faces" if any(found.values()) else ""
                notes.insert(0, f"no face was found in {where}{crowd}")
        record.message = "; ".join(notes) or None
        return record

    def _request(self, **others):
        return Request(size=self._options.size, margin=self._options.margin, whole_pixels=True, **others)

    def _detected(self):
        options = self._options
        if not options.all and options.every_s is None:
            yield self._ask(self._request(frames=1 if options.first else options.frames, in_order=options.first))
            return
        for skip in range(0, options.limits.max_frames, WINDOW):
            part = self._ask(self._request(frames=WINDOW, in_order=True, every_s=options.every_s, skip=skip))
            yield part
            if len(part.frames) < WINDOW:
                return

    def _by_boxes(self, boxes):
        for window in self._windows(boxes):
            part = self._ask(self._request(frames=max(1, len(window)), boxes=tuple(window)))
            yield part
            if len(part.frames) < len(window):
                return

    def _windows(self, boxes):
        """Frames with the faces to cut from them, in pieces that fit into an answer."""
        window, faces = [], 0
        for index in sorted(boxes):
            cut = [[*face.box, face.score] for face in self._kept(boxes[index])]
            if window and (len(window) == WINDOW or faces + len(cut) > MAX_CROPS):
                yield window
                window, faces = [], 0
            window.append([index, cut])
            faces += len(cut)
        yield window

    def _kept(self, faces):
        """Those of a frame's boxes that become crops."""
        options = self._options
        scores = [face.score for face in faces]
        kept = kept_faces(scores, options.min_score, options.max_faces, options.drop_frames_above)
        return [faces[i] for i in kept]

    def _kept_of(self, frame):
        options = self._options
        scores = [face.score for face in frame.faces]
        return kept_faces(scores, options.min_score, options.max_faces, options.drop_frames_above)

    def _tracked(self, looked_at):
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

    def _write(self, frame, position, crop):
        quality = [cv2.IMWRITE_JPEG_QUALITY, self._options.quality] if self._options.format == "jpg" else []
        data = cv2.imencode(f".{self._options.format}", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
        (self._partial / "found" / f"{frame}-{position}").write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def _crops(self, looked_at, found, stored):
        """The crops under their final names, by frame and track; yields what `FaceRow` wants to know of each."""
        (self._partial / "crops").mkdir()
        for frame, _, kept, digests in looked_at:
            faces = self._kept(found[frame.index]) if stored else [found[frame.index][i] for i in kept]
            each = sorted(zip(faces, kept, digests, strict=True), key=lambda of: of[0].track)
            for face, position, digest in each:
                name = f"{frame.index:06d}-{face.track}.{self._options.format}"
                os.rename(self._partial / "found" / f"{frame.index}-{position}", self._partial / "crops" / name)
                crop = {"file": name, "frame": frame.index, "time_s": frame.time_s, "track": face.track}
                yield crop | {"box": face.box, "score": face.score, "sha256": digest}


def _status_row(record):
    return StatusRow(
        record.video,
        record.kind,
        record.status,
        record.frames,
        len(record.crops),
        int(record.multiple_faces),
        record.boxes,
        record.message,
    )


def _flat(values, prefix=""):
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def _locked(folder):
    """Makes the folder and keeps other runs out of it for as long as the descriptor is open, which a kill ends, too."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(lock)
            raise ValueError(f"another 'tfdfd extract' is at work in {folder}; wait for it or end it.") from error
        # A file system without locks.
        with contextlib.suppress(OSError):
            os.close(lock)
        return None
    return lock
