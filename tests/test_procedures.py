"""The trainings that do more than fit one network: SVM, ensemble and clips, each to weights that load again."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.test_bottlenecks import log_of
from tests.test_training import Silent
from tfdfd.data.crops import clips_of, faces_of
from tfdfd.data.pair_sets import blended_row
from tfdfd.data.tables import FaceRow
from tfdfd.models import build, load
from tfdfd.pipelines.datasets import clip_pipeline, eval_pipeline
from tfdfd.recipes import find_recipe
from tfdfd.training import TrainingError
from tfdfd.training.crop_set import ClipSet, CropSet
from tfdfd.training.procedures import source_groups
from tfdfd.training.svm import fit_svm
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import save_weights
from tfdfd.weights.store import digest, locate

PLAIN = ("augment=none", "schedule=constant", "limit=none")
SIZE = (64, 64)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36)
    return folder


def quick(name, *settings):
    return find_recipe(name).quick().changed(settings)


def train(recipe, faces, folder, report=None):
    from tfdfd.training.procedures import train

    return train(recipe, faces, folder, report or Silent())


def stored(folder):
    return read_safetensors(folder / "weights.safetensors")


def assert_same_weights(one, other):
    one, other = stored(one), stored(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


KILLED = """
import json, os, sys
import tfdfd.training.engine as engine
from tests.test_procedures import Silent, train
from tfdfd.training.recipe import Recipe

recipe, faces, folder, die_at = json.loads(sys.argv[1])
engine.SECONDS_BETWEEN_SAVES = 0

class Dying(Silent):
    def step(self, *where):
        super().step(*where)
        if self.steps == die_at:
            os.kill(os.getpid(), 9)

train(Recipe.from_settings(recipe), faces, folder, Dying())
"""


def kill(recipe, faces, folder, step):
    """A run in a process of its own, which is killed at that step of all."""
    words = json.dumps([recipe.settings(), str(faces), str(folder), step])
    child = subprocess.run([sys.executable, "-c", KILLED, words], capture_output=True, timeout=300)
    assert child.returncode == -9, child.stderr[-2000:]


# The SVM in the place of the last layer.

SVM = quick("s1-meso-inception4-svm", *PLAIN, "epochs=2", "learning_rate=0.003")


@pytest.fixture(scope="module")
def svm_run(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("svm") / "run"
    return folder, train(SVM, faces, folder)


def test_the_svm_is_fitted_on_training_features_and_loads_as_a_network(svm_run, faces):
    folder, result = svm_run
    assert result["svm"]["groups"] == 18
    model = load(*locate(folder))
    assert model.name == "meso_inception4_svm"
    assert model.get_layer("fake_probability").support_vectors == result["svm"]["support_vectors"]
    val = [row for row in faces_of(faces).rows if row.split == "val"]
    scores = model.predict(eval_pipeline(faces, SIZE, split="val"), verbose=0)[:, 0]
    labels = np.array([row.label for row in val])
    assert result["val_auc"] == np.mean(scores[labels == 1][:, None] > scores[labels == 0]) > 0.9

    body = keras.Model(model.input, model.get_layer("features").output)
    rows = [row for row in faces_of(faces).rows if row.split == "train"]
    arrays = fit_svm(
        body.predict(eval_pipeline(faces, SIZE, 8, split="train"), verbose=0),
        [row.label for row in rows],
        groups=[f"made\0source\0{row.source_id[0]}" for row in rows],
    )
    expected = arrays.fake_probability(body.predict(eval_pipeline(faces, SIZE, split="val"), verbose=0))[:, 0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_detect_takes_the_network_with_its_svm(svm_run, run_tfdfd, tmp_path):
    folder, result = svm_run
    words = ("detect", "tfdfd/samples/genuine.mp4", "--model", folder, "--frames", 2, "--quiet", "--json", "-")
    code, out, err = run_tfdfd(*words)
    assert code == 0, err
    told = json.loads(out)
    assert told["model"]["threshold"] == result["threshold"]
    assert 0 <= told["results"][0]["fake_probability"] <= 1


@pytest.mark.slow  # test_training kills a run in the same folder of work
def test_an_svm_run_that_was_killed_ends_in_the_same_svm(svm_run, faces, tmp_path):
    kill(SVM, faces, tmp_path / "run", 12)
    train(SVM, faces, tmp_path / "run")
    assert_same_weights(tmp_path / "run", svm_run[0])


def row(video, label, *sources):
    return FaceRow(f"{video}.png", "made", video, 0, 0.0, 0, (0, 0, 9, 9), None, label, "any", sources)


def test_fifths_keep_together_what_shares_a_source():
    rows = [row(str(number), number % 2, str(number)) for number in range(6)]
    names = source_groups([*rows, row("x", 1, "0", "3"), blended_row(rows[4]), row("y", 0)])
    assert names[0] == names[3] == names[6]
    assert names[4] == names[7]
    assert len(set(names)) == 6
    assert source_groups(rows[:4]) is None  # fewer than fifths
    one_of_fakes = [*rows[::2], *(row(str(n), 0, str(n)) for n in range(8, 14)), rows[1]]
    assert source_groups(one_of_fakes) is None


def test_a_network_that_no_svm_can_be_fitted_on_is_told(tmp_path):
    make_faces(tmp_path / "few", videos=8, frames=1)
    with pytest.raises(TrainingError, match="the network is trained, but no SVM could be fitted on its features: exp"):
        train(SVM, tmp_path / "few", tmp_path / "run")


# The ensemble of two trained bodies.

RESEPTION = (*PLAIN, "order=shuffled", "gradient_noise=none", "gradient_flow=false", "loss_scale=false", "limit=8")


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Weights of both Reseptions, with cards; random, for training them takes a minute."""
    keras.utils.set_random_seed(5)
    files = []
    for name in ("reseption_v1", "reseption_v2"):
        file = tmp_path_factory.mktemp("members") / f"{name}.safetensors"
        save_weights(build(name, input_shape=(75, 75, 3)), file)
        known = {"file": file.name, "bytes": file.stat().st_size, "sha256": digest(file), "input_shape": [75, 75, 3]}
        card = {"handle": f"tfdfd/{name}.random", "model": name, "licence": "none", "training_data": "none"}
        file.with_suffix(".json").write_text(json.dumps(known | card | {"polarity": "fake=1", "threshold": 0.5}))
        files.append(file)
    return files


