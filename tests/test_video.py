"""Videos as people have them: damaged, anamorphic, trimmed, joined, with sound and pictures beside."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from tfdfd.data import cut_faces
from tfdfd.extract.extraction import MIN_WHOLE, Extraction, FaceCrop, FrameFaces, Request, extract_faces, too_damaged
from tfdfd.media import InOrder, Limits, MediaError, frame_indices, video
from tfdfd.media.decode import read_media

PictureType = av.video.frame.PictureType

SIZE = 64, 96
GOP = 10


def moving(count):
    """Frames of a coarse pattern that drifts under fine noise: each is predicted from those before, none is alike."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 226, (16, 64, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    drift = [np.roll(wide, -2 * i, axis=1)[:, : SIZE[1]] for i in range(count)]
    return [frame + rng.integers(0, 30, (*SIZE, 3), dtype=np.uint8) for frame in drift]


def packets_of(frames, codec="libx264", *, aspect=None, **options):
    """The stream as one encoder made it, in memory."""
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as file:
        stream = file.add_stream(codec, rate=25, options={"g": str(GOP), "threads": "1"} | options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return data.getvalue()


def remuxed(path, data, keep=lambda number: True, shift=0, **options):
    """The packets for which `keep` holds, in the container of the path's ending."""
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w", options=options) as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            if keep(number):
                if shift:
                    packet.pts = packet.dts = packet.pts + shift
                packet.stream = stream
                file.mux(packet)
    return path


def flip_bits(path, first, last, bits=30):
    """Flips bits within the packets of these numbers, past their headers."""
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size][first : last + 1]
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(3)
    for i in range(bits):
        start, size = packets[i % len(packets)]
        data[rng.integers(start + size // 3, start + size)] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def read(path, frames=32, **limits):
    *found, facts = read_media(str(path), frames, Limits(**limits))
    return found, facts


def damaged_ones(path):
    found, facts = read(path, InOrder())
    assert len(found) == len(facts.indices) + facts.damaged
    return [frame.index for frame in found if frame.index not in facts.indices]


CODECS = [("libx264", "mp4", {}), ("libx264", "ts", {}), ("mpeg4", "avi", {}), ("mpeg2video", "ts", {"bf": "2"})]
CODECS += [("libx264", "mkv", {"x264-params": "open-gop=1"}), ("libx264", "mp4", {"x264-params": "intra-refresh=1"})]
CODECS += [("libvpx-vp9", "webm", {"cpu-used": "8"})]


@pytest.mark.parametrize(("codec", "suffix", "options"), CODECS)
def test_a_sound_video_has_no_damage(tmp_path, codec, suffix, options):
    path = remuxed(tmp_path / f"a.{suffix}", packets_of(moving(30), codec, **options))
    found, facts = read(path, InOrder())
    assert (len(found), facts.damaged, facts.note) == (30, 0, None)
    assert facts.duration_s == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize(("codec", "suffix", "options"), CODECS[:4])
def test_damage_is_counted_up_to_the_next_keyframe(tmp_path, codec, suffix, options):
    path = remuxed(tmp_path / f"a.{suffix}", packets_of(moving(60), codec, **options))
    flip_bits(path, 24, 26)
    damaged = damaged_ones(path)
    assert damaged and set(damaged) <= set(range(20, 36))
    total = len(read(path, InOrder())[0])
    assert read(path, 32)[1].damaged == len(set(damaged) & set(frame_indices(total, 32)))


def test_all_frames_behind_a_damaged_one_are_damaged(tmp_path):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(40), g="250", bf="0"))
    flip_bits(path, 10, 20)
    damaged = damaged_ones(path)
    total = len(read(path, InOrder())[0])
    assert damaged == list(range(damaged[0], total)) and damaged[0] < 20


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_frames_whose_references_are_missing_are_damaged(tmp_path, suffix):
    path = remuxed(tmp_path / f"a.{suffix}", packets_of(moving(30), bf="0"), lambda number: number not in (13, 14))
    assert damaged_ones(path) == list(range(13, 18))


