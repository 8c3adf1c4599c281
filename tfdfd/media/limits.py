"""What one input may cost. Exceeding a limit is a typed outcome (`too_large`, `timeout`), never a crash."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Budget of one input.

    Attributes:
        max_bytes: size of the file.
        max_pixels: pixels of an image or of one frame of a video.
        max_frames: frames decoded from one video (54,000 are 30 minutes at 30 a second).
        max_seconds: wall clock from opening the file to the last crop.
        max_memory: bytes of data the decoding process may hold (Linux).
    """

    max_bytes: int = 4 * 1024**3
    max_pixels: int = 50_000_000
    max_frames: int = 54_000
    max_seconds: float = 300.0
    max_memory: int = 2 * 1024**3

    def __post_init__(self):
        for name in (field.name for field in fields(self)):
            # What timers and the operating system's own limits can still count.
            value, most = getattr(self, name), 10**9 if name == "max_seconds" else 2**62
            if not 0 < value <= most:
                raise ValueError(f"{name} must be greater than 0 and at most {most:,}; received {value!r}.")

    def to_dict(self) -> dict:
        return asdict(self)
