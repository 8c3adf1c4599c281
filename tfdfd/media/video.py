"""Video decoding on PyAV (FFmpeg): sampled frames, upright, in square pixels, with damaged frames identified.

FFmpeg reads a file object without a name and opens nothing else: no path, address, playlist or external track.
"""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Collection, Generator, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from tfdfd.media import InOrder, Limits, MediaError, choose_in_order, frame_indices
from tfdfd.media.decode import Frame, MediaInfo
from tfdfd.media.formats import HEAD_BYTES, VIDEO_DEMUXERS, is_mov
from tfdfd.media.h264 import FrameHeaders

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_BUFFER = 1 << 18
_MOST_THREADS = 16
# Each decoding thread holds frames of its own. This bounds their bytes, at 3 per pixel: 16 threads at 1080p, 2 at 8K.
_THREAD_BYTES = 1 << 28
_MOST_B_FRAMES = 16
# Number of packets ahead; exceeds the reordering distance of frames.
_AHEAD = 32
_MOST_ROWS = 1 << 16
# Covers and thumbnails are stored as video streams.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
# Containers that state their duration in a header. FFmpeg estimates it for the others.
_STATES_LENGTH = {"mov", "matroska,webm", "avi", "flv", "asf"}
# Containers whose time stamps may restart; as in `ffmpeg`, a jump of more than 10 s counts as a restart.
_RESTARTS = {"mpegts", "mpeg", "mpegvideo"}
_JUMP = 10.0
# Fraction of the stated length that counts as complete: headers round.
_COMPLETE = 0.95
# Pixels within 1 % of square count as square: resampling would cost more than it corrects.
_SQUARE = 0.01
_WIDEST_PIXEL = 16
# B frames of these codecs are never referenced. H.264 states it in each frame.
_B_IS_LAST = {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "vc1", "wmv3"}
# Decoders that wait for a keyframe; those of older codecs output frames that they cannot decode correctly.
_WAIT_FOR_KEYFRAME = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d"}


def read_video(file: BinaryIO, frames: int | InOrder, limits: Limits) -> Iterator[Frame | MediaInfo]:
    """Yields frames of the first video stream that can be decoded, and the `MediaInfo` last.

    Args:
        file: an open file of a known container.
        frames: as for `tfdfd.media.decode.read_media`.
        limits: budget of pixels and frames.

    Raises:
        MediaError: with the status of the input.
    """
    read: Any = _read_in_order if isinstance(frames, InOrder) else _read_spaced
    position = 0
    while True:
        container = _open(file)
        streams = _streams(container)
        if not streams:
            container.close()
            raise MediaError("decode_error", "the file holds no video: only sound, or a cover picture")
        info = yield from read(file, container, position, frames, limits)
        if info is not None:
            break
        position += 1
        if position == len(streams):
            raise MediaError("decode_error", "no frame could be decoded: the video is damaged or has no frames")
    if len(streams) > 1:
        note = f"of {len(streams)} video streams, number {position + 1} was looked at"
        info.note = f"{note}; {info.note}" if info.note else note
    yield info


def _read_spaced(
    file: BinaryIO, container: InputContainer, position: int, count: int, limits: Limits
) -> Generator[Frame, None, MediaInfo | None]:
    """One pass over an intact file. The expected number of frames only selects frames in advance; the number of decoded
    frames decides, and if the two differ, a second pass reads the missing ones."""
    wanted = set(frame_indices(_expected_frames(file, container, position, limits), count))
    try:
        with _Pass(container, position, limits, wanted) as first:
            yield from first.pictures((index, time) for index, time in first.decoded() if index in wanted)
    except _Irregular:
        # Frames that were yielded are yielded again.
        with _Pass(_open(file), position, limits) as first:
            yield from first.pictures((index, time) for index, time in first.decoded() if index in wanted)
    if not first.total:
        return None
    indices = [index for index in frame_indices(first.total, count) if index not in first.cut_off]
    missing = set(indices) - first.shown
    if missing:
        with _Pass(_open(file), position, limits) as second:
            yield from second.pictures(choose_in_order(second.decoded(), InOrder(only=frozenset(missing))))
        if lost := missing - second.shown:
            raise MediaError("decode_error", f"frame {min(lost)} could be decoded once, but not again")
    return first.info(indices)


