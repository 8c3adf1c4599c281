"""Augmentation policies: operations against OpenCV and Keras, draws against Keras's layers, and the Keras layer."""

import json
import os
import subprocess
import sys
from collections import Counter

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from scipy.stats import ks_2samp

from tfdfd.data import augment
from tfdfd.data.augment import POLICIES, CropAugmenter
from tfdfd.pipelines.augmentation import Augmentation

COUNT = 1500


def colors_by_keras(strength, hue):
    return {
        # A single number would only ever raise the contrast; a saturation of 0.5 changes nothing.
        "brighten": (layers.RandomBrightness(strength, (0, 1), seed=5), "rgb_delta"),
        "change_contrast": (layers.RandomContrast((strength, strength), (0, 1), seed=5), "contrast_factor"),
        "saturate": (layers.RandomSaturation((0.5 - strength / 2, 0.5 + strength / 2), (0, 1), seed=5), "factor"),
        "shift_hue": (layers.RandomHue(hue, (0, 1), seed=5), "factor"),
    }


@pytest.fixture(scope="module")
def crop(astronaut):
    return cv2.resize(astronaut[20:260, 80:340], (80, 64), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@pytest.fixture(scope="module")
def square(crop):
    return np.ascontiguousarray(crop[:, 8:72])


@pytest.fixture
def set_policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def by(layer, image):
    return np.asarray(layer(image, training=True))


def transformed(layer, image, **transformation):
    """What a layer of Keras's makes of an image with draws that are given."""
    batch = {name: np.reshape(np.float32(value), (1, 1, 1, 1)) for name, value in transformation.items()}
    return np.asarray(layer.transform_images(image[None], batch))[0]


@pytest.mark.parametrize("size", [1, 3, 9, 15])
def test_blur_is_opencvs(size, crop):
    expected = cv2.GaussianBlur(crop, (size, size), 0.15 * size + 0.35)
    np.testing.assert_array_equal(augment.blur_with_kernel(crop, size), expected)


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.33, 0.4, 0.5, 0.81, 0.999, 1.0])
def test_resize_is_keras_down_and_up(scale, crop):
    height, width = crop.shape[:2]
    small = ops.image.resize(crop, (round(scale * height), round(scale * width)), "bilinear", antialias=True)
    expected = ops.image.resize(small, (height, width), "bilinear")
    np.testing.assert_allclose(augment.lose_resolution(crop, scale), expected, atol=1e-4)


@pytest.mark.parametrize("quality", [1, 40, 75, 100])
def test_jpeg_is_that_of_a_file(quality, crop):
    levels = cv2.cvtColor(np.rint(crop * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    found = augment.compress(crop, np.int64(quality))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.rint(255 * found), expected)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_move_pixels_and_no_more(turns, square):
    np.testing.assert_allclose(augment.rotate(square, 90 * turns), np.rot90(square, turns), atol=1e-5)


@pytest.mark.parametrize("angle", [-40, -33, -13.7, 0, 22.5, 40, 45])
def test_rotation_turns_as_keras_does(angle, crop):
    layer = layers.RandomRotation((angle / 360, angle / 360), fill_mode="constant", dtype="float32")
    # OpenCV rounds positions to 1/32 of a pixel.
    np.testing.assert_allclose(augment.rotate(crop, angle), by(layer, crop), atol=0.04)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_zoom_is_opencvs(factor, crop):
    height, width = crop.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, factor)
    expected = cv2.warpAffine(crop, matrix, (width, height))
    np.testing.assert_allclose(augment.rotate(crop, 0, factor), expected, atol=1e-6)


def test_half_size_is_the_mean_of_four_pixels_on_black(square):
    half = augment.rotate(square, 0, 0.5).copy()
    np.testing.assert_allclose(
        half[16:48, 16:48], cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA), atol=1e-6
    )
    half[16:48, 16:48] = 0
    assert not half.any()


@pytest.mark.parametrize("delta", [-0.2, 0.13])
def test_brightness(delta, crop):
    layer = layers.RandomBrightness(0.5, (0, 1))
    np.testing.assert_allclose(augment.brighten(crop, delta), transformed(layer, crop, rgb_delta=delta), atol=1e-6)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.4])
