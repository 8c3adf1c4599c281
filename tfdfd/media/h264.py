"""H.264 frame headers: frames that no other frame references, and gaps in the numbering of reference frames.

FFmpeg conceals frames that are missing from an H.264 stream and marks nothing as damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

# Headers come before the pixels; only this many bytes of a packet are searched.
_SEARCHED = 4096
_LONGEST_HEADER = 1024
_SLICE, _IDR_SLICE, _SPS, _PPS = 1, 5, 7, 8
# Profiles whose sequence parameter sets state the chroma format.
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class FrameHeaders:
    """Parses the frame headers of a stream, packet by packet.

    Args:
        codec: FFmpeg's name of the codec; only `h264` is parsed.
        extradata: the stream's parameter sets, as stored in its container.
    """

    def __init__(self, codec: str, extradata: bytes | None):
        extra = extradata or b""
        self._codec = codec
        # 0: units are separated by start codes.
        self._length_bytes = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
        self._bits: int | None = None
        self._gaps_allowed = False
        self._previous: int | None = None
        if codec == "h264" and self._length_bytes:
            size = int.from_bytes(extra[6:8], "big")
            self._parameters(extra[8 : 8 + size])
        elif codec == "h264":
            for unit in _units(extra, 0):
                if unit[0] & 31 == _SPS:
                    self._parameters(unit)

    def next(self, packet: av.Packet) -> tuple[bool, bool]:
        """Whether no other frame references the next packet's frame, and whether frames before it are missing."""
        if self._codec != "h264":
            return False, False
        parameters = False
        for unit in _units(bytes(memoryview(packet)[:_SEARCHED]), self._length_bytes):
            kind = unit[0] & 31
            parameters |= kind in (_SPS, _PPS)
            if kind == _SPS:
                self._parameters(unit)
            elif kind in (_SLICE, _IDR_SLICE):
                # Parameter sets in the packet may apply to other frames.
                return not (unit[0] >> 5 & 3 or parameters), self._is_behind_a_gap(unit)
        self._previous = None
        return False, False

    def _is_behind_a_gap(self, unit: bytes) -> bool:
        """Whether the frame number skips some: reference frames are numbered without gaps, in a few bits."""
        number = self._number(unit)
        previous, referred = self._previous, unit[0] >> 5 & 3
        if number is None or referred:
            self._previous = number
        if number is None or previous is None or unit[0] & 31 == _IDR_SLICE or self._gaps_allowed:
            return False
        # 0 also follows an operation that resets the numbers.
        return number != 0 and number not in (previous, (previous + 1) % (1 << self._bits))  # type: ignore[operator]

    def _number(self, unit: bytes) -> int | None:
        if self._bits is None:
            return None
        bits = _Bits(unit[1:40])
        try:
            for _ in range(3):  # first macroblock, type of slice, parameter set
                bits.unsigned()
            return bits.take(self._bits)
        except ValueError:
            return None

    def _parameters(self, unit: bytes) -> None:
        try:
            count, allowed = _frame_numbers(_Bits(unit[1:]))
        except ValueError:
            count, allowed = None, True
        if count != self._bits:
            self._previous = None
        self._bits, self._gaps_allowed = count, allowed


def _frame_numbers(bits: _Bits) -> tuple[int | None, bool]:
    """From a sequence parameter set: bits of a frame number (None: unsupported), and whether gaps are permitted."""
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        chroma = bits.unsigned()
        if chroma == 3 and bits.take(1):
            return None, True
        bits.unsigned(), bits.unsigned(), bits.take(1)
        if bits.take(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    count = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1), bits.unsigned(), bits.unsigned()
        for _ in range(min(bits.unsigned(), 256)):
            bits.unsigned()
    bits.unsigned()
    return (count if count <= 16 else None), bool(bits.take(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.unsigned()
            following = (last + ((code + 1) // 2 if code & 1 else -(code // 2))) % 256
        last = following or last


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yields the start of each NAL unit of a packet."""
    offset = 0
    while True:
        if length_bytes:
            start = offset + length_bytes
            offset = start + int.from_bytes(data[offset:start], "big")
        else:
            position = data.find(b"\0\0\1", offset)
            start = offset = position + 3 if position >= 0 else len(data)
        if start >= len(data):
            return
        yield data[start : start + _LONGEST_HEADER]


class _Bits:
    """Bit reader for a NAL unit's header; raises ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the header ends early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def unsigned(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
