"""`tfdfd prune`: from a network and crops to a pruned run, what is measured of it, and what is refused."""

import ast
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.made_faces import make_faces
from tests.seeded import fill
from tfdfd.data.crops import faces_of
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.metrics import auc
from tfdfd.models import build, load
from tfdfd.pruning import PruneOptions, child, int8, lacks_pattern, mask_schedule, sizes, zeros
from tfdfd.pruning.int8 import equalized
from tfdfd.pruning.prune import recipe_for, refuse_known
from tfdfd.training.crop_set import VAL, CropSet, score
from tfdfd.training.recipe import Recipe
from tfdfd.training.run_folder import FINGERPRINTS as SEEN
from tfdfd.training.run_folder import read_fingerprints, write_fingerprints
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import locate

_ROOT = Path(__file__).parent.parent
SIZE = 32
QUICK = ("--set", "batch_size=16", "--quiet")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=60, frames=2, side=SIZE)
    return folder


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A meso4 of 32 pixels that tells the made faces apart, as a weights file with its card."""
    keras.utils.set_random_seed(0)
    model = build("meso4", input_shape=(SIZE, SIZE, 3))
    crops = CropSet(faces, Recipe("t", "", "", "meso4", size=SIZE), SIZE)
    image, label = (np.concatenate(parts) for parts in zip(*map(list, crops.images("train")[0]), strict=True))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    model.compile(keras.optimizers.Adam(0.003), "binary_crossentropy", jit_compile=False)
    model.fit(image, label, batch_size=15, epochs=20, verbose=0)
    file = tmp_path_factory.mktemp("trained") / "small.safetensors"
    save_weights(model, file)
    data = file.read_bytes()
    card = {"handle": "tfdfd/meso4.small", "model": "meso4", "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "made here", "training_data": "made faces"}
    card |= {"polarity": "fake=1", "threshold": 0.5, "input_shape": [SIZE, SIZE, 3]}
    file.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def pruned(faces, trained, tmp_path_factory):
    from tfdfd.cli.main import main

    folder = tmp_path_factory.mktemp("run") / "pruned"
    # By relative names, as people type them.
    model, data, output = (os.path.relpath(path) for path in (trained, faces, folder))
    assert main(["prune", model, "--data", data, "-o", output, "--epochs", "6", *QUICK]) == 0
    return folder, json.loads((folder / "pruning.json").read_text())


def test_zeros_are_as_many_as_asked_for_and_as_reported(pruned):
    folder, told = pruned
    weights = load_file(folder / "weights.safetensors")
    kernels = [name for name in weights if name.endswith("/kernel")]
    assert set(told["zeros"]["kernels"]) == set(kernels)
    found = sum(int((weights[name] == 0).sum()) for name in kernels)
    assert found == told["zeros"]["zeros"]
    assert told["zeros"]["share"] == found / sum(weights[name].size for name in kernels)
    assert 0.79 <= told["zeros"]["share"] <= 0.81
    assert all(0.7 <= one["share"] <= 0.85 for one in told["zeros"]["kernels"].values())


def test_another_spelling_of_the_same_goes_on(pruned, trained, faces, tmp_path, run_tfdfd):
    folder, _ = pruned
    (tmp_path / "link").symlink_to(faces)
    before = (folder / "run.json").read_bytes()
    for data in (f"{faces}/", tmp_path / "link", faces / "faces.csv"):
        code, _, err = run_tfdfd("prune", trained, "--data", data, "-o", folder, "--epochs", "6", *QUICK)
        assert code == 0, err
    assert (folder / "run.json").read_bytes() == before


def test_sizes_are_those_of_the_files(pruned, trained):
    folder, told = pruned
    data = (folder / "weights.safetensors").read_bytes()
    assert told["sizes"]["pruned"] == {"bytes": len(data), "gzip_bytes": len(gzip.compress(data, 9, mtime=0))}
    assert told["sizes"]["dense"]["bytes"] == trained.stat().st_size
    assert told["sizes"]["gzip_to_dense"] <= 0.45


def test_auc_before_and_after_is_that_of_the_networks(pruned, trained, faces):
    folder, told = pruned
    crops = CropSet(faces, Recipe("t", "", "", "meso4", size=SIZE), SIZE)
    for place, source in enumerate((trained, folder)):
        rows, scores = score(load(*locate(source)), crops)
        videos = np.array(scores).reshape(-1, 2).mean(axis=1)
        assert told["auc"]["auc"]["values"][place] == pytest.approx(auc([row.label for row in rows[::2]], videos))
        assert told["auc"]["auc"]["values"][place] > 0.9
    low, high = told["auc"]["auc"]["interval"]
    assert low <= told["auc"]["auc"]["difference"] <= high
    assert told["proof"]["before"]["fake_probability"] <= 1e-5
    assert told["proof"]["after"]["fake_probability"] <= 1e-5


def test_the_folder_is_a_run_that_others_take(pruned, faces, run_tfdfd, tmp_path):
    folder, told = pruned
    record, _ = locate(folder)
    assert record.handle == "tfdfd/meso4.small-pruned"
    assert record.licence.startswith("made here; ") and record.input_shape == (SIZE, SIZE, 3)
    assert record.card["built_on"][0]["licence"] == "made here"
    assert record.card["pruning"]["sparsity"] == 0.8
    assert not (folder / "pruning").exists()
    assert run_tfdfd("evaluate", folder, "--data", faces, "-o", tmp_path / "report", "--no-plots", "--quiet")[0] == 0
    code, _, error = run_tfdfd(
        "evaluate", folder, "--data", faces, "-o", tmp_path / "other", "--split", "train", "--no-plots", "--quiet"
    )
    assert code == 2
    assert "trained on part of this data" in error


def test_a_finished_run_is_told_again_and_another_is_refused(pruned, trained, faces, run_tfdfd):
    folder, told = pruned
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    words = ("prune", trained, "--data", faces, "-o", folder, "--epochs", 6, *QUICK)
    code, out, _ = run_tfdfd(*words)
    assert code == 0
    zeros_line, size_line, delong, bootstrap, *_ = out.splitlines()
    assert zeros_line.startswith(f"zeros: {told['zeros']['share']:.4f} of {told['zeros']['values']:,} values")
    assert "loss" in delong
    assert "(paired bootstrap, 95 %)" in bootstrap
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    code, _, error = run_tfdfd(*words, "--sparsity", 0.5)
    assert code == 2
    assert "pruning.options.sparsity was 0.8, now 0.5" in error


# Ends itself and so, as nobody holds the pipe any more, the process that it has started, at the end of the third epoch.
KILLED = """
import os, sys
from tfdfd.pruning.prune import prune
from tfdfd.training import TrainingError

