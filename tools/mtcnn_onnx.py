"""Writes MTCNN's three networks as ONNX files, from the weights of the `mtcnn` package (MIT license).

    python -m tools.mtcnn_onnx [-o tfdfd/faces/networks]

The package stores its weights as lz4-compressed joblib pickles, which execute code when they are loaded, and runs them
on TensorFlow. The files written here hold data only, and OpenCV's DNN module runs them. They are made once; the tests
compare them with the package.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
from pathlib import Path

import numpy as np

from tfdfd.faces.detectors import NETWORKS


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=NETWORKS, metavar="FOLDER", help="default: %(default)s")
    folder = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in convert_networks().items():
        folder.joinpath(f"{name}.onnx").write_bytes(graph)
        print(f"{folder / name}.onnx: {len(graph):,} bytes")
    return 0


def convert_networks() -> dict[str, bytes]:
    """ONNX bytes of `pnet`, `rnet` and `onet`, made from the installed `mtcnn` package without importing it.

    Each network takes `image`, float32 `(batch, 3, height, width)` RGB in [0, 255].
    """
    import joblib
    import lz4.frame

    folder = Path(importlib.util.find_spec("mtcnn").submodule_search_locations[0], "assets", "weights")
    makers = {"pnet": _proposal_network, "rnet": _refine_network, "onet": _output_network}
    graphs = {}
    for name, make in makers.items():
        # Decompressed first: lz4's own file object raises at its end under Python 3.13.
        packed = lz4.frame.decompress(folder.joinpath(f"{name}.lz4").read_bytes())
        graphs[name] = make(joblib.load(io.BytesIO(packed)))
    return graphs


class _Chain:
    """A network of layers that follow one another."""

    def __init__(self, name, size):
        self._name, self._size = name, size
        self._nodes, self._weights, self._tensor = [], [], "image"

    def conv_prelu(self, name, kernel, bias, slope=None):
        self._add("Conv", name, {"w": kernel.transpose(3, 2, 0, 1), "b": bias}, kernel_shape=kernel.shape[:2])
        if slope is not None:
            self.prelu(f"{name}_prelu", slope.reshape(-1, 1, 1))

    def pool(self, name, size, ceil):
        self._add("MaxPool", name, {}, kernel_shape=[size, size], strides=[2, 2], ceil_mode=ceil)

    def flatten_dense(self, name, kernel, bias):
        self._add("Flatten", "flatten", {}, axis=1)
        self.dense(name, kernel, bias)

    def dense(self, name, kernel, bias):
        self._add("Gemm", name, {"w": kernel, "b": bias})

    def prelu(self, name, slope):
        self._add("PRelu", name, {"slope": slope})

    def serialize(self):
        from onnx import TensorProto, helper

        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, self._size, self._size))
        output = helper.make_tensor_value_info(self._tensor, TensorProto.FLOAT, ())
        graph = helper.make_graph(self._nodes, self._name, [image], [output], self._weights)
        opset = helper.make_opsetid("", 13)
        return helper.make_model(graph, ir_version=8, opset_imports=[opset]).SerializeToString(deterministic=True)

    def _add(self, operator, name, weights, **attributes):
        from onnx import helper, numpy_helper

        keys = [f"{name}_{key}" for key in weights]
        for key, value in zip(keys, weights.values(), strict=True):
            self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value, "<f4"), key))
        self._nodes.append(helper.make_node(operator, [self._tensor, *keys], [name], name, **attributes))
        self._tensor = name


def _scaled_first(kernel, bias):
    """The first convolution with (x - 127.5) / 128 folded in: it then takes pixels in [0, 255]."""
    return kernel / 128, bias - kernel.sum(axis=(0, 1, 2)) * (127.5 / 128)


def _proposal_network(w):
    net = _Chain("pnet", 12)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 2, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.conv_prelu("conv3", *w[6:9])
    net.conv_prelu("conv4", np.concatenate([w[9], w[11]], axis=3), np.concatenate([w[10], w[12]]))
    return net.serialize()


def _refine_network(w):
    net = _Chain("rnet", 24)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 3, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.pool("pool2", 3, ceil=0)
    net.conv_prelu("conv3", *w[6:9])
    net.flatten_dense("fc4", _channels_first(w[9], 3, 64), w[10])
    net.prelu("fc4_prelu", w[11])
    net.dense("fc5", np.concatenate([w[12], w[14]], axis=1), np.concatenate([w[13], w[15]]))
    return net.serialize()


def _output_network(w):
    net = _Chain("onet", 48)
    net.conv_prelu("conv1", *_scaled_first(w[0], w[1]), w[2])
    net.pool("pool1", 3, ceil=1)
    net.conv_prelu("conv2", *w[3:6])
    net.pool("pool2", 3, ceil=0)
    net.conv_prelu("conv3", *w[6:9])
    net.pool("pool3", 2, ceil=1)
    net.conv_prelu("conv4", *w[9:12])
    net.flatten_dense("fc5", _channels_first(w[12], 3, 128), w[13])
    net.prelu("fc5_prelu", w[14])
    kernels, biases = w[15::2], w[16::2]  # box offsets, landmarks, logits
    net.dense("fc6", np.concatenate(kernels, axis=1), np.concatenate(biases))
    return net.serialize()


def _channels_first(kernel, side, channels):
    """Rows of a dense kernel in (column, row, channel) order, as the package flattens, reordered to OpenCV's
    (channel, row, column)."""
    return kernel.reshape(side, side, channels, -1).transpose(2, 1, 0, 3).reshape(kernel.shape)


if __name__ == "__main__":
    raise SystemExit(main())
