"""Outputs of an index: a checked summary, and label files as in document S4."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tfdfd.data.index.layout import IndexResult
from tfdfd.data.tables import FAKE, REAL, SPLITS, IndexRow
from tfdfd.files import sha256, write_atomically


def summarize(result: IndexResult, root: str | os.PathLike, hashing: bool = True) -> dict:
    """Counts, missing and empty files, duplicates and completeness of an index, as plain lists and dicts.

    `counts` has an entry for each method, label and compression with its number in each split (`none`: in no split).
    `duplicates` lists groups of paths with the same bytes; None without `hashing`, which reads the files of equal size.
    """
    rows = result.rows
    duplicates, unreadable = _duplicates(rows, root) if hashing else (None, [])
    left_out = dict(result.left_out)
    if unreadable:
        left_out["files whose content cannot be read"] = unreadable
    by_path = {row.path: row for row in rows}
    return {
        "rows": len(rows),
        "ok": sum(row.status == "ok" for row in rows),
        "bytes": sum(row.bytes or 0 for row in rows),
        "sources": len({source for row in rows for source in row.source_id}),
        "identities": len({name for row in rows for name in row.identity}),
        "counts": _counts(rows),
        "missing": [row.path for row in rows if row.status == "missing"],
        "empty": [row.path for row in rows if row.status == "empty"],
        "fakes_without_original": sum(row.label == FAKE and row.original is None for row in rows),
        "duplicates": duplicates,
        "duplicates_across_labels": _across(duplicates, by_path, lambda row: row.label),
        "duplicates_across_splits": _across(duplicates, by_path, lambda row: row.split),
        "left_out": left_out,
        "passed_over": result.passed_over,
        "official": [
            {"what": share.what, "present": share.present, "official": share.official} for share in result.shares
        ],
        "notes": result.notes,
    }


def label_files(rows: Iterable[IndexRow], real_is_one: bool = False) -> dict[str, str]:
    """Text of S4's label files by their names: lines `{value} {path}`, one file for each folder of a data set.

    `Celeb-real.txt` lists the folder `Celeb-real`. Values are 1 for fake and 0 for real, or with `real_is_one` the
    other way round, as in S4 and Celeb-DF's list. Missing and empty files are left out.

    Raises:
        ValueError: a path has a line break, which such a file cannot hold.
    """
    values = {FAKE: 0, REAL: 1} if real_is_one else {FAKE: 1, REAL: 0}
    texts: dict[Any, str] = defaultdict(str)
    for row in rows:
        if row.status != "ok":
            continue
        if "\n" in row.path or "\r" in row.path:
            raise ValueError(f"{row.path!r} has a line break, which a label file cannot hold; rename the file.")
        texts[f"{PurePosixPath(row.path).parent}.txt"] += f"{values[row.label]} {row.path}\n"
    return dict(texts)


def write_label_files(folder: str | os.PathLike, texts: dict[str, str]) -> list[Path]:
    """Writes the texts of `label_files` into `folder`, which is created, and returns the files.

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


def _counts(rows: Sequence[IndexRow]) -> list[dict[str, Any]]:
    counts = Counter((row.label, row.method, row.compression or "", row.split or "none") for row in rows)
    groups = sorted({key[:3] for key in counts})
    return [
        {"method": method, "label": label, "compression": compression or None}
        | {split: counts[label, method, compression, split] for split in (*SPLITS, "none")}
        for label, method, compression in groups
    ]


def _duplicates(rows: Sequence[IndexRow], root: str | os.PathLike) -> tuple[list[list[str]], list[str]]:
    by_size = defaultdict(list)
    for row in rows:
        if row.status == "ok":
            by_size[row.bytes].append(row.path)
    groups, unreadable = defaultdict(list), []
    for size, paths in by_size.items():
        if len(paths) == 1:
            continue
        for path in paths:
            try:
                groups[size, sha256(os.path.join(root, path))].append(path)
            except OSError:
                unreadable.append(path)
    same = [group for group in groups.values() if len(group) > 1]
    return sorted(same, key=lambda group: os.fsencode(group[0])), sorted(unreadable, key=os.fsencode)


def _across(duplicates: Any, by_path: Mapping[str, IndexRow], column: Callable[[IndexRow], Any]) -> int | None:
    if duplicates is None:
        return None
    return sum(len({column(by_path[path]) for path in group}) > 1 for group in duplicates)
