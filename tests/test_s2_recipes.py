"""Document S2 to the letter: what its recipes say, and that the training does it."""

import csv

import keras
import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.test_training import Silent
from tfdfd.data.crops import Faces, equally_spaced, faces_of
from tfdfd.data.tables import FaceRow
from tfdfd.metrics import balanced_accuracy
from tfdfd.metrics.scores import read_scores
from tfdfd.models import build
from tfdfd.recipes import find_recipe, list_recipes
from tfdfd.training.crop_set import LAST_SCORES, CropSet, is_better, videos_of
from tfdfd.training.optimizers import make_optimizer, schedule_of
from tfdfd.training.procedures import train

S2 = {name: recipe for name, recipe in list_recipes().items() if name.startswith("s2-")}
TINY = ("network=meso4", "size=64", "epochs=3", "weights=none", "limit=none", "batch_size=4", "calibration=none")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36, frames=6, pairs=True)
    return folder


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """S2's Reseption recipe on a small network: everything of it but the network and the sizes."""
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = find_recipe("s2-reseption-v1").changed(list(TINY))
    report = Silent()
    return folder, train(recipe, faces, folder, report), report.rows


def test_the_settings_are_the_documents():
    assert len(S2) == 10 + 3 + 4
    for recipe in S2.values():
        assert recipe.gradient_noise is None
        assert recipe.monitor == "val_video_balanced_accuracy"
        assert recipe.val_frames == 7
        assert recipe.order == "various"
        assert recipe.augment == "s2"
        assert recipe.radam_threshold == 5.0
    assert {S2[f"s2-reseption-{name}"].epochs for name in ("v1", "v2")} == {50}
    assert S2["s2-reseption-ensemble"].epochs == 30
    assert S2["s2-xception-radam"].schedule == "plateau-training"
    assert S2["s2-reseption-v1"].schedule == "decay-plateau-training"
    sgdm, unscaled = S2["s2-reseption-v1-sgdm"], S2["s2-reseption-v1-sgdm-unscaled"]
    assert (sgdm.learning_rate, sgdm.epochs, sgdm.loss_scale) == (1e-2, 14, True)
    assert not unscaled.loss_scale


def test_ten_blocks_of_efficientnet_are_frozen():
    recipe = S2["s2-efficientnet-b5-radam"]
    model = build(recipe.network, None, (64, 64, 3), **recipe.arguments)
    names = list(dict.fromkeys(layer.name[:7] for layer in model.layers if layer.name.startswith("block")))
    frozen = {layer.name[:7] for layer in model.layers if layer.weights and not layer.trainable}
    assert [name for name in names if name in frozen] == names[:10]
    assert {layer.name[:7] for layer in model.layers if layer.trainable_weights} & set(names) == set(names[10:])


def test_radam_adapts_from_its_sixth_step():
    optimizer = make_optimizer("radam", 1e-3, radam_threshold=S2["s2-reseption-v1"].radam_threshold)
    assert [bool(optimizer._factors(np.float32(step))[2]) for step in (5, 6)] == [False, True]
    ours = make_optimizer("radam", 1e-3)
    assert [bool(ours._factors(np.float32(step))[2]) for step in (4, 5)] == [False, True]


def test_noise_can_fade_by_epoch():
    """At time t the deviation is sqrt(eta / (1 + t)^0.55), t counted in steps or in epochs."""
    spread = {}
    for every in (1, 10):
        optimizer = make_optimizer("sgdm", 1.0, momentum=0.0, gradient_noise=0.01, steps_per_noise=every)
        variable = keras.Variable(np.zeros(4000, "float32"))
        optimizer.build([variable])
        for _ in range(9):
            optimizer.apply([np.zeros(4000, "float32")], [variable])
        before = np.array(variable)
        optimizer.apply([np.zeros(4000, "float32")], [variable])
        spread[every] = float((np.array(variable) - before).std())
    assert spread[1] == pytest.approx(np.sqrt(0.01 / 10**0.55), rel=0.05)
    assert spread[10] == pytest.approx(0.1, rel=0.05)


def test_the_plateau_watches_the_training_loss():
    schedule = schedule_of("decay-plateau-training", 1e-3, 10, 50)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(make_optimizer("radam", schedule.rate), "mse")
    # Training stands still while validation improves: halved after two epochs, and x 0.94 every second one.
    rates = []
    for epoch in range(4):
        schedule.after_epoch(model.optimizer, epoch, {"loss": 1.0, "val_loss": 1.0 / (epoch + 1)})
        rates.append(float(model.optimizer.learning_rate))
    assert rates == pytest.approx([1e-3, 0.94e-3, 0.94e-3 / 2, 0.94**2 * 1e-3 / 2], rel=1e-5)


def test_the_kept_epoch_is_best_in_balanced_accuracy_of_videos(trained):
    _, result, rows = trained
    best = rows[0]
    for row in rows[1:]:
        best = row if is_better(row, best, "val_video_balanced_accuracy") else best
    assert result["best_epoch"] == best["epoch"]
    assert best["val_video_balanced_accuracy"] == max(row["val_video_balanced_accuracy"] for row in rows)


