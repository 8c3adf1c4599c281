"""Training: the same run however often it is killed, what is chosen on what, and what is said when it fails."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.made_faces import make_faces
from tfdfd.data.tables import FaceRow, write_table
from tfdfd.recipes import find_recipe, list_recipes
from tfdfd.training.recipe import Recipe

PLAIN = ["augment=none", "limit=none", "schedule=constant"]


class Silent:
    """A report that keeps what it is told."""

    def __init__(self):
        self.rows, self.notes, self.steps = [], [], 0

    def step(self, epoch, epochs, step, steps, loss):
        self.steps += 1

    def epoch(self, row):
        self.rows.append(row)

    def note(self, text):
        self.notes.append(text)


def quick(*settings, name="s1-meso4"):
    return find_recipe(name).quick().changed([*PLAIN, *settings])


def run(recipe, faces, folder, report=None, **options):
    from tfdfd.training.procedures import train

    return train(recipe, faces, folder, report or Silent(), **options)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36)
    return folder


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    report = Silent()
    result = run(quick("epochs=4", "learning_rate=0.003"), faces, folder, report)
    return folder, result, report


def test_a_run_says_how_it_was_made(trained, faces):
    folder, result, report = trained
    told = json.loads((folder / "run.json").read_text())
    assert told["finished"]
    assert told["result"] == result
    assert told["recipe"]["name"] == "s1-meso4"
    assert told["recipe"]["epochs"] == 4
    assert told["data"]["crops"] == {
        "train": {"Deepfakes": 36, "original": 36},
        "val": {"Deepfakes": 24, "original": 24},
    }
    assert told["versions"]["keras"]
    assert len(report.rows) == 4
    log = (folder / "log.csv").read_text().splitlines()
    assert len(log) == 5
    assert log[0].startswith("epoch,learning_rate,loss,accuracy,val_loss,val_accuracy,val_auc,val_video_auc")
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name.startswith("events") for file in (folder / "tensorboard").iterdir()] == [True]


def test_the_network_learns_and_its_best_epoch_is_kept(trained):
    _, result, report = trained
    best = max(report.rows, key=lambda row: (row["val_video_auc"], -row["val_loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["val_auc"] == pytest.approx(best["val_auc"], abs=0.02)
    assert result["val_auc"] > 0.9


def test_detect_takes_the_run_as_it_is(trained, run_tfdfd, tmp_path):
    from tfdfd.weights.store import locate

    folder, result, _ = trained
    record, path = locate(folder)
    assert record.model == "meso4"
    assert record.input_shape == (64, 64, 3)
    assert record.threshold == result["threshold"]
    code, out, err = run_tfdfd("detect", "tfdfd/samples/genuine.mp4", "--model", folder, "--frames", 2, "--quiet")
    assert code == 0, err


def test_a_card_has_the_tail_of_the_genuine_videos_or_the_run_says_why_not():
    from tfdfd.training.calibrate import _tails

    warnings = []
    labels, scores = [0] * 25 + [1] * 5, [*np.linspace(0.1, 0.4, 25), *[0.9] * 5]
    [tail] = _tails(labels, scores, warnings)["genuine_tails"]
    assert (tail["n"], tail["highest"], warnings) == (25, [0.4], [])
    assert _tails(labels[10:], scores[10:], warnings) == {}
    assert "no threshold for several faces is measured: 15 genuine" in warnings[0]


def test_calibration_is_in_the_weights(trained, faces):
    from tfdfd.models import load
    from tfdfd.training.crop_set import CropSet, score
    from tfdfd.weights.store import locate

    folder, result, _ = trained
    card = json.loads((folder / "weights.json").read_text())
    assert card["calibration"]["method"] == "platt"
    model = load(*locate(folder))
    rows, scores = score(model, CropSet(faces, quick(), 64))
    # Platt's targets shrink it a little; on the set that it was fitted to, the mean is the share of fakes.
    assert scores.mean() == pytest.approx(np.mean([row.label for row in rows]), abs=0.05)


KILLED = """
import json, os, sys
import tfdfd.training.engine as engine
from tests.test_training import Silent, run
from tfdfd.training.recipe import Recipe

