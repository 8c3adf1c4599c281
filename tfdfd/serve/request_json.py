"""Parsing of JSON request bodies, by worker processes if they are large.

Python's JSON parser holds the interpreter, so a body of many values would stop the event loop. Workers are few, have
limited memory, and are killed with a request that takes too long. This module imports no TensorFlow.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import math
import pickle
import struct
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfdfd.child_process import python_command
from tfdfd.serve import INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, ServingError, quoted, unknown_signature

ROWS, COLUMNS = "instances", "inputs"
BASE64 = "b64"
# Bodies up to these limits are parsed in the event loop, in a few milliseconds.
_SMALL_BYTES, _SMALL_VALUES = 2 << 20, 10_000
# Memory of a worker: 30 MB of empty objects become 700 MB.
_WORKER_BYTES = 3 << 30
_LENGTH = struct.Struct(">Q")
_CODE = "from tfdfd.serve.request_json import work; work()"


@dataclass(frozen=True)
class InputType:
    """Type of a signature's input.

    Attributes:
        name: TensorFlow's name of the type, such as `DT_FLOAT`.
        dtype: NumPy's dtype; None for strings.
        kinds: kinds of NumPy arrays that JSON values may have.
        limits: smallest and largest whole number; None for other types.
    """

    name: str
    dtype: np.dtype | None
    kinds: str = ""
    limits: tuple[int, int] | None = None


@dataclass(frozen=True)
class PredictBody:
    """A parsed body of Predict.

    Attributes:
        signature: name; empty for the default.
        form: `instances` (by row) or `inputs` (by column).
        arrays: by input; strings as object arrays of bytes.
    """

    signature: str
    form: str
    arrays: dict[str, np.ndarray]


Types = dict[str, dict[str, InputType]]


def read_predict(body: bytes, types: Types, default: str) -> PredictBody:
    """Parses a body of Predict; the signature is checked before any value is converted.

    Args:
        body: JSON.
        types: by signature and input.
        default: signature of a request that names none.

    Raises:
        ServingError: invalid JSON, unknown signature, neither or both forms, or values that do not fit the inputs.
    """
    parsed = parse(body)
    name = signature_name(parsed)
    inputs = types.get(name or default)
    if inputs is None:
        raise unknown_signature(name or default, types)
    if (ROWS in parsed) == (COLUMNS in parsed):
        raise ServingError(INVALID_ARGUMENT, f"expected one of the keys '{ROWS}' and '{COLUMNS}'.")
    form = ROWS if ROWS in parsed else COLUMNS
    columns = _rows_to_columns(parsed[ROWS], inputs) if form == ROWS else _columns(parsed[COLUMNS], inputs)
    arrays = {}
    for key, value in columns.items():
        if key not in inputs:
            raise ServingError(INVALID_ARGUMENT, f"JSON object: does not have named input: {quoted(key)}")
        arrays[key] = _array(key, value, inputs[key])
    return PredictBody(name, form, arrays)


@dataclass(frozen=True)
class InferBody(PredictBody):
    """A parsed body of the Open Inference Protocol.

    Attributes:
        outputs: names of the requested outputs; empty for all.
        id: id of the request; echoed.
    """

    outputs: tuple[str, ...] = ()
    id: str = ""


def read_infer(body: bytes, types: Types, default: str) -> InferBody:
    """Parses a body of the Open Inference Protocol's `infer`; arguments and errors as for `read_predict`.

    The signature is the parameter `signature_name`, else the one that has the inputs of these names.
    """
    parsed = parse(body)
    tensors = {str(tensor.get("name")): tensor for tensor in _objects(parsed, "inputs")}
    parameters = parsed.get("parameters", {})
    name = signature_name(parameters if isinstance(parameters, dict) else {})
    name = choose_signature(types, name, tensors, default)
    arrays = {key: _tensor(key, tensor, types[name][key]) for key, tensor in tensors.items()}
    outputs = tuple(str(output.get("name")) for output in _objects(parsed, "outputs", optional=True))
    return InferBody(name, COLUMNS, arrays, outputs, str(parsed.get("id", "")))


def choose_signature(types: Types, name: str, given: Collection[str], default: str) -> str:
    """The signature of an Open Inference request: the named one, else the one that has the given inputs.

    Raises:
        ServingError: there is none of that name, or its inputs differ from the given ones.
    """
    if not name:
        fitting = [key for key, inputs in types.items() if inputs.keys() == set(given)]
        name = default if default in fitting or not fitting else fitting[0]
    inputs = types.get(name)
    if inputs is None:
        raise unknown_signature(name, types)
    if inputs.keys() != set(given):
        raise ServingError(
            INVALID_ARGUMENT,
            f"signature {name!r} has the inputs {', '.join(inputs)}; received {', '.join(map(quoted, given))}.",
        )
    return name


def check_datatype(name: str, given: Any, kind: InputType) -> None:
    """Raises `ServingError` unless an input of the Open Inference Protocol has the signature's datatype."""
    if given != datatype(kind):
        raise ServingError(
            INVALID_ARGUMENT,
            f"input {name!r} expects the datatype {datatype(kind)}; received {quoted(str(given))}.",
        )


