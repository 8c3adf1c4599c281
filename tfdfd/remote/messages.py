"""The few messages of TensorFlow Serving's Predict call that scoring needs.

The official ones (`tensorflow-serving-api`) import TensorFlow, four seconds and 400 MB for messages of twenty fields.
Names, numbers and types are those of `tensorflow_serving/apis/{predict,model}.proto` and
`tensorflow/core/framework/{tensor,tensor_shape,types}.proto`; fields that are not here are skipped when read. A test
compares both. They live in a pool of their own, so that the official ones may be imported, too.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DT_FLOAT, DT_STRING = 1, 7

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
}
# Message: {field: (number, type, repeated)}. A type that is none of the above is a message. Enumerations are int32,
# and the wrapped int64 of a version is a message with the one field it has.
_MESSAGES = {
    "Version": {"value": (1, "int64", False)},
    "ModelSpec": {
        "name": (1, "string", False),
        "version": (2, "Version", False),
        "signature_name": (3, "string", False),
        "version_label": (4, "string", False),
    },
    "Dim": {"size": (1, "int64", False)},
    "TensorShape": {"dim": (2, "Dim", True)},
    "Tensor": {
        "dtype": (1, "int32", False),
        "tensor_shape": (2, "TensorShape", False),
        "tensor_content": (4, "bytes", False),
        "float_val": (5, "float", True),
        "string_val": (8, "bytes", True),
    },
    # A map is, on the wire, a list of keys with values.
    "NamedTensor": {"key": (1, "string", False), "value": (2, "Tensor", False)},
    "PredictRequest": {
        "model_spec": (1, "ModelSpec", False),
        "inputs": (2, "NamedTensor", True),
        "output_filter": (3, "string", True),
    },
    "PredictResponse": {"outputs": (1, "NamedTensor", True), "model_spec": (2, "ModelSpec", False)},
}


def _classes():
    file = descriptor_pb2.FileDescriptorProto(name="tfdfd/remote.proto", package="tfdfd.remote", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            added.type = _TYPES.get(kind, _FIELD.TYPE_MESSAGE)
            if kind not in _TYPES:
                added.type_name = f".tfdfd.remote.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfdfd.remote.{name}"))
            for name in _MESSAGES}  # fmt: skip


_CLASSES = _classes()
PredictRequest, PredictResponse = _CLASSES["PredictRequest"], _CLASSES["PredictResponse"]
