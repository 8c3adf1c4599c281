"""Augmentation layers against OpenCV and Keras's own image operations, and through what a Keras layer must survive."""

import inspect
import json
import os
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfdfd.augment import POLICIES, policy
from tfdfd.augment.degrade import RandomBlur, RandomNoise, RandomResize
from tfdfd.augment.geometry import RandomScale, RandomTurn
from tfdfd.augment.jpeg import RandomJpeg

OURS = {
    RandomBlur: {"sizes": [3, 5]},
    RandomResize: {"scale": [0.3, 0.6]},
    RandomNoise: {"deviation": [0.1, 0.2]},
    RandomTurn: {"angles": [30, 90]},
    RandomScale: {"factors": [0.5, 2]},
    RandomJpeg: {"quality": [10, 50]},
}
EVERY = [*(lambda seed, kind=kind: kind(seed=seed) for kind in OURS)]
EVERY += [lambda seed, name=name: policy(name, seed) for name in POLICIES]
NAMES = [*(kind.__name__ for kind in OURS), *POLICIES]


@pytest.fixture
def photo(astronaut):
    return cv2.resize(astronaut[20:260, 100:340], (72, 64), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@pytest.fixture
def square(photo):
    return photo[:, 4:68]


@pytest.fixture
def set_policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def changed(layer, image):
    return np.asarray(layer(image, training=True))


def drawn(layer, image, count=3):
    return np.stack([changed(layer, image) for _ in range(count)])


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_one_image_a_batch_of_it_and_tf_data_agree(make, photo):
    alone = drawn(make(5), photo)
    assert alone.shape == (3, *photo.shape)
    assert alone.dtype == np.float32
    assert 0 <= alone.min() <= alone.max() <= 1
    in_batch = drawn(make(5), photo[None])[:, 0]
    np.testing.assert_allclose(in_batch, alone, atol=1e-5)
    layer = make(5)
    data = tf.data.Dataset.from_tensors(photo).repeat(3).map(lambda image: layer(image, training=True))
    np.testing.assert_allclose(np.stack(list(data.as_numpy_iterator())), alone, atol=1e-5)


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_inside_tf_data_a_batch_of_unknown_length_is_the_batch_itself(make, photo):
    batch = np.stack([photo, photo[::-1], photo[:, ::-1]])
    layer = make(6)
    data = tf.data.Dataset.from_tensor_slices(batch).batch(3).map(lambda images: layer(images, training=True))
    np.testing.assert_allclose(next(data.as_numpy_iterator()), changed(make(6), batch), atol=1e-5)


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_same_seed_same_sequence_other_seed_another(make, photo):
    images = np.stack([photo] * 4)
    once = drawn(make(1), images, 2)
    np.testing.assert_array_equal(once, drawn(make(1), images, 2))
    assert np.abs(once - drawn(make(2), images, 2)).max() > 0.01


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_images_of_a_batch_get_draws_of_their_own(make, photo):
    images = changed(make(0), np.stack([photo] * 16))
    assert len({image.tobytes() for image in images}) >= 2


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_idle_unless_training(make, photo):
    layer = make(0)
    image = keras.Input(photo.shape)
    model = keras.Model(image, layer(image))
    for answer in (layer(photo), layer(photo, training=False), model(photo[None])[0], model.predict(photo[None])[0]):
        np.testing.assert_array_equal(np.asarray(answer), photo)
    images = np.stack([photo] * 8)
    assert not np.array_equal(model(images, training=True), images)


@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_float32_under_mixed_precision(make, photo, set_policy):
    expected = drawn(make(3), photo)
    set_policy("mixed_float16")
    found = drawn(make(3), photo)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("kind", "own"), OURS.items(), ids=[kind.__name__ for kind in OURS])
def test_configuration_is_the_arguments(kind, own, photo):
    layer = kind(**own, probability=0.5, seed=7, name="mine")
    assert set(inspect.signature(kind).parameters) == {*own, "probability", "seed", "kwargs"}
    config = json.loads(json.dumps(layer.get_config()))
    assert own | {"probability": 0.5, "seed": 7, "name": "mine"} == {
        key: config[key] for key in (*own, "probability", "seed", "name")
    }
    np.testing.assert_array_equal(drawn(kind.from_config(config), photo, 6), drawn(layer, photo, 6))


