"""A face set of real crops and one self-blended fake of each, as files: for what reads crops and makes none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2

from tfdfd.data.blended_pairs import BlendedPairs, blended_row
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.files import locked_folder, write_atomically
from tfdfd.version import __version__

_BLOCK = 64


def write_blended_set(pairs: BlendedPairs, folder: str | os.PathLike) -> Iterator[FaceRow]:
    """Writes the fixed pair of each crop as PNG, then `faces.csv`, and gives each real crop's row as it is done.

    Real crops go through the same placing and compression as their fakes, so that these say nothing of the label. Rows
    keep split, sources and people; a fake has the method `self-blended`. A run that was stopped goes on where it was.

    Args:
        pairs: of all splits that are wanted.
        folder: of the set; made where it is not there.

    Raises:
        ValueError: the folder holds another set, or something else; or a crop cannot be read.
        OSError: it cannot be written; what was done stays.
    """
    folder = Path(folder)
    lock = locked_folder(folder, "tfdfd data blend")
    try:
        _claim(folder, pairs)
        rows = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(pairs), _BLOCK):
                block = range(start, min(start + _BLOCK, len(pairs)))
                for two in pool.map(lambda number: _written(pairs, number, folder), block):
                    rows += two
                    yield two[0]
        write_table(folder / "faces.csv", rows, FaceRow)
    finally:
        if lock is not None:
            os.close(lock)


def _claim(folder, pairs):
    told = hashlib.sha256()
    for row in pairs.rows:
        told.update(f"{row.file}\0{row.sha256}\0{row.split}\n".encode("utf-8", "surrogateescape"))
    settings = {
        "made_by": "tfdfd data blend",
        "tfdfd": __version__,
        "opencv": cv2.__version__,
        "size": pairs.size,
        "seed": pairs.seed,
        "crops": len(pairs),
        "left_out": dict(pairs.left_out),
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


def _written(pairs, number, folder):
    """The rows of a crop and its fake, whose files are there then."""
    real = pairs.rows[number]
    names = [f"{part}/{number:06}.png" for part in ("real", "fake")]
    files = [folder / name for name in names]
    if not all(file.exists() for file in files):
        for file, image in zip(files, pairs.pair(number, None), strict=True):
            _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            write_atomically(file, data.tobytes())
    box = (0, 0, pairs.size, pairs.size)
    return [
        replace(row, file=name, box=box, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for row, name, file in zip((real, blended_row(real)), names, files, strict=True)
    ]
