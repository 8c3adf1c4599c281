"""Published models in the frameworks: `hub.KerasLayer` in a process of its own, as a user has it, and our layer."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfdfd
from tfdfd.faces.crop import resize_crop
from tfdfd.hub import HubError
from tfdfd.hub.manifest import Manifest, version_in
from tfdfd.hub.tf_hub import CLASSES, FUNCTIONS
from tfdfd.models import build
from tfdfd.models.srm import SRM

# The one whose SavedModel the repository carries.
PUBLISHED_MODEL = "tfdfd/meso_inception4"
ROOT = Path(__file__).parent.parent
CARRIED = ROOT / "saved_models" / "meso_inception4" / "1"

# A folder of the handle's name lies in the current folder, and nothing can be connected to.
IN_TF_KERAS = """
import json, socket
def offline(*_): raise AssertionError("the network was asked")
socket.getaddrinfo = socket.socket.connect = offline
import tensorflow_hub as hub, tfdfd
import numpy as np, tf_keras
from PIL import Image

crop = np.asarray(Image.open("crop.png"))[None] / np.float32(255)
layer = hub.KerasLayer("tfdfd/meso_inception4")
told = {"score": float(layer(crop)[0, 0]), "frozen": len(layer.trainable_weights)}
with tfdfd.Detector("tfdfd/meso_inception4", "none", runtime="tensorflow") as detector:
    told["detect"] = detector.detect("crop.png").fake_probability
told["features"] = list(hub.load("tfdfd/meso_inception4/1/feature_vector")(crop).shape)

tf_keras.utils.set_random_seed(1)
tuned = hub.KerasLayer("tfdfd/meso_inception4/1", trainable=True)
model = tf_keras.Sequential([tf_keras.layers.Input((256, 256, 3)), tuned])
model.compile(tf_keras.optimizers.Adam(1e-3), "binary_crossentropy")
before = [variable.numpy() for variable in tuned.trainable_weights]
images, labels = np.load("images.npy"), np.load("labels.npy")
told["losses"] = model.fit(images, labels, batch_size=4, epochs=8, verbose=0).history["loss"]
told["changed"] = sum(bool((old != new.numpy()).any()) for old, new in zip(before, tuned.trainable_weights))
told["trainable"] = len(before)
told["untouched"] = float(layer(crop)[0, 0])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def crop(astronaut):
    """A face, uint8 (256, 256, 3)."""
    return np.ascontiguousarray(astronaut[:256, 96:352])


