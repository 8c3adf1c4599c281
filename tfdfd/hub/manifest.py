"""Manifest of a hub: size and digest of every file of every version, and the check of folders against it.

`$TFDFD_HUB_SHA256` pins a manifest: an older one cannot replace the pinned one. Versions may be signed, see
`tfdfd.hub.signing`; signatures are in the manifest itself, so that one cannot be written without the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tfdfd.hub import FEATURE_VECTOR, VERSION, HubError, check_name
from tfdfd.weights.store import digest

FILE = "manifest.json"
SCHEMA = 1
MAX_BYTES = 16 << 20
MAX_FILES = 1000
MAX_SIGNATURES = 16
MAX_FILE_BYTES = 4 << 30
MAX_VERSION_BYTES = 16 << 30
# Plain names only: no hidden files, no parent folders, no names that another system reads differently.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """One file of a version.

    Attributes:
        path: relative to the version's folder, with slashes.
        bytes: size.
        sha256: digest.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Signature:
    """A publisher's signature of a version.

    Attributes:
        key: Ed25519 public key, 64 hex digits.
        value: signature, 128 hex digits.
    """

    key: str
    value: str


@dataclass(frozen=True)
class Version:
    """One version of a model.

    Attributes:
        files: all files of its folder, by path.
        source: in a cache, digest of the manifest that listed it; else None.
        signatures: signatures of publishers, not yet checked.
    """

    files: tuple[File, ...]
    source: str | None = field(default=None, compare=False)
    signatures: tuple[Signature, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 over paths, sizes and digests of the files; the same for every publisher."""
        lines = "".join(f"{file.sha256} {file.bytes} {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def has_features(self) -> bool:
        """Whether the version includes the feature vector model."""
        return any(file.path.startswith(f"{FEATURE_VECTOR}/") for file in self.files)


@dataclass(frozen=True)
class Manifest:
    """All versions of all models: `models[name][number]`."""

    models: dict[str, dict[int, Version]] = field(default_factory=dict)

    def with_version(self, model: str, number: int, version: Version) -> Manifest:
        """A copy with one version added or replaced."""
        models = {**self.models, model: {**self.models.get(model, {}), number: version}}
        return Manifest(models)

    def encoded(self) -> bytes:
        """Content of the file: the same bytes for the same versions."""
        models = {
            model: {str(number): _encoded(versions[number]) for number in sorted(versions)}
            for model, versions in sorted(self.models.items())
        }
        return (json.dumps({"schema": SCHEMA, "models": models}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Manifest:
        """Parses a manifest; errors name `where` it is from.

        Raises:
            HubError: invalid JSON, another schema, or an invalid name, size or digest.
        """
        if len(data) > MAX_BYTES:
            raise HubError(f"{where} is larger than {MAX_BYTES:,} bytes, so it is not a manifest.")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{where} is not JSON: {error}") from error
        if (
            not isinstance(content, dict)
            or content.get("schema") != SCHEMA
            or not isinstance(content.get("models"), dict)
        ):
            raise HubError(f"{where} is not a manifest of schema {SCHEMA}; another tfdfd may have written it.")
        try:
            return cls({model: _versions(model, versions) for model, versions in content["models"].items()})
        except HubError as error:
            raise HubError(f"{where}: {error}") from error


def _encoded(version: Version) -> dict[str, Any]:
    files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in version.files]
    signatures = [{"key": one.key, "signature": one.value} for one in version.signatures]
    return (
        {"files": files}
        | ({"source": version.source} if version.source else {})
        | ({"signatures": signatures} if signatures else {})
    )


def _versions(model: str, content: Any) -> dict[int, Version]:
    check_name(model)
    if not isinstance(content, dict):
        raise HubError(f"the versions of {model} must be an object; received {type(content).__name__}.")
    for number in content:
        if not re.fullmatch(VERSION, number):
            raise HubError(f"{number!r} is not a version of {model}; versions are whole numbers from 1 on.")
    return {int(number): _version(f"{model}/{number}", version) for number, version in content.items()}


def _version(name: str, content: Any) -> Version:
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, list) or not files or len(files) > MAX_FILES:
        raise HubError(f"{name} must have a list of 1 to {MAX_FILES} files.")
    source = content.get("source")
    if source is not None and not (isinstance(source, str) and _SHA256.fullmatch(source)):
        raise HubError(f"{name} has the source {source!r}; expected the digest of a manifest.")
    signatures = content.get("signatures", [])
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise HubError(f"{name} must have a list of at most {MAX_SIGNATURES} signatures.")
    version = version_of([_file(name, file) for file in files], name, source)
    return replace(version, signatures=tuple(_signature(name, one) for one in signatures))


def _signature(name: str, content: Any) -> Signature:
    key, value = (str(content.get(part)) if isinstance(content, dict) else "" for part in ("key", "signature"))
    if not re.fullmatch("[0-9a-f]{64} [0-9a-f]{128}", f"{key} {value}"):
        raise HubError(f"a signature of {name} must have key and signature of 64 and 128 small hex digits.")
    return Signature(key, value)


def version_of(files: list[File], name: str, source: str | None = None) -> Version:
    """A version made of these files; errors call it `name`.

    Raises:
        HubError: two paths are equal on a case-insensitive file system, or the files are too large in total.
    """
    paths = [file.path.lower() for file in files]
    if len(set(paths)) != len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise HubError(f"{name} names {', '.join(twice)} twice.")
    if sum(file.bytes for file in files) > MAX_VERSION_BYTES:
        raise HubError(f"{name} is larger than {MAX_VERSION_BYTES:,} bytes in all.")
    return Version(tuple(sorted(files, key=lambda file: file.path)), source)


def _file(name: str, content: Any) -> File:
    if not isinstance(content, dict):
        raise HubError(f"a file of {name} must be an object; received {type(content).__name__}.")
    path: Any
    path, size, sha256 = (content.get(key) for key in ("path", "bytes", "sha256"))
    check_path(path, name)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise HubError(f"{path} of {name} must have 0 to {MAX_FILE_BYTES:,} bytes; received {size!r}.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise HubError(f"{path} of {name} must have a sha256 of 64 small hex digits; received {sha256!r}.")
    return File(path, size, sha256)


def check_path(path: str, name: str) -> None:
    """Raises `HubError` unless this is a plain relative path; errors call the version `name`."""
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise HubError(
            f"{name} has a file named {path!r}; expected a relative path of plain names (letters, digits, '_', '-', "
            "'.'), none of which begins with a dot."
        )


def check_folder(root: Path, folder: Path, version: Version, name: str) -> None:
    """Raises `HubError` unless `folder`, below `root`, holds exactly the files of `version`; errors call it `name`.

    Sizes are compared before any file is read; only these files are opened, as bytes.
    """
    present = _files(root, folder, name)
    expected = {file.path: file for file in version.files}
    absent, extra = sorted(expected.keys() - present.keys()), sorted(present.keys() - expected.keys())
    if absent:
        raise HubError(f"{name} lacks {_few(absent)} in {folder}: publish or copy it again.")
    if extra:
        raise HubError(f"{name} has files that its manifest does not list, in {folder}: {_few(extra)}; remove them.")
    for path, file in expected.items():
        size = present[path].stat().st_size
        if size != file.bytes:
            raise HubError(
                f"{present[path]} has {size:,} bytes, but the manifest says {file.bytes:,}: it was altered or is "
                "incomplete, and nothing of it was loaded."
            )
    for path, file in expected.items():
        value = digest(present[path])
        if value != file.sha256:
            raise HubError(
                f"{present[path]} was altered: its sha256 is {value}, but the manifest says {file.sha256}; nothing of "
                "it was loaded."
            )


def version_in(folder: Path, name: str) -> Version:
    """The version that a folder about to be published holds; errors call it `name`.

    Raises:
        HubError: it holds no files, or something other than plain files.
    """
    present = _files(folder, folder, name)
    for path in present:
        check_path(path, name)
    files = [File(path, file.stat().st_size, digest(file)) for path, file in present.items()]
    if not files:
        raise HubError(f"{name} has no files.")
    return version_of(files, name)


def refuse_links(root: Path, path: Path, name: str) -> None:
    """Raises `HubError` if `path`, or a folder between it and `root`, is a link; errors call the version `name`."""
    for part in path.relative_to(root).parts:
        root = root / part
        if root.is_symlink():
            raise HubError(f"{root} is a link: the files of {name} must lie there themselves.")


def _files(root: Path, folder: Path, name: str) -> dict[str, Path]:
    """Plain files by relative path."""
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


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)


PIN = "TFDFD_HUB_SHA256"


def pin_of_user() -> str | None:
    """The pinned digest of the hub's manifest, or None.

    Raises:
        HubError: the variable is not a digest.
    """
    pin = os.environ.get(PIN, "").strip().lower()
    if not pin:
        return None
    if not re.fullmatch("[0-9a-f]{64}", pin):
        raise HubError(f"${PIN} must be a sha256, 64 hex digits, as 'tfdfd publish' prints it; received {pin!r}.")
    return pin


def check_pin(data: bytes, pin: str | None, where: str) -> None:
    """Raises `HubError` with both digests if `data` is not the pinned content; `pin` None accepts all."""
    found = hashlib.sha256(data).hexdigest()
    if pin is not None and found != pin:
        raise HubError(
            f"{where} has the sha256 {found}, but ${PIN} is {pin}: it was altered, or something was published "
            "since; nothing was loaded."
        )
