"""Reseption V1, V2 and their ensemble against the author's layers, counts and rules."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tfdfd.models import build
from tfdfd.models.counting import layer_rows, learned, thesis_macs, trainable

TABLE = Path(__file__).parent / "tables" / "reseption_layers.txt"
REPEATS = {"a": 3, "b": 4, "c": 2}
SLOPE = 0.2


@pytest.fixture(scope="module", params=["v1", "v2"])
def version(request):
    keras.utils.set_random_seed(5)
    return request.param, build(f"reseption_{request.param}")


def author_rows(version):
    """Rows as `(name, kernel, stride, padding, filters, grid)`, blocks repeated, in the author's order."""
    lines = [line.split() for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    header, *lines = lines
    lines = [dict(zip(header, line, strict=True)) for line in lines]
    for block in dict.fromkeys(line["block"] for line in lines):
        for i in range(1, REPEATS.get(block, 1) + 1):
            for line in lines:
                if line["block"] == block and line[version] != "-":
                    part = f"{block}{i}" if block in REPEATS else block
                    branch = "" if line["branch"] == "." else f"branch{line['branch']}_"
                    kernel, padding = ([int(side) for side in line[key].split("x")] for key in ("kernel", "padding"))
                    high, wide = padding
                    yield {
                        "name": f"{part}_{branch}{line['step']}",
                        "kernel": kernel,
                        "stride": [int(line["stride"])] * 2,
                        "padding": [high, high, wide, wide],
                        "filters": int(line[version]),
                        "grid": [int(line["grid"])] * 2,
                    }


def test_layers_as_printed_are_the_authors_row_by_row(version, run_tfdfd):
    name, model = version
    code, stdout, _ = run_tfdfd("models", "show", f"reseption_{name}", "--layers", "--json")
    assert code == 0
    ours = [row for row in json.loads(stdout) if row["kernel"]]
    expected = list(author_rows(name))
    assert [{key: row[key] for key in expected[0]} for row in ours] == expected
    # A convolution has its norm and no bias; a pool has neither.
    assert all((row["norm"] is not None) == (row["type"] == "Conv2D") for row in ours)
    assert not any(model.get_layer(row["name"]).use_bias for row in ours if row["type"] == "Conv2D")


def test_norms_and_activations_are_the_authors(version):
    _, model = version
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(layer.epsilon, layer.momentum, layer.scale, layer.center) for layer in norms} == {(1e-3, 0.9, True, True)}
    # One a convolution, and one behind each of the nine residual sums.
    leaky = [layer for layer in model.layers if isinstance(layer, keras.layers.LeakyReLU)]
    assert len(leaky) == len(norms) + 9
    assert {layer.negative_slope for layer in leaky} == {SLOPE}


@pytest.mark.parametrize("block", ["a1", "b4", "c2"])
def test_a_block_is_the_activated_sum_of_its_branches_and_its_input(version, block):
    """Computed from the block's own parts: out = leaky(concat(branches) + input), remapped before the sum in V2."""
    name, model = version
    before = {"a1": "stem_pool2" if name == "v1" else "stem_conv6_act", "b4": "b3_out", "c2": "c1_out"}[block]
    parts = [
        row["name"] for row in layer_rows(model) if row["name"].startswith(f"{block}_") and row["type"] == "Conv2D"
    ]
    if name == "v1":
        steps = {}
        for part in parts:
            branch, step = part.removeprefix(f"{block}_").split("_")
            steps.setdefault(branch, []).append(step)
        # The last step of each branch, or both where it forks.
        ends = [
            f"{block}_{branch}_{step}_act"
            for branch, done in steps.items()
            for step in (done[-2:] if done[-1].endswith("b") else done[-1:])
        ]
    else:
        ends = [f"{block}_remap_act"]
    names = [before, *ends, f"{block}_out"]
    model = keras.Model(model.input, [model.get_layer(layer).output for layer in names])
    image = np.random.default_rng(0).random((1, 299, 299, 3), dtype=np.float32)
    x, *branches, out = (np.asarray(value) for value in model(image, training=False))
    total = np.concatenate(branches, axis=-1) + x
    np.testing.assert_allclose(out, np.where(total > 0, total, SLOPE * total), rtol=1e-5, atol=1e-6)


