"""From what a person names (files and folders) to the files to read, each refusal with its status."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from tfdfd.media.errors import MediaError
from tfdfd.media.kinds import HEAD_BYTES, kind_of_content, kind_of_name


@dataclass
class Input:
    """One file to read, or (`error` set) one input that will not be read, and why."""

    path: str
    kind: str | None = None
    error: MediaError | None = None


@dataclass
class Inputs:
    """All inputs in order, and how many files of the folders were passed over because they are no media."""

    items: list[Input] = field(default_factory=list)
    skipped: int = 0


def list_inputs(paths: Iterable[str | bytes | os.PathLike]) -> Inputs:
    """Files as given, folders walked in sorted order. Nothing is opened but the first bytes of files in folders.

    Links that are named are followed; links in a folder only where they lead to a file of the same folder.
    """
    inputs = Inputs()
    for path in paths:
        _add(os.fsdecode(path), inputs)
    return inputs


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//|.*://)")


def _add(path, inputs):
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        inputs.items.append(Input(path, error=_missing(path, error)))
        return
    if stat.S_ISDIR(status.st_mode):
        before = len(inputs.items)
        skipped = inputs.skipped
        _walk(path, inputs)
        if len(inputs.items) == before:
            count = inputs.skipped - skipped
            message = f"no image or video in this folder ({count} other file{'' if count == 1 else 's'})"
            inputs.items.append(Input(path, "folder", MediaError("not_found", message)))
    elif stat.S_ISREG(status.st_mode):
        inputs.items.append(Input(path, kind_of_name(path)))
    else:
        message = "not a file or folder but a device, pipe or socket"
        inputs.items.append(Input(path, error=MediaError("unsupported", message)))


def _missing(path, error):
    if isinstance(error, ValueError):
        return MediaError("not_found", f"no file can have this name: {error}")
    if _ADDRESS.match(path):
        return MediaError("unsupported", "an address: only local files are read; download it and give the file")
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return MediaError("decode_error", f"the file cannot be reached: {error.strerror}")
    if re.search(r"%0?\d*d|[*?]", path):
        return MediaError("not_found", "there is no file of this very name, and patterns are not expanded here")
    return MediaError("not_found", "there is no such file or folder")


def _walk(folder, inputs):
    root = os.path.realpath(folder)
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            message = f"the folder cannot be read: {error.strerror}"
            inputs.items.append(Input(current, "folder", MediaError("decode_error", message)))
            continue
        for entry in entries:
            if entry.is_symlink():
                _add_link(entry, root, inputs)
            elif entry.is_file(follow_symlinks=False):
                _add_file(entry.path, inputs)
            elif not entry.is_dir(follow_symlinks=False):
                inputs.skipped += 1
        pending += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]


def _add_file(path, inputs):
    kind = kind_of_name(path) or _kind_of_file(path)
    if kind is None:
        inputs.skipped += 1
    else:
        inputs.items.append(Input(path, kind))


def _add_link(entry, root, inputs):
    target = os.path.realpath(entry.path)
    if os.path.commonpath([root, target]) == root and os.path.isfile(target):
        # The resolved name is what is opened later: swapping the link in between leads nowhere else.
        _add_file(target, inputs)
    elif kind_of_name(entry.name) is None:
        inputs.skipped += 1
    else:
        message = "a symbolic link that leads out of its folder or nowhere; it is not followed: name the file itself"
        inputs.items.append(Input(entry.path, kind_of_name(entry.name), MediaError("unsupported", message)))


def _kind_of_file(path):
    try:
        with open(path, "rb", buffering=0) as file:
            return kind_of_content(file.read(HEAD_BYTES))
    except OSError:
        # Unreadable and without a media name: nothing says that it is media.
        return None
