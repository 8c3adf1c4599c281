"""S4's label files: lines `{value} {path}`, one file for each folder of a data set."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tfdfd.data.tables import FAKE, REAL, IndexRow
from tfdfd.files import write_atomically


def label_files(rows: Iterable[IndexRow], real_is_one: bool = False) -> dict[str, str]:
    """Text of the label files by their names: `Celeb-real.txt` lists what lies in the folder `Celeb-real`.

    Values are 1 for fake and 0 for real, or with `real_is_one` the other way round, as S4 and Celeb-DF's list have it.
    Missing and empty files are left out.

    Raises:
        ValueError: a path has a line break, which such a file cannot hold.
    """
    values = {FAKE: 0, REAL: 1} if real_is_one else {FAKE: 1, REAL: 0}
    texts = defaultdict(str)
    for row in rows:
        if row.status != "ok":
            continue
        if "\n" in row.path or "\r" in row.path:
            raise ValueError(f"{row.path!r} has a line break, which a label file cannot hold; rename the file.")
        texts[f"{PurePosixPath(row.path).parent}.txt"] += f"{values[row.label]} {row.path}\n"
    return dict(texts)


def write_label_files(folder: str | os.PathLike, texts: dict[str, str]) -> list[Path]:
    """Writes the texts of `label_files` into `folder`, which is made, and returns the files.

    Raises:
        OSError: a file or folder cannot be written.
    """
    files = []
    for name, text in texts.items():
        file = Path(folder) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode("utf-8", "surrogateescape"))
        files.append(file)
    return files
