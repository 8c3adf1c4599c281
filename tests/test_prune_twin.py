"""Every network has a twin in tf_keras that answers the same; what has none, or another, is refused."""

import json

import keras
import numpy as np
import pytest

from tests.seeded import SHAPE, fill, recorded, seeded
from tfdfd.models import build, list_models, spec
from tfdfd.models.svm import with_unfitted_svm
from tfdfd.pruning import prunable
from tfdfd.pruning.child import describe, run_twin, write_work
from tfdfd.runtime.equality import BOUNDS, check_twin
from tfdfd.training import TrainingError
from tfdfd.weights.saving import named_weights

WITH = [name for name, record in recorded().items() if record["twin"]]
APART = BOUNDS["twin"].tolerance
# Attention has no twin.
WITHOUT = [name for name in recorded() if name not in WITH]
# With every test run, in one process.
SMALL = [name for name in WITH if spec(name).params < 920_000]
LARGE = [name for name in WITH if name not in SMALL]
CROPS = np.random.default_rng(11).random((2, *SHAPE), dtype=np.float32)


class Silent:
    def step(self, **place):
        pass

    def epoch(self, row):
        pass

    def note(self, text):
        pass


def proved(models, folder):
    """By name, how far each twin is from its network."""
    for name, make in models.items():
        write_work(make(), CROPS, folder / name)
        keras.backend.clear_session()
    told = run_twin([folder / name for name in models], Silent())
    return dict(zip(models, (words["apart"] for words in told), strict=True))


def nested():
    model = build("srm_mobilenet_v2", input_shape=SHAPE, receives="rgb+noise", truncate=0.01)
    fill(named_weights(model).items())
    return model


def test_attention_alone_has_no_twin():
    assert {"clip_vit_b16", "best_ensemble"} <= set(WITHOUT)
    assert {"meso4", "meso_inception4", "mobilenet_v1", "mobilenet_v3_r3"} <= set(SMALL)
    assert sorted([*WITH, *WITHOUT]) == sorted(list_models())


@pytest.mark.parametrize("name", WITHOUT)
def test_networks_without_a_twin_are_refused(name):
    with pytest.raises(ValueError, match="which has no twin; there are twins of Activation"):
        describe(build(name, input_shape=SHAPE))


def test_small_networks_and_one_within_another_have_twins(tmp_path):
    found = proved({name: lambda name=name: seeded(name) for name in SMALL} | {"nested": nested}, tmp_path)
    assert len(found) == len(SMALL) + 1
    for name, apart in found.items():
        assert max(apart["fake_probability"], apart["features"]) <= APART, name


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks_have_twins(name, tmp_path):
    found = proved({name: lambda: seeded(name)}, tmp_path)[name]
    assert max(found["fake_probability"], found["features"]) <= APART


def test_a_twin_of_another_function_is_refused(tmp_path):
    write_work(seeded("meso4"), CROPS, tmp_path / "work")
    file = tmp_path / "work" / "graph.json"
    told = json.loads(file.read_text())
    told["layers"]["features"]["settings"]["negative_slope"] = 0.3
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="fake_probability of the network's twin differs by"):
        run_twin([tmp_path / "work"], Silent())


@pytest.mark.slow
def test_a_process_without_its_files_says_so(tmp_path):
    with pytest.raises(TrainingError, match="graph.json"):
        run_twin([tmp_path], Silent())


def test_what_has_no_twin_is_refused():
    with pytest.raises(ValueError, match="fake_probability is an SVM"):
        describe(with_unfitted_svm(build("meso4", input_shape=(32, 32, 3)), 5))
    image = keras.Input((8, 8, 3))
    features = keras.layers.Flatten(name="features")(keras.layers.UnitNormalization(name="odd")(image))
    with pytest.raises(
        ValueError, match="odd is a UnitNormalization, which has no twin; there are twins of Activation"
    ):
        describe(keras.Model(image, keras.layers.Dense(1, name="fake_probability")(features)))
    features = keras.layers.Flatten(name="features")(keras.layers.Conv2D(2, 3, activation="mish", name="odd")(image))
    with pytest.raises(ValueError, match="odd has the activation 'mish'"):
        describe(keras.Model(image, keras.layers.Dense(1, name="fake_probability")(features)))
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        describe(keras.Model(image, [features, features]))


def test_a_layer_called_twice_is_one_layer():
    image = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    features = keras.layers.Flatten(name="features")(shared(shared(image)))
    told = describe(keras.Model(image, keras.layers.Dense(1, name="fake_probability")(features)))
    assert [call["layer"] for call in told["calls"]] == ["shared", "shared", "features", "fake_probability"]
    assert [call["sources"] for call in told["calls"]] == [[-1], [0], [1], [2]]


def test_prunable_kernels_are_those_of_convolutions_and_dense_layers():
    names = prunable(describe(build("mobilenet_v1", input_shape=(32, 32, 3))))
    assert len(names) == 14 + 1
    assert "conv_dw_1/kernel" not in names
    assert {"conv1/kernel", "conv_pw_1/kernel", "fake_probability/kernel"} <= set(names)
    separable = prunable(describe(build("xception", input_shape=(71, 71, 3))))
    assert sum(name.endswith("pointwise_kernel") for name in separable) == 34


def test_a_proof_that_proves_nothing_is_none():
    answers = {"features": np.array([[1.0, 2.0], [3.0, 4.0]]), "fake_probability": np.array([[0.2], [0.7]])}
    assert check_twin(answers, answers) == {"fake_probability": 0, "features": 0, "crops": 2}
    moved = answers | {"fake_probability": answers["fake_probability"] + 2e-5}
    with pytest.raises(ValueError, match="fake_probability of .* differs by 2e-05"):
        check_twin(moved, answers)
    with pytest.raises(ValueError, match="not finite"):
        check_twin(answers | {"features": np.full((2, 2), np.nan)}, answers)
    with pytest.raises(ValueError, match="shape"):
        check_twin(answers | {"features": np.ones((2, 3))}, answers)
    same = answers | {"features": np.ones((2, 2))}
    with pytest.raises(ValueError, match="cannot be proved"):
        check_twin(same, same)