def test_the_scores_of_the_last_epoch_are_kept(trained):
    folder, _, rows = trained
    scores = read_scores(folder / LAST_SCORES)
    labels, means = videos_of(scores, np.array([row.fake_probability for row in scores]))
    assert balanced_accuracy(labels, means, 0.5) == pytest.approx(rows[-1]["val_video_balanced_accuracy"])


def test_their_tables_are_made_of_stored_scores(trained, tmp_path):
    from tfdfd.cli.main import main

    arguments = ["--threshold", "0.5", "--table", "s2", "--no-plots", "--resamples", "0", "-o", str(tmp_path / "r")]
    assert main(["evaluate", "--from-scores", str(trained[0] / LAST_SCORES), *arguments]) == 0


def test_pictures_of_gradients_and_kernels_are_in_the_run(trained):
    folder, _, _ = trained
    for name in ("curves.png", "gradient_flow.png", "first_kernels.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    with open(folder / "log.csv", newline="") as file:
        assert "val_video_balanced_accuracy" in next(csv.reader(file))


def test_the_report_of_a_run_has_the_pictures_of_its_training(trained, faces, tmp_path):
    from tfdfd.evaluation.evaluate import Options, evaluate

    evaluate(trained[0], [faces], tmp_path, Options(resamples=0, frames=2))
    assert {f"{name}.png" for name in ("curves", "gradient_flow", "first_kernels")} <= {
        file.name for file in (tmp_path / "plots").iterdir()
    }
    assert "Gradients of each layer" in (tmp_path / "report.html").read_text("utf-8")


def test_quick_uses_the_real_batch_order(faces):
    recipe = S2["s2-reseption-v1"].quick()
    assert recipe.order == "various"
    crops = CropSet(faces, recipe, 64)
    labels = np.concatenate([np.asarray(label) for _, label in crops.batches(0)]).ravel()
    np.testing.assert_array_equal(labels, np.tile([1, 0], len(labels) // 2))
    assert len(labels) <= 24
    dual = CropSet(faces, S2["s2-reseption-v1"].changed(["order=dual"]).quick(), 64)
    assert dual.steps >= 1


def test_a_short_video_says_which_extraction_is_needed(faces):
    """Before the training: the set itself refuses."""
    with pytest.raises(ValueError, match=r"'tfdfd extract --all', as S2 does, or --frames 51 or more"):
        CropSet(faces, S2["s2-reseption-v1"].changed(["size=64"]), 64)


def test_the_default_extraction_is_enough_for_thirty_epochs(faces):
    from tfdfd.data import FaceOptions
    from tfdfd.data.orders import various_frame

    frames = [various_frame(FaceOptions.frames, epoch, S2["s2-xception-radam"].epochs) for epoch in range(30)]
    assert min(frames) >= 0 and max(frames) < FaceOptions.frames


def test_pairs_that_are_left_out_are_counted(faces):
    rows = list(faces_of(faces).rows)
    short = next(row.video for row in rows if row.split == "train" and row.label == 1)
    some = Faces(faces, tuple(row for row in rows if row.video != short or row.frame < 2))
    recipe = S2["s2-reseption-v1"].changed(["epochs=4", "size=64"])
    assert CropSet(Faces(faces, tuple(rows)), recipe, 64).short_pairs == 0
    assert CropSet(some, recipe, 64).short_pairs == 1
    assert CropSet(some, recipe.changed(["order=dual", "batch_size=4"]), 64).short_pairs == 1


def test_pixels_are_between_minus_one_and_one():
    for network in ("reseption_v1", "reseption_v2", "inception_v3", "xception"):
        model = build(network, None, (96, 96, 3) if network.startswith("rese") else (96, 96, 3))
        scaling = model.get_layer("scaling")
        np.testing.assert_allclose(np.asarray(scaling(np.float32([[0, 0.5, 1]]))), [[-1, 0, 1]], atol=1e-6)


def test_validation_takes_seven_frames_and_the_test_twelve_of_one_extraction():
    rows = [
        FaceRow(f"{n}.png", "d", "v.mp4", n, n / 25, 0, (0, 0, 9, 9), 1.0, 0, "original", ("v",)) for n in range(100)
    ]
    seven, twelve = ([row.frame for row in equally_spaced(rows, count)] for count in (7, 12))
    assert seven == [10, 25, 40, 54, 69, 84, 99]
    assert len(twelve) == 12 and twelve[0] == 10 and twelve[-1] == 99
    assert np.ptp(np.diff(twelve)) <= 1
    assert [row.frame for row in equally_spaced(rows[:9], 7)] == [0, 1, 3, 4, 5, 7, 8]
    assert equally_spaced(rows, None) == rows
    with pytest.raises(ValueError, match="at least 1; received 0"):
        equally_spaced(rows, 0)


def test_evaluate_takes_so_many_frames_of_a_video(faces):
    from tfdfd.evaluation.sets import open_set

    everything = open_set(str(faces), "test", 64)
    some = open_set(str(faces), "test", 64, chosen_frames=2)
    videos = {row.video for row in everything.rows}
    assert len(everything.rows) == 6 * len(videos)
    assert len(some.rows) == 2 * len(videos)
    assert len(faces_of(faces, "test").rows) == len(everything.rows)
