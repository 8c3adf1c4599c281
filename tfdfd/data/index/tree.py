"""The files under a folder: names and sizes only. Nothing is opened, and no symbolic link leads out of the folder."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tfdfd.media.formats import kind_of_name


@dataclass(frozen=True)
class File:
    """An image or video by its name: `path` relative to the root with "/", `kind`, `bytes`."""

    path: str
    kind: str
    bytes: int

    @property
    def stem(self) -> str:
        return PurePosixPath(self.path).stem


@dataclass
class Tree:
    """What a walk has found.

    Attributes:
        media: images and videos by their names, sorted by the bytes of their paths.
        others: paths of other files.
        left_out: reason -> paths of what was there and could not be looked at.
        passed_over: reason -> how many files and folders were there that are no part of any data set.
    """

    media: list[File] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)


LINK = "symbolic links to folders, out of the data set or to nothing: not followed"
UNREADABLE = "folders or files that cannot be read"
HIDDEN = "hidden: the name begins with a dot"
SPECIAL = "no regular file: a pipe, socket or device"


def walk(root: str | os.PathLike, folders: tuple[str, ...] = ("",), skip: frozenset[str] = frozenset()) -> Tree:
    """Lists `folders` of `root` at any depth; folders named in `skip` and names that begin with a dot are passed over.

    Raises:
        ValueError: `root` is no folder that can be read.
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
                continue
            if entry.is_symlink() and not _is_file_of(real_root, entry.path):
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


def names_in(root: str | os.PathLike) -> list[str]:
    """Sorted names of the folders in `root`.

    Raises:
        ValueError: `root` is no folder that can be read.
    """
    try:
        with os.scandir(root) as listing:
            return sorted(entry.name for entry in listing if entry.is_dir() and not entry.name.startswith("."))
    except (OSError, ValueError) as error:
        raise ValueError(f"{os.fsdecode(root)!r} cannot be indexed: {error}. Give the data set's folder.") from error


def is_inside(root: str | os.PathLike, path: str) -> bool:
    """Whether `path` in `root` is a file, and no link to one elsewhere."""
    return _is_file_of(os.path.realpath(root), os.path.join(root, path))


def _is_file_of(real_root, path):
    target = os.path.realpath(path)
    return os.path.commonpath([real_root, target]) == real_root and os.path.isfile(target)


def _add(tree, path, entry):
    kind = kind_of_name(path)
    if kind is None:
        tree.others.add(path)
        return
    try:
        tree.media.append(File(path, kind, entry.stat().st_size))
    except OSError:
        tree.left_out.setdefault(UNREADABLE, []).append(path)
