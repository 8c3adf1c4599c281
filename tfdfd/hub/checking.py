"""Whether a folder holds a version: these files, of these digests, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from tfdfd.hub.errors import HubError
from tfdfd.hub.manifest import MAX_FILES, File, Version, check_path, version_of
from tfdfd.weights.store import digest


def check_folder(root: Path, folder: Path, version: Version, name: str) -> None:
    """Raises `HubError` unless `folder`, below `root`, holds exactly the files of `version`; `name` is for errors.

    Sizes are compared before anything is read, and nothing but these files, read as bytes, is opened.
    """
    found = _files(root, folder, name)
    expected = {file.path: file for file in version.files}
    absent, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if absent:
        raise HubError(f"{name} lacks {_few(absent)} in {folder}: publish or copy it again.")
    if extra:
        raise HubError(f"{name} has files that its manifest does not list, in {folder}: {_few(extra)}; remove them.")
    for path, file in expected.items():
        size = found[path].stat().st_size
        if size != file.bytes:
            raise HubError(
                f"{found[path]} has {size:,} bytes, but the manifest says {file.bytes:,}: it was altered or is not "
                "whole, and nothing of it was loaded."
            )
    for path, file in expected.items():
        value = digest(found[path])
        if value != file.sha256:
            raise HubError(
                f"{found[path]} was altered: its sha256 is {value}, but the manifest says {file.sha256}; nothing of it "
                "was loaded."
            )


def version_in(folder: Path, name: str) -> Version:
    """What a manifest says of a folder that is about to be published; `name` is for errors.

    Raises:
        HubError: something in it has no place in a version.
    """
    found = _files(folder, folder, name)
    for path in found:
        check_path(path, name)
    files = [File(path, file.stat().st_size, digest(file)) for path, file in found.items()]
    if not files:
        raise HubError(f"{name} has no files.")
    return version_of(files, name)


def refuse_links(root: Path, path: Path, name: str) -> None:
    """Raises `HubError` where `path`, or a folder between it and `root`, is a link; `name` is for errors."""
    place = root
    for part in path.relative_to(root).parts:
        place = place / part
        if place.is_symlink():
            raise HubError(f"{place} is a link: what {name} consists of must lie there itself.")


def _files(root, folder, name):
    """Paths of the plain files by relative path."""
    refuse_links(root, folder, name)
    if not folder.is_dir():
        raise HubError(f"there is no folder {folder}, which the manifest names for {name}: publish or copy it again.")
    files = {}
    waiting = [folder]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                files[Path(entry.path).relative_to(folder).as_posix()] = Path(entry.path)
            else:
                kind = "link" if entry.is_symlink() else "device, pipe or socket"
                raise HubError(f"{entry.path} is a {kind}: a version consists of plain files.")
        if len(files) > MAX_FILES:
            raise HubError(f"{folder} holds more than {MAX_FILES} files.")
    return files


def _few(names):
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)
