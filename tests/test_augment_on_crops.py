"""The policies by OpenCV against the Keras layers they are read from: the same changes, drawn from the same ranges."""

from collections import Counter

import cv2
import numpy as np
import pytest
from keras import layers
from scipy.stats import ks_2samp

from tfdfd.augment import POLICIES, on_crops, policy
from tfdfd.augment.degrade import RandomBlur, RandomNoise, RandomResize
from tfdfd.augment.geometry import RandomScale, RandomTurn
from tfdfd.augment.jpeg import RandomJpeg
from tfdfd.augment.on_crops import OnCrops


@pytest.fixture(scope="module")
def crop(astronaut):
    return cv2.resize(astronaut[20:260, 80:340], (80, 64), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@pytest.fixture(scope="module")
def square(crop):
    return np.ascontiguousarray(crop[:, 8:72])


def by(layer, image):
    return np.asarray(layer(image, training=True))


def transformed(layer, image, **transformation):
    """What a layer of Keras's makes of an image with draws that are given."""
    batch = {name: np.reshape(np.float32(value), (1, 1, 1, 1)) for name, value in transformation.items()}
    return np.asarray(layer.transform_images(image[None], batch))[0]


@pytest.mark.parametrize("size", [1, 3, 9, 15])
def test_blur(size, crop):
    np.testing.assert_allclose(on_crops.blurred(crop, size), by(RandomBlur((size,)), crop), atol=1e-5)


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.33, 0.4, 0.5, 0.81, 0.999, 1.0])
def test_resize(scale, crop):
    np.testing.assert_allclose(on_crops.resized(crop, scale), by(RandomResize((scale, scale)), crop), atol=1e-4)


@pytest.mark.parametrize("quality", [1, 40, 75, 100])
def test_jpeg(quality, crop):
    """The layer's own tests compare it with files more closely."""
    there, here = by(RandomJpeg((quality, quality)), crop), on_crops.compressed(crop, quality)
    assert here.dtype == np.float32
    assert np.abs(there - here).mean() < 1.5 / 255
    assert np.abs(here - crop).mean() == pytest.approx(np.abs(there - crop).mean(), rel=0.06)


@pytest.mark.parametrize("angle", [90, 180, 270, 45, -33])
def test_turn(angle, square):
    exact = angle % 90 == 0
    # OpenCV rounds positions to 1/32 of a pixel.
    here, there = on_crops.turned(square, angle), by(RandomTurn((angle,)), square)
    np.testing.assert_allclose(here, there, atol=1e-5 if exact else 0.04)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_scale(factor, crop):
    np.testing.assert_allclose(on_crops.scaled(crop, factor), by(RandomScale((factor,)), crop), atol=0.04)


@pytest.mark.parametrize("angle", [-40, -13.7, 0, 22.5, 40])
def test_rotation_turns_as_keras_does(angle, crop):
    layer = layers.RandomRotation((angle / 360, angle / 360), fill_mode="constant", dtype="float32")
    draw, change = on_crops._STEPS[layers.RandomRotation]
    here = change(crop, *draw(layer, np.random.default_rng(0)))
    np.testing.assert_allclose(here, by(layer, crop), atol=0.04)


@pytest.mark.parametrize("delta", [-0.2, 0.13])
def test_brightness(delta, crop):
    layer = layers.RandomBrightness(0.5, (0, 1))
    np.testing.assert_allclose(on_crops.brightened(crop, delta), transformed(layer, crop, rgb_delta=delta), atol=1e-6)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.4])
