"""SRM sets: face sets cloned with their SRM noise residuals in place of the colors (document S4).

The new folder holds the noise of each crop as PNG under the crop's name, `faces.csv` with the rows of the original, and
`run.json`, which describes the storage. Files are written atomically, so an interrupted run resumes; a finished set is
the same however often that happened.

A residual r is negative as often as positive. `filter2D` on 8 bits, as in document S4, loses the negative half; here r,
clipped to [-T, T], is stored as the gray level `128 + round(127 r / T)`, 1 to 255, and no noise is mid-gray. It is read
back as `(level - 128) T / 127`, at most `T / 254` off: half a gray level at T = 127, where levels equal residuals.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from tfdfd.data import SRM_STEPS, SrmOptions
from tfdfd.data.crops import TABLE, Faces, decode_pixels, faces_of
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.files import RUN, TEMPORARY, WorkDir, read_description, write_atomically
from tfdfd.srm_kernels import DIVISORS, WHOLE
from tfdfd.threads import map_in_threads
from tfdfd.version import __version__

SCHEMA = 1
WORK = "tfdfd srm"
BLOCK = 256  # crops between two progress reports
NO_NOISE = SRM_STEPS + 1
SMALLEST = 3
_MADE_BY = "srm"
_PNG_END = b"IEND\xaeB`\x82"


def residuals(image: np.ndarray, options: SrmOptions) -> np.ndarray:
    """Residuals of the picture as `SRM(options.kernels, options.combine)` computes them, not clipped.

    Args:
        image: RGB uint8 `(height, width, 3)`, both sides at least 3.
        options: the kernels.

    Returns:
        float64 `(height, width, 3)` in gray levels. Sums are of integers, so that every machine gives the same.

    Raises:
        ValueError: another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; expected RGB uint8 (height, width, 3), sides at least {SMALLEST}"
        )
    levels = image.astype(np.float32)
    if options.combine == "sum":
        levels = levels.sum(axis=2)
    planes = [cv2.filter2D(levels, cv2.CV_32F, np.array(WHOLE[name], np.float32)) for name in options.kernels]
    divided = [plane.astype(np.float64) / DIVISORS[name] for plane, name in zip(planes, options.kernels, strict=True)]
    return divided[0] if options.combine == "each" else np.stack(divided, axis=-1)


def to_levels(residual: np.ndarray, truncate: float) -> np.ndarray:
    """Residuals in gray levels as the levels 1 to 255 of a file, uint8 of the same shape."""
    return (NO_NOISE + np.rint(np.clip(residual, -truncate, truncate) * (SRM_STEPS / truncate))).astype(np.uint8)


class SrmSet:
    """A new, interrupted or finished SRM set. Use as a context manager: it locks the folder against other runs.

    Args:
        faces: `faces.csv` (or the table of `tfdfd split`), its folder, a folder with `real/` and `fake/`, or `Faces`.
        folder: folder of the clone.
        options: kernels and truncation.
        threads: number of crops processed at once; None: one per core.

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
            raise ValueError(f"{folder} is the folder of the crops; give another folder for their noise.")
        run = self.faces.root / RUN
        before = read_description(run, "face set") if os.path.lexists(run) else None
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
                "stored": f"level = {NO_NOISE} + round({SRM_STEPS} * residual / truncate), residuals in grey levels",
            },
            "crops_sha256": _digest(self.faces.rows),
            "of": before,
        }
        self._rows: list[FaceRow] = []
        self._clipped = self._total = 0
        state = {"finished": False, "counts": None}
        self._work = WorkDir(self._folder, WORK, request, holds="SRM set", state=state, upgrade=_check_run)
        for left_over in self._folder.rglob(TEMPORARY):
            left_over.unlink()

    def __enter__(self) -> SrmSet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder."""
        self._work.close()

    @property
    def blocks(self) -> int:
        """Number of progress reports of `clone`."""
        return -(-len(self._names) // BLOCK)

    def clone(self) -> Iterator[int]:
        """Writes missing files, and yields the number of finished crops after each `BLOCK` of them.

        Raises:
            ValueError: a crop cannot be read or decoded, is too small, or differs from its digest in the table; names
                it.
            OSError: the folder cannot be written; finished files stay.
        """
        self._rows, self._clipped, self._total = [], 0, 0
        numbers = range(len(self._names))
        for number, (digest, clipped, total) in zip(
            numbers, map_in_threads(self._write, numbers, self._threads), strict=True
        ):
            self._rows.append(replace(self.faces.rows[number], file=self._names[number], sha256=digest))
            self._clipped += clipped
            self._total += total
            if len(self._rows) % BLOCK == 0 or number == numbers[-1]:
                yield len(self._rows)

    def finish(self) -> dict:
        """Writes the table and the counts after `clone` has finished; returns the counts.

        `clipped` is the share of residuals that reached the truncation.
        """
        if len(self._rows) < len(self._names):
            raise RuntimeError(f"{len(self._rows)} of {len(self._names)} crops are cloned; finish comes after clone.")
        write_table(self._folder / TABLE, self._rows, FaceRow)
        counts = {"crops": len(self._rows), "clipped": round(self._clipped / self._total, 6)}
        self._work.write({"finished": True, "counts": counts})
        return counts

    def _write(self, number: int) -> tuple[str, int, int]:
        """Writes one crop's noise unless it exists: SHA-256 of its file, number of clipped values, number of values.

        An existing file is trusted only if the table has the crop's digest; otherwise it is computed again.
        """
        target = self._folder / self._names[number]
        levels = None
        data: bytes | None = None
        with contextlib.suppress(FileNotFoundError):
            data = target.read_bytes()
        if data is not None and self.faces.rows[number].sha256:
            levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data.endswith(_PNG_END) else None
        if levels is None:
            before, levels = data, cv2.cvtColor(self._compute(number), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".png", levels)[1].tobytes()
            if data != before:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, data)
        clipped = np.count_nonzero((levels == NO_NOISE - SRM_STEPS) | (levels == NO_NOISE + SRM_STEPS))
        return hashlib.sha256(data).hexdigest(), clipped, levels.size  # type: ignore[arg-type,return-value]

    def _compute(self, number: int) -> np.ndarray:
        path = self.faces.path(number)
        try:
            data = self.faces.read(number)
            return to_levels(residuals(decode_pixels(data, path), self._options), self._options.truncate)
        except OSError as error:
            raise ValueError(f"the crop {path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"the crop {path} cannot be filtered: {error}") from error


def _digest(rows: Sequence[FaceRow]) -> str:
    """SHA-256 of the table's rows."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _check_run(before: dict[str, Any]) -> dict[str, Any]:
    if _MADE_BY not in before:
        raise ValueError(f"the folder holds other work than an SRM set (see its {RUN}); give another folder.")
    return before


def _names(rows: Sequence[FaceRow]) -> list[str]:
    """The file of each crop's noise: the crop's path below the new folder, as PNG.

    Raises:
        ValueError: two crops would share a file.
    """
    names = []
    for row in rows:
        parts = [part for part in PurePosixPath(row.file).parts if part not in ("..", "/")]
        names.append(str(PurePosixPath(*parts).with_suffix(".png")))
    # Some file systems ignore case.
    twice = {name for name, count in Counter(map(str.lower, names)).items() if count > 1}
    if twice:
        both = [row.file for row, name in zip(rows, names, strict=True) if name.lower() in twice][:2]
        raise ValueError(
            f"{' and '.join(both)} would have their noise in the same file ({len(twice):,} such names). Clone the face "
            "sets one by one, and merge the clones."
        )
    return names
