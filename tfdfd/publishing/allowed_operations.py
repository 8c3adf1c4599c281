"""Allow-list of SavedModel operations: none may reach a file, the network or Python.

A SavedModel is a program. Its graph is read as data and not handed to TensorFlow, so a model of unknown origin can be
checked before it is loaded.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

MAX_GRAPH_BYTES = 512 << 20
# Operations of networks.
_NETWORK = """
    AddV2 AvgPool BatchMatMulV2 BatchToSpaceND BiasAdd ConcatV2 Conv2D DepthwiseConv2dNative Exp ExpandDims
    FusedBatchNormV3 LeakyRelu MatMul Max MaxPool Mean Min Minimum Maximum MirrorPad Mul Neg Pad PadV2 RealDiv Relu
    Relu6 Rsqrt Sigmoid Softmax SpaceToBatchND Sqrt Square SquaredDifference StopGradient Sub Sum Tanh Transpose
    StatelessRandomGetKeyCounter StatelessRandomUniformV2 """
# Operations that decode and resize crops, and control flow.
_PLUMBING = """
    All Any Assert Cast Const DecodeJpeg DecodePng DecodeRaw EnsureShape Equal ExtractJpegShape Fill Floor FloorDiv
    FloorMod GatherV2 Greater GreaterEqual Identity IdentityN If IsFinite Less LessEqual LogicalAnd LogicalNot
    LogicalOr NoOp Pack PartitionedCall Placeholder Prod Range Rank Reshape ResizeArea ReverseV2 RightShift Round
    Select SelectV2 Shape Size Slice Split Squeeze StatefulPartitionedCall StatelessIf StatelessWhile
    StaticRegexFullMatch StridedSlice StringJoin StringLength Substr TensorListFromTensor TensorListGetItem
    TensorListReserve TensorListSetItem TensorListStack Tile Unpack Where While ZerosLike """
_VARIABLES = " AssignVariableOp ReadVariableOp VarHandleOp "
_SAVING = " DisableCopyOnRead MergeV2Checkpoints SaveV2 ShardedFilename "
ALLOWED = frozenset((_NETWORK + _PLUMBING + _VARIABLES).split())
# Only within the two functions by which TensorFlow saves and restores the variables beside the graph.
_SAVE, _RESTORE = ALLOWED | frozenset(_SAVING.split()), ALLOWED | {"RestoreV2"}
# Kinds of Python objects that a loaded model may consist of; none of them contains code.
_OBJECTS = frozenset({"_generic_user_object", "trackable_list_wrapper", "signature_map"})
_KINDS = frozenset({"user_object", "variable", "function", "bare_concrete_function", "captured_tensor", "constant"})


class ForbiddenOperation(ValueError):
    """A SavedModel has an operation, object or file that could do more than compute."""


def check_operations(folder: str | os.PathLike) -> None:
    """Checks each operation of a SavedModel's graph, functions included, against the list.

    Nothing is run or handed to TensorFlow. Values of variables are not read: they are numbers.

    Raises:
        ForbiddenOperation: an operation that is not on the list, an asset, a Python object of another kind, or a file
            that TensorFlow would read instead of the graph.
        ValueError: there is no SavedModel, or it cannot be read.
    """
    folder = Path(folder)
    _check_files(folder)
    graph = _read(folder / "saved_model.pb")
    if len(graph.meta_graphs) != 1:
        raise ForbiddenOperation(f"{folder} holds {len(graph.meta_graphs)} graphs; expected one.")
    meta = graph.meta_graphs[0]
    _check_objects(folder, meta)
    _check_graph(folder, meta)


def _check_files(folder: Path) -> None:
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if os.path.lexists(folder / name):
            raise ForbiddenOperation(f"{folder} holds {name}, which may be read instead of saved_model.pb.")
    for name in ("saved_model.pb", "variables"):
        if not os.path.lexists(folder / name):
            raise ValueError(f"{folder} holds no SavedModel: there is no {name}.")
        if stat.S_ISLNK(os.lstat(folder / name).st_mode):
            raise ForbiddenOperation(f"{folder / name} is a link; a SavedModel is one folder of plain files.")


def _read(path: Path) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a graph has at most {MAX_GRAPH_BYTES:,}.")
    read = saved_model_pb2.SavedModel()
    try:
        read.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path} is not a SavedModel: {error}.") from error
    return read


def _check_objects(folder: Path, meta: Any) -> None:
    if meta.asset_file_def:
        raise ForbiddenOperation(f"{folder} reads files besides its variables (assets).")
    for node in meta.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        name = node.user_object.identifier if kind == "user_object" else kind
        if kind not in _KINDS or (kind == "user_object" and name not in _OBJECTS) or node.registered_name:
            raise ForbiddenOperation(f"{folder} holds an object of the kind {node.registered_name or name!r}.")
        if node.saveable_objects:
            raise ForbiddenOperation(f"{folder} holds an object that is restored by a function of its own.")


def _check_graph(folder: Path, meta: Any) -> None:
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    names = [
        *(one.signature.name for one in meta.graph_def.library.function),
        *(one.name for one in meta.graph_def.node),
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ForbiddenOperation(f"{folder} has several functions or nodes named {twice[0]!r}.")
    savers = _savers(meta, functions)
    allowed_in = {saver.function: saver.allowed for saver in savers}
    for name, nodes in [("", meta.graph_def.node), *((name, one.node_def) for name, one in functions.items())]:
        for node in nodes:
            if node.op not in allowed_in.get(name, ALLOWED):
                where = f"function {name}" if name else "graph"
                raise ForbiddenOperation(f"{folder}: the {where} has the operation {node.op!r} ({node.name}).")
            is_saver = not name and node.name in {saver.node for saver in savers}
            if not is_saver and allowed_in.keys() & set(_called(node)):
                raise ForbiddenOperation(
                    f"{folder}: {node.name} calls the function that reads and writes the variables' files."
                )
    _check_savers(folder, meta, functions, savers)


class _Saver(NamedTuple):
    """A node that only the loader may run, its function, and the operations allowed there."""

    node: str
    function: str
    allowed: frozenset


def _savers(meta: Any, functions: Any) -> Any:
    """The two nodes by which TensorFlow saves and restores variables, as the SavedModel names them."""
    nodes = {node.name: node for node in meta.graph_def.node}
    named = ((meta.saver_def.save_tensor_name, _SAVE), (meta.saver_def.restore_op_name, _RESTORE))
    savers = []
    for name, allowed in ((_node_of(name), allowed) for name, allowed in named):
        called = nodes[name].attr["f"].func.name if name in nodes else None
        if called in functions:
            savers.append(_Saver(name, called, allowed))  # type: ignore[arg-type]
    return savers


def _check_savers(folder: Path, meta: Any, functions: Any, savers: Any) -> None:
    """Checks that savers use the loader's file name, and that only the loader can run them."""
    names = {saver.node for saver in savers}
    file_name = _node_of(meta.saver_def.filename_tensor_name)
    for node in meta.graph_def.node:
        if node.name in names and (not node.input or _node_of(node.input[0]) != file_name):
            raise ForbiddenOperation(f"{folder}: {node.name} does not take the loader's file name first.")
        if node.name == file_name and node.op != "Placeholder":
            raise ForbiddenOperation(f"{folder}: the loader's file name is overruled by {node.op!r} ({node.name}).")
        if names & {_node_of(given) for given in node.input}:
            raise ForbiddenOperation(f"{folder}: {node.name} runs a node that reads and writes the variables' files.")
    for key, signature in meta.signature_def.items():
        tensors = [*signature.inputs.values(), *signature.outputs.values()]
        if (names | {file_name}) & {_node_of(tensor.name) for tensor in tensors}:
            raise ForbiddenOperation(f"{folder}: the signature {key!r} reads and writes the variables' files.")
    for key, collection in meta.collection_def.items():
        if names & {_node_of(name) for name in collection.node_list.value}:
            raise ForbiddenOperation(f"{folder}: the collection {key!r} runs a node that reads the variables' files.")
    reached = {saver.function for saver in savers} & meta.object_graph_def.concrete_functions.keys()
    if reached:
        raise ForbiddenOperation(f"{folder}: {', '.join(reached)} can be called after loading.")
    for saver in savers:
        function = functions[saver.function]
        given = [argument.name for argument in function.signature.input_arg][:1]
        for node in function.node_def:
            if node.op == "RestoreV2" and list(node.input)[:1] != given:
                raise ForbiddenOperation(f"{folder}: {node.name} restores from another file than the loader's.")


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _called(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)
