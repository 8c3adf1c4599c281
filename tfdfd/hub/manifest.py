"""The manifest of a hub: every file of every version, with size and digest. Names in it are believed only if plain."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from tfdfd.hub.errors import HubError
from tfdfd.hub.handles import FEATURE_VECTOR, VERSION, check_name

FILE = "manifest.json"
SCHEMA = 1
MAX_BYTES = 16 << 20
MAX_FILES = 1000
MAX_FILE_BYTES = 4 << 30
MAX_VERSION_BYTES = 16 << 30
# Plain names only: none that hide, climb, or mean something else to another system.
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
class Version:
    """One version of a model.

    Attributes:
        files: all that lie in its folder, by path.
        source: in a cache: digest of the manifest that it came by; else None.
    """

    files: tuple[File, ...]
    source: str | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """By which a version is the same whoever published it: sha256 over paths, sizes and digests."""
        lines = "".join(f"{file.sha256} {file.bytes} {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def has_features(self) -> bool:
        """Whether the feature vector model is in it."""
        return any(file.path.startswith(f"{FEATURE_VECTOR}/") for file in self.files)


@dataclass(frozen=True)
class Manifest:
    """All versions of all models: `models[name][number]`."""

    models: dict[str, dict[int, Version]] = field(default_factory=dict)

    def with_version(self, model: str, number: int, version: Version) -> Manifest:
        """The same with one version more, or another one."""
        models = {**self.models, model: {**self.models.get(model, {}), number: version}}
        return Manifest(models)

    def encoded(self) -> bytes:
        """As the file has it: the same bytes for the same content."""
        models = {
            model: {str(number): _told(versions[number]) for number in sorted(versions)}
            for model, versions in sorted(self.models.items())
        }
        return (json.dumps({"schema": SCHEMA, "models": models}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Manifest:
        """Reads a manifest; `where` it is from, for errors.

        Raises:
            HubError: it is none, of another schema, or names something that no file of a version may be named.
        """
        if len(data) > MAX_BYTES:
            raise HubError(f"{where} is larger than {MAX_BYTES:,} bytes: no manifest of ours.")
        try:
            told = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise HubError(f"{where} is no JSON: {error}") from error
        if not isinstance(told, dict) or told.get("schema") != SCHEMA or not isinstance(told.get("models"), dict):
            raise HubError(f"{where} is no manifest of schema {SCHEMA}; another tfdfd may have written it.")
        try:
            return cls({model: _versions(model, versions) for model, versions in told["models"].items()})
        except HubError as error:
            raise HubError(f"{where}: {error}") from error


def _told(version):
    files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in version.files]
    return {"files": files} | ({"source": version.source} if version.source else {})


def _versions(model, told):
    check_name(model)
    if not isinstance(told, dict):
        raise HubError(f"the versions of {model} must be an object; received {type(told).__name__}.")
    for number in told:
        if not re.fullmatch(VERSION, number):
            raise HubError(f"{number!r} is no version of {model}; versions are whole numbers from 1 on.")
    return {int(number): _version(f"{model}/{number}", version) for number, version in told.items()}


def _version(name, told):
    files = told.get("files") if isinstance(told, dict) else None
    if not isinstance(files, list) or not files or len(files) > MAX_FILES:
        raise HubError(f"{name} must have a list of 1 to {MAX_FILES} files.")
    source = told.get("source")
    if source is not None and not (isinstance(source, str) and _SHA256.fullmatch(source)):
        raise HubError(f"{name} has the source {source!r}; expected the digest of a manifest.")
    return version_of([_file(name, file) for file in files], name, source)


def version_of(files: list[File], name: str, source: str | None = None) -> Version:
    """A version of these files, checked as a whole; `name` is for errors.

    Raises:
        HubError: two are one on some system, or all together are too large.
    """
    paths = [file.path.lower() for file in files]
    if len(set(paths)) != len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise HubError(f"{name} names {', '.join(twice)} twice.")
    if sum(file.bytes for file in files) > MAX_VERSION_BYTES:
        raise HubError(f"{name} is larger than {MAX_VERSION_BYTES:,} bytes in all.")
    return Version(tuple(sorted(files, key=lambda file: file.path)), source)


def _file(name, told):
    if not isinstance(told, dict):
        raise HubError(f"a file of {name} must be an object; received {type(told).__name__}.")
    path, size, sha256 = (told.get(key) for key in ("path", "bytes", "sha256"))
    check_path(path, name)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_FILE_BYTES:
        raise HubError(f"{path} of {name} must have 0 to {MAX_FILE_BYTES:,} bytes; received {size!r}.")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise HubError(f"{path} of {name} must have a sha256 of 64 small hex digits; received {sha256!r}.")
    return File(path, size, sha256)


def check_path(path: str, name: str) -> None:
    """Raises `HubError` unless this is a plain relative path; `name` of the version is for errors."""
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise HubError(
            f"{name} has a file named {path!r}; expected a relative path of plain names (letters, digits, '_', '-', "
            "'.'), none of which begins with a dot."
        )