def datatype(kind: InputType) -> str:
    """Name of a type in the Open Inference Protocol."""
    if kind.dtype is None:
        return "BYTES"
    name = kind.dtype.name
    return "BF16" if name == "bfloat16" else name.upper().replace("FLOAT", "FP")


def _objects(parsed: Any, key: str, optional: bool = False) -> list:
    values = parsed.get(key, [] if optional else None)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values) or not (values or optional):
        raise ServingError(INVALID_ARGUMENT, f"expected the key {key!r} with a list of objects.")
    return values


def _tensor(name: str, tensor: Any, kind: InputType) -> np.ndarray:
    shape = tensor.get("shape")
    check_datatype(name, tensor.get("datatype"), kind)
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ServingError(INVALID_ARGUMENT, f"input {name!r} must have a shape of whole numbers from 0 on.")
    if "data" not in tensor:
        raise ServingError(INVALID_ARGUMENT, f"input {name!r} has no data; tensors in binary form are not supported.")
    value, parameters = tensor["data"], tensor.get("parameters", {})
    if kind.dtype is None and isinstance(parameters, dict) and parameters.get("content_type") == "base64":
        value = _encoded(value)
    array = _array(name, value, kind)
    if array.size != math.prod(shape) or array.ndim not in (1, len(shape)):
        raise ServingError(INVALID_ARGUMENT, f"input {name!r} has {array.size} values for the shape {shape}.")
    return array.reshape(shape)


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    return {BASE64: value} if isinstance(value, str) else value


