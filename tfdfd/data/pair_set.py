"""A face set of real crops and one fake of each, as files: begun, stopped and gone on with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np

from tfdfd.data.tables import FaceRow, write_table
from tfdfd.files import sha256, write_atomically
from tfdfd.version import __version__
from tfdfd.workdir import WorkDir

_BLOCK = 64


def write_pair_set(
    folder: str | os.PathLike,
    made_by: str,
    size: int,
    settings: Mapping,
    rows: Sequence[tuple[FaceRow, FaceRow]],
    pair: Callable[[int], Sequence[np.ndarray]],
) -> Iterator[FaceRow]:
    """Writes each pair as two PNG, then `faces.csv`, and gives each real crop's row as it is done.

    A run that was stopped goes on where it was.

    Args:
        folder: of the set; made where it is not there.
        made_by: the command, for `run.json` and for who finds the folder taken.
        size: side of the pictures in pixels.
        settings: what the pictures depend on besides the rows, for JSON: a folder holds one such set.
        rows: of the real crops, with the digests of their files, and their fakes; file, box and digest become those of
            the new files.
        pair: makes the two pictures of one number, RGB uint8 `(size, size, 3)`: the same each time, in any thread.

    Raises:
        ValueError: the folder holds another set, or something else; or what `pair` raises.
        OSError: it cannot be written; what was done stays.
    """
    request = {"made_by": made_by, "size": size, **settings, "tfdfd": __version__, "opencv": cv2.__version__}
    with WorkDir(folder, made_by, request | {"rows_sha256": _digest(rows)}, holds="such set") as work:
        for part in ("real", "fake"):
            (work.path / part).mkdir(exist_ok=True)
        written = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(rows), _BLOCK):
                block = range(start, min(start + _BLOCK, len(rows)))
                for two in pool.map(lambda number: _written(work.path, number, rows[number], pair, size), block):
                    written += two
                    if len(written) < 2 * len(rows):
                        yield two[0]
        # Before the last row: whoever takes as many rows as there are pairs, and no more, has a whole set.
        write_table(work.path / "faces.csv", written, FaceRow)
        if written:
            yield written[-2]


def _digest(rows):
    value = hashlib.sha256()
    for row, _ in rows:
        value.update(f"{row.file}\0{row.sha256}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    return value.hexdigest()


def _written(folder, number, rows, pair, size):
    """The rows of a crop and its fake, whose files are there then."""
    names = [f"{part}/{number:06}.png" for part in ("real", "fake")]
    files = [folder / name for name in names]
    if not all(file.exists() for file in files):
        for file, image in zip(files, pair(number), strict=True):
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            write_atomically(file, data.tobytes())
    return [
        replace(row, file=name, box=(0, 0, size, size), sha256=sha256(file))
        for row, name, file in zip(rows, names, files, strict=True)
    ]
