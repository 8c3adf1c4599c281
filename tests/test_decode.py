"""Decoding of media files, intact and damaged: the right frames, upright, or one typed error."""

import http.client
import http.server
import io
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tfdfd.extract import pool
from tfdfd.extract.extraction import Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media import Limits, MediaError, decode, frame_indices, inputs, video
from tfdfd.media.decode import read_media
from tfdfd.media.inputs import Input, list_inputs

av = pytest.importorskip("av")

RED = (200, 40, 90)
CORNERS = {"top left": np.s_[:10, :10], "top right": np.s_[:10, -10:]}
CORNERS |= {"bottom left": np.s_[-10:, :10], "bottom right": np.s_[-10:, -10:]}

linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def numbered(count, size=(64, 96), first=0):
    """Grey frames; `number_of` tells from its brightness which one a frame is."""
    return [np.full((*size, 3), 10 + 20 * (first + number), np.uint8) for number in range(count)]


def number_of(pixels):
    return round((float(pixels.mean()) - 10) / 20)


def marked(size=(64, 96)):
    """A black frame whose top left corner is white."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:20, :20] = 255
    return pixels


def white_corner(pixels):
    return max(CORNERS, key=lambda name: pixels[CORNERS[name]].mean())


def noise(count, size=(64, 96)):
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def read(path, frames=32, **limits):
    """The frames that the facts list, and the facts."""
    *found, facts = read_media(str(path), frames, Limits(**limits))
    by_index = {frame.index: frame for frame in found}
    return [by_index[index] for index in facts.indices], facts


def failure(path, frames=32, **limits):
    with pytest.raises(MediaError) as caught:
        read(path, frames, **limits)
    return caught.value


def saved(path, image, **options):
    image.save(path, **options)
    return path


@pytest.fixture(scope="module")
def sandbox():
    """Extractions of files in a process of its own; whole frames as crops."""
    extractor = FaceExtractor("none", limits=Limits(max_pixels=1_000_000, max_seconds=60), workers=1)
    with pytest.MonkeyPatch.context() as patch, extractor:
        # One process reads all of them: what is left of one reaches the next, and no time goes into new ones.
        patch.setattr(pool, "FAILURES", set())
        extractor.start(1)
        yield lambda *paths: list(
            extractor.extract([Input(str(path)) for path in paths], Request(frames=4, size=8)),
        )


VIDEOS = [
    ("mp4", "libx264", None),
    ("mov", "libx264", None),
    ("m4v", "mpeg4", "mp4"),
    ("3gp", "libx264", "3gp"),
    ("mkv", "libx264", None),
    ("webm", "libvpx", None),
    ("avi", "mpeg4", None),
    ("ts", "mpeg2video", "mpegts"),
    ("mts", "libx264", "mpegts"),
    ("mpg", "mpeg2video", "mpeg"),
    ("mpeg", "mpeg1video", "mpeg"),
    ("mpeg", "mpeg2video", "mpeg2video"),  # a bare stream
    ("flv", "flv", None),
    ("wmv", "wmv2", "asf"),
]


@pytest.mark.parametrize(("suffix", "codec", "container"), VIDEOS)
def test_the_frames_of_a_video_come_in_order_and_with_their_own_numbers(
    tmp_path, make_video, sandbox, suffix, codec, container
):
    path = make_video(tmp_path / f"a.{suffix}", numbered(12), codec=codec, container=container)
    frames, facts = read(path, 4)
    assert facts.indices == frame_indices(12, 4) == [number_of(frame.pixels) for frame in frames]
    assert (facts.kind, facts.duration_s, facts.note) == ("video", pytest.approx(0.48, abs=0.05), None)
    assert [frame.time_s for frame in frames] == pytest.approx([0.04, 0.16, 0.28, 0.40], abs=0.05)
    assert {frame.pixels.shape for frame in frames} == {(64, 96, 3)}
    # And behind the allow-list of containers.
    (outcome,) = sandbox(path)
    assert [number_of(frame.faces[0].crop) for frame in outcome.frames] == facts.indices


def test_a_transport_stream_with_time_stamps_is_a_video(tmp_path, make_video):
    stream = make_video(tmp_path / "a.ts", numbered(12), codec="mpeg2video", container="mpegts").read_bytes()
    packets = [b"\0\0\0\0" + stream[start : start + 188] for start in range(0, len(stream), 188)]
    path = tmp_path / "a.m2ts"
    path.write_bytes(b"".join(packets))
    assert [number_of(frame.pixels) for frame in read(path, 3)[0]] == frame_indices(12, 3)


@pytest.mark.parametrize("asked", [1, 5, 12, 13, 400])
def test_as_many_frames_come_as_were_asked_for_or_all(tmp_path, make_video, asked):
    frames, facts = read(make_video(tmp_path / "a.mp4", numbered(12)), asked)
    assert [number_of(frame.pixels) for frame in frames] == facts.indices == frame_indices(12, asked)


@pytest.mark.parametrize(
    ("stated", "note"),
    [
        (0, None),
        (1, None),
        (5, None),
        (12, None),
        (100, "ends early: 12 of the 100 frames"),
        (0xFFFFFFFF, "ends early: 12 of the"),
    ],
)
def test_the_header_does_not_decide_how_many_frames_there_are(tmp_path, make_video, stated, note):
    path = make_video(tmp_path / "a.avi", numbered(12), codec="mpeg4")
    patched = bytearray(path.read_bytes())
    struct.pack_into("<I", patched, patched.index(b"avih") + 8 + 16, stated)
    struct.pack_into("<I", patched, patched.index(b"strh") + 8 + 32, stated)
    path.write_bytes(patched)
    frames, facts = read(path, 4)
    assert [number_of(frame.pixels) for frame in frames] == facts.indices == frame_indices(12, 4)
    assert facts.note is None if note is None else note in facts.note


def half_of(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def encode(path, frames, **options):
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return path


def test_half_a_video_with_its_index_at_the_end_is_damaged(tmp_path):
    error = failure(half_of(encode(tmp_path / "a.mp4", noise(40))))
    assert error.status == "decode_error"
    assert "cut off" in error.message


def test_half_a_video_with_its_index_in_front_is_read_with_a_note(tmp_path):
    frames, facts = read(half_of(encode(tmp_path / "a.mp4", noise(40), movflags="+faststart")), 4)
    assert len(frames) == 4
    assert max(facts.indices) < 30
    assert "of the 40 frames" in facts.note


def audio_only(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        file.mux(stream.encode(sound))
        file.mux(stream.encode())


def no_frames(path):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        file.start_encoding()
        file.mux(stream.encode())


@pytest.mark.parametrize("write", [audio_only, no_frames])
def test_a_file_without_pictures_is_a_decode_error(tmp_path, write):
    write(tmp_path / "a.mp4")
    assert failure(tmp_path / "a.mp4").status == "decode_error"


def test_a_resolution_that_changes_midway_stops_nothing(tmp_path, make_video):
    parts = [numbered(6), numbered(6, (128, 160), first=6)]
    data = [
        make_video(tmp_path / f"{i}.ts", part, codec="mpeg2video", container="mpegts").read_bytes()
        for i, part in enumerate(parts)
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(data))
    numbers = [number_of(frame.pixels) for frame in read(tmp_path / "joined.ts")[0]]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 10  # a decoder may drop what it holds at the seam


@pytest.mark.parametrize(
    ("matrix", "corner", "shape"),
    [
        ((1, 0, 0, 1), "top left", (64, 96, 3)),
        ((0, 1, -1, 0), "top right", (96, 64, 3)),
        ((-1, 0, 0, -1), "bottom right", (64, 96, 3)),
        ((0, -1, 1, 0), "bottom left", (96, 64, 3)),
    ],
)
def test_a_rotated_video_comes_upright(tmp_path, make_video, matrix, corner, shape):
    path = make_video(tmp_path / "a.mp4", [marked()] * 4)
    patched = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", patched, patched.index(b"tkhd") + 4 + 40, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(patched)
    pixels = read(path, 1)[0][0].pixels
    assert (white_corner(pixels), pixels.shape) == (corner, shape)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_comes_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(marked()), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    pixels = read(path)[0][0].pixels
    assert (white_corner(pixels), pixels.shape) == (white_corner(expected), expected.shape)


def picture(mode="RGB", size=(48, 32)):
    return Image.new("RGB", size, RED).convert(mode)


def deep(value):
    return Image.fromarray(np.full((32, 48), value, np.uint16))


IMAGES = [
    ("a.jpg", picture(), {}, RED),
    ("progressive.jpg", picture(), {"progressive": True}, RED),
    ("cmyk.jpg", picture("CMYK"), {}, RED),
    ("grey.jpg", picture("L"), {}, (94, 94, 94)),
    ("a.png", picture(), {}, RED),
    ("rgba.png", picture("RGBA"), {}, RED),
    ("palette.png", picture("P"), {}, RED),
    ("grey-alpha.png", picture("LA"), {}, (94, 94, 94)),
    ("16-bit.png", deep(40_000), {}, (156, 156, 156)),
    ("a.webp", picture(), {}, RED),
    ("lossless.webp", picture(), {"lossless": True}, RED),
    ("a.bmp", picture(), {}, RED),
    ("a.tiff", picture(), {}, RED),
    ("lzw.tiff", picture(), {"compression": "tiff_lzw"}, RED),
    ("cmyk.tiff", picture("CMYK"), {}, RED),
    ("a.gif", picture("P"), {}, RED),
]


@pytest.mark.parametrize(("name", "image", "options", "colour"), IMAGES, ids=[row[0] for row in IMAGES])
def test_every_kind_of_image_comes_as_8_bit_rgb(tmp_path, name, image, options, colour):
    (frame,), facts = read(saved(tmp_path / name, image, **options))
    assert (frame.index, frame.time_s, frame.pixels.shape, frame.pixels.dtype) == (0, 0.0, (32, 48, 3), np.uint8)
    assert frame.pixels.reshape(-1, 3).mean(axis=0) == pytest.approx(colour, abs=4)
    assert (facts.kind, facts.indices, facts.duration_s, facts.note) == ("image", [0], None, None)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_of_an_animated_image_the_first_frame_is_looked_at_and_said_so(tmp_path, suffix):
    first, later = picture(), Image.new("RGB", (48, 32), (0, 0, 0))
    if suffix == "gif":
        first, later = first.convert("P"), later.convert("P")
    path = saved(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[later], duration=100)
    (frame,), facts = read(path)
    assert frame.pixels.reshape(-1, 3).mean(axis=0) == pytest.approx(RED, abs=4)
    assert "animated" in facts.note


def test_a_damaged_image_is_a_decode_error(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise(1)[0]).save(buffer, "PNG")
    for name, data in {"cut.png": buffer.getvalue()[:40], "magic.jpg": b"\xff\xd8\xff\xe0"}.items():
        (tmp_path / name).write_bytes(data)
        assert failure(tmp_path / name).status == "decode_error"


def png_header(width, height):
    """A PNG file that says it has so many pixels and holds next to none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@linux
