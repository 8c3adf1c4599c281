"""Results of many inputs: a resumable folder with one JSON line per input, and a CSV table."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import itertools
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tfdfd.detect.record import library_versions
from tfdfd.detect.results import Detection
from tfdfd.extract.engines import Engine
from tfdfd.files import WorkDir, differences, sha256, sync_folder
from tfdfd.media.inputs import Input, Inputs
from tfdfd.text import printable_path, spreadsheet_cell

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector

_log = logging.getLogger(__name__)
T = TypeVar("T")
RESULTS = "results.jsonl"
CSV_COLUMNS = ("path", "status", "verdict", "p_fake", "faces", "frames", "duration", "message", "sha256")
# Written beside it when all inputs are done: the record (`tfdfd.detect.record`), the page, and pictures for it.
RECORD, REPORT, PICTURES = "record.json", "report.html", "pictures"
# Inputs with these statuses have no bytes to identify, or too many.
_NOT_HASHED = ("not_found", "too_large")


class ResultFolder:
    """A folder that receives the result of each input as soon as it is done. Use it as a context manager.

    A run that was stopped in any way, `kill -9` included, resumes with the same inputs and settings, and ends in the
    same bytes as one that was not stopped. The lines of `results.jsonl` are in the order of the inputs. They are the
    results of `tfdfd detect --json` without `elapsed_s`, and with `bytes` and `sha256` of the input.

    Args:
        folder: created if it is missing.
        detector: scores the inputs.
        inputs: as `tfdfd.media.inputs.list_inputs` returns them.

    Attributes:
        path: path of the folder.
        file: path of `results.jsonl`.
        done: number of inputs whose results are in the file.
        total: number of inputs.
        date: when the run began, which is the date of its record; ISO 8601.

    Raises:
        ValueError: the folder contains results of other inputs or settings, or something else, or another process
            has it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike, detector: Detector, inputs: Inputs):
        self._detector, self._inputs = detector, inputs
        paths = [printable_path(item.path) for item in inputs.items]
        resolved = b"\0".join(os.fsencode(os.path.realpath(item.path)) for item in inputs.items)
        listed = {"count": len(paths), "sha256": hashlib.sha256(resolved).hexdigest()}
        request = {**detector.settings(), "inputs": listed, "paths": paths}
        date = {"date": now()}
        self._work = WorkDir(folder, "tfdfd detect", request, holds="set of results", places=("paths",), state=date)
        try:
            self.date = (self._work.before or date).get("date") or date["date"]
            # Paths keep the spelling of the first run.
            self._paths = self._work.before["paths"] if self._work.before else paths
            self.path = self._work.path
            self.file = self.path / RESULTS
            self.total = len(paths)
            self.done = self._recover()
            _log.info("%s: %d of %d inputs are done", self.path, self.done, self.total)
        except BaseException:
            self._work.close()
            raise

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._work.close()

    def detect(
        self,
        keep: Callable[[int, Detection], object] | None = None,
        engine: Engine | None = None,
        encode: Callable[[Detection], dict[str, Any]] | None = None,
    ) -> Iterator[Detection]:
        """Scores the inputs that are not done, in order; yields each one, without crops, when its line is on the disk.

        Args:
            keep: called with the number of an input, from 0, and its outcome, before its line is written. The outcome
                has crops, or with an `engine` the pictures that `encode` made of them.
            engine: detects, where it is not this process; the lines are the same.
            encode: can be pickled; makes `Detection.pictures` of an outcome with crops, for an `engine`.

        Raises:
            OSError: the disk is full or broken; the lines that were written stay valid.
            RuntimeError: as `Engine.run`.
        """
        outcomes = self._here() if engine is None else self._elsewhere(engine, encode)
        with open(self.file, "ab") as file:
            sync_folder(self._work.path)
            for detection, identity in outcomes:
                if keep:
                    keep(self.done, detection)
                detection.drop_crops()
                detection.pictures = None
                start = time.perf_counter()
                file.write(self._line(detection, identity))
                file.flush()
                os.fsync(file.fileno())
                _log.info("%s: writing took %.3f s", detection.path, time.perf_counter() - start)
                self.done += 1
                yield detection

    def results(self) -> Sequence[dict]:
        """The results in the file, in the order of the inputs; each is read when it is asked for."""
        return _Lines(self.file, json.loads)

    def detections(self) -> Sequence[Detection]:
        """The same as detections, without crops."""
        return _Lines(self.file, lambda line: Detection.from_dict(json.loads(line)))

    def _here(self) -> Iterator[tuple[Detection, dict]]:
        rest = Inputs(self._inputs.items[self.done :], self._inputs.skipped)
        for item, detection in zip(rest.items, self._detector.iter_detect(rest), strict=True):
            yield detection, fingerprint(item, detection)

    def _elsewhere(
        self, engine: Engine, encode: Callable[[Detection], dict[str, Any]] | None
    ) -> Iterator[tuple[Detection, dict]]:
        items = self._inputs.items[self.done :]
        work = DetectWork(self._detector.arguments(), self._detector.settings(), library_versions(), encode)
        jobs = [replace(item, path=os.path.abspath(item.path)) for item in items]
        for item, outcome in zip(items, engine.run(work, [jobs]), strict=True):
            detection = outcome.detection
            if detection.status == "not_found" and item.error is None and os.path.isfile(item.path):
                raise RuntimeError(
                    f"the machine {outcome.host} has no file {os.path.abspath(item.path)}; the inputs must be on a "
                    "file system that all machines see in the same place."
                )
            detection.path = item.path
            for name, note in (("runtime_note", outcome.runtime_note), ("sandbox_note", engine.sandbox_note)):
                if note and not getattr(self._detector, name):
                    setattr(self._detector, name, note)
                    warnings.warn(note, RuntimeWarning, stacklevel=2)
            yield detection, outcome.fingerprint

    def _line(self, detection: Detection, identity: dict) -> bytes:
        result = detection.to_dict() | identity | {"path": self._paths[self.done]}
        result.pop("elapsed_s", None)
        return json.dumps(result).encode() + b"\n"

    def _recover(self) -> int:
        """Counts the valid lines, and removes what follows them: a line whose writing was interrupted."""
        count = size = 0
        with open(self.file, "a+b") as file:
            file.seek(0)
            for line in file:
                if count == self.total or not _is_result(line, self._paths[count]):
                    break
                count, size = count + 1, size + len(line)
            file.truncate(size)
        return count


