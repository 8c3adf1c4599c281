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
from tensorflow.core.protobuf import saved_model_pb2

import tfdfd
from tfdfd.faces.crop import resize_crop
from tfdfd.hub import HubError
from tfdfd.hub.manifest import Manifest, version_in
from tfdfd.hub.tf_hub import CLASSES, FUNCTIONS
from tfdfd.models import build, spec
from tfdfd.models.srm import SRM
from tfdfd.weights import DEFAULT_MODEL, list_records

# The one whose SavedModel the repository carries.
PUBLISHED_MODEL = "tfdfd/meso_inception4"
ROOT = Path(__file__).parent.parent
CARRIED = ROOT / "saved_models" / "meso_inception4" / "1"

# A folder of the handle's name lies in the current folder, and nothing can be connected to.
IN_TF_KERAS = """
import json, os, socket, sys
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

# First uses, from an empty cache: CPU seconds of this process and its children, whatever else the machine does.
told["cached"] = os.path.exists("cache")
def seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
from tfdfd.runtime.equality import proof_crops

for handle, size in zip(sys.argv[1::2], sys.argv[2::2]):
    start = seconds()
    layer = hub.KerasLayer(handle)
    told[handle] = {"seconds": seconds() - start}
    crops = proof_crops(int(size)) / np.float32(255)
    told[handle]["scores"] = layer(crops).numpy()[:, 0].tolist()
start = seconds()
try:
    hub.KerasLayer("tfdfd/meso4.df")
except ValueError as error:
    told["absent"] = {"seconds": seconds() - start, "message": str(error)}

# The documented fine-tuning, of the default model.
layer = hub.KerasLayer("tfdfd/efficientnet_lite0", trainable=True)
model = tf_keras.Sequential([tf_keras.layers.InputLayer((128, 128, 3)), layer])
model.compile(tf_keras.optimizers.Adam(1e-4), "binary_crossentropy")
images, labels = np.load("images.npy")[:, ::2, ::2], np.load("labels.npy")
before = [variable.numpy() for variable in layer.trainable_weights]
losses = model.fit(images, labels, batch_size=4, epochs=3, verbose=0).history["loss"]
changed = sum(bool((old != new.numpy()).any()) for old, new in zip(before, layer.trainable_weights))
told["tuned"] = {"losses": losses, "changed": changed / len(before)}
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


# The largest file of weights for which the first use is to be quick, and the CPU seconds that it may take.
SMALL_BYTES, FIRST_USE_SECONDS = 10e6, 5


def save_examples(folder, examples):
    np.save(folder / "images.npy", examples[0])
    np.save(folder / "labels.npy", examples[1])


def run_child(code, folder, *words, python=sys.executable, **environment):
    """Runs a program in a folder, with empty caches; returns what it printed as JSON, and its standard error."""
    known = {"TFHUB_CACHE_DIR": str(folder / "cache"), "TFDFD_CACHE": str(folder / "weights")}
    done = subprocess.run(
        [python, "-c", code, *words], cwd=folder, env=os.environ | known | environment, capture_output=True,
        text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def small_records():
    """Bundled weights that are one file of at most 10 MB, by handle."""
    return {
        handle: record
        for handle, record in list_records().items()
        if record.carried and record.bytes < SMALL_BYTES and not (record.base or record.members)
    }


@pytest.fixture(scope="module")
def in_tf_keras(tmp_path_factory, crop, examples):
    """What `IN_TF_KERAS` prints, its standard error, and its folder."""
    pytest.importorskip("tensorflow_hub", reason="pip install 'tfdfd[hub]'")
    folder = tmp_path_factory.mktemp("tf_keras")
    Image.fromarray(crop).save(folder / "crop.png")
    save_examples(folder, examples)
    (folder / "tfdfd" / "meso_inception4" / "1").mkdir(parents=True)
    sizes = {
        name: (record.input_shape or spec(record.model).input_shape)[0] for name, record in small_records().items()
    }
    return *run_child(IN_TF_KERAS, folder, *(str(word) for pair in sizes.items() for word in pair)), folder


def test_keras_layer_scores_as_detect_and_is_tuned(in_tf_keras):
    told, _, _ = in_tf_keras
    assert abs(told["score"] - told["detect"]) <= 1e-5
    assert told["frozen"] == 0 and told["features"] == [1, 16]
    assert told["changed"] >= 0.9 * told["trainable"] > 0
    assert min(told["losses"][-2:]) < 0.7 * told["losses"][0]
    assert told["untouched"] == told["score"]
    assert not told["cached"]


def test_the_first_use_of_a_handle_takes_seconds(in_tf_keras):
    told, errors, folder = in_tf_keras
    records = small_records()
    assert DEFAULT_MODEL in records and len(records) >= 4 and "making a SavedModel" not in errors
    for handle, record in records.items():
        assert told[handle]["seconds"] < FIRST_USE_SECONDS, handle
        assert told[handle]["scores"] == pytest.approx(record.card["proof_scores"], abs=1e-4)
        check_servable(find_in(folder / "cache" / "tfdfd", handle) or CARRIED)
    assert told["absent"]["seconds"] < 1 and "tfdfd models pull tfdfd/meso4.df" in told["absent"]["message"]


def test_the_default_model_is_tuned_in_tf_keras(in_tf_keras):
    tuned = in_tf_keras[0]["tuned"]
    assert tuned["losses"][-1] < tuned["losses"][0] and tuned["changed"] > 0.9


def find_in(cache, handle):
    return next(cache.glob(f"from-weights/*/{handle.removeprefix('tfdfd/')}/1"), None)


def check_servable(folder):
    """As TensorFlow Serving reads it: a number as its name, the tag `serve`, signatures and warm-up requests."""
    assert folder.name == "1" and (folder / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 1000
    for part, wanted in (
        (".", {"serving_default", "image_bytes", "features"}),
        ("feature_vector", {"serving_default"}),
    ):
        graph = saved_model_pb2.SavedModel.FromString((folder / part / "saved_model.pb").read_bytes()).meta_graphs[0]
        assert set(graph.meta_info_def.tags) == {"serve"}
        signatures = {name for name in graph.signature_def if not name.startswith("__")}
        assert signatures == wanted
        assert (folder / part / "variables" / "variables.index").is_file()
    assert json.loads((folder / "model_card.json").read_text("utf-8"))["files"]


# A user's program on any backend; `fit` and what the network answers afterwards, loaded again from its weights.
ON_A_BACKEND = """
import json, sys
import numpy as np, keras, tfdfd
network = tfdfd.from_preset(sys.argv[1])
images, labels = np.load("images.npy"), np.load("labels.npy")
told = {"backend": keras.backend.backend()}
told["scores"] = np.asarray(keras.ops.convert_to_numpy(network(images, training=False)))[:, 0].tolist()
network.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", run_eagerly=told["backend"] == "torch")
before = [keras.ops.convert_to_numpy(weight) for weight in network.trainable_weights]
told["losses"] = network.fit(images, labels, batch_size=4, epochs=3, verbose=0).history["loss"]
pairs = zip(before, network.trainable_weights)
changed = [bool((old != keras.ops.convert_to_numpy(new)).any()) for old, new in pairs]
told["changed"] = sum(changed) / len(changed)
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_default_model_is_tuned_on_other_backends(backend, tmp_path, examples):
    python = os.environ.get("TFDFD_TORCH", sys.executable) if backend == "torch" else sys.executable
    if subprocess.run([python, "-c", f"import {backend}"], capture_output=True).returncode:
        pytest.skip(f"no {backend}: install it, or name a Python that has it in $TFDFD_{backend.upper()}")
    save_examples(tmp_path, examples)
    expected = np.asarray(build("efficientnet_lite0", weights=DEFAULT_MODEL)(examples[0], training=False))[:, 0]
    told, _ = run_child(ON_A_BACKEND, tmp_path, DEFAULT_MODEL, python=python, KERAS_BACKEND=backend)
    assert told["backend"] == backend
    np.testing.assert_allclose(told["scores"], expected, atol=1e-4)
    assert told["losses"][-1] < told["losses"][0] and told["changed"] > 0.9


@pytest.mark.slow  # the smaller model is tuned in Keras, the default in tf_keras
def test_the_default_model_is_tuned_in_keras(examples):
    """The documented layer, on TensorFlow."""
    image = keras.Input((256, 256, 3))
    layer = tfdfd.HubLayer(DEFAULT_MODEL, trainable=True)
    model = keras.Model(image, layer(image))
    before = model.predict(examples[0], verbose=0)
    np.testing.assert_allclose(before, np.asarray(tfdfd.from_preset(DEFAULT_MODEL)(examples[0])), atol=1e-5)
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", jit_compile=False)
    weights = [keras.ops.convert_to_numpy(weight) for weight in layer.trainable_weights]
    losses = model.fit(*examples, batch_size=4, epochs=3, verbose=0).history["loss"]
    pairs = zip(weights, layer.trainable_weights, strict=True)
    changed = sum(bool((old != keras.ops.convert_to_numpy(new)).any()) for old, new in pairs)
    assert losses[-1] < losses[0] and changed > 0.9 * len(weights) > 0


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
    for handle, size, trainable in ((sys.argv[1], 256, False), (sys.argv[2], None, True)):
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
