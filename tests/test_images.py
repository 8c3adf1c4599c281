"""Image files as viewers show them: every format, upright, on white, with or without their end."""

import importlib.util
import io
import struct
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from tfdfd.extract.extraction import Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media import Limits, MediaError, decode
from tfdfd.media.decode import read_image
from tfdfd.media.formats import jpeg_segments, png_chunks
from tfdfd.media.inputs import list_inputs

avif = pytest.mark.skipif(
    not features.check("avif") or "AVIF:                        NO" in cv2.getBuildInformation(),
    reason="Pillow or OpenCV without AVIF",
)
NOTE = "the end of the file is missing or wrong, but the picture is whole"


def encoded(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def picture(width=64, height=48):
    """A smooth picture of many colors."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.dstack([x * 255 // width, y * 255 // height, 255 - x * 200 // width]).astype(np.uint8))


def veiled():
    """The picture behind a veil that is transparent on the left and opaque on the right."""
    image = picture()
    image.putalpha(Image.fromarray(np.tile(np.clip(np.arange(64) * 6 - 60, 0, 255).astype(np.uint8), (48, 1))))
    return image


def on_white(image):
    rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")).astype(int)


def read(data, **limits):
    return read_image(data, Limits(**limits))


def failure(data, **limits):
    with pytest.raises(MediaError) as caught:
        read(data, **limits)
    return caught.value


def marked():
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:20, :20] = 255
    return Image.fromarray(pixels)


def turned(orientation):
    image = marked()
    image.getexif()[0x112] = orientation
    return np.asarray(ImageOps.exif_transpose(image)).astype(int)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    exif[0x10F] = "maker"
    return exif.tobytes()  # begins with Exif\0\0


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_webp_chunk(data, kind, content):
    """The file with another chunk at its end, made an extended one if it is simple."""
    if data[12:16] != b"VP8X":
        data = data[:12] + b"VP8X" + struct.pack("<IIHBHB", 10, 8, 95, 0, 63, 0) + data[12:]
    data += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def exif_in_odd_places(orientation):
    exif = exif_of(orientation)
    jpeg = encoded(marked(), "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    xmp = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    scan = next(start for marker, start, _ in jpeg_segments(jpeg) if marker == 0xDA) - 4
    png, webp = encoded(marked(), "PNG"), encoded(marked(), "WEBP", lossless=True)
    return {
        "behind XMP": jpeg[:2] + xmp + segment + jpeg[2:],
        "before the scan, behind fill bytes": jpeg[:scan] + b"\xff\xff" + segment + jpeg[scan:],
        "png, behind the pixels": png[:-12] + png_chunk(b"eXIf", exif[6:]) + png[-12:],
        "png, with a prefix": png[:33] + png_chunk(b"eXIf", exif) + png[33:],
        "webp": with_webp_chunk(webp, b"EXIF", exif[6:]),
        "webp, with a prefix": with_webp_chunk(webp, b"EXIF", exif),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_wherever_it_stands(orientation):
    expected = turned(orientation)
    for place, data in exif_in_odd_places(orientation).items():
        pixels, note = read(data)
        assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 3, place
        assert note is None


@avif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_by_its_own_properties(orientation):
    image = marked()
    data = encoded(image, "AVIF", exif=exif_of(orientation), quality=95)
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    pixels, _ = read(data)
    expected = turned(orientation)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 3


@pytest.mark.parametrize("exif", [exif_of(9), b"Exif\0\0II*\0\xff\xff\xff\xff", b"", b"Exif", exif_of(6)[:30]])
def test_exif_that_states_no_orientation_turns_nothing(exif):
    pixels, _ = read(with_webp_chunk(encoded(marked(), "WEBP", lossless=True), b"EXIF", exif))
    np.testing.assert_array_equal(pixels, np.asarray(marked()))


def cv_encoded(suffix, pixels, *options):
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def transparent_files():
    image = veiled()
    bgra = np.ascontiguousarray(np.asarray(image)[..., [2, 1, 0, 3]])
    deep = bgra.astype(np.uint16) * 257
    palette, gray = image.quantize(32), picture().getchannel(0)
    gif = encoded(picture().quantize(32), "GIF", transparency=3)
    color = encoded(picture(), "PNG", transparency=picture().getpixel((40, 20)))
    level = encoded(gray, "PNG", transparency=gray.getpixel((40, 20)))
    for name, data, shown, most in (
        ("rgba.png", encoded(image, "PNG"), image, 0),
        ("gray-alpha.png", encoded(image.convert("LA"), "PNG"), image.convert("LA"), 0),
        ("palette.png", encoded(palette, "PNG"), palette, 0),
        ("color-key.png", color, Image.open(io.BytesIO(color)), 0),
        ("gray-key.png", level, Image.open(io.BytesIO(level)), 0),
        ("16-bit.png", cv_encoded(".png", deep), image, 0),
        ("lossless.webp", encoded(image, "WEBP", lossless=True, exact=True), image, 0),
        ("lossy.webp", encoded(image, "WEBP", quality=95), image, 9),
        ("a.gif", gif, Image.open(io.BytesIO(gif)), 0),
        ("a.tiff", encoded(image, "TIFF"), image, 0),
        ("opencv.tiff", cv_encoded(".tiff", bgra), image, 0),
        ("16-bit.tiff", cv_encoded(".tiff", deep), image, 0),
        ("opencv.bmp", cv_encoded(".bmp", bgra), image, 0),
        ("never-filled-in.bmp", cv_encoded(".bmp", bgra * np.uint8([1, 1, 1, 0])), picture(), 0),
        ("a.jp2", encoded(image, "JPEG2000"), image, 0),
    ):
        yield pytest.param(data, shown, most, id=name)


@pytest.mark.parametrize(("data", "shown", "most"), list(transparent_files()))
def test_transparent_pixels_are_white(data, shown, most):
    pixels, note = read(data)
    assert np.abs(pixels - on_white(shown)).max() <= most
    assert note is None


@avif
def test_transparent_pixels_of_avif_are_white():
    expected = on_white(veiled())
    for premultiplied in (False, True):
        options = {"alpha_premultiplied": premultiplied, "quality": 100, "subsampling": "4:4:4"}
        assert np.abs(read(encoded(veiled(), "AVIF", **options))[0] - expected).max() <= 4
    deep = np.ascontiguousarray(np.asarray(veiled())[..., [2, 1, 0, 3]]).astype(np.uint16) * 257
    for depth in (10, 12):
        options = cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100
        assert np.abs(read(cv_encoded(".avif", deep >> 16 - depth, *options))[0] - expected).max() <= 4


@pytest.mark.parametrize("mode", ["ASSOCALPHA", "UNASSALPHA", "UNSPECIFIED"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_kind_of_alpha_that_a_tiff_states_counts(mode, depth):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.asarray(veiled()).astype(np.uint32)
    expected = on_white(veiled())
    if mode == "ASSOCALPHA":
        pixels = np.dstack([(pixels[..., :3] * pixels[..., 3:] + 127) // 255, pixels[..., 3]])
    elif mode == "UNSPECIFIED":
        expected = np.asarray(picture()).astype(int)
    buffer = io.BytesIO()
    pixels = (pixels * (np.iinfo(depth).max // 255)).astype(depth)
    tifffile.imwrite(buffer, pixels, photometric="rgb", extrasamples=[mode])
    assert np.abs(read(buffer.getvalue())[0] - expected).max() <= 1


@pytest.mark.parametrize("name", ["TIFF", "JPEG2000"])
def test_gray_with_transparency_that_opencv_drops_is_refused(name):
    error = failure(encoded(veiled().convert("LA"), name))
    assert error.status == "unsupported" and "convert it to PNG" in error.message


def test_a_picture_that_shows_nothing_says_so(tmp_path, astronaut):
    image = Image.fromarray(astronaut)
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    assert read((tmp_path / "a.png").read_bytes()) == (pytest.approx(np.full(astronaut.shape, 255)), decode._HIDDEN)
    with FaceExtractor("haar", workers=1) as extractor:
        (outcome,) = extractor.extract(list_inputs([tmp_path]).items, Request(size=64))
    assert (outcome.status, outcome.message) == (
        "no_face", "no face was found in the image; every pixel is transparent",
    )  # fmt: skip


def test_around_a_frame_smaller_than_its_canvas_a_gif_is_white():
    data = encoded(picture().quantize(32), "GIF")
    pixels, _ = read(data[:6] + struct.pack("<HH", 100, 80) + data[10:])
    assert pixels.shape == (80, 100, 3)


def whole_files():
    image = picture(101, 90)
    yield from {
        "jpeg": encoded(image, "JPEG"),
        "progressive": encoded(image, "JPEG", progressive=True),
        "restarts": encoded(image, "JPEG", restart_marker_blocks=2),
        "gray": encoded(image.convert("L"), "JPEG", quality=100),
        "png": encoded(image, "PNG"),
        "palette": encoded(image.quantize(16), "PNG", bits=4),
        "gif": encoded(image.quantize(64), "GIF"),
        "webp": encoded(image, "WEBP", lossless=True),
    }.items()


WHOLE = dict(whole_files())
# Bytes that follow the last pixel's.
END = {"png": 16, "palette": 16, "webp": 0}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_without_its_end_is_read_if_and_only_if_no_pixel_is_missing(name):
    data = WHOLE[name]
    expected, note = read(data)
    assert note is None
    end = END.get(name, 2)
    for cut in range(1, end + 1):
        pixels, note = read(data[:-cut])
        np.testing.assert_array_equal(pixels, expected)
        assert note == NOTE
    # Not at the next byte, nor anywhere; compressed data of PNG may end a few bytes before its last.
    cuts = {end + 8, *range(end + 8, len(data) - 20, 11)} | (set() if name in END else set(range(3, 40)))
    for cut in cuts:
        assert failure(data[:-cut]).status == "decode_error", cut


def test_a_jpeg_cut_between_scans_or_restarts_is_refused():
    for name, markers in (("progressive", {0xC4, 0xDA}), ("restarts", ())):
        data = WHOLE[name]
        cuts = [start - 4 for marker, start, _ in jpeg_segments(data) if marker in markers]
        scan = next(end for marker, _, end in jpeg_segments(data) if marker == 0xDA)
        cuts += [place for place in range(scan, len(data)) if data[place] == 0xFF and 0xD0 <= data[place + 1] <= 0xD7]
        assert len(cuts) > 5
        for cut in cuts:
            assert failure(data[:cut]).status == "decode_error"
            assert failure(data[: cut + 2]).status == "decode_error"


@pytest.mark.parametrize("name", WHOLE)
def test_what_follows_the_end_changes_nothing(name):
    expected, _ = read(WHOLE[name])
    for more in (b"\0" * 100, b"MotionPhoto_Data" + b"\0\0\0\x18ftypmp42", WHOLE["jpeg"]):
        pixels, note = read(WHOLE[name] + more)
        np.testing.assert_array_equal(pixels, expected)
        assert note is None


def test_zeros_in_place_of_a_jpegs_end_are_none():
    pixels, _ = read(WHOLE["jpeg"][:-2] + b"\0" * 5)
    np.testing.assert_array_equal(pixels, read(WHOLE["jpeg"])[0])


@pytest.mark.parametrize("off", [-40, -2, -1, 1, 2, 300])
def test_a_webp_that_states_a_wrong_length_is_read(off):
    data = WHOLE["webp"]
    pixels, note = read(data[:4] + struct.pack("<I", len(data) - 8 + off) + data[8:])
    np.testing.assert_array_equal(pixels, read(data)[0])
    assert note == NOTE


def test_an_interlaced_png_without_its_end_is_read():
    pixels = np.asarray(picture(21, 13).convert("L"))
    packed = b""
    for x, y, step_x, step_y in decode._ADAM7:
        packed += b"".join(b"\0" + row.tobytes() for row in pixels[y::step_y, x::step_x] if row.size)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 21, 13, 8, 0, 0, 0, 1))
    start = b"\x89PNG\r\n\x1a\n" + header
    found, note = read(start + png_chunk(b"IDAT", zlib.compress(packed)))
    np.testing.assert_array_equal(found[..., 0], pixels)
    assert note == NOTE
    assert failure(start + png_chunk(b"IDAT", zlib.compress(packed[:-1]))).status == "decode_error"


def test_an_animation_whose_still_is_none_of_its_frames_says_so():
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames)
    assert "its first frame" in read(data)[1]
    kinds = [kind for kind, _, _ in png_chunks(data)]
    assert kinds.index(b"fcTL") < kinds.index(b"IDAT")
    first = next((start, end) for kind, start, end in png_chunks(data) if kind == b"fcTL")
    assert "its still image" in read(data[: first[0] - 8] + data[first[1] + 4 :])[1]


def test_a_tiff_of_several_pages_says_so():
    assert "several pages" in read(encoded(picture(), "TIFF", save_all=True, append_images=[picture()]))[1]
    assert read(encoded(picture(), "TIFF"))[1] is None


@pytest.mark.parametrize(
    ("name", "options"), [("JPEG2000", {}), ("JPEG2000", {"no_jp2": True}), pytest.param("AVIF", {}, marks=avif)]
)
def test_limits_hold_before_anything_is_decoded(name, options, tmp_path):
    data = encoded(Image.new("RGB", (1500, 1000)), name, **options)
    if name == "AVIF":
        assert failure(data, max_pixels=1_499_999).status == "too_large"
    (tmp_path / "a.x").write_bytes(data)
    with FaceExtractor("none", workers=1, limits=Limits(max_pixels=1_499_999)) as extractor:
        (outcome,) = extractor.extract(list_inputs([tmp_path]).items, Request(size=8))
    assert (outcome.status, outcome.kind) == ("too_large", None) or outcome.kind == "image"
    assert "--max-pixels" in outcome.message
    assert read(data, max_pixels=1_500_000)[0].shape == (1000, 1500, 3)


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg_2000_is_an_image_by_name_and_content(tmp_path, name):
    picture().save(tmp_path / name, "JPEG2000", no_jp2=name.endswith("j2k"))
    (tmp_path / name).rename(tmp_path / "unnamed")
    picture().save(tmp_path / name, "JPEG2000", no_jp2=name.endswith("j2k"))
    found = list_inputs([tmp_path])
    assert [item.kind for item in found.items] == ["image", "image"] and not found.skipped
    for file in (tmp_path / name, tmp_path / "unnamed"):
        np.testing.assert_array_equal(read(file.read_bytes())[0], np.asarray(picture()))


def test_a_format_that_opencv_was_built_without_is_unsupported(monkeypatch):
    monkeypatch.setattr(decode.cv2, "imdecode", lambda *_: None)
    monkeypatch.setattr(decode.cv2, "getBuildInformation", lambda: "  Media I/O:\n    AVIF:                NO\n")
    error = failure(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf")
    assert error.status == "unsupported"
    assert "pip install -U 'opencv-python" in error.message and "JPEG" in error.message


def test_jpeg_xl_is_unsupported_with_its_cure(tmp_path):
    (tmp_path / "a.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 20)
    (item,) = list_inputs([tmp_path]).items
    assert item.kind == "image"
    error = failure((tmp_path / "a.jxl").read_bytes())
    assert error.status == "unsupported" and "convert" in error.message


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_without_the_extra_is_listed_with_its_cure(tmp_path):
    for name in ("IMG_0001.HEIC", "b.heif", "c.hif", "unnamed"):
        (tmp_path / name).write_bytes(HEIC)
    found = list_inputs([tmp_path])
    assert (len(found.items), found.skipped) == (4, 0)
    with FaceExtractor("none", workers=1) as extractor:
        outcomes = list(extractor.extract(found.items, Request(size=8)))
    assert {(outcome.kind, outcome.status) for outcome in outcomes} == {("image", "unsupported")}
    assert all("pip install 'tfdfd[heif]'" in outcome.message for outcome in outcomes)


class FakeHeif:
    """Stands for a file that pillow-heif has opened."""

    premultiplied_alpha = False

    def __init__(self, pixels):
        self.pixels, self.size = pixels, pixels.shape[1::-1]

    def __array__(self, dtype=None, copy=None):
        return self.pixels


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_heic_of_every_kind_comes_as_rgb_on_white(monkeypatch, mode):
    image = (veiled() if mode.endswith("A") else picture()).convert(mode)
    module = types.SimpleNamespace(open_heif=lambda *_, **__: FakeHeif(np.asarray(image)))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    pixels, _ = read(HEIC)
    assert pixels.dtype == np.uint8 and np.abs(pixels - on_white(image)).max() <= 1
    assert failure(HEIC, max_pixels=64 * 48 - 1).status == "too_large"


@pytest.mark.parametrize("error", [ValueError("Invalid input\n"), RuntimeError("decoder"), EOFError()])
def test_a_damaged_heic_is_a_decode_error(monkeypatch, error):
    def damaged(*_, **__):
        raise error

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(open_heif=damaged))
    assert failure(HEIC).status == "decode_error"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation):
    heif = pytest.importorskip("pillow_heif", reason="the extra heif")
    image = marked()
    image.info["exif"] = exif_of(orientation)
    buffer = io.BytesIO()
    heif.register_heif_opener()
    image.save(buffer, "HEIF", quality=90)
    data = buffer.getvalue()
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    pixels, _ = read(data)
    expected = turned(orientation)
    assert pixels.shape == expected.shape and np.abs(pixels - expected).mean() < 3