def test_an_image_that_claims_to_be_huge_is_refused_before_it_takes_memory(tmp_path):
    # In a process: OpenCV reads its limit when it is loaded.
    (tmp_path / "huge.png").write_bytes(png_header(30_000, 30_000))
    me = psutil.Process()
    before = me.children()
    with FaceExtractor("haar", workers=1) as extractor:
        (outcome,) = extractor.extract([Input(str(tmp_path / "huge.png"))], Request())
        (child,) = set(me.children()) - set(before)
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert outcome.status == "too_large"
    assert "--max-pixels" in outcome.message
    assert peak < 400_000  # KiB; the pixels would take 2.6 GiB


@pytest.mark.parametrize("detector", ["haar", "mtcnn"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_images_too_small_for_a_face_have_none(tmp_path, detector, size):
    saved(tmp_path / "a.png", picture(size=size))
    saved(tmp_path / "b.png", picture(size=(64, 64)))
    with FaceExtractor(detector, workers=1) as extractor:
        outcomes = extractor.extract(list_inputs([tmp_path]).items, Request())
        assert [outcome.status for outcome in outcomes] == ["no_face", "no_face"]


def test_limits_are_named_with_the_option_that_raises_them(tmp_path, make_video):
    video, image = make_video(tmp_path / "a.mp4", numbered(12)), saved(tmp_path / "a.png", picture())
    for path, limit, value in (
        (video, "max_bytes", 100),
        (image, "max_bytes", 100),
        (video, "max_pixels", 64 * 96 - 1),
        (video, "max_frames", 11),
    ):
        error = failure(path, **{limit: value})
        assert error.status == "too_large"
        assert f"--{limit.replace('_', '-')}" in error.message
    assert len(read(video, max_pixels=64 * 96, max_frames=12, max_bytes=video.stat().st_size)[0]) == 12


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "max_frames", "max_seconds", "max_memory"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 10**30])
def test_a_limit_of_no_use_is_an_error_that_names_it(name, value):
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", "decode_error"), (b"text", "unsupported"), (b"%PDF-1.7", "unsupported"), (b"\0" * 1000, "unsupported")],
)
def test_content_that_is_no_media_is_not_given_to_a_decoder(tmp_path, monkeypatch, content, status):
    monkeypatch.setattr(decode.cv2, "imdecode", pytest.fail)
    monkeypatch.setattr(video.av, "open", pytest.fail)
    (tmp_path / "a.mp4").write_bytes(content)
    assert failure(tmp_path / "a.mp4").status == status


