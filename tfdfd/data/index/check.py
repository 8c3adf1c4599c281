"""The checked summary of an index: counts, missing and empty files, duplicates, share of the official set."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable

from tfdfd.data.index.found import Found
from tfdfd.data.tables import FAKE, SPLITS, IndexRow
from tfdfd.files import sha256


def check(found: Found, root: str | os.PathLike, hashing: bool = True) -> dict:
    """What to know of an index before using it, as plain lists and dicts.

    `counts` has a row for each method, label and compression with its number in each split (`none`: in no split).
    `duplicates` lists groups of paths with the same bytes; None without `hashing`, which reads the files of equal size.
    """
    rows = found.rows
    duplicates, unreadable = _duplicates(rows, root) if hashing else (None, [])
    left_out = dict(found.left_out)
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
        "passed_over": found.passed_over,
        "official": [
            {"what": share.what, "present": share.present, "official": share.official} for share in found.shares
        ],
        "notes": found.notes,
    }


def _counts(rows):
    counts = Counter((row.label, row.method, row.compression or "", row.split or "none") for row in rows)
    groups = sorted({key[:3] for key in counts})
    return [
        {"method": method, "label": label, "compression": compression or None}
        | {split: counts[label, method, compression, split] for split in (*SPLITS, "none")}
        for label, method, compression in groups
    ]


def _duplicates(rows: Iterable[IndexRow], root):
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


def _across(duplicates, by_path, column):
    if duplicates is None:
        return None
    return sum(len({column(by_path[path]) for path in group}) > 1 for group in duplicates)