def test_contrast(factor, crop):
    layer = layers.RandomContrast(0.5, (0, 1))
    expected = transformed(layer, crop, contrast_factor=factor)
    np.testing.assert_allclose(augment.change_contrast(crop, factor), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_saturation(factor, crop):
    layer = layers.RandomSaturation(0.5, (0, 1), dtype="float32")
    expected = np.asarray(layer.transform_images(crop[None], {"factor": np.float32([factor])}))[0]
    np.testing.assert_allclose(augment.saturate(crop, factor), expected, atol=1e-4)


@pytest.mark.parametrize("turn", [-0.3, -0.02, 0.0, 0.02, 0.4])
def test_hue(turn, crop):
    layer = layers.RandomHue(0.5, (0, 1), dtype="float32")
    expected = np.asarray(layer.transform_images(crop[None], {"factor": np.float32([turn])}))[0]
    np.testing.assert_allclose(augment.shift_hue(crop, turn), expected, atol=1e-4)


def test_noise_is_as_strong_as_asked(square):
    difference = augment.add_float_noise(np.full_like(square, 0.5), 0.05, np.random.default_rng(0)) - 0.5
    assert difference.std() == pytest.approx(0.05, rel=0.03)
    assert abs(difference.mean()) < 0.002
    assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.05


def drawn(policy, operation, nth=0):
    """Draws of the n-th step of a policy that has this operation."""
    step = [step for step in POLICIES[policy] if step.operation is getattr(augment, operation)][nth]
    rng = np.random.default_rng(7)
    return [step.draw(rng) for _ in range(COUNT)]


def drawn_by_keras(layer, name, shape=(4, 4)):
    return np.asarray(layer.get_random_transformation(np.zeros((COUNT, *shape, 3), np.float32))[name])


@pytest.mark.parametrize(("policy", "strength", "hue"), [("modern", 0.15, 0.03)])
@pytest.mark.parametrize("operation", ["brighten", "change_contrast", "saturate", "shift_hue"])
def test_colors_are_drawn_as_keras_draws_them(policy, strength, hue, operation):
    here = [value for (value,) in drawn(policy, operation)]
    there = drawn_by_keras(*colors_by_keras(strength, hue)[operation]).ravel()
    assert ks_2samp(here, there).pvalue > 0.01
    assert abs(np.min(here) - there.min()) + abs(np.max(here) - there.max()) < 0.05 * np.ptp(there)


def test_angles_are_drawn_as_keras_draws_them():
    layer = layers.RandomRotation(40 / 360, fill_mode="constant", seed=5, dtype="float32")
    here = [angle for (angle,) in drawn("s2", "rotate_nearest")]
    assert ks_2samp(here, drawn_by_keras(layer, "angle")).pvalue > 0.01


@pytest.mark.parametrize("policy", ["s2", "flip", "modern"])
def test_half_of_the_crops_are_mirrored(policy):
    assert np.mean([draw is not None for draw in drawn(policy, "mirror")]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("policy", "operation", "nth", "probability", "choices"),
    [
        ("s1", "blur_with_kernel", 0, 0.5, {(3,), (9,), (15,)}),
        ("s1", "rotate", 0, 0.5, {(45,), (90,), (180,)}),
        ("s1", "rotate", 1, 0.5, {(0, 0.5), (0, 1.5)}),
        ("modern", "blur_with_kernel", 0, 0.25, {(3,), (5,), (7,)}),
    ],
)
def test_how_often_and_what_is_chosen(policy, operation, nth, probability, choices):
    here = drawn(policy, operation, nth)
    assert np.mean([draw is not None for draw in here]) == pytest.approx(probability, abs=0.05)
    counts = Counter(draw for draw in here if draw is not None)
    assert set(counts) == choices
    assert max(counts.values()) < 1.4 * min(counts.values())


@pytest.mark.parametrize(
    ("operation", "probability", "low", "high"),
    [("lose_resolution", 0.4, 0.4, 1), ("add_float_noise", 0.3, 0, 0.03), ("compress", 0.7, 40, 100)],
)
def test_how_often_and_how_strongly(operation, probability, low, high):
    here = drawn("modern", operation)
    assert np.mean([draw is not None for draw in here]) == pytest.approx(probability, abs=0.05)
    values = [draw[0] for draw in here if draw is not None]
    span = high - low
    assert low <= min(values) < low + 0.02 * span and high - 0.02 * span < max(values) <= high
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05 * span)


@pytest.mark.parametrize("name", POLICIES)
def test_a_crop_is_a_function_of_seed_epoch_and_position(name, crop):
    before = crop.copy()
    made = {
        key: CropAugmenter(name, key[0])(crop, *key[1:]).tobytes()
        for key in [(0, 0, 0), (1, 0, 0)] + [(0, 0, n) for n in range(9)]
    }
    assert CropAugmenter(name, 0)(crop, np.int64(0), np.int64(5)).tobytes() == made[0, 0, 5]
    # Flipping has two results, so that two draws may agree.
    assert len(set(made.values())) == 2 if name == "flip" else len(set(made.values())) > 4
    augmenter, numbers = CropAugmenter(name, 0), range(5, 13) if name == "flip" else [5]
    assert any(augmenter(crop, 1, n).tobytes() != augmenter(crop, n, 1).tobytes() for n in numbers)
    np.testing.assert_array_equal(crop, before)


def images_of(layer, image, count=3):
    return np.stack([by(layer, image) for _ in range(count)])


