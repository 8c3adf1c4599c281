"""The JPEG layer against the files that OpenCV (libjpeg-turbo) writes at the same quality."""

import cv2
import keras
import numpy as np
import pytest

from tfdfd.augment.jpeg import RandomJpeg


def through_a_file(image, quality):
    """RGB uint8 through a JPEG file in memory."""
    data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def through_the_layer(image, quality):
    """The same by the layer, in grey levels."""
    layer = RandomJpeg((quality, quality))
    return 255 * np.asarray(layer(image.astype(np.float32) / 255, training=True))


def blocking(levels):
    """How much stronger neighbours differ across the borders of 8x8 blocks than elsewhere."""
    steps = np.abs(np.diff(levels.astype(np.float64).mean(axis=2), axis=1)).mean(axis=0)
    across = np.arange(len(steps)) % 8 == 7
    return steps[across].mean() / steps[~across].mean()


@pytest.fixture
def portrait(astronaut):
    return cv2.resize(astronaut[0:300, 80:380], (256, 256), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 95, 100])
def test_artefacts_are_those_of_a_file(quality, portrait):
    expected, found = through_a_file(portrait, quality).astype(np.float64), through_the_layer(portrait, quality)
    lost_there, lost_here = np.abs(expected - portrait).mean(), np.abs(found - portrait).mean()
    assert np.abs(found - expected).mean() < 1
    assert lost_here == pytest.approx(lost_there, rel=0.05)
    if quality <= 75:
        # What differs is rounding, a fraction of what is lost, and what is lost is lost in the same places.
        error = np.corrcoef((found - portrait).ravel(), (expected - portrait).ravel())[0, 1]
        assert error > 0.93


def test_blocks_show_as_they_do_in_a_file(portrait):
    assert blocking(portrait) == pytest.approx(1, abs=0.1)
    for quality in (10, 30):
        there, here = blocking(through_a_file(portrait, quality)), blocking(through_the_layer(portrait, quality))
        assert there > 1.2
        assert here == pytest.approx(there, rel=0.03)


@pytest.mark.parametrize(("shape", "allowed"), [((250, 241), 1), ((65, 33), 1.5), ((17, 16), 3.5), ((1, 1), 3.5)])
def test_any_size(shape, allowed, portrait):
    """In a few blocks a single amplitude that rounds the other way counts for much."""
    image = np.ascontiguousarray(portrait[60 : 60 + shape[0], 60 : 60 + shape[1]])
    expected, found = through_a_file(image, 50).astype(np.float64), through_the_layer(image, 50)
    assert found.shape == image.shape
    assert np.abs(found - expected).mean() < allowed


def test_each_image_has_a_quality_of_its_own(portrait):
    small = cv2.resize(portrait, (64, 64), interpolation=cv2.INTER_AREA)
    levels = small.astype(np.float32) / 255
    layer = RandomJpeg((10, 12), seed=1)
    found = {image.tobytes() for image in np.asarray(layer(np.stack([levels] * 40), training=True))}
    expected = {np.asarray(RandomJpeg((q, q))(levels, training=True)).tobytes() for q in (10, 11, 12)}
    assert found == expected


def test_more_quality_loses_less(portrait):
    lost = [np.abs(through_the_layer(portrait, quality) - portrait).mean() for quality in (1, 10, 40, 70, 100)]
    assert lost == sorted(lost, reverse=True)


def test_grey_stays_grey_and_flat_stays_flat():
    keras.utils.set_random_seed(0)
    flat = np.full((32, 32, 3), 128, np.uint8)
    np.testing.assert_array_equal(through_the_layer(flat, 30), flat)
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    found = through_the_layer(ramp, 30)
    np.testing.assert_allclose(found - found[..., :1], 0, atol=1.01)
