"""R1 to R3 begin with the weights of the whole MobileNetV3: all of their own, as they are, and of no other network."""

import json
import re

import keras
import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.seeded import fill
from tests.test_training import Silent, quick, run
from tfdfd.models import build
from tfdfd.models.mobilenet_v3 import omitted_rows
from tfdfd.weights.initial import SLIMMED, copy_shared_weights
from tfdfd.weights.saving import named_weights, save_weights
from tfdfd.weights.store import digest, locate


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder, videos=12)
    return folder


@pytest.fixture(scope="module")
def whole():
    model = build("mobilenet_v3", input_shape=(64, 64, 3))
    fill(named_weights(model).items())
    return model


def saved(model, folder, name, **known):
    """Weights with their card, as they come from elsewhere."""
    path = folder / f"{name}.safetensors"
    save_weights(model, path)
    card = {"handle": f"tfdfd/{name}.made", "model": name, "file": path.name, "sha256": digest(path)}
    card |= {"bytes": path.stat().st_size, "licence": "made", "training_data": "none", "polarity": "fake=1"}
    path.with_suffix(".json").write_text(json.dumps(card | {"threshold": 0.5} | known))
    return path


@pytest.mark.parametrize(("name", "rows"), list(zip(SLIMMED, [(10,), (9, 10), (7, 9, 10)], strict=True)))
def test_every_weight_is_that_of_the_whole_network(whole, name, rows):
    slimmed = build(name, input_shape=(96, 96, 3))
    copy_shared_weights(slimmed, whole)
    expected, found = named_weights(whole), named_weights(slimmed)
    assert omitted_rows(name) == rows
    for weight, values in found.items():
        np.testing.assert_array_equal(values.numpy(), expected[weight].numpy(), err_msg=weight)
    gone = {re.match(r"expanded_conv_(\d+)", weight)[1] for weight in expected.keys() - found.keys()}
    assert gone == set(map(str, rows))


def test_a_network_is_built_with_them(whole, tmp_path):
    model = build("mobilenet_v3_r3", f"slim:{saved(whole, tmp_path, 'mobilenet_v3')}", (64, 64, 3))
    expected = named_weights(whole)
    for weight, values in named_weights(model).items():
        np.testing.assert_array_equal(values.numpy(), expected[weight].numpy(), err_msg=weight)
    with pytest.raises(ValueError, match="is for mobilenet_v3_r1, .*; received slim:tfdfd/meso4.df for meso4"):
        build("meso4", "slim:tfdfd/meso4.df")


def test_the_layers_before_the_first_row_that_goes_answer_as_in_the_whole_network(whole):
    slimmed = build("mobilenet_v3_r1", input_shape=(64, 64, 3))
    copy_shared_weights(slimmed, whole)
    images = np.random.default_rng(3).uniform(size=(2, 64, 64, 3)).astype("float32")
    maps = [keras.Model(model.input, model.get_layer("expanded_conv_9_add").output) for model in (whole, slimmed)]
    np.testing.assert_array_equal(*(np.asarray(model(images)) for model in maps))


def test_another_shape_takes_nothing(whole):
    image = keras.Input((64, 64, 3))
    other = keras.Model(image, keras.layers.Conv2D(8, 3, name="conv", use_bias=False)(image), name="other")
    before = other.get_layer("conv").get_weights()[0].copy()
    with pytest.raises(
        ValueError, match=r"other is not slimmed from mobilenet_v3: conv/kernel has the shape \(3, 3, 3, 8"
    ):
        copy_shared_weights(other, whole)
    np.testing.assert_array_equal(other.get_layer("conv").get_weights()[0], before)


@pytest.mark.usefixtures("eagerly")
def test_a_training_begins_with_them_and_says_so(whole, faces, tmp_path):
    path = saved(whole, tmp_path, "mobilenet_v3")
    report, settings = Silent(), ("network=mobilenet_v3_r2", f"weights=slim:{path}", "epochs=1")
    # So small a rate that the weights stay those that they were.
    run(quick(*settings, "learning_rate=1e-30", "calibration=none"), faces, tmp_path / "run", report)
    assert report.notes == [
        f"mobilenet_v3_r2 starts with {len(named_weights(build('mobilenet_v3_r2')))} weights of "
        "tfdfd/mobilenet_v3.made; omitted: rows 9, 10"
    ]
    record, _ = locate(tmp_path / "run")
    assert record.model == "mobilenet_v3_r2"
    assert record.card["slimmed_of"]["sha256"] == digest(path)
    assert json.loads((tmp_path / "run/run.json").read_text())["slimmed_of"] == record.card["slimmed_of"]
    expected = named_weights(whole)
    for name, values in named_weights(build("mobilenet_v3_r2", tmp_path / "run")).items():
        if not name.rpartition("/")[2].startswith("moving_"):
            np.testing.assert_allclose(values.numpy(), expected[name].numpy(), atol=1e-6, err_msg=name)


def test_what_is_no_whole_network_is_refused_before_anything_is_made(faces, tmp_path):
    with pytest.raises(ValueError, match="is for mobilenet_v3_r1, .*; received slim:tfdfd/meso4.df for meso4"):
        run(quick("weights=slim:tfdfd/meso4.df"), faces, tmp_path / "run")
    with pytest.raises(ValueError, match="of meso_inception4; mobilenet_v3_r1 is slimmed from mobilenet_v3"):
        run(quick("weights=slim:tfdfd/meso_inception4", "network=mobilenet_v3_r1"), faces, tmp_path / "run")
    with pytest.raises(ValueError, match="there is no weights file '/nowhere'"):
        run(quick("weights=slim:/nowhere", "network=mobilenet_v3_r1"), faces, tmp_path / "run")
    assert not (tmp_path / "run").exists()
