"""From an index of videos to a set of face crops: resumable, bounded in memory, the same bytes however often it stops.

A folder holds
    crops/      the crops of each video in a folder of its own (or, mirrored, one file each)
    boxes/      the detected faces of each video (`tfdfd.data.boxes`)
    records/    what became of each video; written last, so that a video with a record is done
    faces.csv   a row a crop (`FaceRow`), sorted by video, frame and track
    status.csv  a row a video (`StatusRow`)
    run.json    versions, arguments, digest of the index; in the end the counts

Whatever is not whole lies in `.partial`, which the next run clears. The work on a video (`tfdfd.data.face_work`) is a
function of its job that any engine may run: `tfdfd.data.local_engine` on this machine, `tfdfd.data.ray_engine` on a
cluster.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from tfdfd.data.face_options import ORIGINAL, FaceOptions
from tfdfd.data.face_record import FAILED, MULTIPLE, OF_ORIGINAL, READ, Record
from tfdfd.data.face_work import VERSIONS, FaceWork, VideoJob
from tfdfd.data.local_engine import LocalEngine
from tfdfd.data.safe_names import safe_names
from tfdfd.data.tables import FAKE, FaceRow, IndexRow, read_table, write_table
from tfdfd.faces import NO_DETECTOR
from tfdfd.files import sha256
from tfdfd.workdir import RUN, WorkDir

SCHEMA = 1
# Where the boxes are stored ones, these are of the run that stored them.
_OF_BOXES = ("frames", "every_s", "first", "all", "detector", "detector_options", "boxes_from")


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

    READ: ClassVar[dict[str, Callable[[str], object]]] = {
        "frames": int, "crops": int, "multiple_faces": int,
        **dict.fromkeys(("kind", "boxes", "message"), lambda cell: cell or None),
    }  # fmt: skip


class Engine(Protocol):
    """What has the work on videos done."""

    def run(self, work: FaceWork, phases: Sequence[Sequence[VideoJob]]) -> Iterator[Record]:
        """`work.do` for each job, at most once at a time; gives the records in the order of the jobs.

        Args:
            work: what is done, by any process that sees the folders.
            phases: the jobs; those of a phase need those of all before it done.
        """


class FaceSet:
    """A face set in the making, or a finished one.

    Args:
        index: an `index.csv`.
        root: the folder that its paths are relative to.
        folder: where the set is or will be.
        options: how it is cut.
        stored: another face set of the same index whose boxes are used: nothing is detected, its choice of frames
            and its detector hold.
        engine: what has the work done; None: processes of this machine, one a core.
        retry: statuses of `FAILED`; videos that ended in one of them are done again, and so are the fakes that would
            have been cut by their boxes.

    Attributes:
        rows: of the index.
        pending: those that are still to be done.

    Use as a context manager: it keeps other runs out of the folder.

    Raises:
        ValueError: the index, `stored` or `retry` is of no use, or the folder holds something else.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        index: str | os.PathLike,
        root: str | os.PathLike,
        folder: str | os.PathLike,
        options: FaceOptions | None = None,
        stored: str | os.PathLike | None = None,
        engine: Engine | None = None,
        retry: Sequence[str] = (),
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
        self._request = {
            "schema": SCHEMA,
            **VERSIONS,
            "index_sha256": sha256(index),
            "arguments": self.options.to_dict() | {"detector_options": self._digests(), "stored": None},
        }
        if self._stored:
            self._request["arguments"] |= self._arguments_of_stored()
        unknown = [status for status in retry if status not in FAILED]
        if unknown:
            raise ValueError(f"retry takes {', '.join(FAILED)}; received {', '.join(map(repr, unknown))}.")
        options = replace(self.options, detector_options=self.options.detector_options | self._detector_files())
        places = [None if place is None else Path(os.path.abspath(place)) for place in (root, folder, stored)]
        self._work = FaceWork(options, *places, VERSIONS)
        self._engine = engine or LocalEngine()
        self._running = None
        # What is not whole belongs to a run that is gone, or this folder would be locked.
        partial = self._work.partial
        self._set = WorkDir(
            self._folder, "tfdfd extract", self._request, holds="face set", state=_state(None), upgrade=_face_set
        )
        try:
            shutil.rmtree(partial, ignore_errors=True)
            # It may be there still: a worker that outlives a killed run by a moment writes into it.
            partial.mkdir(exist_ok=True)
            self.pending = self._begin(retry, bool(self._set.before and self._set.before["finished"]))
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._running is not None:
            self._running.close()  # whoever is at work would write into the folder
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        shutil.rmtree(self._work.partial, ignore_errors=True)
        self._set.close()

    def extract(self) -> Iterator[Record]:
        """Does what is pending, originals before the fakes that use their boxes, and gives each record as it is done.

        Raises:
            OSError: the folder cannot be written (a full disk); what was done stays.
            ValueError, RuntimeError: the detector or the engine cannot be had as asked for.
        """
        jobs = [VideoJob(row, self._names[row.path], self._original_of(row)) for row in self.pending]
        phases = [[job for job in jobs if job.original is None], [job for job in jobs if job.original is not None]]
        self._running = self._engine.run(self._work, [phase for phase in phases if phase])
        return self._running

    def finish(self) -> dict:
        """Writes the tables and the counts, once every row has its record; returns the counts.

        Raises:
            RuntimeError: a record is missing.
        """
        statuses = []
        write_table(self._folder / "faces.csv", self._face_rows(statuses.append), FaceRow)
        write_table(self._folder / "status.csv", statuses, StatusRow)
        counts = {"videos": len(statuses), "crops": sum(row.crops for row in statuses)}
        counts[MULTIPLE] = sum(row.multiple_faces for row in statuses)
        counts["statuses"] = dict(sorted(collections.Counter(row.status for row in statuses).items()))
        shutil.rmtree(self._work.partial, ignore_errors=True)
        self._set.write(_state(counts))
        return counts

    def _face_rows(self, tell):
        """The rows of `faces.csv`; `tell` is given that of `status.csv` of each video, so that it is read once."""
        for row in self.rows:
            record = self._record(row)
            if record is None:
                raise RuntimeError(
                    f"{self._folder} has no record of {row.path!r}, though its work is done; all who work on the set "
                    "must see the same folder."
                )
            tell(_status_row(record))
            of_video = {"dataset": row.dataset, "video": row.path, "label": row.label, "method": row.method}
            of_video |= {"source_id": row.source_id, "identity": row.identity, "compression": row.compression}
            for crop in record.crops:
                yield FaceRow(**crop | {"box": tuple(crop["box"])}, **of_video, split=row.split)

    def _digests(self):
        """The detector's options, files among them by what is in them."""
        return self.options.detector_options | {name: sha256(file) for name, file in self._detector_files().items()}

    def _detector_files(self):
        """Those of the detector's options that are files, by their absolute names."""
        options = self.options.detector_options.items()
        return {name: os.path.abspath(value) for name, value in options if value and os.path.isfile(str(value))}

    def _arguments_of_stored(self):
        run = self._stored / RUN
        try:
            data = run.read_bytes()
            told = json.loads(data)
            finished, arguments = told["finished"], told["arguments"]
            same_index = told["index_sha256"] == self._request["index_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._stored} is no face set whose boxes could be used: {error}.") from error
        if not finished:
            raise ValueError(f"the face set {self._stored} is not finished; run its 'tfdfd extract' to the end first.")
        if not same_index:
            raise ValueError(
                f"the face set {self._stored} was made of another index (SHA-256 {told['index_sha256']}, here "
                f"{self._request['index_sha256']}); its boxes fit no other."
            )
        if arguments["detector"] == NO_DETECTOR:
            raise ValueError(f"the face set {self._stored} has whole frames for faces; it has no boxes to cut by.")
        if self.options.mirror and not arguments["first"]:
            raise ValueError(
                f"a mirrored tree has one crop a video; {self._stored} has the boxes of more than one frame."
            )
        return {key: arguments[key] for key in _OF_BOXES} | {"stored": hashlib.sha256(data).hexdigest()}

    def _begin(self, retry, finished):
        """Drops the records of what is to be done again; returns the rows that are to be done."""
        records = ((row.path, self._record(row)) for row in self.rows)
        ends = {path: (record.status, record.boxes) for path, record in records if record is not None}
        again = {path for path, (status, _) in ends.items() if status in retry}
        names = {self._names[path] for path in again}
        for row in self.rows:
            # A fake was done by itself where its original could not be.
            if self._original_of(row) in names and ends.get(row.path, (None, OF_ORIGINAL))[1] != OF_ORIGINAL:
                again.add(row.path)
        # What failed may have been replaced by what can be read.
        self._refuse_other_files(path for path, (status, _) in ends.items() if status in READ and path not in again)
        pending = [row for row in self.rows if row.path not in ends or row.path in again]
        if pending and finished:
            self._set.write(_state(None))
        for path in again:
            self._work.place("records", self._names[path]).unlink()
        return pending

    def _refuse_other_files(self, paths):
        """Crops of one data set are not gone on with from another one of the same index; files may be gone by now."""
        for path in paths:
            file, known = self._root / path, self._by_path[path].bytes
            with contextlib.suppress(OSError):
                found = file.stat().st_size
                if known not in (None, found):
                    raise ValueError(
                        f"{self._folder} has crops of {path!r} as the index knows it, with {known:,} bytes; {file} has "
                        f"{found:,}: another data set (--root), or the file was changed. Give the same again to go on, "
                        "or index it anew and give another folder."
                    )

    def _record(self, row):
        return self._work.record(self._names[row.path])

    def _original_of(self, row):
        """The name of the row whose boxes are to be used for this one."""
        if self.options.boxes_from != ORIGINAL or self._stored or row.label != FAKE:
            return None
        original = self._by_path.get(row.original)
        return self._names[original.path] if original is not None and original.label != FAKE else None


def _state(counts):
    return {"finished": counts is not None, "counts": counts}


def _face_set(told):
    if not {"schema", "index_sha256", "arguments", "finished"} <= told.keys():
        raise ValueError(f"the folder holds other work than a face set (see its {RUN}); give another folder.")
    return told


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