def test_what_takes_the_place_of_a_file_after_it_was_listed_is_refused(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert failure(tmp_path / "folder.mp4").status == "unsupported"
    assert failure(tmp_path / "gone.mp4").status == "not_found"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        assert failure(tmp_path / "pipe.mp4").status == "unsupported"


MAGICS = {
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "png": b"\x89PNG\r\n\x1a\n",
    "bmp": b"BM",
    "tif": b"II*\0",
    "gif": b"GIF89a",
    "webp": b"RIFF\xff\0\0\0WEBP",
    "mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2",
    "mkv": b"\x1a\x45\xdf\xa3",
    "avi": b"RIFF\xff\0\0\0AVI LIST",
    "flv": b"FLV\x01\x05\0\0\0\x09\0\0\0\0",
    "mpg": b"\0\0\x01\xba",
    "wmv": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
}
TYPED = {"ok", "no_face", "decode_error", "too_large", "unsupported"}


def assert_typed(outcome):
    assert outcome.status in TYPED
    # The sandbox would make an answer of these as well, but they are exceptions that nobody foresaw.
    assert not {"unforeseen", "exit code", "malformed"} & set((outcome.message or "").replace(",", "").split())


BOUNDED = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@BOUNDED
@given(st.sampled_from(sorted(MAGICS)), st.binary(max_size=600))
def test_random_bytes_behind_a_known_magic_have_a_typed_outcome(tmp_path, sandbox, suffix, tail):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(MAGICS[suffix] + tail)
    assert_typed(sandbox(path)[0])


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory, make_video):
    folder = tmp_path_factory.mktemp("sound")
    for i, (suffix, codec, container) in enumerate(VIDEOS):
        make_video(folder / f"{i}.{suffix}", noise(4, (32, 32)), codec=codec, container=container)
    for name, image, options, _ in IMAGES:
        image.save(folder / name, **options)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@BOUNDED
