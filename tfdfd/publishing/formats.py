"""Registry of export formats: each is written, opened again by the library that runs it, and proved.

A new format is one function with `@export_format`; the command line, the documentation and the tests read `FORMATS`.
This module imports no library of arrays or networks, so the names are known at no cost.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np

EXTRA = "tfdfd[export]"
_UNIT = {"dtype": "float32", "is": "RGB in [0, 1]; the answer is NaN where pixels are not"}
_ANY_SIZE = _UNIT | {"is": f"{_UNIT['is']}; of any size, resized as detect does"}
_BYTES = {"dtype": "uint8", "is": "RGB"}
_ENCODED = {"dtype": "string", "is": "of any size, each a JPEG or PNG"}
_SCORE = {"dtype": "float32", "shape": [None, 1], "is": "P(fake), 1 = fake"}
# Sizes of the images whose resizing is proved, relative to the network's: smaller, larger, and by area.
_SHARES = ((0.6, 0.9), (1.3, 1.7), (2, 3))


@dataclass(frozen=True)
class Expected:
    """Answers of the Keras model for the proof crops.

    Attributes:
        crops: uint8 RGB `(n, size, size, 3)`, or clips `(n, frames, size, size, 3)`.
        scores: P(fake), `(n, 1)`.
        features: `(n, d)`.
    """

    crops: np.ndarray
    scores: np.ndarray
    features: np.ndarray


Writer = Callable[["keras.Model", Path, Expected], dict]
FORMATS: dict[str, Writer] = {}


def export_format(name: str) -> Callable[[Writer], Writer]:
    """Registers a writer under the name that `tfdfd export --format` takes.

    A writer takes the Keras model, an empty folder and the model's answers. It writes the files, proves them, and
    returns facts for their users: `inputs`, `outputs`, and `max_difference` from the Keras model for each output.
    """

    def register(writer: Writer) -> Writer:
        FORMATS[name] = writer
        return writer

    return register


@export_format("savedmodel")
def write_savedmodel(model: keras.Model, folder: Path, expected: Expected) -> dict:
    """`saved_model.pb` and variables, warm-up requests, and in `feature_vector/` the network without its head."""
    _library("tensorflow_serving.apis", "a SavedModel (its warm-up requests)")
    import numpy as np
    import tensorflow as tf

    from tfdfd.faces.crop import resize_crop
    from tfdfd.publishing.allowed_operations import check_operations
    from tfdfd.publishing.saved_model import write_feature_vector, write_saved_model, write_warm_up
    from tfdfd.runtime.equality import in_batches

    vectors = folder / "feature_vector"
    write_saved_model(model, folder)
    write_feature_vector(model, vectors)
    for written in (folder, vectors):
        check_operations(written)
    write_warm_up(folder, expected.crops)
    loaded, of_features = tf.saved_model.load(str(folder)), tf.saved_model.load(str(vectors))

    def answer(signature: str, output: str, **given: Any) -> Any:
        return loaded.signatures[signature](**{name: tf.constant(value) for name, value in given.items()})[output]

    def encoded(crops: np.ndarray) -> np.ndarray:
        flat = [tf.io.encode_png(crop).numpy() for crop in crops.reshape(-1, *crops.shape[-3:])]
        return np.array(flat, object).reshape(crops.shape[:-3])

    score = "fake_probability"
    asked: dict[str, Any] = {
        score: (lambda crops: loaded(_unit(crops)), expected.scores),
        "serving_default": (lambda crops: answer("serving_default", score, image=_unit(crops)), expected.scores),
        "image_bytes": (lambda crops: answer("image_bytes", score, image_bytes=encoded(crops)), expected.scores),
        "features": (lambda crops: answer("features", "features", image=_unit(crops)), expected.features),
        "feature_vector": (lambda crops: of_features(_unit(crops)), expected.features),
    }
    for share in _SHARES:
        others = _resized(expected.crops, share)
        back = np.stack([resize_crop(image, model.input_shape[-2]) for image in others.reshape(-1, *others.shape[-3:])])
        back = back.reshape(expected.crops.shape)
        answers = in_batches(lambda crops: model(_unit(crops), training=False), back)
        name = f"{others.shape[-3]} x {others.shape[-2]} pixels"
        asked[name] = (lambda crops, share=share: loaded(_unit(_resized(crops, share))), answers)
    return {
        "inputs": {
            "image": _input(model, _ANY_SIZE, None, None, 3),
            "image_bytes": _input(model, _ENCODED),
        },
        "outputs": {
            "fake_probability": _SCORE,
            "features": {"dtype": "float32", "shape": [None, expected.features.shape[1]]},
        },
        "max_difference": _differences("the SavedModel", asked, expected.crops),
    }


@export_format("litert")
def write_litert(model: keras.Model, folder: Path, expected: Expected) -> dict:
    """`model.tflite`, float32, with a free batch size; images have the network's size."""
    runtime = _library("ai_edge_litert.interpreter", "LiteRT")
    import tensorflow as tf

    from tfdfd.files import temporary_folder
    from tfdfd.publishing.saved_model import write_saved_model

    with temporary_folder() as saved_model:
        # Conversion straight from a Keras 3 model has failed in several versions of TensorFlow.
        write_saved_model(_refusing(model), saved_model, any_size=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
        (folder / "model.tflite").write_bytes(converter.convert())
    score = runtime.Interpreter(str(folder / "model.tflite")).get_signature_runner("serving_default")
    return _facts(
        model, _UNIT, "the LiteRT model", expected, lambda crops: score(image=_unit(crops))["fake_probability"]
    )


@export_format("onnx")
def write_onnx(model: keras.Model, folder: Path, expected: Expected) -> dict:
    """`model.onnx`, float32, with a free batch size; images have the network's size."""
    runtime = _library("onnxruntime", "ONNX")
    _library("tf2onnx", "ONNX")
    path = str(folder / "model.onnx")
    refusing = _refusing(model)
    refusing(_unit(expected.crops[:1]), training=False)  # Keras exports only models that were called
    refusing.export(path, format="onnx", verbose=False)
    _name_output(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = "fake_probability"
    return _facts(
        model, _UNIT, "the ONNX model", expected, lambda crops: session.run([name], {"image": _unit(crops)})[0]
    )


@export_format("openvino")
def write_openvino(model: keras.Model, folder: Path, expected: Expected) -> dict:
    """`model.xml` and `model.bin`: the graph that `tfdfd detect` runs, which takes bytes."""
    import numpy as np

    from tfdfd.runtime import OPENVINO, is_installed
    from tfdfd.runtime.openvino import OpenvinoNetwork, convert

    if not is_installed(OPENVINO):  # importing it directly would send telemetry
        raise ValueError(_needs("OpenVINO", "openvino"))
    for suffix, part in zip((".xml", ".bin"), convert(model), strict=True):
        (folder / f"model{suffix}").write_bytes(part)
    network = OpenvinoNetwork(model.name, *((folder / f"model{suffix}").read_bytes() for suffix in (".xml", ".bin")))  # type: ignore[arg-type]
    return _facts(
        model, _BYTES, "the OpenVINO model", expected, lambda crops: network(np.ascontiguousarray(crops))[:, None]
    )


def _name_output(path: str) -> None:
    """Restores the name of the output, which Keras's export to ONNX loses."""
    import onnx

    written = onnx.load(path)
    (output,) = written.graph.output
    for node in written.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output.name:
                    names[index] = "fake_probability"
    output.name = "fake_probability"
    onnx.save(written, path)


def _refusing(model: keras.Model) -> keras.Model:
    """The network with NaN for pixels outside [0, 1]."""
    import keras

    from tfdfd.publishing.images import nan_where_invalid

    return keras.Model(model.input, nan_where_invalid(model.output, model.input), name=model.name)


def _resized(crops: np.ndarray, share: tuple[float, float]) -> np.ndarray:
    import numpy as np

    rows, columns = (np.arange(round(part * side)) * side // round(part * side)
                     for part, side in zip(share, crops.shape[-3:-1], strict=True))  # fmt: skip
    return crops[..., rows, :, :][..., columns, :]


def _unit(crops: np.ndarray) -> np.ndarray:
    return crops.astype("float32") / 255


def _input(model: keras.Model, pixels: dict[str, Any], *of_a_crop: int | None) -> dict[str, Any]:
    """Description of an input: its shape is the batch, the frames of a clip, and `of_a_crop`."""
    what = "face crops"
    if len(model.input_shape) == 5:
        what = f"clips of {model.input_shape[1]} crops of one face in order of time, equally spaced over a video"
    return pixels | {"shape": [*model.input_shape[:-3], *of_a_crop], "is": f"{what}, {pixels['is']}"}


def _facts(
    model: keras.Model, pixels: dict[str, Any], what: str, expected: Expected, score: Callable[[np.ndarray], Any]
) -> dict[str, Any]:
    return {
        "inputs": {"image": _input(model, pixels, *model.input_shape[-3:])},
        "outputs": {"fake_probability": _SCORE},
        "max_difference": _differences(what, {"fake_probability": (score, expected.scores)}, expected.crops),
    }


def _differences(what: str, asked: dict[str, Any], crops: np.ndarray) -> dict[str, float]:
    from tfdfd.runtime.equality import NotProved, check_equal, in_batches

    try:
        return {
            name: check_equal(f"{name} of {what}", in_batches(function, crops), answers, "export")
            for name, (function, answers) in asked.items()
        }
    except NotProved as error:
        raise ValueError(f"{error} Give crops that the model tells apart (--data SET), or train it.") from error


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(_needs(what, name.split(".")[0])) from error


def _needs(what: str, library: str) -> str:
    return f"exporting to {what} needs {library}: pip install '{EXTRA}'."
