"""Encoded crops in the graph: the same pixels as OpenCV gives `tfdfd detect`, and nothing but JPEG and PNG."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdfd.detect.detector import Detector
from tfdfd.faces.crop import resize_crop
from tfdfd.publishing import images
from tfdfd.publishing.images import MAX_BATCH, decode_crops

SIDE = 64
GIF = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def decode():
    """Bytes of one picture to its pixels, through a graph that was made once."""
    graph = tf.function(
        lambda encoded: decode_crops(encoded, (SIDE, SIDE)), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    return lambda *encoded: graph(tf.constant(list(encoded), tf.string)).numpy()


@pytest.fixture(scope="module")
def resize():
    return tf.function(
        lambda image: images.resize_levels(image[None], (SIDE, SIDE))[0],
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
    )


@pytest.fixture(scope="module")
def detector():
    with Detector("tfdfd/meso_inception4", "none", runtime="tensorflow") as detector:
        yield detector


@pytest.fixture(scope="module")
def face(astronaut):
    return Image.fromarray(astronaut[60:190, 160:290])


def encoded(picture, format, **options):
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def as_detect(data):
    """Decoded and resized as `tfdfd.media.decode` and `tfdfd.extract.extraction` do it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return resize_crop(pixels, SIDE)[None]


def levels(pixels):
    return np.round(pixels * 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width, height, rows=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


class TestResizing:
    # Larger, smaller, halves, wholes, one side only, a line, a single pixel.
    SIZES = [
        (64, 64),
        (63, 65),
        (90, 75),
        (40, 51),
        (128, 128),
        (127, 128),
        (192, 256),
        (64, 300),
        (300, 64),
        (30, 400),
    ]
    SIZES += [(1, 1), (1, 7), (640, 640)]

    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_gives_the_bytes_of_opencv(self, resize, size):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        np.testing.assert_array_equal(resize(image), resize_crop(image, SIDE))

    @pytest.mark.parametrize("size", [(150, 131), (300, 517), (1000, 200)], ids=str)
    def test_by_area_of_broken_factors_rounds_a_few_halves_elsewhere(self, resize, size):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        apart = np.abs(resize(image).numpy().astype(int) - resize_crop(image, SIDE))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.002

    def test_of_tensorflow_would_be_another(self):
        image = np.random.default_rng(0).integers(0, 256, (90, 75, 3), np.uint8)
        theirs = tf.image.resize(image, (SIDE, SIDE)).numpy()
        assert (np.round(theirs) != resize_crop(image, SIDE)).mean() > 0.01


class TestDecoding:
    @pytest.mark.parametrize("quality", [40, 75, 95])
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_of_jpeg_gives_the_bytes_of_opencv(self, decode, face, quality, subsampling):
        data = encoded(face, "JPEG", quality=quality, subsampling=subsampling, progressive=quality == 75)
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    @pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P"])
    def test_of_png_gives_the_bytes_of_opencv(self, decode, face, mode):
        picture = face.convert(mode) if mode != "RGBA" else face.copy()
        if mode == "RGBA":
            picture.putalpha(Image.fromarray(np.random.default_rng(0).integers(0, 256, face.size[::-1], np.uint8)))
        data = encoded(picture, "PNG")
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    @pytest.mark.parametrize("shape", [(50, 60), (50, 60, 3)], ids=str)
    def test_of_16_bits_gives_the_bytes_of_opencv(self, decode, shape):
        data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 65536, shape, np.uint16))[1].tobytes()
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    def test_of_grey_jpeg(self, decode, face):
        data = encoded(face.convert("L"), "JPEG")
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    @pytest.mark.parametrize("orientation", range(1, 10))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "big-endian"])
    def test_turns_upright_what_exif_says_is_turned(self, decode, face, kind, orientation):
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "Maker", min(orientation, 8)
        if kind == "big-endian":
            entries = struct.pack(">HHHI4s", 2, 0x010F, 2, 4, b"abc\0")
            entries += struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
            exif = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + entries + bytes(4)
        narrow = face.crop((0, 0, 90, 130))
        data = encoded(narrow, "PNG" if kind == "PNG" else "JPEG", exif=exif)
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    @pytest.mark.parametrize("exif", [b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"II*\0", b"MM\0*\0\0\0\0"])
    def test_does_not_fall_over_broken_exif(self, decode, face, exif):
        data = encoded(face, "JPEG", exif=b"Exif\0\0" + exif)
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))

    def test_of_many_keeps_their_order(self, decode, face):
        data = [encoded(face.rotate(angle), "JPEG") for angle in range(0, 360, 18)]
        np.testing.assert_array_equal(levels(decode(*data)), np.concatenate([as_detect(one) for one in data]))

    def test_of_none_gives_none(self, decode):
        assert decode().shape == (0, SIDE, SIDE, 3)