def test_contrast(factor, crop):
    layer = layers.RandomContrast(0.5, (0, 1))
    expected = transformed(layer, crop, contrast_factor=factor)
    np.testing.assert_allclose(on_crops.contrasted(crop, factor), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_saturation(factor, crop):
    layer = layers.RandomSaturation(0.5, (0, 1), dtype="float32")
    expected = np.asarray(layer.transform_images(crop[None], {"factor": np.float32([factor])}))[0]
    np.testing.assert_allclose(on_crops.saturated(crop, factor), expected, atol=1e-4)


@pytest.mark.parametrize("turn", [-0.3, -0.02, 0.0, 0.02, 0.4])
def test_hue(turn, crop):
    layer = layers.RandomHue(0.5, (0, 1), dtype="float32")
    expected = np.asarray(layer.transform_images(crop[None], {"factor": np.float32([turn])}))[0]
    np.testing.assert_allclose(on_crops.recoloured(crop, turn), expected, atol=1e-4)


def test_noise(square):
    here = on_crops.noisy(np.full_like(square, 0.5), 0.05, np.random.default_rng(0)) - 0.5
    there = by(RandomNoise((0.05, 0.05), seed=0), np.full_like(square, 0.5)) - 0.5
    assert ks_2samp(here.ravel(), there.ravel()).pvalue > 0.01
    assert abs(np.corrcoef(here[..., 0].ravel(), here[..., 1].ravel())[0, 1]) < 0.05


def test_erased_is_noise_in_the_rectangle_and_nothing_beside(crop):
    here = on_crops.erased(crop, 0.25, 0.5, 0.5, 1.0, np.random.default_rng(0))
    inside = np.zeros(crop.shape[:2], bool)
    inside[32:64, 20:40] = True
    np.testing.assert_array_equal(here[~inside], crop[~inside])
    assert (here[inside] == 0).mean() == pytest.approx(0.5, abs=0.05)  # a normal number cut off at 0 and 1
    np.testing.assert_array_equal(on_crops.erased(crop, 0.501, 0.502, 0, 1, np.random.default_rng(0)), crop)


COUNT = 1500


def drawn_here(layer, shape):
    draw, _ = on_crops._STEPS[type(layer)]
    rng = np.random.default_rng(7)
    return [draw(layer, rng) for _ in range(COUNT)]


def drawn_there(layer, name, shape):
    return np.asarray(layer.get_random_transformation(np.zeros((COUNT, *shape, 3), np.float32))[name])


@pytest.mark.parametrize("policy_name", ["s2", "modern"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (layers.RandomBrightness, "rgb_delta"),
        (layers.RandomContrast, "contrast_factor"),
        (layers.RandomSaturation, "factor"),
        (layers.RandomHue, "factor"),
    ],
)
def test_colours_are_drawn_as_keras_draws_them(policy_name, kind, name):
    layer = next(layer for layer in policy(policy_name, 5).layers if type(layer) is kind)
    here = [value for (value,) in drawn_here(layer, (4, 4))]
    there = drawn_there(layer, name, (4, 4)).ravel()
    assert ks_2samp(here, there).pvalue > 0.01
    assert abs(np.min(here) - there.min()) + abs(np.max(here) - there.max()) < 0.05 * np.ptp(there)


def test_angles_are_drawn_as_keras_draws_them():
    layer = next(layer for layer in policy("s2", 5).layers if type(layer) is layers.RandomRotation)
    here = [angle for (angle,) in drawn_here(layer, (4, 4))]
    assert ks_2samp(here, drawn_there(layer, "angle", (4, 4))).pvalue > 0.01


def test_rectangles_are_drawn_as_keras_draws_them(monkeypatch):
    layer = next(layer for layer in policy("s2", 5).layers if type(layer) is layers.RandomErasing)
    made = layer.get_random_transformation(np.zeros((COUNT, 40, 40, 3), np.float32))
    masks, chosen = np.asarray(made["batch_masks"])[..., 0], np.asarray(made["apply_erasing"])
    here = drawn_here(layer, (40, 40))
    assert np.mean([drawn is not None for drawn in here]) == pytest.approx(chosen.mean(), abs=0.05)
    image = np.full((40, 40, 3), 2, np.float32)
    erased = np.array([on_crops.erased(image, *drawn)[..., 0] != 2 for drawn in here if drawn is not None])
    for axis in (1, 2):
        lengths = [mask.any(axis=3 - axis).sum(axis=1) for mask in (erased, masks)]
        starts = [mask.any(axis=3 - axis).argmax(axis=1) for mask in (erased, masks)]
        assert ks_2samp(*lengths).pvalue > 0.01 and ks_2samp(*starts).pvalue > 0.01


@pytest.mark.parametrize("policy_name", POLICIES)
def test_how_often_and_what_is_chosen(policy_name):
    for layer in policy(policy_name, 5).layers:
        here = drawn_here(layer, (4, 4))
        share = np.mean([drawn is not None for drawn in here])
        if isinstance(layer, layers.RandomFlip):
            assert share == pytest.approx(0.5, abs=0.05)
        elif hasattr(layer, "probability"):
            assert share == pytest.approx(layer.probability, abs=0.05)
            values = [drawn[0] for drawn in here if drawn is not None]
            config = layer.get_config()
            choices = config.get("sizes") or config.get("angles") or config.get("factors")
            if choices:
                counts = Counter(values)
                assert set(counts) == set(choices)
                assert max(counts.values()) < 1.4 * min(counts.values())
            else:
                low, high = config.get("scale") or config.get("deviation") or config["quality"]
                assert (
                    low <= min(values) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(values) <= high
                )
                assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))


@pytest.mark.parametrize("name", POLICIES)
def test_whole_policies_agree(name, square):
    """Brightness, contrast, sharpness and loss of many crops have the same distributions under both."""
    count = 400
    there = by(policy(name, 11), np.stack([square] * count))
    augment = OnCrops(name, 11)
    here = np.stack([augment(square, 0, place) for place in range(count)])
    assert here.dtype == np.float32 and 0 <= here.min() <= here.max() <= 1
    for told, number in {
        "mean": lambda images: images.mean(axis=(1, 2, 3)),
        "contrast": lambda images: images.std(axis=(1, 2, 3)),
        "colour": lambda images: images.std(axis=3).mean(axis=(1, 2)),
        "detail": lambda images: np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3)),
        "change": lambda images: np.abs(images - square).mean(axis=(1, 2, 3)),
    }.items():
        assert ks_2samp(number(here), number(there)).pvalue > 0.005, told


@pytest.mark.parametrize("name", POLICIES)
def test_a_crop_is_a_function_of_seed_epoch_and_place(name, crop):
    before = crop.copy()
    made = {
        key: OnCrops(name, key[0])(crop, *key[1:]).tobytes()
        for key in [(0, 0, 0), (1, 0, 0)] + [(0, 0, n) for n in range(9)]
    }
    assert OnCrops(name, 0)(crop, np.int64(0), np.int64(5)).tobytes() == made[0, 0, 5]
    assert len(set(made.values())) > 4
    assert OnCrops(name, 0)(crop, 1, 5).tobytes() != OnCrops(name, 0)(crop, 5, 1).tobytes()
    np.testing.assert_array_equal(crop, before)


def test_every_layer_of_every_policy_has_its_counterpart():
    assert {type(layer) for name in POLICIES for layer in policy(name).layers} <= set(on_crops._STEPS)


def test_wrong_names_and_seeds_are_told():
    with pytest.raises(ValueError, match="no augmentation policy 's3'; expected one of s1, s2, modern"):
        OnCrops("s3")
    with pytest.raises(ValueError, match="seed must be a whole number"):
        OnCrops("s1", -1)