def _read_in_order(
    file: BinaryIO, container: InputContainer, position: int, choice: InOrder, limits: Limits
) -> Generator[Frame, None, MediaInfo | None]:
    """One pass, which ends with the last chosen frame."""
    indices = []
    with _Pass(container, position, limits) as clip:
        decoded = clip.decoded()
        for frame in clip.pictures(choose_in_order(decoded, choice)):
            indices.append(frame.index)
            yield frame
        # A B frame precedes a frame that it references; damage to that one is known only later.
        for _ in range(_MOST_B_FRAMES):
            if clip.settled or next(decoded, None) is None:
                break
    if not clip.total:
        return None
    return clip.info([index for index in indices if index not in clip.cut_off])


class _Pass:
    """One decoding pass over a video stream, from its start.

    Args:
        container: the open file.
        position: index of the stream among the file's video streams.
        limits: budget of pixels and frames.
        wanted: frame indices; other frames are not decoded if the codec states that they are never referenced.

    Attributes:
        total: number of frames so far.
        shown: indices of the frames whose pixels were yielded.
    """

    def __init__(
        self, container: InputContainer, position: int, limits: Limits, wanted: Collection[int] | None = None
    ) -> None:
        self._container, self._limits = container, limits
        self._stream = _streams(container)[position]
        context = self._stream.codec_context
        _check_pixels(context.width, context.height, limits)
        affordable = _THREAD_BYTES // max(3 * context.width * context.height, 1)
        context.thread_type = "AUTO"
        context.thread_count = max(1, min(cv2.getNumberOfCPUs(), _MOST_THREADS, affordable))
        # For a resolution that grows later, before memory is allocated. Decoders count rows padded by up to 63 pixels.
        context.options = {"max_pixels": str(limits.max_pixels + 63 * _MOST_ROWS)}
        self._context = context
        self._aspect = _pixel_aspect(self._stream.sample_aspect_ratio)
        self._stated = _stated_length(container, self._stream)
        self._clock = _Clock(self._stream, container.format.name)
        self._damage = _Damage(context)
        self._wanted = wanted
        self._order: _Order | None = _Order() if wanted is not None and context.name == "h264" else None
        self._reformatter = VideoReformatter()
        self._frame: VideoFrame | None = None
        self._others_end = 0.0
        self.total, self._at_end = 0, False
        self.shown: set[int] = set()

    def __enter__(self) -> _Pass:
        return self

    def __exit__(self, *error: object) -> None:
        self._frame = None
        self._container.close()

    def decoded(self) -> Iterator[tuple[int, float]]:
        """Yields index and time of each frame as it is decoded.

        Raises:
            _Irregular: frames were skipped, and their indices turn out to be unknown.
        """
        for frame in self._frames():
            if self.total >= self._limits.max_frames:
                raise MediaError("too_large", f"more than {self._limits.max_frames} frames (--max-frames)")
            self._frame = frame
            index = self._order.number_of(frame) if self._order else self.total
            self._damage.add(frame, index)
            self.total += 1
            yield index, self._clock.time(frame)
        if self._order and (self.total != self._damage.packets or self._damage.suspected):
            raise _Irregular
        self._at_end = True

    def pictures(self, chosen: Iterable[tuple[int, float]]) -> Iterator[Frame]:
        """Yields the frames that were chosen from `decoded`, with their pixels."""
        for index, time in chosen:
            pixels = self._pixels(self._frame)  # type: ignore[arg-type]
            self.shown.add(index)
            yield Frame(index, round(time, 3), pixels)

    def info(self, sampled: list[int]) -> MediaInfo:
        """The result for the sampled frames, after the pass."""
        damaged = self._damage.indices()
        return MediaInfo(
            "video",
            [index for index in sampled if index not in damaged],
            round(self._clock.end, 3) if self._at_end and self._clock.end else None,
            self._early_end() if self._at_end else None,
            damaged=sum(index in damaged for index in sampled),
            decoder=f"{self._context.name} in {self._container.format.name.split(',')[0]}, {self._context.width}x"
            f"{self._context.height}, {self.total} frames{'' if self._at_end else ' to the last one taken'}",
        )

    @property
    def cut_off(self) -> set[int]:
        """Frames that the end of the file cuts off."""
        return self._damage.cut_off if self._at_end else set()

    @property
    def settled(self) -> bool:
        """Whether no later frame affects the frames so far."""
        return self._frame is None or self._frame.pict_type != PictureType.B

    def _frames(self) -> Iterator[VideoFrame]:
        packets = self._whole_packets()
        for packet in self._needed_packets(packets) if self._order else packets:
            yield from self._decode(packet)
        yield from self._decode(None)

    def _whole_packets(self) -> Iterator[Packet]:
        # One packet is held back: the last one of a truncated file is incomplete.
        held = None
        for packet in self._packets():
            if held is not None:
                self._damage.next_packet(held)
                yield held
            held = packet
        if held is not None and not held.is_corrupt:
            self._damage.next_packet(held, last=True)
            yield held

    def _needed_packets(self, packets: Iterable[Packet]) -> Iterator[Packet]:
        """Yields packets of frames that are wanted or referenced; the others need no decoding."""
        ahead: collections.deque[tuple[int, av.Packet]] = collections.deque()
        for number, packet in enumerate(packets):
            self._order.add(packet)  # type: ignore[union-attr]
            ahead.append((number, packet))
            if len(ahead) > _AHEAD:
                number, packet = ahead.popleft()
                if self._order.note(packet) in self._wanted or not self._damage.is_unreferenced(number):  # type: ignore[operator,union-attr]
                    yield packet
                else:
                    self.total += 1
        # The last ones determine the duration.
        for _, packet in ahead:
            self._order.note(packet)  # type: ignore[union-attr]
            yield packet

    def _packets(self) -> Iterator[Packet]:
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except (av.FFmpegError, OSError):
                # The container ends here. The decoder is flushed, and a note reports the missing rest.
                return
            if packet is None:
                return
            if packet.size == 0:
                continue
            if packet.stream_index == self._stream.index:
                yield packet
            elif packet.pts is not None and packet.stream.type in ("audio", "video"):
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._others_end = max(self._others_end, end)

    def _decode(self, packet: Packet | None) -> list[VideoFrame]:
        try:
            return self._context.decode(packet)
        except MemoryError:
            raise
        except EOFError:
            return []
        except av.FFmpegError:
            self._damage.failed()
            return []

    def _pixels(self, frame: VideoFrame) -> np.ndarray:
        width, height = self._displayed(frame)
        # Converted as by OpenCV's own reader: bicubic, with the matrix and range that the frame states.
        picture = self._reformatter.reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        pixels = cv2.cvtColor(picture.to_ndarray(), cv2.COLOR_BGR2RGB)
        if (width, height) != (frame.width, frame.height):
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
        return _upright(pixels, frame)

    def _displayed(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height in square pixels; enlarges one of them, so that no detail is lost."""
        width, height = frame.width, frame.height
        if self._aspect > 1:
            width = round(width * self._aspect)
        elif self._aspect < 1:
            height = round(height / self._aspect)
        _check_pixels(width, height, self._limits)
        return width, height

    def _early_end(self) -> str | None:
        """The note for a file that contains less than its header states, or None."""
        stated, count, whole_file = self._stated
        end = max(self._clock.raw_end, self._others_end) if whole_file else self._clock.raw_end
        if not stated or end >= _COMPLETE * stated or self.total >= _COMPLETE * (count or math.inf):
            return None
        if count > self.total:
            return f"the file ends early: {self.total} of the {count} frames that its header states could be decoded"
        return f"the file ends early: {end:.1f} of the {stated:.1f} seconds that its header states could be decoded"


class _Irregular(Exception):
    """Frames cannot be numbered before decoding: packets and frames do not correspond one to one in time."""


class _Order:
    """Numbers frames before they are decoded, by the time stamps of the next `_AHEAD` packets."""

    def __init__(self) -> None:
        self._recent: list[Any] = []
        self._passed, self._newest_passed = 0, -math.inf
        self._numbers: dict[int | None, int] = {}
        self._last = -1

    def add(self, packet: av.Packet) -> None:
        """Adds the next packet that was read."""
        stamp = packet.pts
        started = self._recent or packet.is_keyframe
        if stamp is None or packet.is_discard or packet.is_corrupt or stamp <= self._newest_passed or not started:
            raise _Irregular
        position = bisect.bisect_left(self._recent, stamp)
        if self._recent[position : position + 1] == [stamp]:
            raise _Irregular
        self._recent.insert(position, stamp)
        if len(self._recent) > 3 * _AHEAD:
            self._newest_passed = self._recent.pop(0)
            self._passed += 1

    def note(self, packet: av.Packet) -> int:
        """The index of a packet's frame; requires that `_AHEAD` more packets were added."""
        number = self._numbers[packet.pts] = self._passed + bisect.bisect_left(self._recent, packet.pts)
        return number

    def number_of(self, frame: av.VideoFrame) -> int:
        """The index of a decoded frame."""
        number = self._numbers.pop(frame.pts, -1)
        if number <= self._last:
            raise _Irregular
        self._last = number
        return number


class _Clock:
    """Frame times in seconds from the start of the stream. They ascend even if the time stamps do not.

    Attributes:
        end: end of the last frame; 0 if unknown.
        raw_end: the same by the stream's own time stamps.
    """

    def __init__(self, stream: VideoStream, container_name: str) -> None:
        self._unit, self._origin = float(stream.time_base), stream.start_time  # type: ignore[arg-type]
        rate = stream.average_rate or stream.guessed_rate
        self._step = 1 / float(rate) if rate and 0.01 < rate < 1000 else 0.0
        self._restarts = container_name in _RESTARTS
        self._shift = 0.0
        self._last: float | None = None
        self.end = self.raw_end = 0.0

    def time(self, frame: av.VideoFrame) -> float:
        stamp = frame.dts if frame.pts is None else frame.pts
        step = frame.duration * self._unit if frame.duration > 0 else self._step
        if stamp is None:
            seconds = self.end
            self.raw_end += step
        else:
            if self._origin is None:
                self._origin = stamp
            seconds = (stamp - self._origin) * self._unit + self._shift
            self.raw_end = max(self.raw_end, stamp * self._unit + step)
        if self._last is None:
            self._shift -= min(seconds, 0.0)
            seconds = max(seconds, 0.0)
        elif seconds < self._last - 2.5 * step or (self._restarts and seconds > self._last + _JUMP):
            # A second recording follows the first: it continues where the first one ends.
            self._shift += self.end - seconds
            seconds = self.end
        if self._last is not None and seconds <= self._last:
            seconds = self._last + 1e-3
        self._last, self.end = seconds, seconds + step
        return seconds


class _Damage:
    """Identifies damaged frames: those that the decoder had to conceal in part, and all that depend on them.

    Packets are numbered in decoding order, frames in display order. A frame references frames decoded before it, but
    none before a keyframe unless it is displayed before that keyframe.
    """

    def __init__(self, context: VideoCodecContext) -> None:
        self._context = context
        self._number: dict[int | None, int] = {}  # packet of each time stamp whose frame is still to come
        self._index: dict[int, int] = {}  # frame of each packet
        self._keys: set[int] = set()
        self._sources: set[int] = set()
        self._refused: set[int] = set()
        self._lost: set[int] = set()
        self._missing: set[int] = set()
        self._unreferenced: set[int] = set()
        self._headers = FrameHeaders(context.name, context.extradata)
        self._last: int | None = None
        self.packets = 0

    def next_packet(self, packet: av.Packet, last: bool = False) -> None:
        """Registers the packet that is decoded next."""
        number = self.packets
        if last:
            self._last = number
        self.packets += 1
        if packet.pts is not None:
            self._number[packet.pts] = number
        if packet.is_keyframe:
            self._keys.add(number)
        if packet.is_corrupt:
            self._lost.add(number)
        unreferenced, behind_a_gap = self._headers.next(packet)
        if unreferenced:
            self._unreferenced.add(number)
        if behind_a_gap and not packet.is_keyframe:
            # Frames that reference it may reference a missing one, too.
            self._missing.add(number)

    def is_unreferenced(self, number: int) -> bool:
        """Whether the packet's header states that no frame references its frame."""
        return number in self._unreferenced

    @property
    def suspected(self) -> bool:
        """Whether there was any sign of damage so far."""
        return bool(self._sources or self._refused or self._missing or self._lost)

    def failed(self) -> None:
        """Registers a rejected packet: the newest, or one that a decoding thread started some packets ago."""
        self._refused.update(range(max(self.packets - self._context.thread_count, 0), self.packets))

    def add(self, frame: av.VideoFrame, index: int) -> None:
        """Registers a decoded frame."""
        # A frame has the time stamp of its packet. Opaque data would identify it, too, but PyAV frees that with the
        # interpreter's lock held, which can deadlock in a decoder's thread.
        number = self._number.pop(frame.pts, index)
        self._index[number] = index
        if frame.key_frame and frame.pict_type not in (PictureType.P, PictureType.B):
            self._keys.add(number)
        else:
            # The start of a gradual refresh, too, is flagged as a keyframe.
            self._keys.discard(number)
        if frame.is_corrupt:
            self._sources.add(number)
        if frame.pict_type == PictureType.B and self._context.name in _B_IS_LAST:
            self._unreferenced.add(number)

    @property
    def cut_off(self) -> set[int]:
        """The frame of the last packet, if the file ends within it."""
        if self._last not in self._sources or self._last not in self._index:
            return set()
        return {self._index[self._last]} - self.indices()

    def indices(self) -> set[int]:
        """Indices of the damaged frames."""
        # Packets that may have been rejected and gave no frame.
        sources = (self._sources | (self._refused - self._index.keys())) - {self._last}
        # Gaps in a transport stream, unless a keyframe follows at once, as where recordings are joined.
        missing = self._missing | {n + 1 for n in self._lost if not {n + 1, n + 2} & self._keys}
        damaged = set()
        spreads = bool(self._keys) and self._context.name not in _WAIT_FOR_KEYFRAME
        shown_before = -1
        for number in range(self.packets):
            index = self._index.get(number, -1)
            if number in self._keys:
                shown_before = index if spreads else -1
                spreads = False
            spreads = spreads or number in missing
            if spreads or number in sources or index < shown_before:
                damaged.add(index)
            if number in sources and number not in self._unreferenced:
                spreads = True
        return damaged - {-1}


class _Nameless:
    """A file without a name, which FFmpeg can neither guess a format from nor open again."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open(file: BinaryIO) -> InputContainer:
    file.seek(0)
    # FFmpeg's probe does not see past a first box of megabytes.
    format = "mov" if is_mov(file.read(HEAD_BYTES)) else None
    file.seek(0)
    try:
        return av.open(  # type: ignore[return-value]
            _Nameless(file),
            format=format,
            container_options={"format_whitelist": ",".join(VIDEO_DEMUXERS), "protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=_BUFFER,
            io_open=_refuse,
        )
    except MemoryError:
        raise
    except (av.FFmpegError, OSError) as error:
        message = "no video stream could be opened: the file is damaged, cut off or holds none"
        raise MediaError("decode_error", message) from error


def container_facts(file: BinaryIO) -> tuple[str, str, dict[str, str], dict[str, str]]:
    """Names of the container and of the video's codec, and the metadata of the file and of its video stream.

    Raises:
        MediaError: no video stream can be opened.
    """
    with _open(file) as container:
        streams = _streams(container)
        codec = streams[0].codec_context.name if streams else ""
        stream = dict(streams[0].metadata) if streams else {}
        return container.format.name, codec, dict(container.metadata), stream


def _refuse(url: str, flags: int, options: dict) -> NoReturn:
    raise PermissionError("a video may not open another file or address")


def _streams(container: InputContainer) -> list[VideoStream]:
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _PICTURES
    ]


def _expected_frames(file: BinaryIO, container: InputContainer, position: int, limits: Limits) -> int:
    """Expected number of frames: from the header if it is consistent, else by counting packets."""
    stream = _streams(container)[position]
    count, rate = stream.frames, stream.average_rate
    if stream.duration and rate and 0 < count <= limits.max_frames:
        seconds = count / rate
        if abs(seconds - stream.duration * stream.time_base) <= 0.02 * seconds:  # type: ignore[operator]
            return count
    start = file.tell()
    with _open(file) as other:
        count = 0
        try:
            for packet in other.demux(_streams(other)[position]):
                count += packet.size > 0 and not packet.is_discard
                if count > limits.max_frames:
                    break
        except (av.FFmpegError, OSError) as error:
            # The decoding pass reports a truncated file.
            if isinstance(error, MemoryError):
                raise
    file.seek(start)
    return count


def _stated_length(container: InputContainer, stream: VideoStream) -> tuple[float | None, int, bool]:
    """Stated seconds (None if unknown), stated frames (0 if unknown), and whether the seconds are those of the longest
    stream: sound may outlast a video."""
    if container.format.name not in _STATES_LENGTH:
        return None, 0, False
    if stream.duration:
        return float(stream.duration * stream.time_base), stream.frames, False  # type: ignore[operator]
    return (container.duration or 0) / av.time_base, stream.frames, True


def _pixel_aspect(ratio: Fraction | None) -> float:
    """Ratio of a pixel's width to its height; 1 if square, nearly square, unknown or implausible."""
    value = float(ratio) if ratio else 1.0
    if abs(value - 1) < _SQUARE or not 1 / _WIDEST_PIXEL <= value <= _WIDEST_PIXEL:
        return 1.0
    return value


def _upright(pixels: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Rotates, in steps of 90 degrees, and mirrors pixels by the frame's display matrix."""
    try:
        # Not `frame.side_data`: it and the frame refer to each other, which holds the pixels of every frame until the
        # next garbage collection.
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]
        matrix = np.frombuffer(bytes(side_data[SideData.DISPLAYMATRIX]), np.int32).reshape(3, 3)
    except (KeyError, ValueError):
        # ValueError: side data of a type unknown to PyAV.
        return pixels
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        message = f"frames of {width} x {height} pixels; at most {limits.max_pixels:,} (--max-pixels)"
        raise MediaError("too_large", message)