@pytest.fixture(scope="module")
def examples(crop):
    """Float32 images (4, 256, 256, 3): plain ones, and noisy ones, which are to be called fake."""
    noise = np.random.default_rng(0)
    real = np.stack([crop, np.roll(crop, 8, axis=1)])
    fake = np.clip(real + noise.normal(0, 60, real.shape), 0, 255)
    return np.concatenate([real, fake]).astype(np.float32) / 255, np.repeat([0.0, 1.0], 2).astype(np.float32)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for variable in ("TFDFD_HUB", "TFDFD_HUB_SHA256"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def layer():
    return tfdfd.HubLayer(PUBLISHED_MODEL)


def test_keras_layer_scores_as_detect_and_is_tuned(tmp_path, crop, examples):
    pytest.importorskip("tensorflow_hub", reason="pip install 'tfdfd[hub]'")
    Image.fromarray(crop).save(tmp_path / "crop.png")
    np.save(tmp_path / "images.npy", examples[0])
    np.save(tmp_path / "labels.npy", examples[1])
    (tmp_path / "tfdfd" / "meso_inception4" / "1").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", IN_TF_KERAS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TFHUB_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert abs(told["score"] - told["detect"]) <= 1e-5
    assert told["frozen"] == 0 and told["features"] == [1, 16]
    assert told["changed"] >= 0.9 * told["trainable"] > 0
    assert min(told["losses"][-2:]) < 0.7 * told["losses"][0]
    assert told["untouched"] == told["score"]
    assert not (tmp_path / "cache").exists()


def test_our_layer_scores_as_the_network(layer, crop, examples):
    network = build("meso_inception4", weights=PUBLISHED_MODEL)
    expected = np.asarray(network(examples[0], training=False))
    np.testing.assert_allclose(np.asarray(layer(examples[0])), expected, atol=1e-6)
    # Frozen is frozen, also where the model around it trains.
    np.testing.assert_allclose(np.asarray(layer(examples[0], training=True)), expected, atol=1e-6)
    assert layer.trainable_weights == [] and len(layer.weights) == len(network.weights)


def test_our_layer_is_tuned_saved_and_loaded(layer, examples, tmp_path):
    keras.utils.set_random_seed(1)
    tuned = tfdfd.HubLayer(f"{PUBLISHED_MODEL}/1", trainable=True)
    model = keras.Sequential([keras.Input((256, 256, 3)), tuned])
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", jit_compile=False)
    before = [keras.ops.convert_to_numpy(weight) for weight in tuned.trainable_weights]
    losses = model.fit(*examples, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert min(losses[-2:]) < 0.7 * losses[0]
    after = [keras.ops.convert_to_numpy(weight) for weight in tuned.trainable_weights]
    changed = sum(bool((old != new).any()) for old, new in zip(before, after, strict=True))
    assert changed >= 0.9 * len(before) > 0
    scores = model.predict(examples[0], verbose=0)

    model.save_weights(tmp_path / "tuned.weights.h5")
    fresh = keras.Sequential([keras.Input((256, 256, 3)), tfdfd.HubLayer(PUBLISHED_MODEL)])
    assert np.abs(fresh.predict(examples[0], verbose=0) - scores).max() > 1e-3
    fresh.load_weights(tmp_path / "tuned.weights.h5")
    np.testing.assert_allclose(fresh.predict(examples[0], verbose=0), scores, atol=1e-6)

    model.save(tmp_path / "tuned.keras")
    loaded = keras.models.load_model(tmp_path / "tuned.keras")
    assert loaded.layers[-1].handle == f"{PUBLISHED_MODEL}/1" and loaded.layers[-1].trainable
    np.testing.assert_allclose(loaded.predict(examples[0], verbose=0), scores, atol=1e-6)


def test_our_feature_layer_takes_a_head(examples):
    image = keras.Input((256, 256, 3))
    features = tfdfd.HubLayer(f"{PUBLISHED_MODEL}/feature_vector")(image)
    assert features.shape == (None, 16)
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(features))
    assert len(model.trainable_weights) == 2
    network = build("meso_inception4", weights=PUBLISHED_MODEL)
    expected = keras.Model(network.input, network.get_layer("features").output)(examples[0], training=False)
    found = keras.Model(image, features)(examples[0], training=False)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("size", [(299, 299), (100, 131), (520, 700)], ids=str)
def test_our_layer_takes_images_of_any_size(layer, astronaut, size):
    crop = cv2.resize(astronaut, size[::-1])
    found = layer(crop[None] / np.float32(255))
    wanted = layer(resize_crop(crop, 256)[None] / np.float32(255))
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(tf.saved_model.load(str(CARRIED))(crop[None] / np.float32(255))), np.asarray(wanted), atol=1e-5
    )
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layer(image))
    np.testing.assert_allclose(model.predict(crop[None] / np.float32(255), verbose=0), np.asarray(wanted), atol=1e-5)


def test_our_layer_answers_nan_to_what_is_no_picture(layer, examples):
    images = examples[0].copy()
    images[0, 3, 4, 1], images[1], images[2] = np.nan, images[1] * 255, images[2] * 2 - 1
    found = np.asarray(layer(images))
    assert np.isnan(found[:3]).all()
    np.testing.assert_array_equal(found[3], np.asarray(layer(examples[0]))[3])
    assert np.isfinite(np.asarray(layer(images[1:], training=True))).all()
    assert np.isnan(np.asarray(layer(np.full((1, 256, 256, 3), 128, np.uint8)))).all()