def ensemble(members, *settings):
    return quick("s2-reseption-ensemble", *RESEPTION, "size=75", f"members={','.join(map(str, members))}", *settings)


def assert_built_on(members, folder):
    arrays = stored(folder)
    for name, file in zip(("reseption_v1", "reseption_v2"), members, strict=True):
        for weight, values in read_safetensors(file).items():
            if not weight.startswith("fake_probability/"):
                np.testing.assert_array_equal(arrays[f"{name}/{weight}"], values, err_msg=weight)
    others = {name.split("/")[0] for name in arrays} - {"reseption_v1", "reseption_v2"}
    assert others == {"reseption_v1_features", "reseption_v2_features", "fake_probability"}


@pytest.mark.slow  # test_reseption has which layers are trained
def test_the_ensemble_trains_dense_layers_on_the_bodies_of_its_members(members, faces, tmp_path):
    # The order in which they are given says nothing.
    result = train(ensemble(members[::-1]), faces, tmp_path / "run")
    assert_built_on(members, tmp_path / "run")
    assert result["members"]["reseption_v1"] == {"handle": "tfdfd/reseption_v1.random", "sha256": digest(members[0])}
    model = load(*locate(tmp_path / "run"))
    assert model.predict(np.zeros((1, 75, 75, 3)), verbose=0).shape == (1, 1)


@pytest.mark.slow
def test_an_ensemble_of_trained_runs_that_was_killed_ends_in_the_same_weights(faces, tmp_path):
    runs = [tmp_path / "v1", tmp_path / "v2"]
    for folder in runs:
        train(quick(f"s2-reseption-{folder.name}", *RESEPTION), faces, folder)
    recipe = ensemble(runs, "epochs=2")
    train(recipe, faces, tmp_path / "whole")
    assert_built_on([folder / "weights.safetensors" for folder in runs], tmp_path / "whole")
    kill(recipe, faces, tmp_path / "killed", 2)
    train(recipe, faces, tmp_path / "killed")
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


