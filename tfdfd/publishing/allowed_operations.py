"""A SavedModel is a program. Ours compute, and nothing else: no operation reaches a file, the network or Python.

The graph is read as data and never given to TensorFlow, so that a stranger's SavedModel can be judged before it is
loaded.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from google.protobuf.message import DecodeError

MAX_GRAPH_BYTES = 512 << 20
# What networks are made of.
_NETWORK = """
    AddV2 AvgPool BatchToSpaceND BiasAdd ConcatV2 Conv2D DepthwiseConv2dNative Exp ExpandDims FusedBatchNormV3
    LeakyRelu MatMul Max MaxPool Mean Minimum Maximum MirrorPad Mul Neg Pad PadV2 RealDiv Relu Relu6 Rsqrt Sigmoid
    Softmax SpaceToBatchND Sqrt Square SquaredDifference StopGradient Sub Sum Tanh Transpose
    StatelessRandomGetKeyCounter StatelessRandomUniformV2 """
# What decodes and resizes crops, and what graphs are held together by.
_PLUMBING = """
    All Any Assert Cast Const DecodeJpeg DecodePng DecodeRaw EnsureShape Equal ExtractJpegShape Floor FloorDiv FloorMod
    GatherV2 Greater GreaterEqual Identity IdentityN If Less LessEqual LogicalAnd LogicalNot LogicalOr NoOp Pack
    PartitionedCall Placeholder Prod Range Rank Reshape ResizeArea RightShift Round Select SelectV2 Shape Size
    Slice Split Squeeze StatefulPartitionedCall StatelessIf StatelessWhile StridedSlice StringLength Substr
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack Tile Unpack While
    ZerosLike """
_VARIABLES = " AssignVariableOp ReadVariableOp VarHandleOp "
_SAVING = " DisableCopyOnRead MergeV2Checkpoints SaveV2 ShardedFilename StaticRegexFullMatch StringJoin "
ALLOWED = frozenset((_NETWORK + _PLUMBING + _VARIABLES).split())
# Only within the two functions by which TensorFlow itself saves and restores the variables beside the graph.
_SAVE, _RESTORE = ALLOWED | frozenset(_SAVING.split()), ALLOWED | {"RestoreV2"}
# What Python objects the loaded model is made of: none of them brings code along.
_OBJECTS = frozenset({"_generic_user_object", "trackable_list_wrapper", "signature_map"})
_KINDS = frozenset({"user_object", "variable", "function", "bare_concrete_function", "captured_tensor", "constant"})


class ForbiddenOperation(ValueError):
    """A SavedModel does, or could do, more than compute."""


def check_operations(folder: str | os.PathLike) -> None:
    """Reads the graph of a SavedModel, functions included, and compares each operation with the list.

    Nothing of it is run or handed to TensorFlow. The values of the variables are not looked at: they are numbers.

    Raises:
        ForbiddenOperation: an operation that is not on the list, an asset, a Python object of another kind, or a file
            that TensorFlow would read in the place of the graph.
        ValueError: there is no SavedModel, or one that cannot be read.
    """
    folder = Path(folder)
    _check_files(folder)
    graph = _read(folder / "saved_model.pb")
    if len(graph.meta_graphs) != 1:
        raise ForbiddenOperation(f"{folder} holds {len(graph.meta_graphs)} graphs; expected one.")
    meta = graph.meta_graphs[0]
    _check_objects(folder, meta)
    _check_graph(folder, meta)


def _check_files(folder):
    for name in ("saved_model.pbtxt", "saved_model.cpb"):
        if os.path.lexists(folder / name):
            raise ForbiddenOperation(f"{folder} holds {name}, which may be read in the place of saved_model.pb.")
    for name in ("saved_model.pb", "variables"):
        if not os.path.lexists(folder / name):
            raise ValueError(f"{folder} holds no SavedModel: there is no {name}.")
        if stat.S_ISLNK(os.lstat(folder / name).st_mode):
            raise ForbiddenOperation(f"{folder / name} is a link; a SavedModel is one folder of plain files.")


def _read(path):
    from tensorflow.core.protobuf import saved_model_pb2

    size = path.stat().st_size
    if size > MAX_GRAPH_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; a graph has at most {MAX_GRAPH_BYTES:,}.")
    read = saved_model_pb2.SavedModel()
    try:
        read.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"{path} is no SavedModel: {error}.") from error
    return read


def _check_objects(folder, meta):
    if meta.asset_file_def:
        raise ForbiddenOperation(f"{folder} reads files besides its variables (assets).")
    for node in meta.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        name = node.user_object.identifier if kind == "user_object" else kind
        if kind not in _KINDS or (kind == "user_object" and name not in _OBJECTS) or node.registered_name:
            raise ForbiddenOperation(f"{folder} holds an object of the kind {node.registered_name or name!r}.")


def _check_graph(folder, meta):
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    special = _saver_functions(meta, functions)
    # Each of the two may be called once, by the node that the saver names: from elsewhere it would reach any file.
    calls = [(None, meta.graph_def.node)] + [(name, function.node_def) for name, function in functions.items()]
    saver_nodes = {meta.saver_def.restore_op_name, meta.saver_def.save_tensor_name.partition(":")[0]}
    for place, nodes in calls:
        allowed = special.get(place, ALLOWED)
        for node in nodes:
            if node.op not in allowed:
                # A function may be called by its name alone.
                if node.op in functions and node.op not in special:
                    continue
                where = f"function {place}" if place else "graph"
                raise ForbiddenOperation(f"{folder}: the {where} has the operation {node.op!r} ({node.name}).")
            called = set(_called(node))
            if called & special.keys() and not (place is None and node.name in saver_nodes):
                raise ForbiddenOperation(f"{folder}: {node.name} calls what restores variables from files.")
    for name in special:
        _check_file_names(folder, functions[name])


def _saver_functions(meta, functions):
    """Names of the functions that save and restore, with the operations that each may have."""
    found = {}
    for node_name, allowed in ((meta.saver_def.save_tensor_name, _SAVE), (meta.saver_def.restore_op_name, _RESTORE)):
        node = next((node for node in meta.graph_def.node if node.name == node_name.partition(":")[0]), None)
        name = node.attr["f"].func.name if node is not None else None
        if name in functions:
            found[name] = allowed
    return found


def _called(node):
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _check_file_names(folder, function):
    """What is restored comes from the file that the loader names, the function's first argument, and no other."""
    if not function.signature.input_arg:
        raise ForbiddenOperation(f"{folder}: {function.signature.name} takes no file name.")
    given = function.signature.input_arg[0].name
    for node in function.node_def:
        if node.op == "RestoreV2" and (not node.input or node.input[0] != given):
            raise ForbiddenOperation(f"{folder}: {node.name} restores from a file of its own choice.")