def parse(body: bytes) -> dict:
    """The JSON object in a request's body; NaN and Infinity are accepted as numbers.

    Raises:
        ServingError: it is not JSON, or not an object.
    """
    try:
        # Decoded here, since `json` would accept UTF-16 bytes, too.
        parsed = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ServingError(INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(parsed, dict):
        raise ServingError(INVALID_ARGUMENT, f"expected a JSON object; received a {type(parsed).__name__}.")
    return parsed


def signature_name(parsed: dict) -> str:
    """The name of the requested signature; empty for the default.

    Raises:
        ServingError: it is not a string.
    """
    name = parsed.get("signature_name", "")
    if not isinstance(name, str):
        raise ServingError(INVALID_ARGUMENT, "'signature_name' key must be a string value.")
    return name


def is_base64(value: object) -> bool:
    """Whether a JSON value is `{"b64": string}`."""
    return isinstance(value, dict) and value.keys() == {BASE64} and isinstance(value[BASE64], str)


def to_bytes(value: object) -> bytes:
    """The bytes of a JSON string or of `{"b64": string}`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not is_base64(value):
        raise ValueError(f'expected a string or {{"{BASE64}": string}}; received a {type(value).__name__}')
    try:
        return base64.b64decode(value[BASE64], validate=True)  # type: ignore[index]
    except (binascii.Error, ValueError):
        raise ValueError("Unable to base64 decode") from None


class JsonWorkers:
    """Parses bodies: small ones at once, large ones in worker processes, which start when they are first needed.

    Args:
        count: workers at most; further requests wait.
    """

    def __init__(self, count: int = 2):
        self._free: asyncio.LifoQueue[asyncio.subprocess.Process | None] = asyncio.LifoQueue()
        for _ in range(count):
            self._free.put_nowait(None)
        self._workers: set[asyncio.subprocess.Process] = set()

    async def run(self, function: Callable, body: bytes, *arguments: object) -> Any:
        """`function(body, *arguments)`, a function of this module. Cancellation kills the worker.

        Raises:
            ServingError: of the function; RESOURCE_EXHAUSTED if the values do not fit a worker's memory.
        """
        values = sum(body.count(mark) for mark in (b",", b"[", b"{")) if len(body) <= _SMALL_BYTES else _SMALL_VALUES
        if values < _SMALL_VALUES:
            return function(body, *arguments)
        worker = await self._free.get()
        try:
            if worker is None or worker.returncode is not None:
                worker = await self._start()
            code, answer = await _ask(worker, pickle.dumps((function.__name__, body, arguments)))
        except asyncio.IncompleteReadError as error:
            raise ServingError(RESOURCE_EXHAUSTED, "the JSON has too many values for this server.") from error
        except BaseException:
            self._kill(worker)
            raise
        finally:
            self._free.put_nowait(worker)
        if code is not None:
            raise ServingError(code, answer)
        return answer

    def close(self) -> None:
        """Ends the workers."""
        for worker in list(self._workers):
            self._kill(worker)

    async def _start(self) -> Any:
        worker = await asyncio.create_subprocess_exec(
            *python_command(_CODE), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self._workers = {other for other in self._workers if other.returncode is None} | {worker}
        return worker

    def _kill(self, worker: Any) -> None:
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()


async def _ask(worker: Any, request: Any) -> Any:
    with contextlib.suppress(ConnectionError):  # reading says what happened
        worker.stdin.write(_LENGTH.pack(len(request)))
        worker.stdin.write(request)
        await worker.stdin.drain()
    (length,) = _LENGTH.unpack(await worker.stdout.readexactly(_LENGTH.size))
    return pickle.loads(await worker.stdout.readexactly(length))  # noqa: S301  (from our own worker)


def work() -> None:
    """Runs a worker: requests on standard input, answers on standard output, until the server ends."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_WORKER_BYTES, _WORKER_BYTES))
    functions: dict[str, Callable[..., Any]] = {"parse": parse, "read_infer": read_infer, "read_predict": read_predict}
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        name, body, arguments = pickle.loads(source.read(_LENGTH.unpack(head)[0]))  # noqa: S301  (from our own server)
        try:
            answer: tuple[Any, Any] = None, functions[name](body, *arguments)
        except ServingError as error:
            answer = error.code, error.message
        except MemoryError:
            answer = RESOURCE_EXHAUSTED, "the JSON has too many values for this server."
        except Exception as error:
            answer = INTERNAL, f"internal error: {type(error).__name__}"
        data = pickle.dumps(answer)
        sink.write(_LENGTH.pack(len(data)) + data)
        sink.flush()
        del body, answer, data


def _rows_to_columns(rows: list, inputs: dict[str, InputType]) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise ServingError(INVALID_ARGUMENT, f"expected '{ROWS}' to be a list of at least one value.")
    named = _is_named(rows[0])
    if not named and len(inputs) != 1:
        raise ServingError(
            INVALID_ARGUMENT,
            f"{ROWS} is a plain list, but expecting list of objects as the signature has the inputs "
            f"{', '.join(inputs)}.",
        )
    for index, row in enumerate(rows):
        if _is_named(row) != named:
            kinds = ("a value or list", "an object") if named else ("an object", "a value or list")
            raise ServingError(
                INVALID_ARGUMENT, f"'{ROWS}' mixes forms: item {index} is {kinds[0]}, the first is {kinds[1]}."
            )
        if named and set(row) != set(inputs):
            raise ServingError(
                INVALID_ARGUMENT,
                f"Failed to process element: {index} of '{ROWS}' list. Keys must be equal to: "
                f"{','.join(sorted(inputs))}; received {','.join(map(quoted, sorted(row)))}.",
            )
    return {name: [row[name] if named else row for row in rows] for name in inputs}


def _columns(value: Any, inputs: dict[str, InputType]) -> dict[str, Any]:
    if _is_named(value):
        return value
    if len(inputs) != 1:
        raise ServingError(
            INVALID_ARGUMENT,
            f"{COLUMNS} is a plain value/list, but expecting an object as the signature has the inputs "
            f"{', '.join(inputs)}.",
        )
    return {next(iter(inputs)): value}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _array(name: str, value: object, kind: InputType) -> np.ndarray:
    try:
        if kind.dtype is None:
            shape = _shape(value)
            array = np.empty(int(np.prod(shape)), object)
            array[:] = [to_bytes(leaf) for leaf in _leaves(value, shape)]
            return array.reshape(shape)
        array = np.asarray(value)
        if array.size and array.dtype.kind not in kind.kinds:
            raise ValueError(f"received {array.dtype.name if array.dtype.kind in 'biuf' else 'other values'}")
        if array.size and kind.limits and not (kind.limits[0] <= array.min() and array.max() <= kind.limits[1]):
            raise ValueError(f"values outside [{kind.limits[0]}, {kind.limits[1]}]")
        return array.astype(kind.dtype)
    except (ValueError, OverflowError, RecursionError) as error:
        raise ServingError(
            INVALID_ARGUMENT, f"the JSON of input {name!r} does not make a tensor of {kind.name}: {error}"
        ) from error


def _shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > 32:
        raise ValueError(f"lists nested {len(shape)} deep")
    return tuple(shape)


def _leaves(value: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    if not shape:
        if isinstance(value, list):
            raise ValueError("lists of unequal depth")
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("lists of unequal length")
    for item in value:
        yield from _leaves(item, shape[1:])