@pytest.mark.parametrize("name", POLICIES)
def test_policy_travels_in_a_saved_model(name, photo, tmp_path):
    image = keras.Input(photo.shape)
    model = keras.Model(image, policy(name, 4)(image))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(drawn(loaded, photo[None], 3), drawn(model, photo[None], 3))


@pytest.mark.parametrize("name", POLICIES)
def test_policy_trains_with_a_network_behind_it(name, photo):
    image = keras.Input(photo.shape)
    answer = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(policy(name, 4)(image)))
    model = keras.Model(image, answer)
    model.compile("sgd", "mse")
    losses = model.fit(np.stack([photo] * 8), np.ones(8), batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("name", POLICIES)
def test_layers_of_a_policy_draw_apart(name):
    assert len({layer.seed for layer in policy(name, 0).layers}) == len(POLICIES[name])
    assert {layer.seed for layer in policy(name).layers} == {None}


def test_colour_jitter_goes_both_ways(photo):
    """Keras's contrast of one number would only ever rise."""
    grey = np.stack([photo] * 64)
    contrast = next(layer for layer in policy("s2", 0).layers if "contrast" in layer.name)
    spread = changed(contrast, 0.4 + 0.2 * grey).std(axis=(1, 2, 3)) / (0.2 * photo).std()
    assert spread.min() < 0.9
    assert spread.max() > 1.1


def test_probability_is_the_share_of_images_changed(photo):
    for probability, low, high in ((0, 0, 0), (0.3, 0.15, 0.45), (1, 1, 1)):
        images = changed(RandomTurn((180,), probability, seed=0), np.stack([photo] * 100))
        assert low <= np.mean([not np.array_equal(image, photo) for image in images]) <= high


@pytest.mark.parametrize("size", [1, 3, 9, 15])
def test_blur_is_opencvs(size, photo):
    expected = cv2.GaussianBlur(photo, (size, size), 0.15 * size + 0.35)
    np.testing.assert_allclose(changed(RandomBlur((size,)), photo), expected, atol=1e-5)


def test_blur_of_a_picture_hardly_larger_than_half_the_kernel():
    image = np.random.default_rng(0).random((8, 9, 3), dtype=np.float32)
    np.testing.assert_allclose(changed(RandomBlur((15,)), image), cv2.GaussianBlur(image, (15, 15), 2.6), atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 0.33, 0.5, 0.81, 1.0])
def test_resize_is_keras_down_and_up(scale, photo):
    height, width = photo.shape[:2]
    small = ops.image.resize(photo, (round(scale * height), round(scale * width)), "bilinear", antialias=True)
    expected = ops.image.resize(small, (height, width), "bilinear")
    np.testing.assert_allclose(changed(RandomResize((scale, scale)), photo), expected, atol=1e-4)


def test_quarter_turns_move_pixels_and_no_more(square):
    np.testing.assert_allclose(changed(RandomTurn((90,)), square), np.rot90(square), atol=1e-6)
    np.testing.assert_allclose(changed(RandomTurn((180,)), square), square[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(("layer", "angle", "factor"), [(RandomTurn, 45, 1), (RandomScale, 0, 1.5)])
def test_turn_and_scale_are_opencvs(layer, angle, factor, photo):
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, factor)
    expected = cv2.warpAffine(photo, matrix, (width, height))
    # OpenCV rounds positions to 1/32 of a pixel.
    np.testing.assert_allclose(changed(layer((angle or factor,)), photo), expected, atol=0.03)


def test_half_size_is_the_mean_of_four_pixels_on_black(square):
    half = changed(RandomScale((0.5,)), square).copy()
    np.testing.assert_allclose(
        half[16:48, 16:48], cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA), atol=1e-6
    )
    half[16:48, 16:48] = 0
    assert not half.any()


