"""Stored bottleneck values: those of the network, computed once, never those of something else, and a head on them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.test_training import Silent
from tfdfd.data.crops import Faces, faces_of
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.models import build
from tfdfd.pipelines.datasets import eval_pipeline
from tfdfd.recipes import find_recipe
from tfdfd.training import TrainingError, bottlenecks
from tfdfd.training.bottlenecks import BottleneckCache, SoftmaxLayer, folder_beside

SHAPE = (64, 64, 3)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(1)
    return build("meso4", input_shape=SHAPE)


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """48 crops, in pieces of 16."""
    monkeypatch.setattr(bottlenecks, "PIECE", 16)
    make_faces(tmp_path / "set", videos=12)
    return faces_of(tmp_path / "set")


@pytest.fixture
def cache(network, faces):
    return BottleneckCache(network, "meso4", {}, folder_beside(faces))


def part(faces, first, last):
    return Faces(faces.root, faces.rows[first:last])


def all_of(values):
    return np.concatenate([*values.blocks(7)])


def test_values_are_the_networks_own_in_the_order_of_the_crops(network, cache, faces):
    values = cache.values(faces)
    expected = keras.Model(network.input, network.get_layer("features").output).predict(
        eval_pipeline(faces, SHAPE[:2], 48, split=None), verbose=0
    )
    np.testing.assert_allclose(all_of(values), expected, rtol=1e-5, atol=1e-6)
    assert (len(values), values.width, values.computed, values.removed) == (48, 16, 48, 0)
    np.testing.assert_array_equal(values.take([40, 3, 3]), all_of(values)[[40, 3, 3]])
    assert cache.path.parent == faces.root / "bottlenecks"
    assert json.loads((cache.path / "network.json").read_text())["layer"] == "features"


def test_only_new_crops_are_computed(network, cache, faces, monkeypatch):
    expected = all_of(cache.values(faces))
    shutil.rmtree(cache.path)
    assert cache.values(part(faces, 0, 20)).computed == 20
    before = {file.name: file.stat().st_mtime_ns for file in cache.path.glob("*.npy")}
    told = []
    values = BottleneckCache(network, "meso4", {}, folder_beside(faces)).values(faces, lambda *done: told.append(done))
    assert values.computed == 28
    assert told == [(16, 28), (28, 28)]
    np.testing.assert_array_equal(all_of(values), expected)
    assert {name: (cache.path / name).stat().st_mtime_ns for name in before} == before
    monkeypatch.setattr(cache._body, "predict", None)
    assert cache.values(part(faces, 5, 9)).computed == 0


def test_the_same_picture_is_computed_once(cache, faces):
    shutil.copy(faces.path(0), faces.path(1))
    values = cache.values(faces)
    assert values.computed == 47
    np.testing.assert_array_equal(*values.take([0, 1]))


def test_a_picture_with_other_bytes_is_computed_anew_whatever_its_table_says(cache, faces):
    before = all_of(cache.values(faces))
    cv2.imwrite(faces.path(3), np.full(SHAPE, 90, np.uint8))
    values = cache.values(faces)
    assert values.computed == 1
    changed = np.flatnonzero((all_of(values) != before).any(axis=1))
    assert changed.tolist() == [3]


def flip(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[:-100], lambda data: b""], ids=["flipped", "cut", "empty"])
def test_a_damaged_piece_alone_is_computed_anew(cache, faces, damage):
    before = all_of(cache.values(faces))
    piece = sorted(cache.path.glob("*.npy"))[1]
    sound = piece.read_bytes()
    piece.write_bytes(damage(sound))
    values = cache.values(faces)
    assert (values.computed, values.removed) == (16, 1)
    np.testing.assert_array_equal(all_of(values), before)
    assert piece.read_bytes() == sound


def test_other_weights_arguments_sizes_and_layers_are_other_caches(network, cache, faces):
    cache.values(faces)
    keras.utils.set_random_seed(2)
    others = [
        BottleneckCache(build("meso4", input_shape=SHAPE), "meso4", {}, folder_beside(faces)),
        BottleneckCache(network, "meso4", {"dropout": 0.5}, folder_beside(faces)),
        BottleneckCache(network, "meso_inception4", {}, folder_beside(faces)),
        BottleneckCache(network, "meso4", {}, folder_beside(faces), layer="fake_probability"),
        BottleneckCache(build("meso4", input_shape=(48, 48, 3)), "meso4", {}, folder_beside(faces)),
    ]
    assert len({cache.path, *(other.path for other in others)}) == 6
    # What was put there by hand is not of this network, and is found out.
    shutil.copytree(cache.path, others[0].path)
    values = others[0].values(faces)
    assert (values.computed, values.removed) == (48, 3)


def test_the_head_is_no_part_of_it(network, cache, faces):
    other = keras.models.clone_model(network)
    other.set_weights(network.get_weights())
    other.get_layer("fake_probability").set_weights([np.ones((16, 1)), np.ones(1)])
    assert BottleneckCache(other, "meso4", {"freeze": "all"}, folder_beside(faces)).path == cache.path


def test_what_was_computed_before_a_bad_crop_stays(cache, faces):
    with open(faces.path(20), "wb") as file:
        file.write(b"\x89PNG, but no more")
    with pytest.raises(TrainingError, match=f"{os.path.basename(faces.path(20))}.*cannot be decoded"):
        cache.values(faces)
    assert cache.values(part(faces, 0, 16)).computed == 0
    os.remove(faces.path(20))
    with pytest.raises(TrainingError, match=f"{os.path.basename(faces.path(20))} cannot be read: No such file"):
        cache.values(faces)


def test_a_full_disk_is_told_and_what_was_computed_before_stays(cache, faces, monkeypatch):
    write, written = bottlenecks.write_atomically, []

    def full(path, data):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(bottlenecks, "write_atomically", full)
    with pytest.raises(TrainingError, match=r"\.npy could not be written: .*No space left.*free some space"):
        cache.values(faces)
    assert cache.values(faces).computed == 32


def test_where_the_set_cannot_be_written_it_is_in_the_users_cache(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDFD_CACHE", str(tmp_path / "user"))
    (faces.root / "bottlenecks").write_text("in the way")
    assert folder_beside(faces) == tmp_path / "user" / "bottlenecks"


def test_values_that_are_no_numbers_are_told(network, faces):
    broken = keras.models.clone_model(network)
    broken.set_weights([values * np.nan for values in network.get_weights()])
    with pytest.raises(TrainingError, match=r"meso4 computes features of .*_0\.png that are not finite"):
        BottleneckCache(broken, "meso4", {}, folder_beside(faces)).values(faces)


def test_only_rows_of_numbers_of_layers_that_there_are(network, tmp_path):
    with pytest.raises(ValueError, match=r"meso4 has no layer 'logits'"):
        BottleneckCache(network, "meso4", {}, tmp_path, layer="logits")
    with pytest.raises(ValueError, match=r"of meso4 gives \(None, 64, 64, 8\); expected \(batch, width\)"):
        BottleneckCache(network, "meso4", {}, tmp_path, layer="block1_conv")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_descent_and_folding_are_kerass(momentum):
    draw = np.random.default_rng(0)
    values, labels = draw.normal(size=(40, 5, 7)).astype("float32"), draw.integers(0, 2, (40, 5))
    layer = SoftmaxLayer(7, seed=3, rate=0.05, momentum=momentum)
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(2, "softmax")])
    model.set_weights([layer.kernel, layer.bias])
    model.compile(keras.optimizers.SGD(0.05, momentum), "sparse_categorical_crossentropy")
    for some, known in zip(values, labels, strict=True):
        layer.step(some, known)
        model.train_on_batch(some, known)
    np.testing.assert_allclose(layer.kernel, model.get_weights()[0], atol=1e-5)
    np.testing.assert_allclose(layer.bias, model.get_weights()[1], atol=1e-5)
    kernel, bias = layer.folded()
    sigmoid = 1 / (1 + np.exp(-(values[0] @ kernel + bias)))
    np.testing.assert_allclose(sigmoid[:, 0], model.predict(values[0], verbose=0)[:, 1], atol=1e-5)
    logits = values[0] @ layer.kernel + layer.bias
    np.testing.assert_allclose(sigmoid[:, 0], np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1), atol=1e-6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """ImageNet weights of Keras's layout, but random, of a small MobileNet."""
    keras.utils.set_random_seed(4)
    file = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    keras.applications.MobileNet((64, 64, 3), alpha=0.25, include_top=False, weights=None).save_weights(file)
    return file


