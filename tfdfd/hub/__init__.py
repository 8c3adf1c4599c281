"""Published models: their handles, `tfdfd/<model>[/<version>][/feature_vector]`, and the errors of hubs."""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "tfdfd/"
FEATURE_VECTOR = "feature_vector"
_NAME = r"[a-z][a-z0-9_]{0,63}(?:\.[a-z0-9][a-z0-9_-]{0,63})?"
VERSION = r"[1-9][0-9]{0,8}"
_PATTERN = re.compile(rf"{PREFIX}(?P<model>{_NAME})(?:/(?P<version>{VERSION}))?(?P<features>/{FEATURE_VECTOR})?")


class HubError(ValueError):
    """A handle, manifest, folder or address of published models is invalid; the message says why and how to fix it."""


class HubUnreachable(HubError):
    """A hub's address does not answer; the package and the cache may still have the model."""


class HubWarning(UserWarning):
    """A hub's address does not answer, and a model from elsewhere was used."""


@dataclass(frozen=True)
class Handle:
    """One published model.

    Attributes:
        model: such as `reseption_v1` or `meso4.df`.
        version: at least 1; None: the highest available.
        features: whether the handle means the feature vector model instead of the classifier.
    """

    model: str
    version: int | None = None
    features: bool = False

    @classmethod
    def parse(cls, text: str) -> Handle:
        """Parses a handle.

        Raises:
            HubError: the text is not a handle.
        """
        match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise HubError(
                f"{text!r} is not a handle of a published model; expected tfdfd/MODEL, tfdfd/MODEL/VERSION or either "
                f"with /{FEATURE_VECTOR} behind it, such as tfdfd/meso_inception4/1."
            )
        version = match["version"]
        return cls(match["model"], None if version is None else int(version), bool(match["features"]))

    def __str__(self) -> str:
        version = "" if self.version is None else f"/{self.version}"
        return f"{PREFIX}{self.model}{version}{f'/{FEATURE_VECTOR}' if self.features else ''}"


def check_name(model: str) -> None:
    """Raises `HubError` unless this is a valid name of a published model."""
    if not isinstance(model, str) or not re.fullmatch(_NAME, model):
        raise HubError(
            f"a published model is named like a network, with a tag if need be ('meso4', 'meso4.df'): small letters, "
            f"digits and underscores; received {model!r}."
        )


def check_version(version: int) -> None:
    """Raises `HubError` unless this is a valid version number."""
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 10**9:
        raise HubError(f"versions are whole numbers from 1 on; received {version!r}.")
