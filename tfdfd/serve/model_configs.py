"""Which models are served from which folders: from the command line, or from TensorFlow Serving's own text file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from tfdfd.serve.loaded_model import SAVED_MODEL
from tfdfd.serve.sources import FolderSource, HubSource

_MAX_CONFIG_BYTES = 1 << 20
_HANDLES = "tfdfd/"
# As TensorFlow Serving allows in addresses.
_LABEL = re.compile("[A-Za-z0-9_]+")


@dataclass(frozen=True)
class ModelConfig:
    """One model.

    Args:
        name: in requests.
        source: of its versions.
        latest: how many versions, from the highest down; None for all.
        versions: these alone, when not empty.
        labels: label -> version.
    """

    name: str
    source: FolderSource | HubSource
    latest: int | None = 1
    versions: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        if not self.name or re.search("[/:]", self.name):
            raise ValueError(f"a model's name is part of its address: no '/' and no ':'; received {self.name!r}.")
        if self.latest is not None and self.latest < 1:
            raise ValueError(f"the number of versions must be at least 1; received {self.latest}.")
        for label in self.labels:
            if not _LABEL.fullmatch(label):
                raise ValueError(f"a label consists of letters, digits and _; received {label!r}.")


def config_of(word: str, latest: int | None = 1) -> ModelConfig:
    """A model as the command line names it: `DIR`, `NAME=DIR`, or a handle, `NAME=tfdfd/MODEL[/VERSION]`.

    Raises:
        ValueError: no such folder, or no such handle.
    """
    name, equals, place = word.partition("=")
    if not equals:
        name, place = "", word
    if place.startswith(_HANDLES):
        return _of_handle(name, place, latest)
    base = Path(os.path.abspath(place))
    if not base.is_dir():
        raise ValueError(
            f"there is no folder {place!r}; give one with a folder for each version, such as {place}/1, or a handle."
        )
    versions = ()
    if (base / SAVED_MODEL).is_file() and base.name.isdecimal():
        # One version of a model that may have others.
        base, versions = base.parent, (int(base.name),)
    return ModelConfig(name or base.name, FolderSource(base), latest, versions)


def _of_handle(name, text, latest):
    from tfdfd.hub.finding import look_up
    from tfdfd.hub.handles import Handle

    handle = Handle.parse(text)
    if handle.features:
        raise ValueError(f"{text} is served as the signature 'features' of tfdfd/{handle.model}; give that.")
    look_up(handle)  # says what is wrong with it
    versions = () if handle.version is None else (handle.version,)
    return ModelConfig(name or handle.model, HubSource(handle.model), latest, versions)


def read_configs(file: str | os.PathLike) -> list[ModelConfig]:
    """The models of a `models.config`: TensorFlow Serving's `ModelServerConfig` as text.

    Raises:
        ValueError: it cannot be parsed, or asks what this server does not do.
        OSError: it cannot be read.
    """
    with open(file, "rb") as stream:
        data = stream.read(_MAX_CONFIG_BYTES + 1)
    if len(data) > _MAX_CONFIG_BYTES:
        raise ValueError(f"{file} has more than {_MAX_CONFIG_BYTES:,} bytes; a model configuration is short.")
    try:
        parsed = text_format.Parse(data.decode("utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no ModelServerConfig in text form: {error}") from error
    try:
        return configs_from(parsed)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def configs_from(parsed: ModelServerConfig) -> list[ModelConfig]:
    """The models of TensorFlow Serving's message.

    Raises:
        ValueError: a field that is missing, or asks what this server does not do.
    """
    if parsed.WhichOneof("config") != "model_config_list" or not parsed.model_config_list.config:
        raise ValueError("expected a model_config_list with at least one config.")
    configs = [_config(each) for each in parsed.model_config_list.config]
    names = [config.name for config in configs]
    if len(set(names)) != len(names):
        raise ValueError(f"two models have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}.")
    return configs


def _config(given):
    if given.model_platform not in ("", "tensorflow"):
        raise ValueError(f"model {given.name!r} has the platform {given.model_platform!r}; expected 'tensorflow'.")
    policy = given.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if not os.path.isabs(given.base_path):
        raise ValueError(f"model {given.name!r} has the base_path {given.base_path!r}; expected an absolute path.")
    if not os.path.isdir(given.base_path):
        raise ValueError(f"model {given.name!r} has the base_path {given.base_path!r}, which is no folder.")
    versions, latest = (), 1
    if kind == "specific":
        versions = tuple(policy.specific.versions)
        if not versions:
            raise ValueError(f"model {given.name!r} asks for specific versions and names none.")
    elif kind == "all":
        latest = None
    elif kind == "latest":
        latest = policy.latest.num_versions or 1
    return ModelConfig(given.name, FolderSource(Path(given.base_path)), latest, versions, dict(given.version_labels))
