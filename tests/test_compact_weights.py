"""Compact files of weights: how far what comes back may be from what was written, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.seeded import fill
from tfdfd.models import build
from tfdfd.weights.reading import read_safetensors
from tfdfd.weights.saving import FORMS, compact, expand, named_weights, save_weights

numbers = st.floats(-60_000, 60_000, width=32)


def normal(*shape, size=1.0):
    return np.random.default_rng(0).normal(0, size, shape).astype(np.float32)


def there_and_back(values, form, name="layer/kernel"):
    return expand(compact({name: values}, form), "x")[name]


@pytest.fixture(scope="module")
def network():
    model = build("meso4")
    fill(named_weights(model).items())
    return model


# How far it may be


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=numbers))
def test_float16_keeps_numbers_within_its_bound_or_refuses(values):
    try:
        back = there_and_back(values, "float16")
    except ValueError as error:
        assert "float16" in str(error)
        return
    assert back.dtype == np.float32
    assert (np.abs(back - values) <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)).all()


@given(
    hnp.arrays(np.float32, st.sampled_from([(64, 64), (1, 1, 64, 64), (3, 3, 32, 16)]), elements=numbers),
    st.floats(1e-30, 1e30),
)
def test_int8_keeps_numbers_within_its_bound(values, factor):
    values = (values * np.float32(factor) / 60_000).astype(np.float32)
    stored = compact({"layer/kernel": values}, "int8")
    assert stored["layer/kernel"].dtype == np.int8 and stored["layer/kernel.scale"].shape[-1] == values.shape[-1]
    largest = np.abs(values).max(axis=tuple(range(values.ndim - 1)), keepdims=True)
    tiny = 127 * np.finfo(np.float32).tiny
    back = expand(stored, "x")["layer/kernel"]
    assert (np.abs(back - values) <= np.maximum(largest, tiny) / 254 * (1 + 1e-5)).all()


def test_each_channel_has_its_own_scale():
    values = normal(1, 1, 64, 64) * np.logspace(-6, 3, 64, dtype=np.float32)
    apart = np.abs(there_and_back(values, "int8") - values).max(axis=(0, 1, 2))
    assert (apart <= np.abs(values).max(axis=(0, 1, 2)) / 254 * 1.0001).all() and apart[0] < 1e-7 < apart[-1]


def test_a_network_comes_back_in_bounds_and_answers_nearly_the_same(network, tmp_path):
    crops = np.random.default_rng(1).random((4, 256, 256, 3), np.float32)
    expected = np.asarray(network(crops, training=False))
    assert np.ptp(expected) > 1e-3
    sizes, apart = {}, {}
    for form in FORMS:
        card = carry(network, tmp_path / form, form)
        loaded = build("meso4", weights=card)
        sizes[form] = card.stat().st_size
        apart[form] = np.abs(np.asarray(loaded(crops, training=False)) - expected).max()
        for name, weight in named_weights(loaded).items():
            told = np.asarray(named_weights(network)[name])
            if form == "float32" or not name.endswith("kernel"):
                assert np.array_equal(np.asarray(weight), told), name
            assert np.abs(np.asarray(weight) - told).max() <= np.abs(told).max() * {"int8": 2.0**-7}.get(form, 2.0**-11)
    assert sizes["float32"] > 1.6 * sizes["float16"] and sizes["float16"] > 1.1 * sizes["int8"]
    assert apart["float32"] == 0 < apart["float16"] < 2e-3 and apart["int8"] < 0.1


def carry(model, folder, form):
    """A file with its card."""
    folder.mkdir(exist_ok=True)
    file = folder / "toy.safetensors"
    save_weights(model, file, form)
    data = file.read_bytes()
    card = {"handle": f"tfdfd/{model.name}.toy", "model": model.name, "file": file.name, "bytes": len(data)}
    card |= {"sha256": hashlib.sha256(data).hexdigest(), "licence": "none", "training_data": "none"}
    file.with_suffix(".json").write_text(json.dumps(card | {"polarity": "fake=1", "threshold": 0.5}))
    return file


# What becomes small


@pytest.mark.parametrize(
    ("shape", "dtype", "scale"),
    [
        ((1, 1, 64, 128), np.int8, (1, 1, 1, 128)),
        ((3, 3, 32, 64), np.int8, (1, 1, 1, 64)),
        ((4096, 1), np.int8, (1, 1)),
        ((25, 25, 512, 1), np.int8, (1, 1, 512, 1)),  # depthwise
        ((3, 3, 512, 1), np.float16, None),  # depthwise, nine numbers a channel
        ((3, 3, 3, 512), np.float16, None),
        ((512, 1), np.float16, None),
    ],
)
def test_int8_is_for_kernels_that_it_makes_smaller(shape, dtype, scale):
    stored = compact({"layer/kernel": normal(*shape)}, "int8")
    assert stored["layer/kernel"].dtype == dtype
    assert stored.get("layer/kernel.scale", np.zeros(0)).shape == (scale or (0,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["bias", "gamma", "moving_variance", "support_vectors", "count"])
def test_all_but_kernels_stays_as_it_is(form, name):
    values = normal(64, 128) if name != "count" else np.array(7, np.int64)
    stored = compact({f"layer/{name}": values}, form)
    assert list(stored) == [f"layer/{name}"] and stored[f"layer/{name}"] is values


def test_zeros_are_zeros():
    for form in FORMS:
        assert not there_and_back(np.zeros((64, 128), np.float32), form).any()


# What is refused


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="one of float32, float16, int8; received 'int4'"):
        compact({}, "int4")


@pytest.mark.parametrize("value", [65_520.0, -1e6, 3e38])
def test_numbers_above_float16_are_refused(value):
    values = normal(4, 4)
    values[2, 2] = value
    with pytest.raises(ValueError, match=r"layer/kernel has numbers up to .* float16 ends at 65504; write float32"):
        compact({"layer/kernel": values}, "float16")


def test_numbers_that_are_all_too_small_for_float16_are_refused():
    with pytest.raises(ValueError, match="no number above .* would change by up to .* write float32"):
        compact({"layer/kernel": normal(4, 4, size=1e-7)}, "float16")


@pytest.mark.parametrize("form", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(form, value):
    values = normal(64, 128)
    values[0, 0] = value
    with pytest.raises(ValueError, match="has NaN or infinite numbers"):
        compact({"layer/kernel": values}, form)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a/kernel.scale": None}, "the file has a/kernel as int8, but no a/kernel.scale"),
        ({"a/kernel": None}, "a/kernel.scale, but no int8 array"),
        ({"a/kernel": normal(64, 128)}, "a/kernel.scale, but no int8 array"),
        ({"b/bias.scale": normal(3)}, "b/bias.scale, but no int8 array"),
        ({"a/kernel.scale": np.ones((1, 127), np.float32)}, r"fit the shape \(64, 128\); received float32 of"),
        ({"a/kernel.scale": np.ones(128, np.float32)}, "must be float32 numbers above 0"),
        ({"a/kernel.scale": np.ones((1, 128), np.float64)}, "received float64"),
        ({"a/kernel.scale": np.zeros((1, 128), np.float32)}, "above 0"),
        ({"a/kernel.scale": np.full((1, 128), np.nan, np.float32)}, "above 0"),
        ({"a/kernel.scale": np.full((1, 128), -1, np.float32)}, "above 0"),
        ({"b/kernel": np.full((2, 2), np.inf, np.float16)}, "b/kernel has NaN or infinite numbers"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(change, message):
    stored = compact({"a/kernel": normal(64, 128)}, "int8") | change
    stored = {name: values for name, values in stored.items() if values is not None}
    with pytest.raises(ValueError, match=message):
        expand(stored, "the file")


def test_a_compact_file_of_another_network_is_refused(network, tmp_path):
    file = carry(network, tmp_path, "int8")
    card = json.loads(file.with_suffix(".json").read_text()) | {"model": "meso_inception4"}
    file.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="does not fit the network meso_inception4: it lacks"):
        build("meso_inception4", weights=file)


def test_an_altered_compact_file_is_refused(network, tmp_path):
    file = carry(network, tmp_path, "float16")
    file.write_bytes(file.read_bytes()[:-1] + b"\x3c")
    with pytest.raises(ValueError, match="is not the file of"):
        build("meso4", weights=file)


def test_the_file_says_how_it_was_written(network, tmp_path):
    stored = read_safetensors(carry(network, tmp_path, "int8"))
    kinds = {name: str(values.dtype) for name, values in stored.items()}
    assert kinds["hidden/kernel"] == "int8" and kinds["hidden/kernel.scale"] == "float32"
    assert kinds["fake_probability/kernel"] == "float16" and kinds["fake_probability/bias"] == "float32"


# Where there is no TensorFlow

WITHOUT_TENSORFLOW = """
import sys
class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
import hashlib
import numpy as np
from tfdfd.models import build
model = build("meso4", weights=sys.argv[1])
print(hashlib.sha256(b"".join(np.asarray(values).tobytes() for values in model.get_weights())).hexdigest())
"""


def test_compact_weights_load_without_tensorflow(network, tmp_path):
    pytest.importorskip("jax", reason="jax is not installed: pip install 'tfdfd[test]'")
    file = carry(network, tmp_path, "int8")
    values = b"".join(np.asarray(values).tobytes() for values in build("meso4", weights=file).get_weights())
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(file)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(values).hexdigest()
