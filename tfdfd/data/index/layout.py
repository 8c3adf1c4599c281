"""The files of a data set, the result of indexing them, and its outputs: a summary, and label files as in document S4.

Indexing opens no file and follows no symbolic link out of the folder; the summary reads files of equal size on request.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tfdfd.data.tables import FAKE, REAL, SEPARATOR, SPLITS, IndexRow
from tfdfd.files import sha256, write_atomically
from tfdfd.media.formats import kind_of_name
from tfdfd.text import near_matches

NO_MEDIA = "neither an image nor a video by name"
LINK = "symbolic links to folders, out of the data set or to nothing: not followed"
UNREADABLE = "folders or files that cannot be read"
HIDDEN = "hidden: the name begins with a dot"
SPECIAL = "no regular file: a pipe, socket or device"


@dataclass(frozen=True)
class File:
    """An image or video by its name: `path` relative to the root with "/", `kind`, `bytes`."""

    path: str
    kind: str
    bytes: int

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return PurePosixPath(self.path).stem

    @property
    def columns(self) -> dict:
        """The columns `bytes` and `status` of its row."""
        return {"bytes": self.bytes, "status": "ok" if self.bytes else "empty"}


@dataclass
class Tree:
    """The files below a folder.

    Attributes:
        media: images and videos by their names, sorted by the bytes of their paths.
        others: paths of other files.
        left_out: reason -> paths that could not be examined.
        passed_over: reason -> number of files and folders that belong to no data set.
    """

    media: list[File] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Share:
    """Completeness of a part of the official set: `present` of `official` (None where unknown) of `what`."""

    what: str
    present: int
    official: int | None


@dataclass
class IndexResult:
    """The rows of an index, and what was found but has no row.

    Attributes:
        rows: sorted by the bytes of their paths.
        left_out: reason -> paths that got no row.
        shares: completeness of the official set.
        notes: further information for the user.
        passed_over: reason -> number of files that belong to no data set.
    """

    rows: list[IndexRow]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    shares: list[Share] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, rows: Iterable[IndexRow], tree: Tree, left_out: dict[str, list[str]], used: Iterable[str] = (), **more: Any
    ) -> IndexResult:
        """Sorts the rows, and joins the files left out by the walk with those left out by the data set's rules.

        Files that are neither images nor videos count as passed over, except those in `used`.
        """
        endings = (PurePosixPath(path).suffix.lower() or "no ending" for path in tree.others.difference(used))
        passed_over = tree.passed_over + Counter(f"{NO_MEDIA}: {ending}" for ending in endings)
        reasons = {**tree.left_out, **left_out}
        # A path in a metadata file may hold what no file name can (half a surrogate pair).
        by_bytes = lambda path: path.encode("utf-8", "surrogatepass")  # noqa: E731
        reasons = {reason: sorted(paths, key=by_bytes) for reason, paths in sorted(reasons.items()) if paths}
        return cls(
            sorted(rows, key=lambda row: os.fsencode(row.path)),
            reasons,
            passed_over=dict(sorted(passed_over.items())),
            **more,
        )


def walk(root: str | os.PathLike, folders: tuple[str, ...] = ("",), skip: frozenset[str] = frozenset()) -> Tree:
    """Lists `folders` of `root` at any depth, without folders named in `skip` and names that begin with a dot.

    Raises:
        ValueError: `root` is not a readable folder.
    """
    root = os.fsdecode(root)
    names_in(root)
    real_root = os.path.realpath(root)
    tree = Tree()
    tree.left_out[LINK] = [folder for folder in folders if folder and os.path.islink(os.path.join(root, folder))]
    pending = [folder for folder in folders if folder not in tree.left_out[LINK]]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = list(listing)
        except FileNotFoundError:
            continue
        except OSError:
            tree.left_out.setdefault(UNREADABLE, []).append(folder)
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                tree.passed_over[HIDDEN] += 1
            elif entry.is_symlink() and not _is_file_within(real_root, entry.path):
                tree.left_out[LINK].append(path)
            elif entry.is_dir(follow_symlinks=False):
                if entry.name in skip:
                    tree.passed_over[f"a folder called {entry.name}, and all that is in it"] += 1
                else:
                    pending.append(path)
            elif entry.is_file():
                _add(tree, path, entry)
            else:
                tree.passed_over[SPECIAL] += 1
    tree.media.sort(key=lambda file: os.fsencode(file.path))
    return tree


def names_in(root: str | os.PathLike[str]) -> list[str]:
    """Sorted names of the folders in `root`.

    Raises:
        ValueError: `root` is not a readable folder.
    """
    try:
        with os.scandir(root) as listing:
            return sorted(entry.name for entry in listing if entry.is_dir() and not entry.name.startswith("."))
    except (OSError, ValueError) as error:
        raise ValueError(f"{os.fsdecode(root)!r} cannot be indexed: {error}. Give the data set's folder.") from error


def is_inside(root: str | os.PathLike, path: str) -> bool:
    """Whether `path` in `root` is a file, and no link to one elsewhere."""
    return _is_file_within(os.path.realpath(root), os.path.join(root, path))


def escape_separator(text: str) -> str:
    """A name for a cell of several names: the separator is percent-encoded."""
    return text.replace(SEPARATOR, f"%{ord(SEPARATOR):02X}")


def wrong_layout(root: str | os.PathLike, looked_for: Iterable[str], dataset: str, hint: str = "") -> ValueError:
    """The error for a folder with another layout than `dataset`: names expected, names found, near matches."""
    looked_for, there = list(looked_for), names_in(root)
    near = {
        name: match[0]
        for name in looked_for
        if (match := near_matches(name.lower(), [t.lower() for t in there], 1, cutoff=0.7))
    }
    real = {name.lower(): name for name in there}
    matches = "".join(f" {real[match]!r} is near {name!r}." for name, match in near.items())
    listed = ", ".join(map(repr, there[:12])) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    return ValueError(
        f"{os.fsdecode(root)!r} is not laid out like {dataset}: looked for {' or '.join(map(repr, looked_for))}; the "
        f"folders there are: {listed or 'none'}.{matches}{' ' + hint if hint else ''}"
    )


def _is_file_within(real_root: str, path: str) -> bool:
    target = os.path.realpath(path)
    return os.path.commonpath([real_root, target]) == real_root and os.path.isfile(target)


def _add(tree: Tree, path: str, entry: os.DirEntry[str]) -> None:
    kind = kind_of_name(path)
    if kind is None:
        tree.others.add(path)
        return
    try:
        tree.media.append(File(path, kind, entry.stat().st_size))
    except OSError:
        tree.left_out.setdefault(UNREADABLE, []).append(path)


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
