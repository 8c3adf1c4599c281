"""A face set cloned through SRM: the same crops with their noise in the place of the colours (document S4).

The new folder holds the noise of each crop as PNG under the crop's name, `faces.csv` with the rows of the old one, and
`run.json`, which says how the noise is stored (`tfdfd.data.srm_noise`). A crop's file is there whole or not at all, so
that a run that was stopped goes on; a finished set is the same however often it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from tfdfd.data.crops import TABLE, Faces, decoded, faces_of
from tfdfd.data.srm_noise import NO_NOISE, residuals, stored
from tfdfd.data.srm_options import STEPS, SrmOptions
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.files import write_atomically
from tfdfd.version import __version__
from tfdfd.workdir import RUN, WorkDir, read_description

SCHEMA = 1
WORK = "tfdfd srm"
BLOCK = 256  # crops between two reports
_MADE_BY = "srm"
_PNG_END = b"IEND\xaeB`\x82"


class SrmSet:
    """A cloned set in the making, or a finished one. Use as a context manager: it keeps other runs out of the folder.

    Args:
        faces: `faces.csv` (or the table of `tfdfd split`), its folder, a folder with `real/` and `fake/`, or `Faces`.
        folder: where the clone is or will be.
        options: which noise.
        threads: crops at work at once; None: one a core.

    Raises:
        ValueError: there are no crops, they are noise already, two would get the same name, or the folder holds
            something else.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        faces: str | os.PathLike | Faces,
        folder: str | os.PathLike,
        options: SrmOptions | None = None,
        threads: int | None = None,
    ):
        self.faces = faces_of(faces)
        self._folder, self._options, self._threads = Path(folder), options or SrmOptions(), threads or os.cpu_count()
        if os.path.realpath(self._folder) == os.path.realpath(self.faces.root):
            raise ValueError(f"{folder} is where the crops are; give another folder for their noise.")
        before = _run_of(self.faces.root)
        if before and _MADE_BY in before:
            raise ValueError(f"{self.faces.root} holds noise already ('{WORK}'); give the face set it was made of.")
        self._names = _names(self.faces.rows)
        request = {
            "schema": SCHEMA,
            "tfdfd": __version__,
            "opencv": cv2.__version__,
            _MADE_BY: {
                "kernels": list(self._options.kernels),
                "combine": self._options.combine,
                "truncate": self._options.truncate,
                "stored": f"level = {NO_NOISE} + round({STEPS} * residual / truncate), residuals in grey levels",
            },
            "crops_sha256": _digest(self.faces.rows),
            "of": before,
        }
        self._rows: list[FaceRow] = []
        self._clipped = self._whole = 0
        state = {"finished": False, "counts": None}
        self._work = WorkDir(self._folder, WORK, request, holds="SRM set", state=state, upgrade=_srm_set)
        for left_over in self._folder.rglob(".tfdfd-*.tmp"):
            left_over.unlink()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self) -> None:
        """Lets others into the folder."""
        self._work.close()

    @property
    def blocks(self) -> int:
        """How many times `clone` reports."""
        return -(-len(self._names) // BLOCK)

    def clone(self) -> Iterator[int]:
        """Makes what is not there yet, and tells after each `BLOCK` of crops how many are done.

        Raises:
            ValueError: a crop cannot be read or decoded, is too small, or is another than the table's (digest); names
                it.
            OSError: the folder cannot be written; what was done stays.
        """
        self._rows, self._clipped, self._whole = [], 0, 0
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, len(self._names), BLOCK):
                numbers = range(start, min(start + BLOCK, len(self._names)))
                for number, (digest, clipped, whole) in zip(numbers, pool.map(self._noise, numbers), strict=True):
                    self._rows.append(replace(self.faces.rows[number], file=self._names[number], sha256=digest))
                    self._clipped += clipped
                    self._whole += whole
                yield len(self._rows)

    def finish(self) -> dict:
        """Writes the table and the counts, once `clone` has come to its end; returns the counts.

        `clipped` is the share of residuals that reached the truncation.
        """
        if len(self._rows) < len(self._names):
            raise RuntimeError(f"{len(self._rows)} of {len(self._names)} crops are cloned; finish comes after clone.")
        write_table(self._folder / TABLE, self._rows, FaceRow)
        counts = {"crops": len(self._rows), "clipped": round(self._clipped / (self._clipped + self._whole), 6)}
        self._work.write({"finished": True, "counts": counts})
        return counts

    def _noise(self, number):
        """Makes one crop's noise unless it is there: its file's SHA-256, how many values are clipped, how many not.

        Only the digest of a table tells that what is there is of this crop; without one it is made again.
        """
        target = self._folder / self._names[number]
        levels = None
        data = None
        with contextlib.suppress(FileNotFoundError):
            data = target.read_bytes()
        if data is not None and self.faces.rows[number].sha256:
            levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data.endswith(_PNG_END) else None
        if levels is None:
            before, levels = data, cv2.cvtColor(self._made(number), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".png", levels)[1].tobytes()
            if data != before:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, data)
        clipped = np.count_nonzero((levels == NO_NOISE - STEPS) | (levels == NO_NOISE + STEPS))
        return hashlib.sha256(data).hexdigest(), clipped, levels.size - clipped

    def _made(self, number):
        path, row = self.faces.path(number), self.faces.rows[number]
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise ValueError(f"the crop {path} cannot be read: {error.strerror}.") from error
        if row.sha256 and hashlib.sha256(data).hexdigest() != row.sha256:
            raise ValueError(f"the crop {path} is not the one of the table: its SHA-256 is not {row.sha256}.")
        try:
            return stored(residuals(decoded(data, path), self._options), self._options.truncate)
        except ValueError as error:
            raise ValueError(f"the crop {path} cannot be filtered: {error}") from error


def _digest(rows):
    """SHA-256 of all that the table tells of the crops."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _run_of(folder):
    """What the `run.json` of a folder holds; None where there is none.

    Raises:
        ValueError: it is no record of a run.
    """
    file = Path(folder) / RUN
    return read_description(file, "face set") if os.path.lexists(file) else None


def _srm_set(told):
    if _MADE_BY not in told:
        raise ValueError(f"the folder holds other work than an SRM set (see its {RUN}); give another folder.")
    return told


def _names(rows):
    """Where each crop's noise goes: the crop's path below the new folder, as PNG.

    Raises:
        ValueError: two crops would be one file.
    """
    names = []
    for row in rows:
        parts = [part for part in PurePosixPath(row.file).parts if part not in ("..", "/")]
        names.append(str(PurePosixPath(*parts).with_suffix(".png")))
    # Some file systems know one case only.
    twice = {name for name, count in Counter(map(str.lower, names)).items() if count > 1}
    if twice:
        both = [row.file for row, name in zip(rows, names, strict=True) if name.lower() in twice][:2]
        raise ValueError(
            f"{' and '.join(both)} would have their noise in the same file ({len(twice):,} such names). Clone the face "
            "sets one by one, and merge the clones."
        )
    return names
