"""Sampled frames of a video through PyAV (FFmpeg): upright, in square pixels, and damaged ones named.

FFmpeg sees a file object without a name and opens nothing else: no path, address, playlist or external track.
"""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

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

_BUFFER = 1 << 18
_MOST_THREADS = 16
# Each decoding thread holds frames of its own. This bounds their bytes, at 3 per pixel: 16 threads at 1080p, 2 at 8K.
_THREAD_BYTES = 1 << 28
_MOST_B_FRAMES = 16
# Packets within which frames change places, and more.
_AHEAD = 32
_MOST_ROWS = 1 << 16
# Pictures that are stored as video streams but are not one: covers and thumbnails.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails
# Containers that state lengths in a header. The others' are estimates.
_STATES_LENGTH = {"mov", "matroska,webm", "avi", "flv", "asf"}
# Containers in which time stamps may begin anew, and a jump of more than 10 s is such a beginning (as in `ffmpeg`).
_RESTARTS = {"mpegts", "mpeg", "mpegvideo"}
_JUMP = 10.0
# A part of what a header states may be missing without a word: headers round.
_COMPLETE = 0.95
# Pixels that are less than 1 % off square are taken for square: resampling would cost more than it mends.
_SQUARE = 0.01
_WIDEST_PIXEL = 16
# B frames of these codecs are never referred to. H.264 says it in each frame.
_B_IS_LAST = {"mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "vc1", "wmv3"}
# Decoders that start at a keyframe by themselves; those of older codecs show what they cannot know.
_WAIT_FOR_KEYFRAME = {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d"}


def read_video(file: BinaryIO, frames: int | InOrder, limits: Limits) -> Iterator[Frame | MediaInfo]:
    """Frames of the first video stream that can be decoded, and at the end the `MediaInfo`.

    Args:
        file: an open file of a known container.
        frames: as of `tfdfd.media.decode.read_media`.
        limits: pixels and frames it may cost.

    Raises:
        MediaError: with the status that the input then has.
    """
    read = _read_in_order if isinstance(frames, InOrder) else _read_spaced
    position = 0
    while True:
        container = _open(file)
        streams = _streams(container)
        if not streams:
            container.close()
            raise MediaError("decode_error", "the file holds no video: only sound, or a cover picture")
        facts = yield from read(file, container, position, frames, limits)
        if facts is not None:
            break
        position += 1
        if position == len(streams):
            raise MediaError("decode_error", "no frame could be decoded: the video is damaged or has no frames")
    if len(streams) > 1:
        note = f"of {len(streams)} video streams, number {position + 1} was looked at"
        facts.note = f"{note}; {facts.note}" if facts.note else note
    yield facts


def _read_spaced(file, container, position, count, limits):
    """One pass over a sound file. The expected number of frames only guides which are kept on the way; the number
    that decides is that of the frames decoded, and where the two disagree a second pass fetches what is missing."""
    wanted = set(frame_indices(_expected_frames(file, container, position, limits), count))
    try:
        with _Pass(container, position, limits, wanted) as first:
            yield from first.pictures((index, time) for index, time in first.decoded() if index in wanted)
    except _Irregular:
        # Frames that were given out are given out again.
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
    return first.facts(indices)


def _read_in_order(file, container, position, choice, limits):
    """One pass that ends with the last chosen frame."""
    indices = []
    with _Pass(container, position, limits) as clip:
        decoded = clip.decoded()
        for frame in clip.pictures(choose_in_order(decoded, choice)):
            indices.append(frame.index)
            yield frame
        # A B frame comes before a frame that it is predicted from: whether that one is damaged is known later.
        for _ in range(_MOST_B_FRAMES):
            if clip.settled or next(decoded, None) is None:
                break
    if not clip.total:
        return None
    return clip.facts([index for index in indices if index not in clip.cut_off])


class _Pass:
    """One decoding pass over a video stream, from its beginning.

    With `wanted`, numbers of frames, others need not be decoded where the codec says which ones can be spared.

    Attributes:
        total: frames so far.
        shown: numbers of the frames whose pixels were given out.
    """

    def __init__(self, container, position, limits, wanted=None):
        self._container, self._limits = container, limits
        self._stream = _streams(container)[position]
        context = self._stream.codec_context
        _check_pixels(context.width, context.height, limits)
        affordable = _THREAD_BYTES // max(3 * context.width * context.height, 1)
        context.thread_type = "AUTO"
        context.thread_count = max(1, min(cv2.getNumberOfCPUs(), _MOST_THREADS, affordable))
        # Decoders count pixels in rows padded by up to 63: a limit for what grows later, before memory is taken.
        context.options = {"max_pixels": str(limits.max_pixels + 63 * _MOST_ROWS)}
        self._context = context
        self._aspect = _pixel_aspect(self._stream.sample_aspect_ratio)
        self._stated = _stated_length(container, self._stream)
        self._clock = _Clock(self._stream, container.format.name)
        self._damage = _Damage(context)
        self._wanted = wanted
        self._order = _Order() if wanted is not None and context.name == "h264" else None
        self._reformatter = VideoReformatter()
        self._frame = None
        self._others_end = 0.0
        self.total, self.shown, self._at_end = 0, set(), False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._frame = None
        self._container.close()

    def decoded(self) -> Iterator[tuple[int, float]]:
        """Number and time of each frame, as it is decoded.

        Raises:
            _Irregular: frames were spared, and it turns out that they could not be numbered.
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
        """The frames that are chosen from `decoded`, with their pixels."""
        for index, time in chosen:
            pixels = self._pixels(self._frame)
            self.shown.add(index)
            yield Frame(index, round(time, 3), pixels)

    def facts(self, looked_at: list[int]) -> MediaInfo:
        """What is known once the pass is over."""
        damaged = self._damage.indices()
        return MediaInfo(
            "video",
            [index for index in looked_at if index not in damaged],
            round(self._clock.end, 3) if self._at_end and self._clock.end else None,
            self._early_end() if self._at_end else None,
            damaged=sum(index in damaged for index in looked_at),
        )

    @property
    def cut_off(self) -> set[int]:
        """Frames of which the file's end holds a part only."""
        return self._damage.cut_off if self._at_end else set()

    @property
    def settled(self) -> bool:
        """Whether no frame that is still to come tells of the frames so far."""
        return self._frame is None or self._frame.pict_type != PictureType.B

    def _frames(self):
        packets = self._whole_packets()
        for packet in self._needed_packets(packets) if self._order else packets:
            yield from self._decode(packet)
        yield from self._decode(None)

    def _whole_packets(self):
        # One packet is held back: the last one of a file that was cut off is a part of a frame.
        held = None
        for packet in self._packets():
            if held is not None:
                self._damage.next_packet(held)
                yield held
            held = packet
        if held is not None and not held.is_corrupt:
            self._damage.next_packet(held, last=True)
            yield held

    def _needed_packets(self, packets):
        """Packets of frames that are wanted or that others refer to; the rest need no decoding."""
        ahead: collections.deque[tuple[int, av.Packet]] = collections.deque()
        for number, packet in enumerate(packets):
            self._order.add(packet)
            ahead.append((number, packet))
            if len(ahead) > _AHEAD:
                number, packet = ahead.popleft()
                if self._order.note(packet) in self._wanted or not self._damage.is_unreferenced(number):
                    yield packet
                else:
                    self.total += 1
        # The last ones tell how long the video is.
        for _, packet in ahead:
            self._order.note(packet)
            yield packet

    def _packets(self):
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except (av.FFmpegError, OSError):
                # The container breaks off here. What the decoder still holds comes, and the note tells of the rest.
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

    def _decode(self, packet):
        try:
            return self._context.decode(packet)
        except MemoryError:
            raise
        except EOFError:
            return []
        except av.FFmpegError:
            self._damage.failed()
            return []

    def _pixels(self, frame):
        width, height = self._displayed(frame)
        # As OpenCV's own reader converts them: bicubic, by the matrix and range that the frame states.
        picture = self._reformatter.reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC, threads=1)
        pixels = cv2.cvtColor(picture.to_ndarray(), cv2.COLOR_BGR2RGB)
        if (width, height) != (frame.width, frame.height):
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
        return _upright(pixels, frame)

    def _displayed(self, frame):
        """Width and height in square pixels. Nothing is made smaller, so that no detail is lost."""
        width, height = frame.width, frame.height
        if self._aspect > 1:
            width = round(width * self._aspect)
        elif self._aspect < 1:
            height = round(height / self._aspect)
        _check_pixels(width, height, self._limits)
        return width, height

    def _early_end(self):
        """A word on a file that holds less than its header states."""
        stated, count, whole_file = self._stated
        end = max(self._clock.raw_end, self._others_end) if whole_file else self._clock.raw_end
        if not stated or end >= _COMPLETE * stated or self.total >= _COMPLETE * (count or math.inf):
            return None
        if count > self.total:
            return f"the file ends early: {self.total} of the {count} frames that its header states could be decoded"
        return f"the file ends early: {end:.1f} of the {stated:.1f} seconds that its header states could be decoded"


class _Irregular(Exception):
    """Frames cannot be numbered before they are decoded: not each packet is one of them, at a time of its own."""


class _Order:
    """Numbers of frames before they are decoded, by the time stamps of the packets up to `_AHEAD` further on."""

    def __init__(self):
        self._recent: list[int] = []
        self._passed, self._newest_passed = 0, -math.inf
        self._numbers: dict[int, int] = {}
        self._last = -1

    def add(self, packet: av.Packet) -> None:
        """The next packet that is read."""
        stamp = packet.pts
        begins = self._recent or packet.is_keyframe
        if stamp is None or packet.is_discard or packet.is_corrupt or stamp <= self._newest_passed or not begins:
            raise _Irregular
        place = bisect.bisect_left(self._recent, stamp)
        if self._recent[place : place + 1] == [stamp]:
            raise _Irregular
        self._recent.insert(place, stamp)
        if len(self._recent) > 3 * _AHEAD:
            self._newest_passed = self._recent.pop(0)
            self._passed += 1

    def note(self, packet: av.Packet) -> int:
        """The number of a packet's frame, once `_AHEAD` more packets are read."""
        number = self._numbers[packet.pts] = self._passed + bisect.bisect_left(self._recent, packet.pts)
        return number

    def number_of(self, frame: av.VideoFrame) -> int:
        """The number of a frame that is decoded."""
        number = self._numbers.pop(frame.pts, -1)
        if number <= self._last:
            raise _Irregular
        self._last = number
        return number


class _Clock:
    """Times of frames in seconds from the beginning of the stream. They ascend even where time stamps do not.

    Attributes:
        end: when the last frame's time is over; 0: unknown.
        raw_end: the same by the stream's own time stamps.
    """

    def __init__(self, stream, container_name):
        self._unit, self._origin = float(stream.time_base), stream.start_time
        rate = stream.average_rate or stream.guessed_rate
        self._step = 1 / float(rate) if rate and 0.01 < rate < 1000 else 0.0
        self._restarts = container_name in _RESTARTS
        self._last, self._shift = None, 0.0
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
            # A second recording behind the first: it goes on where that one ends.
            self._shift += self.end - seconds
            seconds = self.end
        if self._last is not None and seconds <= self._last:
            seconds = self._last + 1e-3
        self._last, self.end = seconds, seconds + step
        return seconds


class _Damage:
    """Which frames are damaged: those that the decoder had to make up in part, and all that is predicted from them.

    Packets are numbered as they are decoded, frames as they are shown; a frame is predicted from frames decoded
    before it, and from none before a keyframe unless it is shown before that keyframe.
    """

    def __init__(self, context):
        self._context = context
        self._number: dict[int, int] = {}  # of time stamps, the packet whose frame did not come yet
        self._index: dict[int, int] = {}  # of packets, the frame
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
        """Notes a packet that is decoded next."""
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
            # Whatever refers to it may refer to what is missing, too.
            self._missing.add(number)

    def is_unreferenced(self, number: int) -> bool:
        """Whether no frame is predicted from that of this packet, as its header says."""
        return number in self._unreferenced

    @property
    def suspected(self) -> bool:
        """Whether anything was amiss so far."""
        return bool(self._sources or self._refused or self._missing or self._lost)

    def failed(self) -> None:
        """The decoder refused a packet: the newest, or one that a thread began with some packets ago."""
        self._refused.update(range(max(self.packets - self._context.thread_count, 0), self.packets))

    def add(self, frame: av.VideoFrame, index: int) -> None:
        """Notes a decoded frame."""
        # A frame has its packet's time stamp. Opaque data would do, too, but PyAV frees it with the interpreter's lock
        # held, and in a decoder's thread that can wait forever.
        number = self._number.pop(frame.pts, index)
        self._index[number] = index
        if frame.key_frame and frame.pict_type not in (PictureType.P, PictureType.B):
            self._keys.add(number)
        else:
            # Also a place from which a picture is refreshed bit by bit, which says that it is a keyframe.
            self._keys.discard(number)
        if frame.is_corrupt:
            self._sources.add(number)
        if frame.pict_type == PictureType.B and self._context.name in _B_IS_LAST:
            self._unreferenced.add(number)

    @property
    def cut_off(self) -> set[int]:
        """The frame of the last packet, where the file ends within it."""
        if self._last not in self._sources or self._last not in self._index:
            return set()
        return {self._index[self._last]} - self.indices()

    def indices(self) -> set[int]:
        """Numbers of the damaged frames."""
        # Of what may have been refused, that which no frame came of.
        sources = (self._sources | (self._refused - self._index.keys())) - {self._last}
        # A transport stream that lacks packets, unless a keyframe follows at once, as where recordings are joined.
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
    """A file without a name: what FFmpeg does not know it can neither guess from nor open again."""

    def __init__(self, file):
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def _open(file):
    file.seek(0)
    # FFmpeg does not look far enough behind a first box of megabytes.
    format = "mov" if is_mov(file.read(HEAD_BYTES)) else None
    file.seek(0)
    try:
        return av.open(
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


def _refuse(url, flags, options):
    raise PermissionError("a video may not open another file or address")


def _streams(container):
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _PICTURES
    ]


def _expected_frames(file, container, position, limits):
    """How many frames there should be: by the header where it agrees with itself, else by counting packets."""
    stream = _streams(container)[position]
    count, rate = stream.frames, stream.average_rate
    if stream.duration and rate and 0 < count <= limits.max_frames:
        seconds = count / rate
        if abs(seconds - stream.duration * stream.time_base) <= 0.02 * seconds:
            return count
    place = file.tell()
    with _open(file) as other:
        count = 0
        try:
            for packet in other.demux(_streams(other)[position]):
                count += packet.size > 0 and not packet.is_discard
                if count > limits.max_frames:
                    break
        except (av.FFmpegError, OSError) as error:
            # A file that breaks off is no fault here: the pass that decodes says so.
            if isinstance(error, MemoryError):
                raise
    file.seek(place)
    return count


def _stated_length(container, stream):
    """What the header states: seconds (None: it states none), frames (0: none), and whether the seconds are of the
    longest stream: sound may go on behind a video."""
    if container.format.name not in _STATES_LENGTH:
        return None, 0, False
    if stream.duration:
        return float(stream.duration * stream.time_base), stream.frames, False
    return (container.duration or 0) / av.time_base, stream.frames, True


def _pixel_aspect(ratio):
    """Width of a pixel by its height; 1 for square, nearly square, unknown and absurd ones."""
    value = float(ratio) if ratio else 1.0
    if abs(value - 1) < _SQUARE or not 1 / _WIDEST_PIXEL <= value <= _WIDEST_PIXEL:
        return 1.0
    return value


def _upright(pixels, frame):
    """Turned and mirrored as the display matrix of the frame says, in steps of 90 degrees."""
    try:
        # Not `frame.side_data`: it and the frame refer to each other, which holds the pixels of every frame until the
        # next garbage collection.
        side_data = SideDataContainer(frame)
        matrix = np.frombuffer(bytes(side_data[SideData.DISPLAYMATRIX]), np.int32).reshape(3, 3)
    except (KeyError, ValueError):
        # ValueError: side data of a kind that PyAV does not know yet.
        return pixels
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels)


def _check_pixels(width, height, limits):
    if width * height > limits.max_pixels:
        message = f"frames of {width} x {height} pixels; at most {limits.max_pixels:,} (--max-pixels)"
        raise MediaError("too_large", message)
