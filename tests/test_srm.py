"""The SRM layer against `cv2.filter2D`, and through what a Keras layer must survive."""

import json
import os
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdfd.models.srm import SRM, SRM_KERNELS

NAMES = tuple(SRM_KERNELS)


def noise(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def filtered(image, names=NAMES, combine="sum"):
    """What OpenCV makes of one image `(height, width, channels)`, in the layer's order of outputs."""
    planes = [
        [cv2.filter2D(image[..., c], cv2.CV_32F, SRM_KERNELS[name]) for name in names] for c in range(image.shape[-1])
    ]
    return np.stack(np.sum(planes, axis=0) if combine == "sum" else [p for row in planes for p in row], axis=-1)


@pytest.fixture
def photo(astronaut):
    return astronaut.astype(np.float32) / 255


@pytest.fixture
def policy():
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def test_kernels_answer_to_no_constant_and_no_slope():
    """What they are for: flat colour and even shading leave no residual, a single pixel its centre tap."""
    ramp = np.add.outer(np.arange(9.0), 2 * np.arange(9.0)).astype(np.float32)[..., None]
    np.testing.assert_allclose(SRM()(ramp)[2:-2, 2:-2], 0, atol=1e-5)
    dot = np.zeros((9, 9, 1), np.float32)
    dot[4, 4] = 1
    np.testing.assert_allclose(SRM()(dot)[4, 4], [-1, -1, -1])


def test_hand_computed():
    """On 3x3 pixels, all but one of which have a neighbour beyond the border: their mirror image."""
    image = np.array([[1, 2, 3], [4, 0, 6], [7, 8, 9]], np.float32)[..., None]
    # (1 - 2*2 + 3) / 2 and, at the left border, (2 - 2*1 + 2) / 2; the middle row: (4 - 0 + 6) / 2.
    second = np.asarray(SRM("second")(image))[..., 0]
    np.testing.assert_allclose(second, [[1, 0, -1], [-4, 5, -6], [1, 0, -1]])
    # Corners -1, edges 2, centre -4, over 4.
    assert np.asarray(SRM("KB")(image))[1, 1, 0] == (-1 - 3 - 7 - 9 + 2 * (2 + 4 + 6 + 8) - 4 * 0) / 4


@pytest.mark.parametrize("combine", ["sum", "each"])
@pytest.mark.parametrize("names", [NAMES, ("KV",), ("second", "KB")])
@pytest.mark.parametrize("shape", [(41, 37, 3), (41, 37, 1), (3, 3, 3), (3, 64, 1), (4, 5, 3)])
def test_equals_filter2d_with_its_borders(shape, names, combine):
    images = np.stack([noise(shape, seed) for seed in range(2)])
    found = np.asarray(SRM(names, combine)(images))
    expected = np.stack([filtered(image, names, combine) for image in images])
    assert found.shape == expected.shape == SRM(names, combine).compute_output_shape(images.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("combine", ["sum", "each"])
def test_equals_filter2d_on_a_photograph(photo, combine):
    np.testing.assert_allclose(SRM(combine=combine)(photo), filtered(photo, combine=combine), atol=1e-5)


def test_one_kernel_on_each_channel_is_filter2d_on_the_colour_image(photo, astronaut):
    layer = SRM("KV", combine="each")
    np.testing.assert_allclose(layer(photo), cv2.filter2D(photo, cv2.CV_32F, SRM_KERNELS["KV"]), atol=1e-5)
    grey_levels = cv2.filter2D(astronaut, cv2.CV_32F, SRM_KERNELS["KV"])
    np.testing.assert_allclose(layer(astronaut), grey_levels, atol=1e-3)
    as_stored = cv2.filter2D(astronaut, -1, SRM_KERNELS["KV"])
    np.testing.assert_array_equal(np.round(np.clip(layer(astronaut), 0, 255)), as_stored)


def test_second_is_horizontal():
    stripes = np.tile([0.0, 1.0], (8, 4)).astype(np.float32)[..., None]
    assert np.all(np.abs(SRM("second")(stripes)) == 1)
    assert np.all(np.asarray(SRM("second")(stripes.transpose(1, 0, 2))) == 0)


def test_truncation_clips_both_sides(photo):
    plain, clipped = np.asarray(SRM()(photo)), np.asarray(SRM(truncate=2 / 255)(photo))
    assert plain.min() < -2 / 255 and plain.max() > 2 / 255
    np.testing.assert_array_equal(clipped, np.clip(plain, np.float32(-2 / 255), np.float32(2 / 255)))


def test_layer_has_no_weights_and_passes_the_gradient():
    image = noise((1, 6, 7, 3))
    layer = SRM(("KV", "second"), combine="each", name="residual")
    pull = noise((1, 6, 7, 6), seed=1)
    with tf.GradientTape() as tape:
        x = tf.Variable(image)
        value = tf.reduce_sum(layer(x) * pull)
    gradient = tape.gradient(value, x).numpy()
    assert layer.weights == []
    # The layer is linear: a unit step in one pixel changes the value by that pixel's gradient, with no remainder.
    base = np.asarray(layer(image), np.float64)
    for index in np.ndindex(image.shape):
        moved = image.copy()
        moved[index] += 1
        expected = np.sum((np.asarray(layer(moved), np.float64) - base) * pull)
        assert gradient[index] == pytest.approx(expected, abs=1e-4)


def test_truncated_pixels_have_no_gradient():
    x = tf.Variable(noise((1, 8, 8, 1)) * 100)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(SRM(truncate=1e-6)(x))
    assert not np.any(tape.gradient(value, x))


def test_config_holds_the_arguments_of_the_constructor():
    given = {"kernels": ["KV", "KB"], "combine": "each", "truncate": 0.5, "name": "noise", "trainable": False}
    config = SRM(**given).get_config()
    assert {key: config[key] for key in given} == given
    again = SRM.from_config(json.loads(json.dumps(config)))
    image = noise((1, 9, 9, 3)) * 10
    np.testing.assert_array_equal(again(image), SRM(**given)(image))
    assert again.get_config() == config


def test_model_survives_save_and_load(tmp_path):
    image = keras.Input((None, None, 3), name="image")
    x = SRM(truncate=0.1, name="srm")(image)
    assert x.shape == (None, None, None, 3)
    model = keras.Model(image, keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 3)(x)))
    model.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    for size in (16, 33):
        images = noise((2, size, size, 3))
        np.testing.assert_array_equal(again(images), model(images))


