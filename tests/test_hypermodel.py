"""KerasTuner's own tuners: the space as its hyperparameters, networks of the trial's settings, and clear errors."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner.errors import FatalValueError

import tfdfd
from tests.conftest import PLAIN
from tests.made_faces import make_faces
from tests.wheel import FROM_THE_WHEEL, installed
from tfdfd.recipes import find_recipe
from tfdfd.training.recipe import read_config
from tfdfd.tuning import HyperModel, space
from tfdfd.tuning.search import make_search
from tfdfd.tuning.search_space import read_space
from tools import search_best

ROOT = Path(__file__).parent.parent
TINY = ("size=64", "batch_size=8", "data=crops")
AUC = keras_tuner.Objective("val_auc", "max")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=24, frames=2)
    return folder


def test_the_space_is_that_of_the_file():
    hp = tfdfd.tuning.space("meso4")
    assert [one.name for one in hp.space] == [setting.key for setting in read_space("meso4").search]
    rate = next(one for one in hp.space if one.name == "learning_rate")
    assert (rate.min_value, rate.max_value, rate.sampling) == (1e-4, 1e-2, "log")
    assert next(one for one in hp.space if one.name == "ema").values == ["none", "0.99", "0.999"]


def test_a_network_has_the_settings_of_the_trial():
    model, hp = HyperModel("meso4", settings=TINY), keras_tuner.HyperParameters()
    hp.values = {"arguments.dropout": 0.25, "learning_rate": 0.002, "optimizer": "sgdm", "ema": "none"}
    network = model.build(hp)
    assert network.input_shape == (None, 64, 64, 3)
    assert {layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)} == {0.25}
    assert isinstance(network.optimizer, keras.optimizers.SGD)
    assert float(keras.ops.convert_to_numpy(network.optimizer.learning_rate)) == pytest.approx(0.002)
    recipe = model.recipe(hp)
    assert (recipe.learning_rate, recipe.ema, recipe.batch_size, recipe.data) == (0.002, None, 8, "crops")
    assert "batch_size" not in [one.name for one in hp.space]  # it is set, so it is not varied


def test_search_with_arrays_of_the_users_own(tmp_path):
    draw = np.random.default_rng(0)
    x, y = draw.random((16, 64, 64, 3), np.float32), np.arange(16) % 2
    model = HyperModel("meso4", settings=["size=64", "batch_size=8", "ema=0.5", "schedule=cosine"])
    tuner = keras_tuner.RandomSearch(model, AUC, max_trials=1, directory=tmp_path, seed=1)
    tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "COMPLETED" and 0 <= trial.score <= 1
    # The checkpoint is the moving average that was validated.
    best = tuner.get_best_models()[0]
    assert best.evaluate(x, y, verbose=0, return_dict=True)["auc"] == pytest.approx(trial.score, abs=1e-6)


def test_the_rate_follows_the_recipes_schedule(faces):
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

    settings = [*TINY, "schedule=cosine", "learning_rate=0.01", "optimizer=adam", "limit=16", "augment=none"]
    model, hp = HyperModel("meso4", faces, settings=settings), keras_tuner.HyperParameters()
    network = model.build(hp)
    history = model.fit(hp, network, epochs=2, callbacks=[Watch()], verbose=0).history
    cosine = keras.optimizers.schedules.CosineDecay(0.01, 4)
    np.testing.assert_allclose(rates, [float(cosine(step)) for step in range(4)], rtol=1e-5)
    assert {"val_loss", "val_accuracy", "val_auc", "val_video_auc"} <= set(history)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "meso5"}, "no network is known as 'meso5'.*did you mean meso4"),
        ({"network": "nowhere.json"}, "cannot read the search space nowhere.json"),
        ({"network": "reseption_ensemble"}, "procedure=ensemble.*Search it with 'tfdfd tune'"),
        ({"settings": ["epoch=3"]}, "no setting 'epoch'; did you mean epochs"),
        ({"data": "nowhere"}, "nowhere holds no face crops"),
    ],
)
def test_unknown_networks_spaces_and_data(options, message):
    with pytest.raises(ValueError, match=message):
        HyperModel(**{"network": "meso4"} | options)
    if set(options) == {"network"} and "ensemble" not in options["network"]:
        with pytest.raises(ValueError, match=message):
            space(options["network"])


def test_one_class_is_an_error(tmp_path):
    make_faces(tmp_path / "faces", videos=12, frames=1, fakes=0.0)
    with pytest.raises(ValueError, match="crops of split 'train' are real; a network learns nothing from one class"):
        HyperModel("meso4", tmp_path / "faces", settings=TINY)
    with pytest.raises(ValueError, match="crops of split 'train' are real; a network learns nothing from one class"):
        make_search(read_space("meso4"), tmp_path / "faces", tmp_path / "search", settings=TINY)
    model, hp = HyperModel("meso4", settings=TINY), keras_tuner.HyperParameters()
    network = model.build(hp)
    with pytest.raises(FatalValueError, match=r"nothing from one class; received labels \[1\] only"):
        model.fit(hp, network, np.zeros((4, 64, 64, 3)), np.ones(4, int))
    with pytest.raises(FatalValueError, match="there are no training data"):
        model.fit(hp, network)


BEST = sorted((ROOT / "tuning" / "best").glob("*.json"))


@pytest.mark.parametrize("path", BEST, ids=lambda path: path.stem)
def test_best_settings_say_how_they_were_found(path):
    """What a reader needs to judge them, and settings that `tfdfd train --config` takes."""
    best = json.loads(path.read_text("utf-8"))
    assert best["network"] == path.stem and find_recipe(best["recipe"]).network == path.stem
    words = shlex.split(best["command"])
    assert words[:3] == ["tfdfd", "tune", path.stem] and isinstance(best["seed"], int)
    assert ("--seed", str(best["seed"])) in zip(words, words[1:], strict=False)
    assert not [word for word in words if word.startswith("/")], "a path of one machine"
    score, objective = best["score"], best["score"]["objective"]
    completed = [trial[objective] for trial in best["trials"] if trial["status"] == "COMPLETED"]
    assert len(best["trials"]) >= 6 and score["value"] == max(completed)
    assert "the best of" in score["note"].lower() and best["data"]["rows_sha256"]
    figures = [score, *([best["recipe_default"]] if "recipe_default" in best else [])]
    for one in figures:
        low, high = one["interval"]
        assert 0 <= low <= one["value"] <= high <= 1 and one["level"] == 0.95 and one["val_crops"] > 0
        assert one["objective"] == objective
    recipe = read_config(str(path), find_recipe(best["recipe"]))
    assert recipe.learning_rate == best["settings"]["learning_rate"]
    # The first search is older than the comparison.
    if "recipe_default" in best:
        assert f"{len(best['trials'])} trials" in best["budget"]
        searched = {setting.key for setting in read_space(path.stem).search}
        assert best["recipe_default"]["settings"].keys() <= searched
    else:
        assert path.stem == "mobilenet_v1"


def test_best_settings_are_searched_beside_the_recipes_own(tmp_path, faces):
    """The tool with a tiny budget, and again: the second time nothing is trained."""
    words = ["meso4", "--data", str(faces), "-o", str(tmp_path / "searches"), "--target", str(tmp_path), "--quick"]
    assert search_best.main(words) == 0
    first = json.loads((tmp_path / "meso4.json").read_text("utf-8"))
    default = first["recipe_default"]
    assert first["budget"].startswith("2 trials of 1 epochs") and 0 <= default["value"] <= 1
    assert default["settings"]["learning_rate"] == find_recipe("sbi-meso4").learning_rate
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "searches").rglob("weights.safetensors")}
    assert len(logs) == 2 and search_best.main(words) == 0
    again = json.loads((tmp_path / "meso4.json").read_text("utf-8"))
    assert again["trials"] == first["trials"] and again["recipe_default"] == default
    assert all(path.stat().st_mtime_ns == changed for path, changed in logs.items())


def test_without_keras_tuner_the_extra_is_named():
    code = "import sys; sys.modules['keras_tuner'] = None; import tfdfd; tfdfd.tuning.HyperModel"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "run pip install 'tfdfd[tune]'" in ended.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return installed(tmp_path_factory)


def example(site, faces, output, epochs, **environment):
    """Runs the example from an installed wheel."""
    words = [ROOT / "examples" / "tune_meso.py", faces, output, epochs, *TINY, "limit=16"]
    program = FROM_THE_WHEEL + "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", program, *map(str, words)]
    known = {"PYTHONPATH": os.pathsep.join(map(str, (site, PLAIN))), "TF_CPP_MIN_LOG_LEVEL": "3"}
    options = {"cwd": output, "env": os.environ | known | environment, "text": True}  # the checkout is elsewhere
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_the_example_searches(site, faces, tmp_path):
    process = example(site, faces, tmp_path, epochs=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Recipe(name='sbi-meso-inception4'" in out
    trials = [json.loads(file.read_text()) for file in (tmp_path / "meso").glob("trial_*/trial.json")]
    assert trials and {trial["status"] for trial in trials} == {"COMPLETED"}


@pytest.mark.slow
def test_the_example_searches_with_a_chief_and_a_worker(site, faces, tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    chief, worker = (
        example(site, faces, tmp_path, 3, KERASTUNER_TUNER_ID=name, **address) for name in ("chief", "worker-1")
    )
    try:
        _, err = chief.communicate(timeout=300)
        assert chief.returncode == 0, err
        trials = [json.loads(file.read_text()) for file in (tmp_path / "meso").glob("trial_*/trial.json")]
        assert len(trials) >= 2 and {trial["status"] for trial in trials} == {"COMPLETED"}
    finally:
        worker.kill()
        worker.communicate()