@pytest.mark.parametrize("name", POLICIES)
def test_one_image_a_batch_of_it_and_tf_data_agree(name, crop):
    alone = images_of(Augmentation(name, 5), crop)
    assert alone.shape == (3, *crop.shape)
    assert alone.dtype == np.float32
    assert 0 <= alone.min() <= alone.max() <= 1
    np.testing.assert_array_equal(images_of(Augmentation(name, 5), crop[None])[:, 0], alone)
    layer = Augmentation(name, 5)
    data = tf.data.Dataset.from_tensors(crop).repeat(3).map(lambda image: layer(image, training=True))
    np.testing.assert_array_equal(np.stack(list(data.as_numpy_iterator())), alone)


@pytest.mark.parametrize("name", POLICIES)
def test_inside_tf_data_a_batch_of_unknown_length_is_the_batch_itself(name, crop):
    batch = np.stack([crop, crop[::-1], crop[:, ::-1]])
    layer = Augmentation(name, 6)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(3).map(lambda images: layer(images, training=True))
    np.testing.assert_array_equal(next(data.as_numpy_iterator()), by(Augmentation(name, 6), batch))


@pytest.mark.parametrize("name", POLICIES)
def test_same_seed_same_sequence_other_seed_another(name, crop):
    images = np.stack([crop] * 4)
    once = images_of(Augmentation(name, 1), images, 2)
    np.testing.assert_array_equal(once, images_of(Augmentation(name, 1), images, 2))
    assert np.abs(once - images_of(Augmentation(name, 2), images, 2)).max() > 0.01
    assert not np.array_equal(images_of(Augmentation(name), images, 2), images_of(Augmentation(name), images, 2))
    assert len({image.tobytes() for image in by(Augmentation(name, 0), np.stack([crop] * 16))}) >= 2


@pytest.mark.parametrize("name", POLICIES)
def test_idle_unless_training(name, crop):
    layer = Augmentation(name, 0)
    image = keras.Input(crop.shape)
    model = keras.Model(image, layer(image))
    for answer in (layer(crop), layer(crop, training=False), model(crop[None])[0], model.predict(crop[None])[0]):
        np.testing.assert_array_equal(np.asarray(answer), crop)
    images = np.stack([crop] * 8)
    assert not np.array_equal(model(images, training=True), images)


@pytest.mark.parametrize("name", POLICIES)
def test_float32_under_mixed_precision(name, crop, set_policy):
    expected = images_of(Augmentation(name, 3), crop)
    set_policy("mixed_float16")
    found = images_of(Augmentation(name, 3), crop)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", POLICIES)
def test_configuration_is_the_arguments_and_travels_in_a_saved_model(name, crop, tmp_path):
    config = json.loads(json.dumps(Augmentation(name, 7, name="mine").get_config()))
    assert config["policy"] == name and config["seed"] == 7 and config["name"] == "mine"
    image = keras.Input(crop.shape)
    model = keras.Model(image, Augmentation.from_config(config)(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(images_of(loaded, crop[None], 3), images_of(model, crop[None], 3))


@pytest.mark.parametrize("name", POLICIES)
def test_policy_trains_with_a_network_behind_it(name, crop):
    image = keras.Input(crop.shape)
    answer = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(Augmentation(name, 4)(image)))
    model = keras.Model(image, answer)
    model.compile("sgd", "mse")
    losses = model.fit(np.stack([crop] * 8), np.ones(8), batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropAugmenter("s3"), "no augmentation policy 's3'; expected one of s1, s2, flip, modern"),
        (lambda: CropAugmenter("s1", -1), "seed must be an integer of at least 0; received: -1"),
        (lambda: Augmentation("s3"), "no augmentation policy 's3'; expected one of s1, s2, flip, modern"),
        (lambda: Augmentation("s1", seed=0.5), "seed must be an integer of at least 0; received: 0.5"),
        (lambda: Augmentation("s1")(np.zeros((8, 8, 1), np.float32)), r"\(\[batch,\] height, width, 3\).*\(8, 8, 1\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ON_JAX = """
import sys
import keras
import numpy as np
from tfdfd.data.augment import POLICIES
from tfdfd.pipelines.augmentation import Augmentation
images = np.load(sys.argv[1])
made = np.stack([np.asarray(Augmentation(name, 3)(images, training=True)) for name in POLICIES])
image = keras.Input(images.shape[1:])
answer = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(Augmentation("modern", 4)(image)))
model = keras.Model(image, answer)
model.compile("sgd", "mse")
model.fit(images, np.ones(len(images)), verbose=0)
np.save(sys.argv[1], made)
"""


@pytest.mark.slow
def test_under_jax_the_same_pixels(crop, tmp_path):
    file = tmp_path / "images.npy"
    images = np.stack([crop, crop[::-1]])
    np.save(file, images)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ON_JAX, str(file)], env=environment, check=True)
    here = np.stack([by(Augmentation(name, 3), images) for name in POLICIES])
    np.testing.assert_array_equal(np.load(file), here)