def test_a_frame_to_which_no_other_refers_spreads_no_damage(tmp_path):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(30), bf="1", g="30", b_strategy="0"))
    with av.open(str(path)) as file:
        b_frames = {frame.pts for frame in file.decode(video=0) if frame.pict_type == PictureType.B}
    with av.open(str(path)) as file:
        number = next(i for i, packet in enumerate(file.demux(video=0)) if i > 10 and packet.pts in b_frames)
    flip_bits(path, number, number, bits=6)
    assert len(damaged_ones(path)) == 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_an_end_that_is_cut_off_is_no_damage(tmp_path, suffix, make_video):
    path = tmp_path / f"a.{suffix}"
    if suffix == "avi":
        make_video(path, moving(40), codec="mpeg4")
    else:
        options = {"movflags": "+faststart"} if suffix == "mp4" else {}
        remuxed(path, packets_of(moving(40)), **options)
    data = path.read_bytes()
    for kept in (0.7, 0.8, 0.85):
        path.write_bytes(data[: int(kept * len(data))])
        found, facts = read(path, 8)
        assert facts.damaged == 0 and len(facts.indices) == 8
        assert ("ends early" in (facts.note or "")) == (suffix != "ts")


@pytest.mark.parametrize("options", [{}, {"x264-params": "open-gop=1"}])
def test_a_start_between_keyframes_is_no_damage(tmp_path, options):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(40), bf="2", **options), lambda number: number > 3)
    found, facts = read(path, 8)
    assert facts.damaged == 0 and len(facts.indices) == 8


def extraction(path, frames=8, **request):
    return extract_faces(str(path), None, Request(frames=frames, size=8, **request), Limits())


def test_damaged_frames_are_left_out_and_said(tmp_path):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(30), bf="0"), lambda number: number not in (13, 14))
    outcome = extraction(path, 28)
    assert (outcome.status, outcome.frames_damaged, len(outcome.frames)) == ("ok", 5, 23)
    assert "5 of the 28 frames looked at are damaged" in outcome.message


def test_of_too_few_whole_frames_nothing_is_said_but_that(tmp_path):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(40), bf="0", g="250"), lambda number: number not in (3, 4))
    outcome = extraction(path)
    assert (outcome.status, outcome.frames, outcome.frames_damaged) == ("decode_error", [], 7)
    assert "7 of the 8 frames looked at are damaged" in outcome.message


def test_a_quarter_of_the_frames_must_be_whole():
    assert MIN_WHOLE == 0.25
    assert too_damaged(0, 0) is None and too_damaged(24, 8) is None
    assert too_damaged(25, 7) and too_damaged(1, 0)


def test_a_video_that_is_read_in_pieces_is_judged_as_a_whole(tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(cut_faces, "WINDOW", 4)
    asked = []

    def ask(request):
        """12 frames, of which the first 4 are damaged, and 2 of the last 4."""
        asked.append(request.skip)
        whole = {0: [], 4: [4, 5, 6, 7], 8: [8, 9]}.get(request.skip, [])
        faces = [FaceCrop((0, 0, 8, 8), 0.9, None, np.zeros((8, 8, 3), np.uint8)) for _ in whole]
        frames = [FrameFaces(i, i / 25, [face]) for i, face in zip(whole, faces, strict=True)]
        damaged = {0: 4, 8: 2}.get(request.skip, 0)
        return Extraction("a", "video", "ok" if whole else "no_face", None, 0.5, frames, damaged)

    options = cut_faces.FaceOptions(all=True, size=8)
    (tmp_path / "found").mkdir()
    record = cut_faces.VideoCut(options, tmp_path, ask).run(SimpleNamespace(path="a", kind="video"), None, None)
    assert asked == [0, 4, 8, 12]
    assert (record.status, len(record.crops)) == ("ok", 6)
    assert "6 of the 12 frames looked at are damaged" in record.message


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (Fraction(16, 9), (64, 171)),
        (Fraction(1, 2), (128, 96)),
        (Fraction(1, 1), SIZE),
        (Fraction(300, 299), SIZE),
        (Fraction(1, 200), SIZE),
    ],
)
def test_frames_come_as_displayed(tmp_path, aspect, shape):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(3), aspect=aspect))
    found, _ = read(path)
    assert found[0].pixels.shape[:2] == shape
    limit = shape[0] * shape[1]
    assert read(path, max_pixels=limit)[0]
    if shape != SIZE:
        with pytest.raises(MediaError, match="--max-pixels"):
            read(path, max_pixels=limit - 1)