class Report:
    def step(self, **place): pass
    def note(self, text): pass
    def epoch(self, row):
        if row["epoch"] == 3: os.kill(os.getpid(), 9)

prune(*sys.argv[1:4], Report(), settings=["batch_size=16", "epochs=6"])
"""


@pytest.mark.slow  # as one of test_kills
def test_after_a_kill_the_same_command_comes_to_the_same_weights(pruned, trained, faces, run_tfdfd, tmp_path):
    folder = tmp_path / "killed"
    stopped = subprocess.run([sys.executable, "-c", KILLED, trained, faces, folder], capture_output=True, cwd=_ROOT)
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert (folder / "pruning" / "state.safetensors").exists()
    assert not (folder / "weights.safetensors").exists()
    with pytest.raises(ValueError, match="not finished"):
        locate(folder)
    code, _, error = run_tfdfd("prune", trained, "--data", faces, "-o", folder, "--epochs", 6, *QUICK[:-1])
    assert code == 0, error
    epochs = [line for line in error.splitlines() if line.startswith("epoch ")]
    assert 2 <= len(epochs) <= 3, error  # the third may have been saved, or not
    whole, parts = (load_file(place / "weights.safetensors") for place in (pruned[0], folder))
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values, err_msg=name)


@pytest.mark.slow
def test_two_of_four_and_eight_bits(trained, faces, run_tfdfd, tmp_path):
    folder = tmp_path / "sparse"
    words = ("prune", trained, "--data", faces, "-o", folder, "--2-4", "--steps", 6, "--int8", *QUICK)
    code, out, error = run_tfdfd(*words)
    assert code == 0, error
    weights = load_file(folder / "weights.safetensors")
    kernels = [name for name in weights if name.endswith("/kernel")]
    assert lacks_pattern(weights, kernels) == []
    # Of the three colours one in three can be zero; of eight or sixteen channels exactly half are.
    assert (weights["block1_conv/kernel"] == 0).mean() == pytest.approx(1 / 3)
    assert (weights["block2_conv/kernel"] == 0).mean() == 0.5
    told = json.loads((folder / "int8.json").read_text())
    assert (folder / "int8.tflite").stat().st_size == told["bytes"]
    assert told["apart"] <= 0.35
    assert told["apart_mean"] <= 0.07
    assert told["auc"]["auc"]["values"][1] > 0.9
    assert f"P(fake) at most {told['apart']:.3f} apart" in out
    assert told["bytes"] < (folder / "weights.safetensors").stat().st_size / 2


def test_the_share_asked_for_is_reached_whatever_the_number_of_steps():
    for steps in (1, 2, 7, 19, 20, 21, 333, 1000, 12345):
        when = mask_schedule(PruneOptions(), steps)
        assert when.last == when.settled <= max(1, steps // 2)
        assert (when.last - when.first) % when.frequency == 0
        at_once = mask_schedule(PruneOptions(schedule="constant"), steps)
        assert (at_once.first, at_once.settled) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.0}, "above 0 and below 1; received 1.0"),
        ({"sparsity": float("nan")}, "above 0 and below 1"),
        ({"schedule": "linear"}, "polynomial or constant; received 'linear'"),
        ({"two_of_four": True}, "leave them out"),
    ],
)
def test_options_of_no_use_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        PruneOptions(**arguments)


def test_zeros_and_patterns_are_counted():
    kernel = np.arange(1, 25, dtype=np.float32).reshape(1, 1, 6, 4)
    assert zeros({"a": kernel, "b": np.zeros((2, 3))}, ["a", "b"]) == {
        "share": 0.2,
        "zeros": 6,
        "values": 30,
        "kernels": {
            "a": {"share": 0.0, "zeros": 0, "values": 24},
            "b": {"share": 1.0, "zeros": 6, "values": 6},
        },
    }
    assert lacks_pattern({"a": kernel}, ["a"]) == ["a"]
    kernel[:, :, [1, 2]] = 0  # along the inputs; the last two channels are a group of their own
    assert lacks_pattern({"a": kernel}, ["a"]) == []
    assert lacks_pattern({"a": kernel[:, :, [0, 3, 4, 5]]}, ["a"]) == ["a"]
    along_outputs = np.ones((4, 4))
    along_outputs[:, :2] = 0
    assert lacks_pattern({"dense": along_outputs}, ["dense"]) == ["dense"]
    assert lacks_pattern({"dense": along_outputs.T}, ["dense"]) == []


def test_a_file_of_zeros_is_small_only_when_compressed(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100_000))
    told = sizes(tmp_path / "file")
    assert told["bytes"] == 100_000
    assert told["gzip_bytes"] < 200


def test_settings_that_pruning_does_not_go_by_are_refused(trained, run_tfdfd, faces, tmp_path):
    record, _ = locate(trained)
    with pytest.raises(ValueError, match="pruning does not use optimizer, ema"):
        recipe_for(trained, record, ["optimizer=radam", "ema=0.9"])
    with pytest.raises(ValueError, match="did you mean learning_rate"):
        recipe_for(trained, record, ["learning_rat=1"])
    for wrong in (["--sparsity", "1.5"], ["--2-4", "--sparsity", "0.8"], ["--steps", "0"]):
        code, _, error = run_tfdfd("prune", trained, "--data", faces, "-o", tmp_path / "run", *wrong)
        assert code == 2, error
        assert not (tmp_path / "run").exists()


def test_leaks_are_refused(trained, run_tfdfd, tmp_path):
    rows = make_faces(tmp_path / "faces", videos=12, frames=1, side=SIZE)
    other = next(row for row in rows if row.split == "val")
    leaking = [replace(row, source_id=other.source_id) if row.split == "train" else row for row in rows]
    write_table(tmp_path / "faces" / "faces.csv", leaking, FaceRow)
    words = ("prune", trained, "--data", tmp_path / "faces", "-o", tmp_path / "run", *QUICK)
    code, _, error = run_tfdfd(*words)
    assert code == 2
    assert "source" in error
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_judged_on_what_it_was_trained_on(faces, tmp_path):
    whole = faces_of(faces)
    rows = faces_of(faces, VAL).rows
    (tmp_path / "run.json").write_text("{}")
    assert "lists no training data" in refuse_known(tmp_path, whole, rows)
    write_fingerprints(tmp_path, {"train": faces_of(faces, "train").rows, "val": rows}, whole.root)
    assert refuse_known(tmp_path, whole, rows) is None
    write_fingerprints(tmp_path, {"train": rows[:3]}, whole.root)
    with pytest.raises(ValueError, match=f"was trained on {len(rows[:4])} crops of the validation split"):
        refuse_known(tmp_path, whole, rows)  # the fourth is of the same video as the third
    assert "ITS FIGURES ARE TOO GOOD" in refuse_known(tmp_path, whole, rows, allow=True).upper()


def test_what_the_run_has_seen_is_kept(pruned, faces):
    seen = read_fingerprints(pruned[0])
    assert (pruned[0] / SEEN).exists()
    assert set(seen) == {"train", "val"}


def test_missing_libraries_are_named_with_their_extra(monkeypatch):
    monkeypatch.setattr(child, "_LIBRARIES", ("tf_keras", "no_such_library"))
    with pytest.raises(ValueError, match=r"no_such_library: run pip install 'tfdfd\[prune\]'"):
        child.check_libraries()


def test_one_file_knows_tf_keras_and_nothing_imports_it():
    for path in sorted((_ROOT / "tfdfd" / "pruning").glob("*.py")):
        names = [
            name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        legacy = {name.split(".")[0] for name in names} & {"tf_keras", "tensorflow_model_optimization"}
        assert bool(legacy) == (path.name == "twin.py"), path
        assert "tfdfd.pruning.twin" not in names, path


def test_channels_made_alike_give_the_same_score():
    model = build("meso_inception4", input_shape=(SIZE, SIZE, 3))
    fill(named_weights(model).items())
    # As in networks that were trained: branches of very different size side by side, and one that is always 0.
    for name, factor in (("block1_branch1_conv", 1e-3), ("block2_branch2_conv", 50.0)):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel * factor, bias * factor])
    layer = model.get_layer("block1_branch0_conv")
    layer.set_weights([layer.get_weights()[0] * 0, layer.get_weights()[1] * 0 - 1])
    crops = np.random.default_rng(0).random((9, SIZE, SIZE, 3), dtype=np.float32)
    alike = equalized(model, crops)
    np.testing.assert_allclose(alike(crops, training=False), model(crops, training=False), rtol=0, atol=1e-6)

    def ranges(network):
        joined = keras.Model(network.input, network.get_layer("block2_concat").output)(crops, training=False)
        return np.abs(np.asarray(joined)).max(axis=(0, 1, 2))

    before, after = ranges(model), ranges(alike)
    used = before > 0
    assert used.sum() >= 10
    assert np.ptp(np.log2(before[used])) > 4
    assert after[used].min() >= 0.7
    assert after.max() <= 1.42


def test_a_network_that_8_bits_are_too_few_for_is_not_written(trained, monkeypatch, tmp_path):
    model = load(*locate(trained))
    crops = np.random.default_rng(0).random((9, SIZE, SIZE, 3), dtype=np.float32)
    monkeypatch.setattr(int8, "LARGEST", -1)  # scores of 0 and 1 may be the same to the last bit
    with pytest.raises(ValueError, match="on 9 crops; -1 and 0.07 are allowed"):
        int8.quantize_int8(model, crops, [crops[:4], crops[4:]], tmp_path / "int8.tflite")
    assert not list(tmp_path.iterdir())
