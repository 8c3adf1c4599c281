"""The SavedModel contract: what TensorFlow Hub and TensorFlow Serving rely on, for every network there is."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.seeded import fill, seeded
from tfdfd.faces.crop import resize_crop
from tfdfd.models import build, list_models
from tfdfd.models.svm import SvmArrays, with_svm
from tfdfd.publishing.allowed_operations import check_operations
from tfdfd.publishing.saved_model import write_feature_vector, write_saved_model, write_warm_up
from tfdfd.weights.saving import named_weights

# One of each way to build them; the others, which take longer, with `make test-slow`.
QUICK = ("meso4", "srm_vgg16")


def images_of(model, count=3):
    return np.random.default_rng(5).random((count, *model.input_shape[1:]), np.float32)


def layer_output(model, name, images):
    return keras.Model(model.input, model.get_layer(name).output)(images, training=False).numpy()


def kept(tmp_path, model):
    """The two SavedModels of a network, loaded."""
    write_saved_model(model, tmp_path / "classifier")
    write_feature_vector(model, tmp_path / "vector")
    for name in ("classifier", "vector"):
        check_operations(tmp_path / name)
    return tf.saved_model.load(str(tmp_path / "classifier")), tf.saved_model.load(str(tmp_path / "vector"))


def check_contract(tmp_path, model):
    """The whole contract; the images are not square, so that height and width cannot be confused."""
    classifier, vector = kept(tmp_path, model)
    images = images_of(model)
    scores, features = model(images, training=False).numpy(), layer_output(model, "features", images)
    assert np.ptp(scores) > 1e-4  # or everything would be equal to everything
    scale = max(1, np.abs(features).max())
    for count in (3, 1):  # the batch is free
        signatures = {name: function(image=tf.constant(images[:count])) for name, function in
                      classifier.signatures.items() if name != "image_bytes"}  # fmt: skip
        np.testing.assert_allclose(classifier(images[:count]), scores[:count], atol=1e-5)
        np.testing.assert_allclose(signatures["serving_default"]["fake_probability"], scores[:count], atol=1e-5)
        np.testing.assert_allclose(signatures["features"]["features"] / scale, features[:count] / scale, atol=1e-5)
        np.testing.assert_allclose(vector(images[:count]) / scale, features[:count] / scale, atol=1e-5)
    assert set(classifier.signatures) == {"serving_default", "image_bytes", "features"}
    assert set(vector.signatures) == {"serving_default"}
    pixels = (images * 255).astype(np.uint8)
    pngs = tf.stack([tf.io.encode_png(image) for image in pixels])
    answer = classifier.signatures["image_bytes"](image_bytes=pngs)["fake_probability"]
    np.testing.assert_allclose(answer, model(pixels / np.float32(255), training=False), atol=1e-5)
    names = [variable.name.partition(":")[0] for variable in classifier.trainable_variables]
    assert names == [variable.value.name.partition(":")[0] for variable in model.trainable_variables]
    assert len(classifier.variables) == len(model.variables)
    assert classifier(images, training=True).shape == (3, 1)
    return classifier, vector


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in list_models()]
)
def test_every_network_keeps_the_contract(tmp_path, name):
    assert set(QUICK) <= set(list_models())
    check_contract(tmp_path, seeded(name))


def test_regularization_losses_are_those_of_keras(tmp_path):
    model = small(kernel_regularizer=keras.regularizers.L2(0.01))
    write_saved_model(model, tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    losses = [float(loss()) for loss in loaded.regularization_losses]
    assert len(losses) == 1 and losses[0] > 0
    np.testing.assert_allclose(losses, [float(loss) for loss in model.losses], rtol=1e-6)
    kernel = next(variable for variable in loaded.trainable_variables if "conv" in variable.name)
    kernel.assign(2 * kernel)  # they follow the weights, whoever changes them
    np.testing.assert_allclose([float(loss()) for loss in loaded.regularization_losses], [4 * losses[0]], rtol=1e-6)


def small(**of_convolution):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="swish", name="conv", **of_convolution)(image)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="fake_probability")(x))
    fill(named_weights(model).items())
    return model


@pytest.fixture(scope="module")
def of_any_size(tmp_path_factory):
    """A network for 8 x 8 pixels, as Keras has it, as a SavedModel, and its feature vector."""
    model, folder = small(), tmp_path_factory.mktemp("any")
    write_saved_model(model, folder / "classifier")
    write_feature_vector(model, folder / "vector")
    return (model, *(tf.saved_model.load(str(folder / name)) for name in ("classifier", "vector")))


class TestAnySize:
    # Larger, smaller, odd, by area of whole and of broken factors, one side only, a single pixel.
    @pytest.mark.parametrize("size", [(9, 7), (5, 3), (13, 40), (16, 16), (24, 32), (21, 17), (8, 31), (1, 1)], ids=str)
    def test_is_resized_as_detect_resizes(self, of_any_size, size):
        model, classifier, vector = of_any_size
        crops = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
        images = crops / np.float32(255)
        at_size = np.stack([resize_crop(crop, 8) for crop in crops]) / np.float32(255)
        for found, wanted in (
            (classifier(images), model(at_size, training=False)),
            (classifier(images, training=True), model(at_size, training=True)),
            (classifier.signatures["serving_default"](image=tf.constant(images))["fake_probability"], model(at_size)),
            (classifier.signatures["features"](image=tf.constant(images))["features"], features_of(model, at_size)),
            (vector(images), features_of(model, at_size)),
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-6)

    def test_at_the_network_s_own_nothing_is_rounded(self, of_any_size):
        model, classifier, _ = of_any_size
        images = images_of(model) * 0.99 + 0.003
        np.testing.assert_allclose(classifier(images), model(images), atol=1e-7)
        rounded = np.round(images * 255) / np.float32(255)
        assert np.abs(classifier(images).numpy() - classifier(rounded).numpy()).max() > 1e-6

    @pytest.mark.parametrize("size", [(11, 9), (20, 30)], ids=str)
    def test_lets_gradients_through(self, of_any_size, size):
        image = tf.constant(0.1 + 0.8 * np.random.default_rng(0).random((1, *size, 3), np.float32))
        with tf.GradientTape() as tape:
            tape.watch(image)
            score = of_any_size[1](image)
        gradient, step = tape.gradient(score, image).numpy(), 0.04
        wanted = (of_any_size[1](image + step) - of_any_size[1](image - step)).numpy()[0, 0] / (2 * step)
        np.testing.assert_allclose(gradient.sum(), wanted, rtol=0.05)


def features_of(model, images):
    return layer_output(model, "features", images)


class TestPixels:
    BAD = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf, "255": 255.0, "-1": -1.0, "just above": 1.06}

    @pytest.mark.parametrize("size", [(8, 8), (13, 9), (40, 31)], ids=str)
    @pytest.mark.parametrize("value", BAD.values(), ids=BAD)
    def test_that_are_none_have_no_answer_and_spoil_no_other(self, of_any_size, size, value):
        _, classifier, vector = of_any_size
        good = np.random.default_rng(0).random((3, *size, 3), np.float32)
        bad = good.copy()
        bad[1, size[0] // 2, 3, 1] = value
        signatures = classifier.signatures
        for function in (
            classifier,
            vector,
            lambda images: signatures["serving_default"](image=tf.constant(images))["fake_probability"],
            lambda images: signatures["features"](image=tf.constant(images))["features"],
        ):
            found = function(bad).numpy()
            assert np.isnan(found[1]).all()
            np.testing.assert_array_equal(found[[0, 2]], function(good).numpy()[[0, 2]])

    def test_that_overshoot_a_little_are_scored(self, of_any_size):
        images = np.linspace(-0.05, 1.05, 8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3)
        np.testing.assert_allclose(of_any_size[1](images), of_any_size[0](images), atol=1e-7)

    def test_are_not_checked_in_training(self, of_any_size):
        images = np.full((1, 8, 8, 3), 2, np.float32)
        np.testing.assert_allclose(of_any_size[1](images, training=True), of_any_size[0](images), atol=1e-7)


class TestTraining:
    @pytest.fixture
    def model(self):
        keras.utils.set_random_seed(0)
        return build("mobilenet_v1", input_shape=(32, 32, 3), alpha=0.25)

    def test_what_is_frozen_stays_frozen(self, tmp_path, model):
        assert 0 < len(model.trainable_variables) < len(model.variables)
        write_saved_model(model, tmp_path)
        loaded = tf.saved_model.load(str(tmp_path))
        assert [v.shape for v in loaded.trainable_variables] == [v.shape for v in model.trainable_variables]
        before = [variable.numpy() for variable in loaded.variables]
        loaded(images_of(model), training=True)
        for variable, old in zip(loaded.variables, before, strict=True):
            if "seed" not in variable.name:
                np.testing.assert_array_equal(variable, old)  # statistics of frozen norms are frozen, too

    def test_norms_follow_the_batch_in_training_only(self, tmp_path):
        model = build("meso4", input_shape=(32, 32, 3))
        write_saved_model(model, tmp_path)
        loaded, images = tf.saved_model.load(str(tmp_path)), images_of(model, 8)
        statistics = {v.name: v for v in loaded.variables if "moving" in v.name}
        assert len(statistics) == 8
        before = {name: variable.numpy() for name, variable in statistics.items()}
        loaded(images)
        assert all((variable.numpy() == before[name]).all() for name, variable in statistics.items())
        loaded(images, training=True)
        model(images, training=True)
        wanted = {v.value.name: v.numpy() for v in model.variables if "moving" in v.path}
        for name, variable in statistics.items():
            assert (variable.numpy() != before[name]).any()
            np.testing.assert_allclose(variable, wanted[name], rtol=1e-5, atol=1e-6)

    def test_gradients_are_those_of_keras(self, tmp_path):
        """Through swish as well, whose gradient TensorFlow does not derive but is told."""
        model = small()
        write_saved_model(model, tmp_path)
        loaded, images = tf.saved_model.load(str(tmp_path)), tf.constant(images_of(model, 4))
        found, wanted = (
            gradients(function, variables, images)
            for function, variables in (
                (loaded, loaded.trainable_variables),
                (model, [variable.value for variable in model.trainable_variables]),
            )
        )
        for ours, theirs in zip(found, wanted, strict=True):
            assert np.abs(theirs).max() > 0
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def gradients(function, variables, images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(function(images, training=True) - 1))
    return [gradient.numpy() for gradient in tape.gradient(loss, variables)]


class TestHub:
    @pytest.mark.slow  # test_hub_layers does so with the handles
    def test_layers_score_fine_tune_and_freeze(self, tmp_path):
        """In a process of its own: tf_keras is not to come where our tests use Keras 3."""
        keras.utils.set_random_seed(0)
        network = build("meso_inception4", input_shape=(64, 64, 3))
        write_saved_model(network, tmp_path / "classifier")
        write_feature_vector(network, tmp_path / "classifier" / "feature_vector")
        code = """