class _Lines(Sequence[T]):
    """The lines of a file that does not change, each read and parsed when it is asked for."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]):
        self._path, self._parse = path, parse
        with open(path, "rb") as file:
            self._starts = [0, *itertools.accumulate(map(len, file))]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: Any) -> Any:
        start = self._starts[range(len(self))[place]]
        with open(self._path, "rb") as file:
            file.seek(start)
            return self._parse(file.readline())

    def __iter__(self) -> Iterator[T]:
        with open(self._path, "rb") as file:
            yield from map(self._parse, file)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one input from another process.

    Attributes:
        detection: without crops, with pictures.
        fingerprint: fingerprint of the input's file.
        runtime_note: note of the detector on its runtime.
        host: name of the machine.
    """

    detection: Detection
    fingerprint: dict
    runtime_note: str | None
    host: str


@dataclass(frozen=True)
class DetectWork:
    """Detection in any process that sees the inputs: a `tfdfd.extract.engines.Work` on `Input`s.

    Attributes:
        arguments: arguments of `Detector`.
        settings: settings of the detector of the process that started the work.
        libraries: versions in that process.
        encode: makes the pictures for the report.
    """

    arguments: dict[str, Any]
    settings: dict[str, Any]
    libraries: dict[str, str]
    encode: Callable[[Detection], dict[str, Any]] | None

    def check(self) -> None:
        """Checks that this machine would give the same results as the one that started the work.

        Raises:
            RuntimeError: it has other versions, weights or files.
        """
        with self.open(1) as detector:
            here = {"libraries": library_versions(), **detector.settings()}
        there = json.loads(json.dumps({"libraries": self.libraries, **self.settings}))
        if differing := differences(there, here):
            raise RuntimeError(
                f"the machine {socket.gethostname()} would give other results: {differing}. Install the same versions "
                "and weights on all machines."
            )

    def open(self, workers: int) -> Detector:
        """A detector for `do`."""
        from tfdfd.detect.detector import Detector

        return Detector(**self.arguments, workers=workers)

    def do(self, job: Input, tool: Detector) -> Outcome:
        """Detects in one input."""
        (detection,) = tool.iter_detect(Inputs([job]))
        if self.encode and detection.status == "ok":
            detection.pictures = self.encode(detection)
        detection.drop_crops()
        return Outcome(detection, fingerprint(job, detection), tool.runtime_note, socket.gethostname())

    def give_up(self, job: Input, status: str, message: str) -> Outcome:
        """The outcome of an input that has ended every process that worked on it."""
        detection = Detection(job.path, job.kind, status, message=message)
        return Outcome(detection, fingerprint(job, detection), None, socket.gethostname())


def _is_result(line: bytes, path: str) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line)["path"] == path
    except (ValueError, KeyError, TypeError):
        return False


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def fingerprint(item: Input, detection: Detection) -> dict:
    """`{"bytes", "sha256"}` of the input's file; both None if it was not read."""
    if item.error is None and detection.status not in _NOT_HASHED:
        start = time.perf_counter()
        try:
            found = {"bytes": os.path.getsize(item.path), "sha256": sha256(item.path)}
        except OSError:
            pass
        else:
            _log.info("%s: hashing %d bytes took %.3f s", item.path, found["bytes"], time.perf_counter() - start)
            return found
    return {"bytes": None, "sha256": None}


def results_csv(results: Iterable[dict]) -> str:
    """A CSV table of results, one row per input, with the columns `CSV_COLUMNS`.

    Text is quoted, and cells that a spreadsheet program would run as formulas are escaped.

    Args:
        results: as in `results.jsonl`.
    """
    table = io.StringIO()
    writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for result in results:
        values = (
            *(result[name] for name in ("path", "status", "verdict", "fake_probability")),
            len(result["faces"]) if "faces" in result else None,
            *(result.get(name) for name in ("frames_scored", "duration_s", "message", "sha256")),
        )
        writer.writerow(spreadsheet_cell(value) if isinstance(value, str) else value for value in values)
    return table.getvalue()