def test_members_must_be_those_of_the_ensemble(members, faces, tmp_path, svm_run):
    v1, v2 = members
    with pytest.raises(ValueError, match=r"is built on trained networks: reseption_v1 and .*--set members=RUN_1,RUN_2"):
        train(quick("s2-reseption-ensemble", "order=shuffled"), faces, tmp_path / "run")
    with pytest.raises(ValueError, match=r"which are reseption_v1, reseption_v1\. Give --set members=RUN_1,RUN_2"):
        train(ensemble((v1, v1)), faces, tmp_path / "run")
    with pytest.raises(ValueError, match=r"which are reseption_v1, meso_inception4"):
        train(ensemble((v1, svm_run[0])), faces, tmp_path / "run")
    with pytest.raises(ValueError, match=r"was trained at 75 pixels, and .* is to take 80: set size=75"):
        train(ensemble((v1, v2), "size=80"), faces, tmp_path / "run")
    with pytest.raises(ValueError, match=r"there is no weights file '.*nowhere'"):
        train(ensemble((v1, tmp_path / "nowhere")), faces, tmp_path / "run")
    with pytest.raises(ValueError, match=r"trains reseption_ensemble; received network=meso4"):
        train(ensemble((v1, v2), "network=meso4"), faces, tmp_path / "run")


# A recurrent layer over clips.


def test_clips_are_one_face_of_a_video_in_the_order_of_time():
    rows = [
        FaceRow("", "made", video, frame, 0.0, track, (0, 0, 9, 9), None, 0, "any", ())
        for video, frame, track in [("a", 5, 1), ("a", 1, 1), ("a", 3, 0), ("a", 3, 1), ("b", 0, 0), ("c", 9, 0)]
        + [("c", 2, 0), ("d", 0, 0), ("d", 1, 0), ("d", 0, 1), ("d", 1, 1)]
    ]
    clips, counts = clips_of(rows, 3)
    assert [(clip.row.video, clip.row.track, clip.positions.tolist()) for clip in clips] == [
        ("a", 1, [1, 3, 0]),
        ("c", 0, [6, 5]),
        ("d", 0, [7, 8]),
    ]
    assert counts == {"clips": 3, "padded": 2, "left_out": 1}
    assert clips[1].frames(3).tolist() == [6, 5, 5]
    many, _ = clips_of([FaceRow("", "m", "v", n, 0.0, 0, (0, 0, 9, 9), None, 0, "any", ()) for n in range(10)], 3)
    assert many[0].frames(5).tolist() == [1, 3, 5, 7, 9]
    assert many[0].frames(5, 0.0).tolist() == [0, 2, 4, 6, 8]
    assert many[0].frames(3, 0.999).tolist() == [3, 6, 9]
    assert many[0].frames(10, 0.3).tolist() == [*range(10)]


def test_clips_have_the_pixels_and_labels_of_their_crops(faces):
    rows = faces_of(faces)
    positions = np.array([[0, 1, 2], [4, 5, 6], [9, 8, 7], [12, 12, 13]])
    images = np.concatenate([image for image, _ in eval_pipeline(faces, SIZE, split=None)])
    labels = np.array([row.label for row in rows.rows], np.float32)
    for first in (0, 1):
        batches = list(clip_pipeline(rows, positions, SIZE, 3, first))
        found = np.concatenate([clip for clip, _ in batches])
        assert [len(clip) for clip, _ in batches] == [3, 1][first:]
        np.testing.assert_array_equal(found, images[positions[3 * first :]])
        np.testing.assert_array_equal(
            np.concatenate([label for _, label in batches])[:, 0], labels[positions[3 * first :, 0]]
        )
    with pytest.raises(ValueError, match=r"first_batch must be from 0 to 1; received 2"):
        clip_pipeline(rows, positions, SIZE, 3, 2)
    with pytest.raises(ValueError, match=r"\(clips, frames\), neither of them 0; received \(0, 4\)"):
        clip_pipeline(rows, np.zeros((0, 4)), SIZE, 3)


