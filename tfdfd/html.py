"""Self-contained HTML pages: a Jinja environment that escapes everything, and pictures as data URIs.

File names, messages and model cards come from strangers. They reach a page through autoescape only, with control
characters and direction overrides made visible.
"""

from __future__ import annotations

import base64
import re
from functools import lru_cache
from pathlib import Path

import cv2
import jinja2
import numpy as np

# Control characters except tab and line feed, direction overrides (they disguise file names), and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@lru_cache
def environment(*folders: Path) -> jinja2.Environment:
    """The environment that renders pages from templates in these folders."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        # Explicit, because selection by file extension does not know `.j2`.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"probability": shown_probability, "seconds": _seconds}
    return made


def as_jpeg(pixels: np.ndarray, size: int, quality: int = 85) -> bytes:
    """An RGB uint8 picture `(height, width, 3)` as JPEG, its longer side at most `size` pixels.

    Raises:
        ValueError: it is not such a picture.
    """
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3):
        received = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(
            f"a crop must be RGB uint8 of shape (height, width, 3); received {received}. "
            "Pass the crop that was scored, or None."
        )
    shrink = size / max(pixels.shape[:2])
    if shrink < 1:
        height, width = (max(1, round(side * shrink)) for side in pixels.shape[:2])
        pixels = resized(pixels, width, height)
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size."""
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    """An encoded picture as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def shown_probability(value: float) -> str:
    """Three digits, but never 0 or 1, a certainty that no model has."""
    if value >= 0.9995:
        return "> 0.999"
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def _printable(value: object) -> object:
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _UNPRINTABLE.sub(_escaped, value)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        # Python's representation of an undecodable byte, shown as that byte, as `printable_path` does.
        code -= 0xDC00
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
