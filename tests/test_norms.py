"""The running statistics of batch normalisation follow as fast as a recipe says, in networks inside networks, too."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.made_faces import make_faces
from tests.test_training import Silent, quick, run
from tfdfd.models import build
from tfdfd.training.optimizers import set_norm_momentum


@pytest.mark.parametrize("name", ["mobilenet_v3_r3", "mobilenet_v2"])
def test_every_norm_of_a_network_is_set(name):
    model = build(name, input_shape=(64, 64, 3))
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert set_norm_momentum(model, 0.75) == len(norms) > 20
    assert {norm.momentum for norm in norms} == {0.75}


def test_statistics_follow_so_fast():
    model = build("mobilenet_v3_r3", input_shape=(64, 64, 3))
    set_norm_momentum(model, 0.75)
    images = np.random.default_rng(3).uniform(size=(4, 64, 64, 3)).astype("float32")
    seen = np.asarray(keras.Model(model.input, model.get_layer("conv").output)(images))
    model(images, training=True)
    norm = model.get_layer("conv_bn")
    np.testing.assert_allclose(norm.moving_mean.numpy(), 0.25 * seen.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance.numpy(), 0.75 + 0.25 * seen.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.usefixtures("eagerly")
def test_a_recipe_sets_them(tmp_path):
    make_faces(tmp_path / "faces", videos=12)
    found = []
    for momentum in ("none", "0.5"):
        settings = ("network=mobilenet_v3_r3", "epochs=1", f"norm_momentum={momentum}")
        run(quick(*settings), tmp_path / "faces", tmp_path / momentum, Silent())
        assert json.loads((tmp_path / momentum / "run.json").read_text())["finished"]
        found.append(load_file(tmp_path / momentum / "weights.safetensors")["conv_bn/moving_variance"])
    slow, fast = found
    # Three steps at 0.999, or at 0.5, away from 1.
    assert (slow > 0.99).all()
    assert (fast < 0.7).all()


def test_a_momentum_of_no_use_is_said():
    for value in ("0", "1", "-0.5", "nan"):
        with pytest.raises(ValueError, match=f"norm_momentum must be between 0 and 1; received {float(value)}"):
            quick(f"norm_momentum={value}")
