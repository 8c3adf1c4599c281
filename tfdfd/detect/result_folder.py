"""Results of many inputs: a resumable folder with one JSON line per input, and a CSV table."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from tfdfd.detect.results import Detection
from tfdfd.files import WorkDir, sha256, sync_folder
from tfdfd.media.inputs import Input, Inputs
from tfdfd.text import printable_path, spreadsheet_cell

if TYPE_CHECKING:
    from tfdfd.detect.detector import Detector

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
        except BaseException:
            self._work.close()
            raise

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._work.close()

    def detect(self, keep: Callable[[int, Detection], object] | None = None) -> Iterator[Detection]:
        """Scores the inputs that are not done, in order; yields each one, without crops, when its line is on the disk.

        Args:
            keep: called with the number of an input, from 0, and its outcome with crops, before its line is written.

        Raises:
            OSError: the disk is full or broken; the lines that were written stay valid.
        """
        rest = Inputs(self._inputs.items[self.done :], self._inputs.skipped)
        with open(self.file, "ab") as file:
            sync_folder(self._work.path)
            for item, detection in zip(rest.items, self._detector.iter_detect(rest), strict=True):
                if keep:
                    keep(self.done, detection)
                detection.drop_crops()
                file.write(self._line(item, detection))
                file.flush()
                os.fsync(file.fileno())
                self.done += 1
                yield detection

    def results(self) -> Iterator[dict]:
        """The results in the file, in the order of the inputs."""
        with open(self.file, "rb") as file:
            yield from map(json.loads, file)

    def _line(self, item: Input, detection: Detection) -> bytes:
        result = detection.to_dict() | fingerprint(item, detection) | {"path": self._paths[self.done]}
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
        try:
            return {"bytes": os.path.getsize(item.path), "sha256": sha256(item.path)}
        except OSError:
            pass
    return {"bytes": None, "sha256": None}


def csv_text(results: Iterable[dict]) -> str:
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
