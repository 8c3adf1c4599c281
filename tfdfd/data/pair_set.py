"""A face set of real crops and one fake of each, as files: begun, stopped and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from tfdfd.data.tables import FaceRow, write_table
from tfdfd.files import locked_folder, write_atomically
from tfdfd.version import __version__

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
        rows: of the real crops and their fakes; file, box and digest become those of the new files.
        pair: makes the two pictures of one number, RGB uint8 `(size, size, 3)`: the same each time, in any thread.

    Raises:
        ValueError: the folder holds another set, or something else; or what `pair` raises.
        OSError: it cannot be written; what was done stays.
    """
    folder = Path(folder)
    lock = locked_folder(folder, made_by)
    try:
        _claim(folder, {"made_by": made_by, "size": size, **settings}, rows)
        written = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(rows), _BLOCK):
                block = range(start, min(start + _BLOCK, len(rows)))
                for two in pool.map(lambda number: _written(folder, number, rows[number], pair, size), block):
                    written += two
                    yield two[0]
        write_table(folder / "faces.csv", written, FaceRow)
    finally:
        if lock is not None:
            os.close(lock)


def _claim(folder, settings, rows):
    told = hashlib.sha256()
    for row, _ in rows:
        told.update(f"{row.file}\0{row.sha256}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    settings = {
        **settings,
        "tfdfd": __version__,
        "opencv": cv2.__version__,
        "rows_sha256": told.hexdigest(),
    }
    run = folder / "run.json"
    if run.exists():
        try:
            before = json.loads(run.read_bytes())
        except ValueError as error:
            raise ValueError(f"{run} is no record of a set: {error}; give another folder.") from error
        differing = [key for key, value in settings.items() if before.get(key) != value]
        if differing:
            raise ValueError(
                f"{folder} was begun otherwise ({', '.join(differing)} differ); give the same again to go on, or "
                "another folder."
            )
    elif any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no such set; give a new or an empty folder.")
    else:
        write_atomically(run, json.dumps(settings, indent=1) + "\n")
    for part in ("real", "fake"):
        (folder / part).mkdir(exist_ok=True)


def _written(folder, number, rows, pair, size):
    """The rows of a crop and its fake, whose files are there then."""
    names = [f"{part}/{number:06}.png" for part in ("real", "fake")]
    files = [folder / name for name in names]
    if not all(file.exists() for file in files):
        for file, image in zip(files, pair(number), strict=True):
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            write_atomically(file, data.tobytes())
    return [
        replace(row, file=name, box=(0, 0, size, size), sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for row, name, file in zip(rows, names, files, strict=True)
    ]
