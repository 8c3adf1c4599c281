"""Face sets: the face crops of an index of videos, resumable and bounded in memory.

A folder holds
    crops/      the crops of each video in a folder of its own (or, mirrored, one file each)
    boxes/      the detected faces of each video (`tfdfd.data.cut_faces`)
    records/    the result for each video; written last, so that a video with a record is done
    faces.csv   a row per crop (`FaceRow`), sorted by video, frame and track
    status.csv  a row per video (`StatusRow`)
    run.json    versions, arguments, digest of the index; in the end the counts

Incomplete files lie in `.partial`, which the next run clears. The work on a video is a function of its job that any
engine of `tfdfd.extract.engines` may run. However often a run is interrupted, the bytes are the same.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from tfdfd.data import FAILED, MULTIPLE, ORIGINAL, READ, FaceOptions
from tfdfd.data.cut_faces import OF_ORIGINAL, VERSIONS, FaceWork, VideoJob, VideoRecord
from tfdfd.data.tables import FAKE, FaceRow, IndexRow, read_table, write_table
from tfdfd.extract.engines import Engine, LocalEngine
from tfdfd.faces import NO_DETECTOR
from tfdfd.files import RUN, WorkDir, sha256

SCHEMA = 1
# With stored boxes, these arguments are those of the run that stored them.
_OF_BOXES = ("frames", "every_s", "first", "all", "detector", "detector_options", "boxes_from")
_LONGEST = 100
_DIGITS = 12


@dataclass(frozen=True)
class StatusRow:
    """One row of `status.csv`: a `VideoRecord` with its crops counted."""

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


class FaceSet:
    """A new, interrupted or finished face set. Use as a context manager: it locks the folder against other runs.

    Args:
        index: an `index.csv`.
        root: the folder that its paths are relative to.
        folder: folder of the set.
        options: options of the set.
        stored: another face set of the same index whose boxes are used: nothing is detected, and its frames and
            detector apply.
        engine: runs the work; None: processes of this machine, one per core.
        retry: statuses of `FAILED`; videos with one of them are done again, and so are the fakes that would have been
            cut by their boxes.

    Attributes:
        rows: rows of the index.
        pending: rows that are not done yet.

    Raises:
        ValueError: the index, `stored` or `retry` is invalid, or the folder holds something else.
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
                f"{root} is not a folder; give the folder that the paths of {index} are relative to (--root)."
            )
        self._by_path = {row.path: row for row in self.rows}
        if len(self._by_path) < len(self.rows):
            twice = next(a.path for a, b in zip(self.rows, self.rows[1:], strict=False) if a.path == b.path)
            raise ValueError(f"{index} lists {twice!r} more than once; paths must be unique.")
        self._names = safe_names(self._by_path)
        self._stored = Path(stored) if stored is not None else None
        self._request: dict[str, Any] = {
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
        folders = [None if path is None else Path(os.path.abspath(path)) for path in (root, folder, stored)]
        self._work = FaceWork(options, *folders, VERSIONS)  # type: ignore[arg-type,call-arg]
        self._engine = engine or LocalEngine()
        self._running: Iterator[VideoRecord] | None = None
        self._set = WorkDir(
            self._folder, "tfdfd extract", self._request, holds="face set", state=_state(None), upgrade=_check_run
        )
        try:
            # The folder is locked, so its incomplete files belong to a run that has ended.
            shutil.rmtree(self._work.partial, ignore_errors=True)
            # It may exist again: a worker can outlive a killed run for a moment and write into it.
            self._work.partial.mkdir(exist_ok=True)
            self.pending = self._begin(retry, bool(self._set.before and self._set.before["finished"]))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FaceSet:
        return self

    def __exit__(self, *error: object) -> None:
        if self._running is not None:
            self._running.close()  # type: ignore[attr-defined]  # workers would still write into the folder
        self.close()

    def close(self) -> None:
        """Releases the folder."""
        shutil.rmtree(self._work.partial, ignore_errors=True)
        self._set.close()

    @property
    def sandbox_note(self) -> str | None:
        """Why a decoding process was not sealed, known after the first video; None if all were."""
        return self._engine.sandbox_note

    def extract(self) -> Iterator[VideoRecord]:
        """Processes pending rows, originals before the fakes that use their boxes; yields each record as it is done.

        Raises:
            OSError: the folder cannot be written (a full disk); finished videos stay.
            ValueError, RuntimeError: the detector or the engine is not available as configured.
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
        statuses: list[StatusRow] = []
        write_table(self._folder / "faces.csv", self._face_rows(statuses.append), FaceRow)
        write_table(self._folder / "status.csv", statuses, StatusRow)
        counts: dict[str, Any] = {"videos": len(statuses), "crops": sum(row.crops for row in statuses)}
        counts[MULTIPLE] = sum(row.multiple_faces for row in statuses)
        counts["statuses"] = dict(sorted(collections.Counter(row.status for row in statuses).items()))
        shutil.rmtree(self._work.partial, ignore_errors=True)
        self._set.write(_state(counts))
        return counts

    def _face_rows(self, add_status: Callable[[StatusRow], None]) -> Iterator[FaceRow]:
        """The rows of `faces.csv`; `add_status` gets the row of `status.csv` of each video, read at the same time."""
        for row in self.rows:
            record = self._record(row)
            if record is None:
                raise RuntimeError(
                    f"{self._folder} has no record of {row.path!r}, though its work is done; all machines that work on "
                    "the set must see the same folder."
                )
            counts = record.frames, len(record.crops), int(record.multiple_faces)
            add_status(StatusRow(record.video, record.kind, record.status, *counts, record.boxes, record.message))
            of_video = {"dataset": row.dataset, "video": row.path, "label": row.label, "method": row.method}
            of_video |= {"source_id": row.source_id, "identity": row.identity, "compression": row.compression}
            for crop in record.crops:
                yield FaceRow(**crop | {"box": tuple(crop["box"])}, **of_video, split=row.split)

    def _digests(self) -> dict[str, Any]:
        """The detector's options, files represented by their digests."""
        return self.options.detector_options | {name: sha256(file) for name, file in self._detector_files().items()}

    def _detector_files(self) -> dict[str, str]:
        """The absolute paths of the detector's options that are files."""
        options = self.options.detector_options.items()
        return {name: os.path.abspath(value) for name, value in options if value and os.path.isfile(str(value))}

    def _arguments_of_stored(self) -> dict[str, Any]:
        run = self._stored / RUN  # type: ignore[operator]
        try:
            data = run.read_bytes()
            before = json.loads(data)
            finished, arguments = before["finished"], before["arguments"]
            same_index = before["index_sha256"] == self._request["index_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._stored} is not a face set whose boxes could be used: {error}.") from error
        if not finished:
            raise ValueError(f"the face set {self._stored} is not finished; run its 'tfdfd extract' to the end first.")
        if not same_index:
            raise ValueError(
                f"the face set {self._stored} was made of another index (SHA-256 {before['index_sha256']}, here "
                f"{self._request['index_sha256']}); its boxes fit no other."
            )
        if arguments["detector"] == NO_DETECTOR:
            raise ValueError(f"the face set {self._stored} has whole frames for faces; it has no boxes to cut by.")
        if self.options.mirror and not arguments["first"]:
            raise ValueError(
                f"a mirrored tree has one crop per video; {self._stored} has the boxes of more than one frame."
            )
        return {key: arguments[key] for key in _OF_BOXES} | {"stored": hashlib.sha256(data).hexdigest()}

    def _begin(self, retry: Sequence[str], finished: bool) -> list[IndexRow]:
        """Removes the records of videos to be repeated; returns the pending rows."""
        records = ((row.path, self._record(row)) for row in self.rows)
        ends = {path: (record.status, record.boxes) for path, record in records if record is not None}
        again = {path for path, (status, _) in ends.items() if status in retry}
        names = {self._names[path] for path in again}
        for row in self.rows:
            # A fake was cut by its own boxes where its original failed.
            if self._original_of(row) in names and ends.get(row.path, (None, OF_ORIGINAL))[1] != OF_ORIGINAL:
                again.add(row.path)
        # A failed file may have been replaced by a readable one.
        self._refuse_other_files(path for path, (status, _) in ends.items() if status in READ and path not in again)
        pending = [row for row in self.rows if row.path not in ends or row.path in again]
        if pending and finished:
            self._set.write(_state(None))
        for path in again:
            self._work.file_of("records", self._names[path]).unlink()
        return pending

    def _refuse_other_files(self, paths: Iterable[str]) -> None:
        """Raises `ValueError` for files of another size than the index has; missing files are accepted."""
        for path in paths:
            file, known = self._root / path, self._by_path[path].bytes
            with contextlib.suppress(OSError):
                size = file.stat().st_size
                if known not in (None, size):
                    raise ValueError(
                        f"{self._folder} has crops of {path!r} as the index knows it, with {known:,} bytes; {file} has "
                        f"{size:,}: another data set (--root), or the file was changed. Give the same again to resume, "
                        "or index it anew and give another folder."
                    )

    def _record(self, row: IndexRow) -> VideoRecord | None:
        return self._work.record(self._names[row.path])

    def _original_of(self, row: IndexRow) -> str | None:
        """The name of the row whose boxes are used for this one, or None."""
        if self.options.boxes_from != ORIGINAL or self._stored or row.label != FAKE:
            return None
        original = self._by_path.get(row.original)
        return self._names[original.path] if original is not None and original.label != FAKE else None


def _state(counts: dict[str, Any] | None) -> dict[str, Any]:
    return {"finished": counts is not None, "counts": counts}


def _check_run(before: dict[str, Any]) -> dict[str, Any]:
    if not {"schema", "index_sha256", "arguments", "finished"} <= before.keys():
        raise ValueError(f"the folder holds other work than a face set (see its {RUN}); give another folder.")
    return before


def safe_names(paths: Iterable[str]) -> dict[str, str]:
    """Names for the paths of an index that every file system accepts, one per path.

    Names are relative, without suffix, in the tree of the paths: ASCII letters, digits, `_`, `-`, and dots inside. A
    path that is not such a name, differs from another in suffix or case only, or equals a folder of another, gets
    digits of its SHA-256 appended. No name is another's folder, and no folder has a dot in its name.
    """
    paths = list(dict.fromkeys(paths))
    plain = {path: _plain_name(path) for path in paths}
    count = collections.Counter(name.lower() for name, _ in plain.values())
    folders = {str(folder).lower() for name, _ in plain.values() for folder in PurePosixPath(name).parents}
    for digits in (_DIGITS, 64):
        names = {
            path: name
            if same and count[name.lower()] == 1 and name.lower() not in folders
            else f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:digits]}"
            for path, (name, same) in plain.items()
        }
        if len({name.lower() for name in names.values()}) == len(names):
            break
    return names


def _plain_name(path: str) -> tuple[str, bool]:
    """The name with unsafe characters replaced, and whether there were none."""
    pure = PurePosixPath(path)
    wanted = [*pure.parts[:-1], pure.stem]
    safe = [re.sub(r"[^A-Za-z0-9_-]", "_", part)[:_LONGEST] for part in wanted[:-1]]
    safe.append(re.sub(r"[^A-Za-z0-9_.-]|^\.|\.$", "_", wanted[-1])[:_LONGEST])
    return "/".join(safe), safe == wanted