def test_initial_weights_follow_the_authors_rule():
    """Xavier normal with gain sqrt(2 / (1 + slope^2)), not truncated (else nothing lies beyond 2.3 sigma)."""
    keras.utils.set_random_seed(7)
    model = build("reseption_v1")
    for name in ("reduction_a_branch1_conv1", "c1_branch3_conv2", "b1_branch2_conv2"):
        kernel = np.asarray(model.get_layer(name).kernel)
        area, inputs, filters = np.prod(kernel.shape[:2]), kernel.shape[2], kernel.shape[3]
        sigma = np.sqrt(2 / (1 + SLOPE**2)) * np.sqrt(2 / (area * (inputs + filters)))
        assert kernel.std() == pytest.approx(sigma, rel=0.02)
        assert np.abs(kernel).max() > 3 * sigma
    bias = abs(float(np.asarray(model.get_layer("fake_probability").bias)[0]))
    assert 0 < bias <= 1 / np.sqrt(1280)


def test_published_counts():
    """Thesis, table 7.1, to the printed digit; 34,096,865 is printed there as 34 M."""
    for name, parameters, giga in [
        ("reseption_v1", 16_888_257, "5.15"),
        ("reseption_v2", 15_751_233, "4.79"),
        ("reseption_ensemble", 34_096_865, "9.94"),
        ("inception_v3", 21_787_617, "5.73"),
    ]:
        model = build(name)
        assert learned(model) == parameters
        assert f"{thesis_macs(model) / 1e9:.2f}" == giga


def test_resnext_is_counted_in_the_thesis_at_the_size_of_inception():
    """Table 7.1 says 224 pixels and 30.51 G MACs: 224 pixels make 16.47 G, 299 make 30.51."""
    assert f"{thesis_macs(build('resnext101_32x8d')) / 1e9:.2f}" == "16.47"
    assert f"{thesis_macs(build('resnext101_32x8d', input_shape=(299, 299, 3))) / 1e9:.2f}" == "30.51"


def test_ensemble_takes_trained_bodies_and_trains_its_three_dense_layers_only():
    size = (96, 96, 3)
    members = {"v1": build("reseption_v1", input_shape=size), "v2": build("reseption_v2", input_shape=size)}
    ensemble = build("reseption_ensemble", **members)
    assert ensemble.input_shape == (None, *size)
    assert {weight.path.split("/")[0] for weight in ensemble.trainable_weights} == {
        "reseption_v1_features",
        "reseption_v2_features",
        "fake_probability",
    }
    assert trainable(ensemble) == 1280 * 512 + 512 + 1568 * 512 + 512 + 1025
    image = np.random.default_rng(1).random((2, *size), dtype=np.float32)
    for version, member in members.items():
        assert member.trainable
        assert len(member.trainable_weights) == len(build(f"reseption_{version}", input_shape=size).trainable_weights)
        alone = keras.Model(member.input, member.get_layer("features").output)(image, training=False)
        body = ensemble.get_layer(f"reseption_{version}")
        np.testing.assert_array_equal(body(image, training=False), alone)
        # A frozen body keeps its statistics while the head trains.
        np.testing.assert_array_equal(body(image, training=True), alone)


def test_ensemble_refuses_members_that_do_not_fit():
    small, large = build("reseption_v1", input_shape=(96, 96, 3)), build("reseption_v2", input_shape=(128, 128, 3))
    with pytest.raises(ValueError, match=r"members for.*96.*128.*build both alike"):
        build("reseption_ensemble", v1=small, v2=large)
    headless = keras.Sequential([keras.Input((96, 96, 3)), keras.layers.Flatten()], name="flat")
    with pytest.raises(ValueError, match=r"flat, given as reseption_v2, has no layer 'features'"):
        build("reseption_ensemble", v1=small, v2=headless)