def log_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def recipe(weights, *settings):
    found = find_recipe("s3-mobilenet-v1-bottleneck")
    return found.changed(["size=64", "arguments.alpha=0.25", f"weights=imagenet:{weights}", *settings])


def train(recipe, faces, folder, report=None):
    from tfdfd.training.procedures import train

    return train(recipe, faces.root, folder, report or Silent())


def stored(folder):
    from tfdfd.weights.reading import read_safetensors

    return read_safetensors(folder / "weights.safetensors")


def test_a_run_is_the_frozen_network_with_the_trained_head(weights, faces, tmp_path):
    report = Silent()
    result = train(recipe(weights, "calibration=none", "steps=250"), faces, tmp_path / "run", report)
    assert [row["step"] for row in log_of(tmp_path / "run")] == [100, 200, 250]
    assert (tmp_path / "run" / "log.csv").read_text().startswith("step,learning_rate,loss,accuracy,val_loss,val_acc")
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    assert result["values_computed"] == 40
    assert "train: values of 24 of 24 crops were computed" in report.notes

    from tfdfd.models import load
    from tfdfd.weights.store import locate

    model = load(*locate(tmp_path / "run"))
    val = Faces(faces.root, tuple(row for row in faces.rows if row.split == "val"))
    scores = model.predict(eval_pipeline(val, SHAPE[:2], 32, split=None), verbose=0)[:, 0]
    labels = np.array([row.label for row in val.rows])
    assert np.mean((scores >= 0.5) == labels) == pytest.approx(result["val_crop_accuracy"])
    losses = -np.log(np.where(labels, scores, 1 - scores))
    assert losses.mean() == pytest.approx(log_of(tmp_path / "run")[-1]["val_loss"], abs=1e-5)
    fresh = build("mobilenet_v1", f"imagenet:{weights}", SHAPE, alpha=0.25)
    for ours, theirs in zip(model.layers[:-1], fresh.layers[:-1], strict=True):
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_any_frozen_network_can_be_trained_so(faces, tmp_path):
    file = tmp_path / "mobilenet_v2.weights.h5"
    keras.applications.MobileNetV2((64, 64, 3), include_top=False, weights=None).save_weights(file)
    settings = ["procedure=bottleneck", "steps=30", "optimizer=sgdm", "size=64", f"weights=imagenet:{file}"]
    result = train(find_recipe("s4-mobilenet-v2-srm").changed(settings), faces, tmp_path / "run")
    assert result["values_computed"] == 40
    assert json.loads((tmp_path / "run" / "weights.json").read_text())["model"] == "srm_mobilenet_v2"


