"""Configuration of served models, from the command line or TensorFlow Serving's text file, and their sources."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tfdfd.serve.loaded_model import SAVED_MODEL

_MAX_CONFIG_BYTES = 1 << 20
_HANDLES = "tfdfd/"
# Labels that TensorFlow Serving allows in URLs.
_LABEL = re.compile("[A-Za-z0-9_]+")


# Fits the protocol's 64 bits.
_NUMBER = re.compile("[0-9]{1,18}")
# Interval of requests to a hub on the network.
_HUB_SECONDS = 60.0


@dataclass(frozen=True)
class FolderSource:
    """Versions in folders that are named by their numbers.

    A folder that is itself a SavedModel is version 1, the only one.
    """

    base: Path

    def __str__(self) -> str:
        return str(self.base)

    def versions(self) -> dict[int, object]:
        """Version numbers, the highest first, each with a value that changes with its files.

        Raises:
            OSError: the folder cannot be read.
        """
        return {number: _state_of(folder) for number, folder in self._folders().items()}

    def folder(self, number: int) -> Path:
        """Folder of a version.

        Raises:
            ValueError: it no longer exists.
        """
        try:
            return self._folders()[number]
        except KeyError:
            raise ValueError(f"there is no folder {self.base / str(number)}.") from None

    def _folders(self) -> dict[int, Path]:
        if (self.base / SAVED_MODEL).is_file():
            return {1: self.base}
        with os.scandir(self.base) as entries:
            found = {int(e.name): Path(e.path) for e in entries if _NUMBER.fullmatch(e.name) and e.is_dir()}
        return dict(sorted(found.items(), reverse=True))


@dataclass(frozen=True)
class HubSource:
    """Versions written by `tfdfd publish`; each is checked against the manifest before it is loaded."""

    model: str
    _known: list = field(default_factory=list, compare=False, repr=False)

    def __str__(self) -> str:
        return f"tfdfd/{self.model}"

    def versions(self) -> dict[int, object]:
        """Version numbers, the highest first, each with its digest; a hub on the network is asked once a minute.

        Raises:
            ValueError: the hub cannot be read.
        """
        from tfdfd.hub import HubUnreachable
        from tfdfd.hub.resolve import hubs

        if self._known and time.monotonic() < self._known[0]:
            return self._known[1]
        found: dict[int, object] = {}
        for hub in hubs():
            try:
                versions = hub.manifest().models.get(self.model, {})
            except HubUnreachable:
                continue
            for number, version in versions.items():
                found.setdefault(number, version.digest)
        wait = _HUB_SECONDS if "://" in os.environ.get("TFDFD_HUB", "") else 0.0
        self._known[:] = time.monotonic() + wait, dict(sorted(found.items(), reverse=True))
        return self._known[1]

    def folder(self, number: int) -> Path:
        """The checked folder of a version, fetched if necessary.

        Raises:
            ValueError: it does not exist, or its files differ from the manifest.
        """
        from tfdfd.hub.resolve import find

        return find(f"tfdfd/{self.model}/{number}").path


def _state_of(folder: Path) -> tuple:
    files = [folder / SAVED_MODEL, *sorted((folder / "variables").glob("*"))]
    return tuple((file.name, *_state(file)) for file in files)


def _state(file: Path) -> tuple[int | None, int | None]:
    try:
        found = file.stat()
    except OSError:
        return (None, None)
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of one model.

    Args:
        name: in requests.
        source: source of its versions.
        latest: number of versions, from the highest down; None for all.
        versions: only these, if not empty.
        labels: label -> version.
    """

    name: str
    source: FolderSource | HubSource
    latest: int | None = 1
    versions: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or re.search("[/:]", self.name):
            raise ValueError(f"a model's name is part of its URL: no '/' and no ':'; received {self.name!r}.")
        if self.latest is not None and self.latest < 1:
            raise ValueError(f"the number of versions must be at least 1; received {self.latest}.")
        for label in self.labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"a label consists of letters, digits and _; received {label!r}.")


def config_of(word: str, latest: int | None = 1) -> ModelConfig:
    """A model as given on the command line: `DIR`, `NAME=DIR`, or a handle, `NAME=tfdfd/MODEL[/VERSION]`.

    Raises:
        ValueError: no such folder, or no such handle.
    """
    name, equals, location = word.partition("=")
    if not equals:
        name, location = "", word
    if location.startswith(_HANDLES):
        return _of_handle(name, location, latest)
    base = Path(os.path.abspath(location))
    if not base.is_dir():
        raise ValueError(
            f"there is no folder {location!r}; give one with a folder for each version, such as {location}/1, or a "
            "handle."
        )
    versions: tuple[int, ...] = ()
    if (base / SAVED_MODEL).is_file() and base.name.isdecimal():
        # One version; the model may have others.
        base, versions = base.parent, (int(base.name),)
    return ModelConfig(name or base.name, FolderSource(base), latest, versions)


def _of_handle(name: str, text: str, latest: Any) -> ModelConfig:
    from tfdfd.hub import Handle
    from tfdfd.hub.resolve import look_up

    handle = Handle.parse(text)
    if handle.features:
        raise ValueError(f"{text} is served as the signature 'features' of tfdfd/{handle.model}; give that.")
    look_up(handle)  # raises if it is invalid
    versions = () if handle.version is None else (handle.version,)
    return ModelConfig(name or handle.model, HubSource(handle.model), latest, versions)


def read_configs(file: str | os.PathLike) -> list[ModelConfig]:
    """The models of a `models.config`: TensorFlow Serving's `ModelServerConfig` as text.

    Raises:
        ValueError: it cannot be parsed, or requests something that is not supported.
        OSError: it cannot be read.
    """
    with open(file, "rb") as stream:
        data = stream.read(_MAX_CONFIG_BYTES + 1)
    if len(data) > _MAX_CONFIG_BYTES:
        raise ValueError(f"{file} has more than {_MAX_CONFIG_BYTES:,} bytes; a model configuration is short.")
    try:
        parsed = text_format.Parse(data.decode("utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a ModelServerConfig in text form: {error}") from error
    try:
        return configs_from(parsed)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def configs_from(parsed: ModelServerConfig) -> list[ModelConfig]:
    """The models of TensorFlow Serving's message.

    Raises:
        ValueError: a field is missing, or requests something that is not supported.
    """
    if parsed.WhichOneof("config") != "model_config_list" or not parsed.model_config_list.config:
        raise ValueError("expected a model_config_list with at least one config.")
    configs = [_config(each) for each in parsed.model_config_list.config]
    names = [config.name for config in configs]
    if len(set(names)) != len(names):
        raise ValueError(f"two models have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}.")
    return configs


def _config(given: Any) -> ModelConfig:
    if given.model_platform not in ("", "tensorflow"):
        raise ValueError(f"model {given.name!r} has the platform {given.model_platform!r}; expected 'tensorflow'.")
    policy = given.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if not os.path.isabs(given.base_path):
        raise ValueError(f"model {given.name!r} has the base_path {given.base_path!r}; expected an absolute path.")
    if not os.path.isdir(given.base_path):
        raise ValueError(f"model {given.name!r} has the base_path {given.base_path!r}, which is not a folder.")
    latest: int | None
    versions, latest = (), 1
    if kind == "specific":
        versions = tuple(policy.specific.versions)
        if not versions:
            raise ValueError(f"model {given.name!r} requests specific versions but names none.")
    elif kind == "all":
        latest = None
    elif kind == "latest":
        latest = policy.latest.num_versions or 1
    return ModelConfig(given.name, FolderSource(Path(given.base_path)), latest, versions, dict(given.version_labels))