def test_model_survives_export(tmp_path):
    image = keras.Input((12, 10, 1), name="image")
    model = keras.Model(image, SRM()(image))
    model.export(tmp_path / "x", verbose=False)
    images = noise((2, 12, 10, 1))
    exported = tf.saved_model.load(str(tmp_path / "x"))
    np.testing.assert_allclose(exported.serve(images), [filtered(image) for image in images], atol=1e-5)


@pytest.mark.parametrize("batch", [None, 2])
def test_works_in_tf_data(batch):
    images = noise((4, 20, 24, 3))
    pipeline = tf.data.Dataset.from_tensor_slices(images)
    pipeline = pipeline.batch(batch) if batch else pipeline
    pipeline = pipeline.map(SRM(), num_parallel_calls=2)
    assert pipeline.element_spec.shape[-3:] == (20, 24, 3)
    found = np.concatenate([np.reshape(x, (-1, 20, 24, 3)) for x in pipeline])
    np.testing.assert_allclose(found, [filtered(image) for image in images], atol=1e-5)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_residual_stays_float32_under_every_policy(policy, photo, name):
    """In bfloat16 a resized photograph's residuals are off by 5 % of their median, a hundred times what is allowed."""
    photo = cv2.resize(photo, (256, 256))
    policy(name)
    layer, dense = SRM(), keras.layers.Dense(1)
    found = layer(photo[None])
    assert found.dtype == "float32" and keras.backend.standardize_dtype(dense(found).dtype) == name.split("_")[-1]
    np.testing.assert_allclose(found[0], filtered(photo), atol=1e-5)
    half = np.asarray(keras.ops.cast(keras.ops.cast(photo, "bfloat16"), "float32"))
    assert np.median(np.abs(filtered(half) - filtered(photo))) > 0.05 * np.median(np.abs(filtered(photo)))


def test_integers_are_taken_as_they_are(astronaut):
    np.testing.assert_allclose(SRM()(astronaut), SRM()(astronaut.astype(np.float32)))


@pytest.mark.parametrize("shape", [(2, 8), (8, 8, 2), (1, 8, 8, 4), (1, 1, 8, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"height, width, 1 or 3\); received: \("):
        SRM()(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(1, 2, 9, 3), (9, 1, 1), (1, 0, 9, 3)])
def test_images_smaller_than_the_border_are_refused(shape):
    with pytest.raises(ValueError, match="at least 3x3; received"):
        SRM()(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="at least 3x3; received"):
        SRM()(keras.Input(shape[-3:]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": "KX"}, r"one or more of KB, KV, second; received: 'KX'"),
        ({"kernels": ()}, r"one or more of KB, KV, second; received: \(\)"),
        ({"kernels": ("KB", "kv")}, r"received: \('KB', 'kv'\)"),
        ({"combine": "mean"}, r"'sum' or 'each'; received: 'mean'"),
        ({"truncate": 0}, "positive number in the image's units; received: 0"),
        ({"truncate": -1.0}, "received: -1.0"),
        ({"truncate": float("nan")}, "received: nan"),
        ({"truncate": True}, "received: True"),
        ({"truncate": "2"}, "received: '2'"),
        ({"dtype": "mixed_bfloat16"}, "leave dtype out; received: 'mixed_bfloat16'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SRM(**arguments)


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"channels last; received.*'channels_first'"):
            SRM()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_kernels_cannot_be_altered():
    with pytest.raises(ValueError, match="read-only"):
        SRM_KERNELS["KB"][0, 0] = 1


@pytest.mark.slow
def test_jax_gives_the_same_numbers(tmp_path):
    pytest.importorskip("jax")
    images = noise((2, 17, 13, 3))
    np.save(tmp_path / "in.npy", images)
    program = (
        "import sys, keras, numpy as np; from tfdfd.models.srm import SRM; "
        "assert keras.backend.backend() == 'jax'; image = keras.Input((None, None, 3)); "
        "model = keras.Model(image, SRM(truncate=0.5)(image)); "
        "np.save(sys.argv[2], model.predict(np.load(sys.argv[1]), verbose=0))"
    )
    paths = [str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run(
        [sys.executable, "-c", program, *paths], check=True, timeout=300, env=os.environ | {"KERAS_BACKEND": "jax"}
    )
    found = np.load(paths[1])
    np.testing.assert_allclose(found, SRM(truncate=0.5)(images), atol=1e-5)
