"""A server of `tfdfd serve` in a process of its own, and a model so small that its answers are known."""

import contextlib
import io
import os
import queue
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from PIL import Image
from tensorflow.core.framework.types_pb2 import DT_FLOAT, DT_INT32, DT_STRING
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

SIZE = 8
TYPES = {"image": DT_FLOAT, "image_bytes": DT_STRING, "steps": DT_INT32, "text": DT_STRING}
State = ModelVersionStatus.State


def write_model(folder, scale=1.0):
    """A SavedModel whose P(fake) is the mean of the image times `scale`. Its other signatures: `slow` computes for as
    many steps as asked, `echo` gives its strings back, `classify` and `regress` take examples with a number `x`."""
    import tensorflow as tf

    from tfdfd.publishing.images import decode_crops

    class Tiny(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(scale)

        def mean(self, image):
            return tf.reduce_mean(image, axis=(1, 2))[:, :1] * self.scale

        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="image")])
        def of_image(self, image):
            return {"fake_probability": self.mean(image)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def of_bytes(self, image_bytes):
            return {"fake_probability": self.mean(decode_crops(image_bytes, (SIZE, SIZE)))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="steps")])
        def slow(self, steps):
            square = tf.while_loop(
                lambda step, _: step < tf.reduce_max(steps),
                lambda step, square: (step + 1, tf.linalg.matmul(square, square)),
                (0, tf.eye(64)),
                maximum_iterations=100_000_000,
            )[1]
            return {"done": tf.cast(steps, tf.float32) * square[0, 0]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def echo(self, text):
            return {"plain": tf.identity(text), "raw_bytes": tf.identity(text)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):
            x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
            classes = tf.tile(tf.constant([["real", "fake"]]), [tf.shape(x)[0], 1])
            return {"classes": classes, "scores": tf.concat([1 - x, x], axis=1)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):
            return {"outputs": tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]}

    tiny = Tiny()
    signatures = {"serving_default": tiny.of_image, "image_bytes": tiny.of_bytes, "slow": tiny.slow, "echo": tiny.echo}
    signatures |= {"classify": tiny.classify, "regress": tiny.regress}
    tf.saved_model.save(tiny, os.fspath(folder), signatures=signatures)


def picture(value=255, size=SIZE, kind="JPEG"):
    """An encoded picture of one grey."""
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def refused(call, *arguments, **keywords):
    """Status and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **keywords)
    return caught.value.code().name, caught.value.details()


def request(values, name="image_bytes", signature="image_bytes", model="tiny", shape=None, version=None, label=None):
    """A Predict request of one input."""
    wanted = PredictRequest()
    fill_spec(wanted.model_spec, model, version, label)
    wanted.model_spec.signature_name = signature
    tensor = wanted.inputs[name]
    tensor.dtype = TYPES[name]
    for size in [len(values)] if shape is None else shape:
        tensor.tensor_shape.dim.add().size = size
    field = {DT_FLOAT: tensor.float_val, DT_INT32: tensor.int_val, DT_STRING: tensor.string_val}[tensor.dtype]
    field.extend(values)
    return wanted


def fill_spec(spec: ModelSpec, model="tiny", version=None, label=None):
    spec.name = model
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return spec


class Server:
    """`tfdfd serve` with these words, on ports of its own choice; ended on leaving. Versions are not tried first."""

    def __init__(self, *words, port=0, rest_port=0, trial=False):
        command = [sys.executable, "-m", "tfdfd", "serve", *map(str, words), *(() if trial else ("--no-trial",))]
        command += ["--port", str(port), "--rest-port", str(rest_port)]
        # JAX, which other tests import, sets a level of its own.
        environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.notes, lines = [], queue.Queue()
        self._readers = [
            threading.Thread(target=lambda: [lines.put(line) for line in self.process.stdout] + [lines.put("")]),
            threading.Thread(target=lambda: self.notes.extend(self.process.stderr)),
        ]
        for reader in self._readers:
            reader.start()
        line = lines.get(timeout=120)
        found = re.search(r"gRPC at (\S+:(\d+))(?:, REST at (\S+:(\d+)))?", line)
        if found is None:
            self.wait()
            raise AssertionError(f"the server did not start: {line}{''.join(self.notes)}")
        self.address, self.rest = found[1], f"http://{found[3]}"
        self.port, self.rest_port = int(found[2]), int(found[4] or 0)
        self.channel = grpc.insecure_channel(self.address)
        self.stub, self.states_stub = PredictionServiceStub(self.channel), ModelServiceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.wait()

    def wait(self):
        """Its exit code, once it has ended."""
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def predict(self, wanted, timeout=30):
        return self.stub.Predict(wanted, timeout=timeout)

    def scores(self, *arguments, timeout=30, **keywords):
        """Of one Predict request."""
        return list(self.predict(request(*arguments, **keywords), timeout).outputs["fake_probability"].float_val)

    def states(self, model="tiny", **which):
        """Version -> state, as GetModelStatus tells."""
        asked = GetModelStatusRequest(model_spec=fill_spec(ModelSpec(), model, **which))
        told = self.states_stub.GetModelStatus(asked, timeout=30)
        return {one.version: one for one in told.model_version_status}

    def available(self, model="tiny"):
        return {number for number, one in self.states(model).items() if one.state == State.AVAILABLE}

    def get(self, path, body=None):
        """Status and body of a request to REST."""
        asked = urllib.request.Request(f"{self.rest}{path}", data=body)  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=30) as reply:  # noqa: S310
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return error.code, error.read()

    def metric(self, name):
        """The value of a metric's line that begins so."""
        text = self.get("/monitoring/prometheus/metrics")[1].decode()
        return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def until(holds, seconds=20):
    """Waits until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