recipe, faces, folders, save_every, die_at = json.loads(sys.argv[1])
engine.SECONDS_BETWEEN_SAVES = save_every

class Dying(Silent):
    def step(self, *where):
        super().step(*where)
        if self.steps == die_at:
            os.kill(os.getpid(), 9)

for folder in folders:
    run(Recipe.from_settings(recipe), faces, folder, Dying())
"""


def in_child(recipe, faces, folder, save_every=0.0, die_at=0, **environment):
    """Runs in one folder, or one after the other in several, in a process of its own that is killed at a step."""
    folders = folder if isinstance(folder, list) else [folder]
    words = json.dumps([recipe.settings(), str(faces), list(map(str, folders)), save_every, die_at])
    return subprocess.run(
        [sys.executable, "-c", KILLED, words],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer=radam", "loss_scale=true", "gradient_noise=0.01", "gradient_flow=true", "schedule=decay-plateau"),
        # Averages and augmentation after a kill are in test_distilling and test_packed, too.
        pytest.param(("augment=s1", "ema=0.9", "order=balanced"), marks=pytest.mark.slow),
    ],
    ids=["radam-noise-scaled-plateau", "augmented-average-balanced"],
)
def test_a_run_killed_at_random_steps_ends_with_the_same_bits(faces, tmp_path, settings):
    """Nine steps an epoch; killed in the first epoch, in the second, and with saves at epochs alone."""
    recipe = quick("epochs=3", *settings)
    run(recipe, faces, tmp_path / "whole")
    draw = np.random.default_rng(5)
    for save_every, low, high in ((0.0, 2, 9), (1e9, 10, 18)):
        ended = in_child(recipe, faces, tmp_path / "killed", save_every, int(draw.integers(low, high)))
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    run(recipe, faces, tmp_path / "killed")
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, killed[name], err_msg=name)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert [row.rpartition(",")[0] for row in logs[0]] == [row.rpartition(",")[0] for row in logs[1]]
    if recipe.gradient_flow:
        assert (tmp_path / "whole/gradient_flow.csv").read_bytes() == (
            tmp_path / "killed/gradient_flow.csv"
        ).read_bytes()


@pytest.mark.slow  # test_optimizers and test_packed resume under JAX, too
def test_jax_resumes_to_the_same_bits_and_shares_a_batch_between_devices(faces, tmp_path):
    recipe = quick("epochs=2")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    assert in_child(recipe, faces, tmp_path / "killed", 0.0, 12, **environment).returncode == -signal.SIGKILL
    ended = in_child(recipe, faces, [tmp_path / "whole", tmp_path / "killed"], **environment)
    assert ended.returncode == 0, ended.stderr
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, killed[name], err_msg=name)
    words = [
        "train",
        "s1-meso4",
        "--data",
        faces,
        "-o",
        tmp_path / "two",
        "--quick",
        "--backend",
        "jax",
        "--devices",
        2,
    ]
    words += [word for setting in [*PLAIN, "epochs=2"] for word in ("--set", setting)]
    two = subprocess.run(
        [sys.executable, "-m", "tfdfd", *map(str, words)], env=os.environ | environment, capture_output=True, text=True
    )
    assert two.returncode == 0, two.stderr
    losses = [
        [float(row.split(",")[2]) for row in (tmp_path / name / "log.csv").read_text().splitlines()[1:]]
        for name in ("whole", "two")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_validation_is_logged_in_the_recipes_own_loss():
    from tfdfd.data.tables import FaceRow
    from tfdfd.training.crop_set import validation_metrics

    box = (0, 0, 9, 9)
    rows = [FaceRow(f"{n}.png", "made", f"{n}.mp4", 0, 0.0, 0, box, 1.0, n % 2, "made", ()) for n in range(4)]
    scores = np.array([0.1, 0.8, 0.4, 0.9])
    squared = validation_metrics(rows, scores, "mean_squared_error")
    assert squared["val_loss"] == pytest.approx((0.01 + 0.04 + 0.16 + 0.01) / 4)
    assert validation_metrics(rows, scores)["val_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.9]).mean())


def test_a_finished_run_is_not_run_again(trained, faces):
    folder, result, _ = trained
    report = Silent()
    assert run(quick("epochs=4", "learning_rate=0.003"), faces, folder, report) == json.loads(json.dumps(result))
    assert report.steps == 0
    assert "finished before" in report.notes[0]


def test_a_run_is_not_gone_on_with_otherwise(trained, faces):
    folder, _, _ = trained
    with pytest.raises(ValueError, match=r"recipe.learning_rate was 0.003, now 0.001"):
        run(quick("epochs=4"), faces, folder)


def test_a_loss_that_is_no_number_stops_and_says_where(faces, tmp_path):
    from tfdfd.training import TrainingError

    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+ of 9 in epoch 1"):
        run(quick("learning_rate=1e30", "optimizer=sgdm"), faces, tmp_path / "run")


def test_a_file_that_goes_missing_in_mid_epoch_is_named_and_the_run_goes_on_when_it_is_back(tmp_path):
    from tfdfd.training import TrainingError

    make_faces(tmp_path / "faces", videos=12)
    lost = next(file for file in sorted((tmp_path / "faces").glob("*.png")) if file.name.startswith("000"))
    data = lost.read_bytes()

    class Removing(Silent):
        def epoch(self, row):
            super().epoch(row)
            lost.unlink(missing_ok=True)

    with pytest.raises(TrainingError, match=rf"epoch 2: .*{lost.name} cannot be read.*last saved state stays"):
        run(quick("epochs=2"), tmp_path / "faces", tmp_path / "run", Removing())
    lost.write_bytes(data)
    report = Silent()
    run(quick("epochs=2"), tmp_path / "faces", tmp_path / "run", report)
    assert [row["epoch"] for row in report.rows] == [2]


def test_a_full_disk_leaves_the_last_good_state(faces, tmp_path, monkeypatch):
    import tfdfd.training.run_folder as state
    from tfdfd.training import TrainingError

    write = state.write_atomically

    class Filling(Silent):
        def epoch(self, row):
            super().epoch(row)
            monkeypatch.setattr(state, "write_atomically", full)

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrainingError, match="No space left on device.*last saved state stays"):
        run(quick("epochs=3"), faces, tmp_path / "run", Filling())
    monkeypatch.setattr(state, "write_atomically", write)
    report = Silent()
    run(quick("epochs=3"), faces, tmp_path / "run", report)
    assert [row["epoch"] for row in report.rows] == [2, 3]


def test_one_class_is_refused(tmp_path):
    make_faces(tmp_path / "faces", videos=12, frames=1, fakes=0.0)
    with pytest.raises(ValueError, match="crops of split 'train' are real; a network learns nothing from one class"):
        run(quick(), tmp_path / "faces", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_leaking_set_is_refused_unless_told(tmp_path):
    rows = make_faces(tmp_path / "faces", videos=24, frames=1)
    rows = [
        FaceRow(**vars(row) | {"identity": ("Ada",)} if row.video in ("000.mp4", "006.mp4") else vars(row))
        for row in rows
    ]
    write_table(tmp_path / "faces/faces.csv", rows, FaceRow)
    with pytest.raises(ValueError, match="Ada"):
        run(quick(), tmp_path / "faces", tmp_path / "run")
    run(quick(), tmp_path / "faces", tmp_path / "run", allow_leaks=True)


def test_a_set_smaller_than_a_batch_is_one_batch(tmp_path):
    make_faces(tmp_path / "faces", videos=12, frames=1)
    report = Silent()
    result = run(quick("batch_size=64", "epochs=2"), tmp_path / "faces", tmp_path / "run", report)
    assert report.steps == 2
    assert any("batch" in note for note in report.notes)
    assert result["val_crops"] == 4


def test_another_process_is_kept_out(faces, tmp_path):
    class Intruding(Silent):
        def epoch(self, row):
            with pytest.raises(ValueError, match="another 'tfdfd train' is at work"):
                run(quick(), faces, tmp_path / "run")

    run(quick(), faces, tmp_path / "run", Intruding())


def test_what_is_in_the_folder_is_left_alone(faces, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        run(quick(), faces, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_damaged_state_is_named(faces, tmp_path):
    from tfdfd.training import TrainingError

    assert in_child(quick(), faces, tmp_path / "run", 0.0, 4).returncode == -signal.SIGKILL
    state = tmp_path / "run/state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="state.safetensors is not a saved state"):
        run(quick(), faces, tmp_path / "run")


def test_a_gpu_that_is_not_there_is_said(faces, tmp_path, run_tfdfd):
    code, _, err = run_tfdfd("train", "s1-meso4", "--data", faces, "-o", tmp_path / "run", "--device", "gpu")
    assert code == 2
    assert "there is no gpu that tensorflow can use; it finds cpu:0" in err


def test_the_verb_trains_and_tells(faces, tmp_path, run_tfdfd):
    words = ["train", "s1-meso4", "--data", faces, "-o", tmp_path / "run", "--quick", "--set", "augment=none"]
    code, out, err = run_tfdfd(*words)
    assert code == 0, err
    assert "val_video_auc: " in out
    assert f"weights: {tmp_path / 'run/weights.safetensors'}" in out
    assert "epoch 1: learning_rate 0.001" in err


def test_a_mistyped_recipe_or_setting_lists_the_near_ones(faces, tmp_path, run_tfdfd):
    code, _, err = run_tfdfd("train", "s1-mesoinception", "--data", faces, "-o", tmp_path / "run")
    assert code == 2
    assert "did you mean s1-meso-inception4" in err
    code, _, err = run_tfdfd("train", "s1-meso4", "--data", faces, "-o", tmp_path / "run", "--set", "epoch=3")
    assert code == 2
    assert "did you mean epochs" in err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=many", "epochs must be int; received 'many'"),
        ("epochs=0", "epochs must be at least 1"),
        ("optimizer=adamm", "did you mean adam"),
        ("augment=S1", "augment must be one of None, s1"),
        ("learning_rate=-1", "must be above 0"),
        ("ema=1", "between 0 and 1"),
        ("name=mine", "no setting 'name'"),
        ("epochs", "KEY=VALUE"),
    ],
)
def test_settings_are_typed(setting, message):
    with pytest.raises(ValueError, match=message):
        find_recipe("s1-meso4").changed([setting])


def test_settings_reach_the_builder():
    settings = ["arguments.alpha=0.25", "arguments.freeze=none", "arguments.resolution=null"]
    recipe = find_recipe("s3-mobilenet-v1-bottleneck").changed(settings)
    assert recipe.arguments == {"alpha": 0.25, "freeze": "none", "resolution": None}
    assert Recipe.from_settings(recipe.settings()) == recipe


def test_recipes_are_listed(run_tfdfd):
    code, out, _ = run_tfdfd("recipes")
    assert code == 0
    for name, recipe in list_recipes().items():
        assert name in out
        assert recipe.expected in out
    code, out, _ = run_tfdfd("recipes", "s2-xception-radam")
    assert code == 0
    assert "optimizer       radam" in out


def test_every_network_has_a_self_blended_recipe_and_every_document_is_there():
    from tfdfd.models import list_models
    from tfdfd.recipes.self_blended import MEMBERS_ONLY

    names = set(list_recipes())
    assert {f"sbi-{name.replace('_', '-')}" for name in list_models() if name not in MEMBERS_ONLY} <= names
    assert {"s0", "s1", "s2", "s3", "s4", "temporal", "sbi"} <= {name.split("-")[0] for name in names}