def test_a_mirrored_video_comes_as_displayed(tmp_path):
    import struct

    path = remuxed(tmp_path / "a.mp4", packets_of(moving(3)))
    plain = read(path)[0][0].pixels
    patched = bytearray(path.read_bytes())
    one = 1 << 16
    struct.pack_into(">9i", patched, patched.index(b"tkhd") + 4 + 40, -one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    path.write_bytes(patched)
    np.testing.assert_array_equal(read(path)[0][0].pixels, plain[:, ::-1])


def test_what_is_trimmed_by_an_edit_list_does_not_end_early(tmp_path):
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(60), g="250", bf="0"), shift=-1600)
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 60
    found, facts = read(path, InOrder())
    assert 15 < len(found) < 25
    assert facts.note is None and facts.duration_s == pytest.approx(found[-1].time_s + 0.04, abs=0.002)


def with_sound(path, frames, seconds):
    with av.open(str(path), "w") as file:
        sound = file.add_stream("aac", rate=8000)
        sound.layout = "mono"
        video = file.add_stream("libx264", rate=25) if frames else None
        if video:
            video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        for pixels in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for _ in range(int(seconds * 8)):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            file.mux(sound.encode(silence))
        for stream in [sound, video] if video else [sound]:
            file.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_sound_may_go_on_behind_the_video(tmp_path, suffix):
    found, facts = read(with_sound(tmp_path / f"a.{suffix}", moving(25), 3))
    assert len(found) == 25
    assert (facts.note, facts.duration_s) == (None, pytest.approx(1.0, abs=0.05))


def test_times_of_a_variable_rate_are_kept(tmp_path):
    path = tmp_path / "a.webm"
    data = packets_of(moving(12), "libvpx")
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts = packet.dts = number * 40 if number < 6 else 240 + (number - 6) * 300
            packet.stream = stream
            file.mux(packet)
    found, facts = read(path)
    assert [frame.time_s for frame in found][-2:] == [1.44, 1.74]
    assert facts.note is None and facts.duration_s == pytest.approx(1.74, rel=0.05)


def test_a_cover_is_no_video(tmp_path):
    song = with_sound(tmp_path / "song.mp4", [], 1)
    cover = io.BytesIO()
    from PIL import Image

    Image.fromarray(moving(1)[0]).save(cover, "JPEG")
    with av.open(str(song)) as source, av.open(str(tmp_path / "a.mp4"), "w") as file:
        sound = file.add_stream_from_template(source.streams.audio[0])
        picture = file.add_stream("mjpeg", rate=1)
        picture.height, picture.width, picture.pix_fmt = *SIZE, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic.value
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                file.mux(packet)
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        file.mux(packet)
    with pytest.raises(MediaError, match="holds no video") as caught:
        read(tmp_path / "a.mp4")
    assert caught.value.status == "decode_error"


def test_times_ascend_where_recordings_are_joined(tmp_path):
    part = remuxed(tmp_path / "part.ts", packets_of(moving(50), bf="2")).read_bytes()
    (tmp_path / "a.ts").write_bytes(part + part)
    found, facts = read(tmp_path / "a.ts", InOrder())
    times = [frame.time_s for frame in found]
    assert len(found) == 100 and facts.damaged == 0
    assert times == sorted(set(times)) and times[-1] == pytest.approx(3.96, abs=0.1)
    assert facts.duration_s == pytest.approx(4.0, abs=0.1)
    assert len(read(tmp_path / "a.ts", InOrder(every_s=0.5))[0]) == 8


@pytest.mark.parametrize(("filled", "number"), [((0, 1), 1), ((1,), 2)])
def test_of_several_video_streams_the_first_with_frames_is_looked_at(tmp_path, filled, number):
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        streams = [file.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for which in filled:
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), 50 + 100 * which, np.uint8), format="rgb24")
            file.mux(streams[which].encode(frame))
        for stream in streams:
            file.mux(stream.encode())
    found, facts = read(tmp_path / "a.mkv")
    assert round(found[0].pixels.mean() / 50) == 2 * number - 1
    assert facts.note == f"of 2 video streams, number {number} was looked at"