@given(
    st.integers(0, len(VIDEOS) + len(IMAGES) - 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=20),
    st.floats(0.01, 1),
)
@example(0, [], 1.0)
def test_damaged_files_have_a_typed_outcome(tmp_path, sandbox, sound_files, which, flips, kept):
    data = bytearray(sound_files[which])
    for place, change in flips:
        data[int(place * len(data))] ^= change
    path = tmp_path / "a.bin"
    path.write_bytes(data[: max(1, int(kept * len(data)))])
    assert_typed(sandbox(path)[0])


def playlists(target):
    """Files that would have a player open `target`."""
    return {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash.mp4": f"<?xml version='1.0'?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
        "sdp.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }


@pytest.fixture
def web_server():
    """An HTTP server on this machine: its address and the list of what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_no_address_is_asked_for_whether_given_or_in_a_playlist(tmp_path, sandbox, web_server):
    address, asked = web_server
    for name, text in playlists(f"{address}/in_a_playlist.ts").items():
        (tmp_path / name).write_text(text)
    given_address = f"{address}/given.mp4"
    listed = list_inputs([given_address, f"concat:{address}/a.ts|{address}/b.ts", tmp_path])
    assert {item.error.status for item in listed.items if item.error} == {"unsupported"}
    outcomes = sandbox(given_address, *(item.path for item in listed.items if not item.error))
    assert [outcome.status for outcome in outcomes] == ["not_found"] + ["unsupported"] * 4
    assert asked == []
    # It would have been noticed.
    connection = http.client.HTTPConnection(address.removeprefix("http://"))
    connection.request("GET", "/control")
    connection.getresponse().read()
    connection.close()
    assert asked == ["/control"]


# The allow-list of containers on its own, with the check of the content taken out.
UNCHECKED = """
import sys
from tfdfd.media import Limits, decode, inputs, video
inputs.kind_of_content = lambda head: "video"
for path in sys.argv[1:]:
    try:
        print(len(list(decode.read_media(path, 4, Limits()))) - 1)
    except decode.MediaError as error:
        print(error.status)
"""


def test_the_decoder_itself_opens_no_container_off_the_list(tmp_path, monkeypatch, make_video, web_server):
    address, asked = web_server
    clip = make_video(tmp_path / "a.ts", numbered(12), codec="mpeg2video", container="mpegts")
    nut = make_video(tmp_path / "nut.mp4", numbered(12), codec="mpeg4", container="nut")
    paths = [clip, nut]
    for place, target in (("file", clip), ("web", f"{address}/x.ts")):
        for name, text in playlists(target).items():
            paths.append(tmp_path / f"{place}_{name}")
            paths[-1].write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", UNCHECKED, *map(str, paths)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["4"] + ["decode_error"] * (len(paths) - 1), done.stderr
    assert asked == []
    # With its container on the list the same file is read: it is the list that refuses it.
    monkeypatch.setattr(video, "VIDEO_DEMUXERS", ("nut",))
    monkeypatch.setattr(inputs, "kind_of_content", lambda head: "video")
    assert len(read(nut, 4)[0]) == 4