@pytest.fixture(scope="module")
def frame_network(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames") / "run"
    train(quick("s1-meso4", *PLAIN, "epochs=15", "learning_rate=0.003"), faces, folder)
    return folder


def temporal(member, *settings):
    settings = (f"members={member}", "network=meso4", "size=64", "limit=none", "epochs=3", *settings)
    return quick("temporal-lstm", *settings, "arguments.units=8", "learning_rate=0.02")


@pytest.fixture(scope="module")
def temporal_run(frame_network, faces, tmp_path_factory):
    folder, report = tmp_path_factory.mktemp("temporal") / "run", Silent()
    return folder, train(temporal(frame_network), faces, folder, report), report


def test_a_set_of_clips_gives_other_crops_each_epoch_and_the_same_ones_again(faces, frame_network):
    recipe = temporal(frame_network, "frames=2")
    clips = ClipSet(CropSet(faces, recipe, 64), recipe)
    again = ClipSet(CropSet(faces, recipe, 64), recipe)
    taken = [[clip.numpy() for clip, _ in each.batches(epoch)] for each in (clips, again) for epoch in (0, 1)]
    assert all((one == other).all() for one, other in zip(taken[0] + taken[1], taken[2] + taken[3], strict=True))
    first, second = (np.sort(np.concatenate(batches), axis=None) for batches in taken[:2])
    assert (first != second).any()
    rest = [clip.numpy() for clip, _ in clips.batches(1, 1)]
    assert len(rest) == clips.steps - 1 == 2
    assert all((one == other).all() for one, other in zip(rest, taken[1][1:], strict=True))
    batches, rows = clips.images()
    assert {row.video for row in rows} == {row.video for row in faces_of(faces).rows if row.split == "val"}
    assert sum(len(label) for _, label in batches) == len(rows) == 12
    few = temporal(frame_network, "limit=6")
    assert ClipSet(CropSet(faces, few, 64), few).steps == 1


def test_clips_are_trained_in_two_stages_and_load_again(temporal_run, faces, frame_network):
    folder, result, report = temporal_run
    assert [row["epoch"] for row in log_of(folder)] == [*range(1, 7)]
    assert [row["learning_rate"] for row in log_of(folder)] == pytest.approx([0.02] * 3 + [2e-4] * 3)
    assert result["clips"]["val fake"] == {"clips": 6, "padded": 0, "left_out": 0}
    assert result["val_video_auc"] > 0.9
    assert "train real: 9 clips, 0 padded, 0 left out" in report.notes
    assert not (folder / "head").exists() and not (folder / "everything").exists()
    model = load(*locate(folder))
    recipe = temporal(frame_network)
    batches, rows = ClipSet(CropSet(faces, recipe, 64), recipe).images()
    scores = model.predict(batches, verbose=0)[:, 0]
    labels = np.array([row.label for row in rows])
    assert result["val_auc"] == np.mean(scores[labels == 1][:, None] > scores[labels == 0])
    best = max(log_of(folder), key=lambda row: (row["val_video_auc"], -row["val_loss"]))
    assert result["best_epoch"] == best["epoch"]


@pytest.mark.slow  # test_training kills a run in the same folder of work
def test_a_training_on_clips_that_was_killed_ends_in_the_same_weights(temporal_run, frame_network, faces, tmp_path):
    recipe = temporal(frame_network)
    kill(recipe, faces, tmp_path / "run", 13)  # in the second stage, whose first step is the tenth
    assert (tmp_path / "run" / "everything" / "state.safetensors").exists()
    train(recipe, faces, tmp_path / "run")
    assert_same_weights(tmp_path / "run", temporal_run[0])


def test_a_trained_network_of_clips_detects(temporal_run, run_tfdfd):
    words = ["tfdfd/samples/genuine.mp4", "tfdfd/samples", "--detector", "haar", "--json", "-", "--quiet"]
    code, out, err = run_tfdfd("detect", *words, "--model", temporal_run[0])
    assert code == 0, err
    first, blended, genuine = json.loads(out)["results"]
    scores = {frame["fake_probability"] for frame in first["faces"][0]["frames"]}
    assert scores == {first["fake_probability"]} and first["frames_scored"] == 32
    assert genuine["fake_probability"] == first["fake_probability"] != blended["fake_probability"]
    assert "4 equally spaced crops of a face" in locate(temporal_run[0])[0].card["limits"][0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["members="], r"is built on trained networks: meso4\. Give .* --set members=RUN_1"),
        (["network=meso_inception4"], r"is built on meso_inception4; received members=.*, which are meso4"),
        (["augment=s1"], r"clips support augment=none only; received augment=s1"),
        (["order=balanced"], r"clips support order=shuffled only; received order=balanced"),
        (["frames=1"], r"a clip has at least 2 frames; received frames=1"),
    ],
)
def test_settings_that_clips_have_no_use_for_are_refused(settings, words, frame_network, faces, tmp_path):
    with pytest.raises(ValueError, match=words):
        train(temporal(frame_network, *settings), faces, tmp_path / "run")


def test_a_set_of_single_crops_has_no_clips(frame_network, tmp_path):
    make_faces(tmp_path / "set", videos=12, frames=1)
    with pytest.raises(ValueError, match=r"split 'train' has no real video with two crops of one face"):
        train(temporal(frame_network), tmp_path / "set", tmp_path / "run")