class TestRefusal:
    def refused(self, decode, *data):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            decode(*data)
        return error.value.message

    @pytest.mark.parametrize("format", ["GIF", "BMP", "WEBP", "TIFF"])
    def test_of_other_formats(self, decode, face, format):
        assert "neither a JPEG nor a PNG" in self.refused(decode, encoded(face, format))

    @pytest.mark.parametrize("data", [b"", b"x", b"no picture at all, but a text " * 9, b"\x89PNG\r\n\x1a\n", GIF])
    def test_of_what_is_no_picture(self, decode, data):
        assert "neither a JPEG nor a PNG" in self.refused(decode, data)

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.98])
    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_of_what_is_cut_short(self, decode, face, format, share):
        data = encoded(face, format)
        message = self.refused(decode, data[: int(share * len(data))])
        assert "Invalid" in message or "neither" in message

    @pytest.mark.parametrize("sides", [(30_000, 30_000), (4097, 4096), (2**31 - 1, 2**31 - 1), (2**31, 1), (0, 5)])
    def test_of_a_png_that_is_too_large_without_decoding_it(self, decode, sides):
        assert "more than 16777216 pixels" in self.refused(decode, png_of(*sides, bytes(1000)))

    def test_of_a_jpeg_that_is_too_large_without_decoding_it(self, decode, face):
        data = bytearray(encoded(face, "JPEG"))
        sides = data.index(b"\xff\xc0") + 5
        data[sides : sides + 4] = struct.pack(">HH", 60_000, 60_000)
        assert "more than 16777216 pixels" in self.refused(decode, bytes(data))

    def test_of_cmyk_which_is_turned_into_other_colours(self, decode, face):
        assert "CMYK" in self.refused(decode, encoded(face.convert("CMYK"), "JPEG"))

    def test_of_more_pictures_than_fit(self, decode):
        assert f"more than {MAX_BATCH} pictures" in self.refused(decode, *[b"x"] * (MAX_BATCH + 1))

    def test_of_one_names_none_of_the_bytes(self, decode, face):
        secret = b"\x89PNG" + b"a secret in a file that is not a picture"
        assert "secret" not in self.refused(decode, encoded(face, "PNG"), secret)

    def test_leaves_the_graph_of_use(self, decode, face):
        data = encoded(face, "PNG")
        self.refused(decode, data[:100])
        np.testing.assert_array_equal(levels(decode(data)), as_detect(data))


class TestScores:
    def scores(self, exported, paths):
        model = tf.saved_model.load(str(exported))
        data = tf.constant([path.read_bytes() for path in paths])
        return model.signatures["image_bytes"](image_bytes=data)["fake_probability"][:, 0]

    def test_of_real_crops_are_those_of_detect(self, exported, detector, data):
        paths = sorted((data / "crops").rglob("*.png"))
        found = [detector.detect(path).fake_probability for path in paths]
        assert len(paths) > 20 and np.ptp(found) > 0.1
        # A level in one of a thousand pixels may round the other way.
        np.testing.assert_allclose(self.scores(exported, paths), found, atol=1e-4)

    def test_of_crops_of_any_size_and_kind_are_those_of_detect(self, exported, detector, astronaut, tmp_path):
        paths, draw = [], np.random.default_rng(0)
        for number, size in enumerate([(130, 130), (256, 256), (90, 201), (400, 300), (512, 512), (600, 900)]):
            face = Image.fromarray(astronaut[40:210, 140:310]).resize(size)
            noisy = np.clip(np.asarray(face) + draw.normal(0, 8 * number, (*face.size[::-1], 3)), 0, 255)
            for ending in (".png", ".jpg"):
                paths.append(tmp_path / f"{number}{ending}")
                Image.fromarray(noisy.astype(np.uint8)).save(paths[-1])
        found = [detector.detect(path).fake_probability for path in paths]
        assert np.ptp(found) > 0.05
        np.testing.assert_allclose(self.scores(exported, paths), found, atol=1e-5)