@pytest.mark.parametrize("box", [b"styp", b"uuid", b"free", b"skip", b"wide"])
@pytest.mark.parametrize("size", [40, 5 << 20])
def test_any_box_may_come_first(tmp_path, box, size):
    path = remuxed(
        tmp_path / "plain.mp4", packets_of(moving(12)), movflags="frag_keyframe+empty_moov+default_base_moof"
    )
    with open(tmp_path / "a.mp4", "wb") as file:
        file.write(b"\0\0\0\1" + box + size.to_bytes(8, "big"))
        file.seek(size)  # sparse
        file.write(path.read_bytes())
    found, facts = read(tmp_path / "a.mp4")
    assert (len(found), facts.note) == (12, None)


def test_files_of_more_than_2_gib_are_read(tmp_path):
    test_any_box_may_come_first(tmp_path, b"free", 3 << 30)


def test_no_other_file_is_opened_from_within_a_video(tmp_path, monkeypatch):
    """An MP4 whose samples lie in another file, by a data reference."""
    path = remuxed(tmp_path / "a.mp4", packets_of(moving(12)))
    data = bytearray(path.read_bytes())
    place = data.index(b"url \0\0\0\1")
    data[place + 4 : place + 8] = b"\0\0\0\0"  # not in this file
    path.write_bytes(data)
    opened = []
    monkeypatch.setattr("tfdfd.media.video._refuse", lambda *words: opened.append(words))
    read(path)
    assert opened == []


def spared(monkeypatch):
    """Sizes of the packets that decoders get from now on, one list a pass."""
    passes = []
    decode, start = video._Pass._decode, video._Pass.__init__

    def starting(self, *words):
        passes.append([])
        start(self, *words)

    def decoding(self, packet):
        if packet is not None:
            passes[-1].append(packet.size)
        return decode(self, packet)

    monkeypatch.setattr(video._Pass, "__init__", starting)
    monkeypatch.setattr(video._Pass, "_decode", decoding)
    return passes


@pytest.mark.parametrize(("suffix", "refs"), [("mp4", "3"), ("mkv", "0"), ("ts", "16")])
def test_frames_that_nobody_needs_are_not_decoded_and_the_others_are_the_same(tmp_path, monkeypatch, suffix, refs):
    data = packets_of(moving(150), bf=refs, g="60", **{"x264-params": "open-gop=1:b-adapt=0"})
    path = remuxed(tmp_path / f"a.{suffix}", data)
    whole = {frame.index: frame for frame in read(path, InOrder())[0]}
    passes = spared(monkeypatch)
    found, facts = read(path, 8)
    (decoded,) = passes
    assert (len(decoded) < 120) == (refs != "0")
    assert facts.indices == frame_indices(150, 8) and facts.duration_s == pytest.approx(6.0, abs=0.05)
    for frame in found:
        assert frame.time_s == whole[frame.index].time_s
        np.testing.assert_array_equal(frame.pixels, whole[frame.index].pixels)


def test_a_stream_whose_frames_cannot_be_numbered_ahead_is_decoded_whole(tmp_path, monkeypatch):
    data = packets_of(moving(100), bf="2")
    paths = {
        "damaged": remuxed(tmp_path / "damaged.mp4", data, lambda number: number not in (53, 54)),
        "between keyframes": remuxed(tmp_path / "start.mkv", data, lambda number: number > 3),
        "joined": tmp_path / "joined.ts",
    }
    paths["joined"].write_bytes(remuxed(tmp_path / "part.ts", data).read_bytes() * 2)
    for path in paths.values():
        whole = {frame.index: frame for frame in read(path, InOrder())[0]}
        passes = spared(monkeypatch)
        found, facts = read(path, 8)
        assert len(passes) >= 2
        last = {frame.index: frame for frame in found}
        assert len(facts.indices) + facts.damaged == 8
        for index in facts.indices:
            np.testing.assert_array_equal(last[index].pixels, whole[index].pixels)
