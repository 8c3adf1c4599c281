"""Every experiment from beginning to end, on few small crops: that it runs, and that what it leaves loads again."""

import json

import numpy as np
import pytest

from tests.made_faces import make_faces
from tests.test_training import Silent
from tfdfd.models import list_models, spec
from tfdfd.recipes import list_recipes

# A training step of most networks takes longer to trace than to run a few times; all their recipes but one run eagerly.
TRACED_FOR_LONG = {name for name in list_models() if spec(name).trainable > 1e5}
TRACED = ("sbi-mobilenet-v2",)
# One recipe of each of these networks runs with every test run, the others where time does not matter.
LARGE = {name for name in list_models() if spec(name).params > 4e6}
# None of these: test_models has, where time does not matter, a step down their gradients and their weights saved and
# loaded, and recipes of smaller networks have the same settings.
LARGEST = {"resnet152", "resnext101_32x8d", "efficientnet_b5"}
RECIPES = {name: recipe for name, recipe in list_recipes().items() if recipe.procedure in ("fit", "svm")}


def _runs():
    first = {recipe.network: name for name, recipe in reversed(RECIPES.items()) if not name.endswith("-radam")}
    quick = {name for network, name in first.items() if network not in LARGEST}
    large = {name for name, recipe in RECIPES.items() if recipe.network in LARGE}
    # Blended data is the same for all networks.
    blended = {name for name in RECIPES if name.startswith("sbi-")} - {"sbi-mobilenet-v1", "sbi-efficientnet-lite0"}
    # Noise layers are in front of the same network, Reseption V2 is V1 with other branches, R1 to R3 are MobileNetV3
    # with fewer blocks, and the others have the settings of a smaller network's recipe; test_models has a step of
    # each network.
    alike = {"s4-resnet50v2", "s4-resnet50v2-srm", "s4-vgg16-srm", "s2-reseption-v2", "s2-inception-v3-sgdm"}
    alike |= {"s0-mobilenet-v3-r2", "s0-mobilenet-v3-r3", "s1-meso-inception4-5-epochs", "sbi-clip-vit-b16"}
    alike |= {"s0-mobilenet-v3-r1", "s2-xception-sgdm", "s4-mobilenet-v2", "s4-vgg16"}
    slow = (large | blended) - quick | alike
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in RECIPES]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    # Pairs: S2's batches are of fakes beside their originals.
    make_faces(folder, videos=36, frames=2, side=96, pairs=True)
    return folder


@pytest.fixture(scope="module")
def real_faces(tmp_path_factory, astronaut):
    """Crops of one portrait, with their landmarks: what fakes are blended of."""
    import cv2

    from tfdfd.data.crops import faces_of
    from tfdfd.data.landmarks import landmarks_of
    from tfdfd.data.tables import FaceRow, write_table

    folder, rows = tmp_path_factory.mktemp("real"), []
    for number in range(16):
        name = f"{number:02}.png"
        shift = number // 4
        cv2.imwrite(str(folder / name), astronaut[50 + number % 4 : 170 + number % 4, 150 + shift : 290 + shift, ::-1])
        split = "train" if number < 10 else "val"
        rows.append(FaceRow(name, "made", name, 0, 0.0, 0, (0, 0, 9, 9), 1.0, 0, "original", (name,), split=split))
    write_table(folder / "faces.csv", rows, FaceRow)
    landmarks_of(faces_of(folder))
    return folder


@pytest.fixture
def memory_is_given_back(name):
    """The largest networks have 350 MB of weights, and as much again for each value that an optimizer keeps of them."""
    yield
    if RECIPES[name].network not in LARGE:
        return
    import gc

    import keras

    keras.utils.clear_session()
    gc.collect()


@pytest.fixture
def traced_where_quick(name, request):
    if RECIPES[name].network in TRACED_FOR_LONG and name not in TRACED:
        request.getfixturevalue("eagerly")


@pytest.mark.usefixtures("traced_where_quick", "memory_is_given_back")
@pytest.mark.parametrize("name", _runs())
def test_it_runs_from_beginning_to_end(name, faces, real_faces, tmp_path):
    import keras

    from tfdfd.models import load
    from tfdfd.training.procedures import train
    from tfdfd.weights.store import locate

    recipe = RECIPES[name].quick()
    # ImageNet's weights are a download; what is trained on them is the same without.
    recipe = recipe.changed(["weights=none", "limit=12" if recipe.procedure == "fit" else "limit=24"])
    data = real_faces if recipe.data == "self-blended" else faces
    result = train(recipe, data, tmp_path / "run", Silent(), allow_leaks=True)
    assert 0 <= result["val_auc"] <= 1
    assert 0 <= result["threshold"] <= 1
    log = (tmp_path / "run/log.csv").read_text().splitlines()
    assert len(log) >= 2
    assert "nan" not in log[1]
    record, path = locate(tmp_path / "run")
    assert record.model == recipe.network
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["name"] == name
    model = load(record, path)
    image = np.random.default_rng(0).random((1, *model.input_shape[1:]), dtype=np.float32)
    assert 0 <= float(keras.ops.convert_to_numpy(model(image))[0, 0]) <= 1


def test_what_needs_trained_weights_is_tested_by_itself():
    rest = {recipe.procedure for name, recipe in list_recipes().items() if name not in RECIPES}
    assert rest == {"ensemble", "bottleneck", "temporal"}  # test_procedures, test_bottlenecks