# Two devices; import tfdfd after Keras, and nothing of it besides.
IN_A_STRATEGY = """
import sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, tfdfd
images, labels = np.load("images.npy"), np.load("labels.npy")
loaded = keras.models.load_model("saved.keras")
np.testing.assert_allclose(loaded.predict(images, verbose=0), np.load("scores.npy"), atol=1e-6)
with tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).scope():
    for handle, size, trainable in ((sys.argv[1], 256, True), (sys.argv[1], 256, False), (sys.argv[2], None, True)):
        image = keras.Input((size, size, 3))
        features = tfdfd.HubLayer(handle, trainable=trainable)
        model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(features(image)))
        model.compile("sgd", "binary_crossentropy")
        before = [weight.numpy() for weight in features.weights]
        losses = model.fit(images, labels, batch_size=4, verbose=0).history["loss"]
        assert np.isfinite(losses).all()
        changed = any((old != weight.numpy()).any() for old, weight in zip(before, features.weights))
        assert changed == trainable, (handle, trainable)
"""


def test_our_layer_is_loaded_by_the_package_s_import_and_made_in_a_strategy_s_scope(layer, examples, tmp_path):
    image = keras.Input((256, 256, 3))
    model = keras.Model(image, SRM()(layer(image)[:, None, None] * np.ones((1, 8, 8, 3), np.float32)))
    model.save(tmp_path / "saved.keras")
    np.save(tmp_path / "scores.npy", model.predict(examples[0], verbose=0))
    np.save(tmp_path / "images.npy", examples[0])
    np.save(tmp_path / "labels.npy", examples[1])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_STRATEGY, PUBLISHED_MODEL, "tfdfd/mobilenet_v1/feature_vector"],
        cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"TFHUB_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_everything_of_ours_that_a_saved_model_may_hold_is_registered():
    found = {}
    for path in sorted((ROOT / "tfdfd").rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if "register_keras_serializable" in "".join(map(ast.unparse, getattr(node, "decorator_list", []))):
                module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found.setdefault((module, type(node)), set()).add(node.name)
    known = ((CLASSES, ast.ClassDef), (FUNCTIONS, ast.FunctionDef))
    assert found == {(module, kind): set(names) for table, kind in known for module, names in table.items()}


def test_our_layer_computes_in_float32_within_a_mixed_model(layer, examples):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tfdfd.HubLayer(PUBLISHED_MODEL)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(np.asarray(mixed(examples[0])), np.asarray(layer(examples[0])))


def test_another_network_of_that_name_is_refused(tmp_path, monkeypatch):
    """As if another version of the package built another network by the name in the card."""
    folder = tmp_path / "meso_inception4" / "1"
    shutil.copytree(CARRIED, folder)
    card = json.loads((folder / "model_card.json").read_text("utf-8"))
    (folder / "model_card.json").write_text(json.dumps(card | {"model": "meso4"}), encoding="utf-8")
    manifest = Manifest().with_version("meso_inception4", 1, version_in(folder, "m"))
    (tmp_path / "manifest.json").write_bytes(manifest.encoded())
    monkeypatch.setenv("TFDFD_HUB", str(tmp_path))
    with pytest.raises(HubError, match="does not build the network of .* variables.*hub.KerasLayer runs it"):
        tfdfd.HubLayer(PUBLISHED_MODEL)


def test_other_answers_than_the_published_ones_are_refused(monkeypatch):
    """As if a layer of it computed something else: the variables fit, the scores do not."""

    def other(*words, **arguments):
        network = build(*words, **arguments)
        next(layer for layer in network.layers if isinstance(layer, keras.layers.LeakyReLU)).negative_slope = 0.2
        return network

    monkeypatch.setattr("tfdfd.hub.layer.build", other)
    with pytest.raises(HubError, match="does not build the network of .*differs by"):
        tfdfd.HubLayer(PUBLISHED_MODEL)


def test_a_published_handle_is_wanted():
    with pytest.raises(HubError, match="nobody has trained weights for tfdfd/resnet152"):
        tfdfd.HubLayer("tfdfd/resnet152")
