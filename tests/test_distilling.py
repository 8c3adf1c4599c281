"""A network that imitates a trained one: what it is told, what it learns, and that nothing of the teacher stays."""

import json
import shutil
import signal

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.made_faces import make_faces
from tests.seeded import fill
from tests.test_training import Silent, in_child, quick, run
from tfdfd.models import build
from tfdfd.training.engine import ANSWER, HINT, LABELS, Distilled, feature_maps
from tfdfd.weights.saving import named_weights
from tfdfd.weights.store import digest

STUDENT = ("network=meso_inception4", "epochs=2", "learning_rate=0.003")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=36)
    return folder


@pytest.fixture(scope="module")
def teacher(faces, tmp_path_factory):
    """Trained at another size than its students."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run(quick("epochs=3", "learning_rate=0.003", "size=96"), faces, folder)
    return folder


@pytest.fixture(scope="module")
def taught(faces, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught") / "run"
    report = Silent()
    return folder, run(quick(*STUDENT, f"teacher={teacher}"), faces, folder, report), report


def a_batch(size, count=4):
    draw = np.random.default_rng(7)
    return draw.uniform(size=(count, size, size, 3)).astype("float32"), np.arange(count)[:, None] % 2


def values_of(model):
    return {name: np.array(value.numpy()) for name, value in named_weights(model).items()}


def a_step(model, size):
    model.compile(keras.optimizers.SGD(1.0), loss="binary_crossentropy", metrics=["accuracy"], run_eagerly=True)
    return model.train_on_batch(*a_batch(size), return_dict=True)


def test_the_log_has_the_labels_loss_and_the_teachers_parts_beside_it(taught):
    folder, result, report = taught
    columns = (folder / "log.csv").read_text().splitlines()[0]
    assert columns.startswith("epoch,learning_rate,loss,accuracy,hint_loss,answer_loss,val_loss,")
    first, second = report.rows
    for name in ("loss", HINT, ANSWER):
        assert second[name] < first[name]
    assert result["val_auc"] > 0.8


def test_the_run_is_a_network_like_any_other(taught, teacher):
    folder, result, _ = taught
    plain = build("meso_inception4", folder, (64, 64, 3))
    assert load_file(folder / "weights.safetensors").keys() == named_weights(plain).keys()
    card = json.loads((folder / "weights.json").read_text())
    digest = json.loads((teacher / "weights.json").read_text())["sha256"]
    assert card["teacher"]["sha256"] == digest == json.loads((folder / "run.json").read_text())["teacher"]["sha256"]
    assert set(json.loads((teacher / "seen.json").read_text())["train"]) <= set(
        json.loads((folder / "seen.json").read_text())["train"]
    )


@pytest.mark.parametrize(
    ("network", "size", "grid"),
    [
        ("mobilenet_v3", 64, (2, 2, 576)),
        ("mobilenet_v3_r3", 32, (1, 1, 576)),
        ("mobilenet_v1", 64, (2, 2, 512)),
        ("meso4", 64, (2, 2, 16)),
        ("meso4", 32, (4, 4, 16)),
        ("meso_inception4", 256, (8, 8, 16)),
        ("reseption_v1", 96, (1, 1, 1280)),
        ("vgg16", 64, (2, 2, 512)),
    ],
)
def test_the_last_maps_are_those_before_pooling(network, size, grid):
    assert tuple(feature_maps(build(network, input_shape=(size, size, 3))).shape[1:]) == grid


def test_a_network_of_two_streams_has_no_last_maps():
    model = build("srm_mobilenet_v2", input_shape=(64, 64, 3), receives="rgb+noise")
    with pytest.raises(ValueError, match="srm_mobilenet_v2.* no last feature maps.* one stream"):
        feature_maps(model)


def test_the_parts_are_those_of_the_papers():
    """Recomputed with numpy where both grids are alike."""
    student, teacher = (build(name, input_shape=(64, 64, 3)) for name in ("meso4", "mobilenet_v3"))
    # Maps of untrained weights are all but zero.
    fill(named_weights(teacher).items())
    model = Distilled(student, teacher)
    images, _ = a_batch(64)
    probability, hint, answer = (np.asarray(value, np.float64) for value in model(images, training=False))
    maps, hints = (np.asarray(keras.Model(net.input, feature_maps(net))(images)) for net in (student, teacher))
    kernel, bias = (np.asarray(values) for values in model.projection.get_weights())
    hints = hints / np.sqrt(np.mean(hints**2))
    assert hint == pytest.approx(np.mean((maps @ kernel[0, 0] + bias - hints) ** 2), rel=1e-3)
    target = np.asarray(teacher(images), np.float64)
    expected = -np.mean(target * np.log(probability) + (1 - target) * np.log(1 - probability))
    assert answer == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(probability, student(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "size", "precision"),
    [
        ("meso4", 64, "float32"),
        ("meso_inception4", 64, "float32"),
        ("mobilenet_v3", 96, "mixed_bfloat16"),
        ("reseption_v2", 96, "float32"),
    ],
)
def test_a_step_moves_every_weight_of_the_student_and_none_of_the_teacher(network, size, precision):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(precision)
    try:
        student, teacher = build(network, input_shape=(size, size, 3)), build("mobilenet_v1", input_shape=(64, 64, 3))
        model = Distilled(student, teacher, 2.0)
    finally:
        keras.config.set_dtype_policy("float32")
    teacher.get_layer("fake_probability").bias.assign([3.0])
    before, taught_by = values_of(student), values_of(teacher)
    figures = a_step(model, size)
    assert figures["loss"] == pytest.approx(figures[LABELS] + 2 * (figures[HINT] + figures[ANSWER]), rel=1e-4)
    # Half of the channels of a random network may be dead; that none of a layer's learns would be a cut.
    still = [name for name, values in values_of(student).items() if np.array_equal(values, before[name])]
    assert not still
    for name, values in values_of(teacher).items():
        np.testing.assert_array_equal(values, taught_by[name], err_msg=name)
    assert len(model.own_variables) == len(model.variables) - len(teacher.variables)


def test_the_answer_stays_a_number_where_teacher_and_student_are_sure():
    student, teacher = (build("meso4", input_shape=(64, 64, 3)) for _ in range(2))
    student.get_layer("fake_probability").bias.assign([-200.0])
    teacher.get_layer("fake_probability").bias.assign([200.0])
    figures = a_step(Distilled(student, teacher), 64)
    assert np.isfinite(list(figures.values())).all()
    assert figures[ANSWER] > 10
    assert all(np.isfinite(values).all() for values in values_of(student).values())


def same_weights(one, other):
    one, other = (load_file(folder / "weights.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("ema=0.9", "optimizer=radam", "gradient_flow=true"), id="averaged"),
        pytest.param(("precision=mixed_bfloat16", "augment=s1", "teacher_weight=0.5"), id="bfloat16"),
    ],
)
@pytest.mark.slow  # test_training kills the same engine
def test_a_taught_run_that_was_killed_ends_with_the_same_bits(faces, teacher, tmp_path, settings):
    recipe = quick(*STUDENT, f"teacher={teacher}", *settings)
    run(recipe, faces, tmp_path / "whole")
    # In the second epoch. test_training has runs killed in the first, and with saves at epochs alone.
    ended = in_child(recipe, faces, tmp_path / "killed", 0.0, 13)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    run(recipe, faces, tmp_path / "killed")
    same_weights(tmp_path / "whole", tmp_path / "killed")
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert [row.rpartition(",")[0] for row in logs[0]] == [row.rpartition(",")[0] for row in logs[1]]


@pytest.mark.slow
def test_jax_teaches_too_and_resumes(faces, teacher, tmp_path):
    recipe = quick(*STUDENT, f"teacher={teacher}")
    whole = in_child(recipe, faces, tmp_path / "whole", KERAS_BACKEND="jax")
    assert whole.returncode == 0, whole.stderr
    assert in_child(recipe, faces, tmp_path / "killed", 0.0, 12, KERAS_BACKEND="jax").returncode == -signal.SIGKILL
    assert in_child(recipe, faces, tmp_path / "killed", KERAS_BACKEND="jax").returncode == 0
    same_weights(tmp_path / "whole", tmp_path / "killed")
    hints = [float(line.split(",")[4]) for line in (tmp_path / "whole/log.csv").read_text().splitlines()[1:]]
    assert hints[1] < hints[0]


class Stopping(Silent):
    """A person's Ctrl-C after two steps."""

    def step(self, *where):
        super().step(*where)
        if self.steps == 2:
            raise KeyboardInterrupt


