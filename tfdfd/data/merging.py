"""Several tables of one kind into one, whose paths are seen from the new table's folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from tfdfd.data.splitting import keys_of, name_of
from tfdfd.data.tables import FaceRow


@dataclass(frozen=True)
class Merged:
    """One table made of several.

    Attributes:
        rows: of all tables, in their order.
        repeated: how many rows were left out because an equal row of the same file came before.
        same_content: crops with one sha256, each a tuple of rows; they are in `rows`.
        shared_names: `(data set, kind of name, name)` that more than one table has: they count as one.
    """

    rows: list
    repeated: int
    same_content: list[tuple]
    shared_names: list[tuple[str, str, str]]

    @property
    def contradictions(self) -> list[tuple]:
        """Of `same_content`, what is called real in one row and fake in another."""
        return [rows for rows in self.same_content if len({row.label for row in rows}) > 1]


def relocated(rows: Iterable, folder: str | os.PathLike, target: str | os.PathLike) -> list:
    """Rows whose paths start at `folder` as rows whose paths start at `target`: the same files.

    Of an index, the folder is the data set's root.
    """
    here, there = os.path.realpath(folder), os.path.realpath(target)
    if here == there:
        return list(rows)

    def seen(path):
        return None if path is None else os.path.relpath(os.path.join(here, path), there).replace(os.sep, "/")

    return [
        replace(row, file=seen(row.file))
        if isinstance(row, FaceRow)
        else replace(row, path=seen(row.path), original=seen(row.original))
        for row in rows
    ]


def renamed(rows: Iterable, dataset: str) -> list:
    """The rows as rows of another data set: names of people and videos are then its own."""
    if not dataset:
        raise ValueError("the name of a data set is empty; give one, such as mine.")
    return [replace(row, dataset=dataset) for row in rows]


def merged(tables: Sequence[Iterable], labels: Sequence[str]) -> Merged:
    """One table of several whose paths start at the same folder.

    Args:
        tables: rows of each table, all of one kind.
        labels: what the tables are called in errors.

    Raises:
        ValueError: kinds differ, or two rows that differ are of the same file.
    """
    tables = [list(table) for table in tables]
    kinds = {type(row): label for table, label in zip(tables, labels, strict=True) for row in table[:1]}
    if len(kinds) > 1:
        told = ", ".join(f"{label} of {'crops' if kind is FaceRow else 'videos'}" for kind, label in kinds.items())
        raise ValueError(f"the tables are of different kinds: {told}. Merge indexes, or faces, not both.")
    rows, owner, repeated = {}, {}, 0
    for table, label in zip(tables, labels, strict=True):
        for row in table:
            name = name_of(row)
            if rows.setdefault(name, row) != row:
                raise ValueError(
                    f"{name} is in {owner[name]} and in {label}; the rows differ in {_differences(rows[name], row)}. "
                    "If these are two files, say where each table's paths start (--roots); if it is one, keep one row."
                )
            repeated += name in owner
            owner.setdefault(name, label)
    return Merged(list(rows.values()), repeated, _same_content(rows.values()), _shared(tables))


def _differences(one, other):
    return ", ".join(
        f"{field.name} ({getattr(one, field.name)!r}, {getattr(other, field.name)!r})"
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    )


def _same_content(rows):
    by_digest = defaultdict(list)
    for row in rows:
        if getattr(row, "sha256", None):
            by_digest[row.sha256].append(row)
    return [tuple(same) for same in by_digest.values() if len(same) > 1]


def _shared(tables):
    seen, shared = set(), {}
    for table in tables:
        here = {key for row in table for key in keys_of(row)}
        shared |= dict.fromkeys(sorted(here & seen))
        seen |= here
    return list(shared)