KILLED = """
import json, os, sys
from tests.test_bottlenecks import Silent, bottlenecks, recipe
from tfdfd.training.procedures import train

weights, faces, folder = json.loads(sys.argv[1])
bottlenecks.PIECE = 16
store = bottlenecks.BottleneckCache._stored

def dying(self, piece):
    store(self, piece)
    os.kill(os.getpid(), 9)

bottlenecks.BottleneckCache._stored = dying
train(recipe(weights, "steps=50"), faces, folder, Silent())
"""


def test_a_killed_run_goes_on_to_the_same_weights(weights, faces, tmp_path):
    train(recipe(weights, "steps=50"), faces, tmp_path / "whole")
    shutil.rmtree(faces.root / "bottlenecks")
    words = json.dumps([str(weights), str(faces.root), str(tmp_path / "killed")])
    child = subprocess.run([sys.executable, "-c", KILLED, words], capture_output=True, timeout=300)
    assert child.returncode == -9, child.stderr[-2000:]
    result = train(recipe(weights, "steps=50"), faces, tmp_path / "killed")
    assert result["values_computed"] == 24
    whole, killed = stored(tmp_path / "whole"), stored(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], killed[name])
    train(recipe(weights, "steps=50", "seed=1"), faces, tmp_path / "seeded")
    assert (stored(tmp_path / "seeded")["fake_probability/kernel"] != whole["fake_probability/kernel"]).any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["weights=none"], r"keeps mobilenet_v1 unchanged, so it must have weights: set weights=imagenet"),
        (["steps=none"], r"counts steps, not epochs: set steps=2500"),
        (["arguments.freeze=block_3"], r"received arguments.freeze=block_3"),
        (["optimizer=adam"], r"takes optimizer=sgdm only; received optimizer=adam"),
        (["augment=s1"], r"takes augment=none only; received augment=s1"),
        (["ema=0.9"], r"takes ema=none only; received ema=0.9"),
    ],
)
def test_settings_of_no_use_are_refused(weights, faces, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        train(recipe(weights, *settings), faces, tmp_path / "run")


def test_a_rate_that_is_too_high_is_told(weights, faces, tmp_path):
    with pytest.raises(
        TrainingError, match=r"after step 100 the network's outputs are not finite: lower learning_rate"
    ):
        train(recipe(weights, "learning_rate=1e300", "momentum=0.9"), faces, tmp_path / "run")


def test_real_faces_and_imagenet_weights(data, tmp_path):
    """Crops of FaceForensics++ and DFDC: few videos, so what is shown is that it learns what it trains on."""
    rows = []
    for number, file in enumerate(sorted((data / "crops").glob("*/*/*.png"))):
        name = f"{number:03}.png"
        shutil.copy(file, tmp_path / name)
        label, video = int(file.parent.name == "fake"), file.name.split("-")[0]
        split = "val" if number % 4 == 0 else "train"
        row = FaceRow(name, "made", f"{label}{video}{split}.mp4", number, 0.0, 0, (0, 0, 9, 9), None, label, "any", ())
        rows.append(replace(row, split=split))
    assert len({(row.split, row.label) for row in rows}) == 4
    write_table(tmp_path / "faces.csv", rows, FaceRow)
    file = data / "imagenet" / "mobilenet_v1_0.5_no_top.weights.h5"
    result = train(
        find_recipe("s3-mobilenet-v1-bottleneck").changed([f"weights=imagenet:{file}"]),
        faces_of(tmp_path),
        tmp_path / "run",
    )
    losses = [row["loss"] for row in log_of(tmp_path / "run")]
    assert len(losses) == 25 and losses[-1] < losses[0] / 2
    assert result["train_accuracy"] > 0.9
    assert result["training_seconds"] < 20