def test_another_teacher_under_the_same_name_is_refused(faces, teacher, tmp_path):
    other = tmp_path / "teacher"
    shutil.copytree(teacher, other)
    recipe = quick(*STUDENT, f"teacher={other}")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, faces, tmp_path / "run", Stopping())
    weights, card = other / "weights.safetensors", json.loads((other / "weights.json").read_text())
    save_file({name: values + 1 for name, values in load_file(weights).items()}, weights)
    (other / "weights.json").write_text(json.dumps(card | {"sha256": digest(weights)}))
    with pytest.raises(ValueError, match=r"was started with other settings: models.teacher was '\w+', now '\w+'"):
        run(recipe, faces, tmp_path / "run")


def test_a_run_begun_before_there_were_teachers_goes_on(faces, tmp_path):
    recipe = quick("epochs=1")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, faces, tmp_path / "run", Stopping())
    told = json.loads((tmp_path / "run/run.json").read_text())
    for setting in ("teacher", "teacher_weight"):
        del told["recipe"][setting]
    (tmp_path / "run/run.json").write_text(json.dumps(told))
    report = Silent()
    run(recipe, faces, tmp_path / "run", report)
    assert len(report.rows) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("teacher=/nowhere",), "there is no weights file '/nowhere'"),
        (("teacher=tfdfd/mesoo4",), "mesoo4"),
        (("teacher=tfdfd/meso4.df", "teacher_weight=0"), "teacher_weight must be above 0; received 0"),
        (("teacher=tfdfd/meso4.df", "teacher_weight=nan"), "teacher_weight must be above 0; received nan"),
        (
            ("teacher=tfdfd/meso4.df", "procedure=svm"),
            "needs procedure=fit; received teacher=tfdfd/meso4.df and",
        ),
    ],
)
def test_a_teacher_of_no_use_is_said_before_anything_is_made(faces, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(quick(*settings), faces, tmp_path / "run")
    assert not (tmp_path / "run").exists()
