"""From the paths of an index to names that every file system takes, one a path."""

from __future__ import annotations

import collections
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_LONGEST = 100
_DIGITS = 12


def safe_names(paths: Iterable[str]) -> dict[str, str]:
    """Relative names without suffix, in the tree of the paths: ASCII letters, digits, `_`, `-`, and dots inside.

    A path that is no such name itself, differs from another in suffix or case only, or is as a folder part of another,
    gets some digits of its SHA-256 appended. No name is another's folder, and no folder has a dot in its name.
    """
    paths = list(dict.fromkeys(paths))
    plain = {path: _plain(path) for path in paths}
    count = collections.Counter(name.lower() for name, _ in plain.values())
    folders = {str(folder).lower() for name, _ in plain.values() for folder in PurePosixPath(name).parents}
    for digits in (_DIGITS, 64):
        names = {
            path: name
            if same and count[name.lower()] == 1 and name.lower() not in folders
            else _marked(path, name, digits)
            for path, (name, same) in plain.items()
        }
        if len({name.lower() for name in names.values()}) == len(names):
            break
    return names


def _plain(path):
    """The name by its letters alone, and whether none had to be replaced."""
    pure = PurePosixPath(path)
    wanted = [*pure.parts[:-1], pure.stem]
    safe = [re.sub(r"[^A-Za-z0-9_-]", "_", part)[:_LONGEST] for part in wanted[:-1]]
    safe.append(re.sub(r"[^A-Za-z0-9_.-]|^\.|\.$", "_", wanted[-1])[:_LONGEST])
    return "/".join(safe), safe == wanted


def _marked(path, name, digits):
    return f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:digits]}"
