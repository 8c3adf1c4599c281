"""One version of a SavedModel in memory, run as TensorFlow Serving runs it: by the tensors its signatures name.

A session of its own, not `tf.saved_model.load`: it loads without holding Python up, and gives all its memory back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from tfdfd.log_lines import CONTENT
from tfdfd.serve.errors import INTERNAL, INVALID_ARGUMENT, ServingError
from tfdfd.serve.tensors import shape_of

SAVED_MODEL = "saved_model.pb"
DEFAULT_SIGNATURE = "serving_default"
# As published: an input, and what is answered to it.
IMAGE, SCORES = "image", frozenset({"fake_probability", "features"})
# SavedModels carry one more signature, which is no way in.
_INIT = "__saved_model_init_op"
# It warns of functions of TensorFlow 1, which are the right ones here.
tf.get_logger().setLevel("ERROR")
_CODES = {code: name for name, code in vars(tf.errors).items() if name.isupper() and isinstance(code, int)}


class Signature:
    """A way into a model.

    Args:
        definition: names of the tensors.
        session: the model's.
    """

    def __init__(self, definition: SignatureDef, session: tf.compat.v1.Session):
        self.inputs, self.outputs = dict(definition.inputs), dict(definition.outputs)
        self._session = session
        self._wanted = {name: info.name for name, info in self.outputs.items()}
        shapes = [shape_of(info) for info in (*self.inputs.values(), *self.outputs.values())]
        # Whether requests can be laid end to end: every tensor has a first size, which is free.
        self.takes_batches = bool(self.inputs) and all(shape and shape[0] == -1 for shape in shapes)
        # Inputs whose pixels are checked: those of the signatures that `tfdfd publish` writes.
        scores = bool(SCORES & self.outputs.keys())
        self.pictures = [name for name, info in self.inputs.items() if scores and name == IMAGE and _is_image(info)]

    def run(self, arrays: dict[str, np.ndarray], seconds: float) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
            arrays: one for each input, by name.
            seconds: after which it is stopped.

        Raises:
            ServingError: TensorFlow refused, with its status; DEADLINE_EXCEEDED when it was stopped.
        """
        given = {info.name: arrays[name] for name, info in self.inputs.items()}
        options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(1000 * seconds)))
        try:
            return self._session.run(self._wanted, given, options=options)
        except tf.errors.OpError as error:
            raise _as_serving_error(error) from error
        except (TypeError, ValueError) as error:
            # An array that no tensor can be made of.
            raise ServingError(INVALID_ARGUMENT, str(error)) from error


class LoadedModel:
    """A SavedModel, its variables restored.

    Args:
        folder: with `saved_model.pb` and `variables/`.

    Raises:
        ServingError: it cannot be loaded, with TensorFlow's status.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], os.fspath(folder))
                self.signatures = {
                    name: Signature(definition, self._session)
                    for name, definition in meta_graph.signature_def.items()
                    if name != _INIT
                }
            self.definitions = {name: meta_graph.signature_def[name] for name in meta_graph.signature_def}
        except tf.errors.OpError as error:
            self._session.close()
            raise _as_serving_error(error) from error
        except Exception as error:
            # Whatever is wrong with files of others must not end the server.
            self._session.close()
            raise ServingError(INTERNAL, f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Frees its memory; nothing may be running."""
        self._session.close()


def _is_image(info):
    shape = shape_of(info)
    return info.dtype == tf.float32.as_datatype_enum and shape is not None and len(shape) == 4 and shape[3] == 3


def _as_serving_error(error: tf.errors.OpError) -> ServingError:
    """TensorFlow's status, with the sentence that says what is wrong and without the names of its nodes."""
    return ServingError(_CODES.get(error.error_code, INTERNAL), re.sub(CONTENT, "", _sentence(error.message)))


def _sentence(message):
    """The first line that says something; of "2 root error(s) found." the first."""
    several = re.search(r"^\s*\(0\)\s*(?:[A-Z_]+: )?(.*)$", message, re.MULTILINE)
    lines = [several[1]] if several else message.removeprefix("Graph execution error:").strip().splitlines()
    line = re.sub(r"\s*\[\[.*", "", lines[0] if lines else "")
    asserted = re.fullmatch(r"assertion failed: \[(.*)\]", line)
    return asserted[1] if asserted else line