import sys
import numpy as np
import tensorflow_hub as hub
import tf_keras

folder = sys.argv[1]
tf_keras.utils.set_random_seed(0)
labels = np.tile([0.0, 1.0], 8)[:, None]
# One kind is brighter, so that whatever dropout draws, the loss falls.
images = np.random.default_rng(0).random((16, 64, 64, 3), np.float32)
images = (0.5 * images + 0.5 * labels[:, :, None, None]).astype(np.float32)
frozen = hub.KerasLayer(folder)
assert frozen.trainable_weights == [] and len(frozen.weights) > 0
before = np.asarray(frozen(images))
tuned = hub.KerasLayer(folder, trainable=True)
model = tf_keras.Sequential([tf_keras.layers.Input((64, 64, 3)), tuned])
assert len(model.trainable_weights) == 44, len(model.trainable_weights)
np.testing.assert_allclose(model.predict(images, verbose=0), before, atol=1e-5)
olds = [weight.numpy() for weight in model.weights]
model.compile(tf_keras.optimizers.Adam(1e-3), "binary_crossentropy")
losses = model.fit(images, labels, batch_size=16, epochs=8, verbose=0).history["loss"]
assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3]), losses
changed = {weight.name for weight, old in zip(model.weights, olds) if (weight.numpy() != old).any()}
assert sum("moving" in name for name in changed) == 8, changed
assert sum("kernel" in name for name in changed) >= 15, changed
assert np.abs(model.predict(images, verbose=0) - before).max() > 1e-3
vector = hub.KerasLayer(folder + "/feature_vector", trainable=True)
head = tf_keras.Sequential([tf_keras.layers.Input((64, 64, 3)), vector, tf_keras.layers.Dense(1)])
head.compile("sgd", "mse")
head.fit(images, labels, verbose=0)
print(np.asarray(vector(images)).shape)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "classifier")],
            capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | {"TF_USE_LEGACY_KERAS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip() == "(16, 16)"


def test_saved_model_cli_shows_the_three_signatures(exported):
    command = Path(sys.executable).with_name("saved_model_cli")
    done = subprocess.run(
        [command, "show", "--dir", exported, "--all"], capture_output=True, text=True, timeout=120, check=True
    )
    for name in ("serving_default", "image_bytes", "features"):
        assert f"signature_def['{name}']" in done.stdout
    assert "inputs['image_bytes'] tensor_info:\n        dtype: DT_STRING\n        shape: (-1)" in done.stdout
    assert "outputs['fake_probability'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, 1)" in done.stdout
    assert "inputs['image'] tensor_info:\n        dtype: DT_FLOAT\n        shape: (-1, -1, -1, 3)" in done.stdout


class TestSvm:
    def test_in_the_place_of_the_head_keeps_the_contract(self, tmp_path):
        model = with_svm(seeded("meso4"), svm_arrays(16))
        classifier, _ = check_contract(tmp_path, model)
        assert not any("vectors" in variable.name for variable in classifier.trainable_variables)


def svm_arrays(width, count=12):
    draw = np.random.default_rng(2)
    return SvmArrays(
        mean=draw.normal(0, 0.1, width), scale=draw.uniform(0.5, 2, width),
        support_vectors=draw.normal(0, 1, (count, width)), dual_coef=draw.normal(0, 1, count),
        intercept=-3.5, gamma=0.02, slope=1.5, offset=0.2,
    )  # fmt: skip


class TestRefusal:
    def test_of_a_network_of_any_size(self, tmp_path):
        image = keras.Input((None, None, 3))
        features = keras.layers.GlobalAveragePooling2D(name="features")(image)
        model = keras.Model(image, keras.layers.Dense(1, name="fake_probability")(features))
        with pytest.raises(ValueError, match="images or clips of one size"):
            write_saved_model(model, tmp_path / "x")

    def test_of_a_network_without_features(self, tmp_path):
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, keras.layers.Flatten()(image))
        with pytest.raises(ValueError, match="no layer 'features'"):
            write_saved_model(model, tmp_path / "x")

    def test_of_an_image_without_pixels(self, of_any_size):
        with pytest.raises(tf.errors.InvalidArgumentError):
            of_any_size[1](np.zeros((1, 0, 8, 3), np.float32))

    def test_of_another_backend(self, tmp_path, monkeypatch):
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
            write_saved_model(small(), tmp_path / "x")
        assert not (tmp_path / "x").exists()


def test_what_tensorflow_cannot_write_is_an_error_of_the_system(tmp_path):
    """On a full disk, too: the error names the file, and a verb prints it as one line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="tf_serving_warmup_requests; File too large"):
            write_warm_up(tmp_path, np.zeros((8, 64, 64, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