def test_noise_is_as_strong_as_asked():
    grey = np.full((64, 64, 3), 0.5, np.float32)
    difference = changed(RandomNoise((0.05, 0.05), seed=0), grey) - grey
    assert difference.std() == pytest.approx(0.05, rel=0.03)
    assert abs(difference.mean()) < 0.002
    assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomBlur((4,)), r"sizes must be one or more of odd sizes in pixels; received: \(4,\)"),
        (lambda: RandomBlur(()), r"sizes .* received: \(\)"),
        (lambda: RandomResize((0.0, 1.0)), r"scale must be two numbers .* \[0.05, 1.0\]; received: \(0.0, 1.0\)"),
        (lambda: RandomResize((0.9, 0.5)), "scale"),
        (lambda: RandomNoise(0.1), r"deviation must be two numbers .* received: 0.1"),
        (lambda: RandomTurn(("45",)), "angles must be one or more of degrees"),
        (lambda: RandomTurn((float("nan"),)), "angles"),
        (lambda: RandomScale((0.2,)), r"factors from 0.5 to 10; received: \(0.2,\)"),
        (lambda: RandomJpeg((0, 50)), r"quality must be two numbers .* \[1, 100\]; received: \(0, 50\)"),
        (lambda: RandomJpeg((40.5, 50)), "whole numbers"),
        (lambda: RandomJpeg(probability=1.5), r"share in \[0, 1\]; received: 1.5"),
        (lambda: RandomJpeg(seed=0.5), "seed must be a whole number .* received: 0.5"),
        (lambda: RandomJpeg(seed=-1), "seed"),
        (lambda: RandomJpeg(dtype="float16"), "leave dtype out; received: 'float16'"),
        (lambda: policy("s3"), "no augmentation policy 's3'; expected one of s1, s2, modern"),
        (lambda: policy("s1", seed=-1), "seed must be a whole number from 0, or None; received: -1"),
        (lambda: RandomNoise()(np.zeros((8, 8, 1), np.float32)), r"\(\[batch,\] height, width, 3\).*\(8, 8, 1\)"),
        (lambda: RandomNoise()(keras.Input((None, 8, 3))), "are known.*set_shape"),
        (lambda: RandomBlur((15,))(np.zeros((7, 9, 3), np.float32)), r"7 pixels.*larger.*\(7, 9, 3\)"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


ON_JAX = """
import sys
import keras
import numpy as np
from tfdfd.augment import POLICIES, policy
from tfdfd.augment.degrade import RandomBlur, RandomResize
from tfdfd.augment.geometry import RandomScale, RandomTurn
from tfdfd.augment.jpeg import RandomJpeg
images = np.load(sys.argv[1])
made = [make() for make in (
    lambda: RandomBlur((9,)), lambda: RandomResize((0.5, 0.5)), lambda: RandomTurn((45,)),
    lambda: RandomScale((0.5,)), lambda: RandomJpeg((50, 50)))]
fixed = [np.asarray(layer(images, training=True)) for layer in made]
for name in POLICIES:
    answers = [np.asarray(policy(name, 3)(images, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(*answers)
    if not 0 <= answers[0].min() <= answers[0].max() <= 1 or answers[0].dtype != np.float32:
        raise ValueError(f"{name}: {answers[0].dtype} {answers[0].min()} to {answers[0].max()}")
image = keras.Input(images.shape[1:])
answer = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(policy("modern", 4)(image)))
model = keras.Model(image, answer)
model.compile("sgd", "mse")
model.fit(images, np.ones(len(images)), verbose=0)
np.save(sys.argv[1], np.stack(fixed))
"""


@pytest.mark.slow
def test_under_jax_without_draws_the_same_pixels(photo, tmp_path):
    file = tmp_path / "images.npy"
    images = np.stack([photo, photo[::-1]])
    np.save(file, images)
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", ON_JAX, str(file)], env=environment, check=True)
    layers = RandomBlur((9,)), RandomResize((0.5, 0.5)), RandomTurn((45,)), RandomScale((0.5,)), RandomJpeg((50, 50))
    here = np.stack([changed(layer, images) for layer in layers])
    difference = np.abs(np.load(file) - here)
    assert difference[:4].max() < 1e-4
    # A rounding that falls the other way moves a whole step of a block.
    assert difference[4].mean() < 0.002
