"""Names of published models: `tfdfd/<model>`, with a version, and with the part of it that is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfdfd.hub.errors import HubError

PREFIX = "tfdfd/"
FEATURE_VECTOR = "feature_vector"
_NAME = r"[a-z][a-z0-9_]{0,63}(?:\.[a-z0-9][a-z0-9_-]{0,63})?"
VERSION = r"[1-9][0-9]{0,8}"
_PATTERN = re.compile(rf"{PREFIX}(?P<model>{_NAME})(?:/(?P<version>{VERSION}))?(?P<features>/{FEATURE_VECTOR})?")


@dataclass(frozen=True)
class Handle:
    """One published model.

    Attributes:
        model: such as `reseption_v1` or `meso4.df`.
        version: from 1 on; None: the highest there is.
        features: whether the model that answers with features is meant, not the one that answers with P(fake).
    """

    model: str
    version: int | None = None
    features: bool = False

    @classmethod
    def parse(cls, text: str) -> Handle:
        """Reads a handle.

        Raises:
            HubError: it is none.
        """
        match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise HubError(
                f"{text!r} is no handle of a published model; expected tfdfd/MODEL, tfdfd/MODEL/VERSION or either with "
                f"/{FEATURE_VECTOR} behind it, such as tfdfd/meso_inception4/1."
            )
        version = match["version"]
        return cls(match["model"], None if version is None else int(version), bool(match["features"]))

    def __str__(self):
        version = "" if self.version is None else f"/{self.version}"
        return f"{PREFIX}{self.model}{version}{f'/{FEATURE_VECTOR}' if self.features else ''}"


def check_name(model: str) -> None:
    """Raises `HubError` unless a model can be published under this name."""
    if not isinstance(model, str) or not re.fullmatch(_NAME, model):
        raise HubError(
            f"a published model is named like a network, with a tag if need be ('meso4', 'meso4.df'): small letters, "
            f"digits and underscores; received {model!r}."
        )


def check_version(version: int) -> None:
    """Raises `HubError` unless this is a version."""
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version < 10**9:
        raise HubError(f"versions are whole numbers from 1 on; received {version!r}.")
