"""A network converted for OpenVINO, which runs these small convolutions about twice as fast as TensorFlow.

Keras's own export converts it. Two things are then changed in the graph: the division by 255 goes inside, so that
crops go in as they are, and concatenations move behind the pooling (`sinking.py`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading

import numpy as np

from tfdfd.runtime.names import OPENVINO
from tfdfd.runtime.sinking import sink_concatenations


def import_openvino():
    """The `openvino` module.

    Its import alone reports to Google Analytics and leaves an identifier in the home folder; both are done by the
    package `openvino_telemetry`, without which OpenVINO works as well. A detector of forgeries is nobody's to count.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


def identity() -> list[str]:
    """OpenVINO's version, and what it chooses its kernels by: the processor and its abilities."""
    openvino = import_openvino()
    core = openvino.Core()
    abilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [openvino.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(abilities)]


def convert(model) -> tuple[bytes, bytes]:
    """Graph (XML) and weights of a Keras model, for `OpenvinoNetwork`: uint8 RGB `(batch, size, size, 3)` in."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory(prefix="tfdfd-") as folder:
        exported, changed = os.path.join(folder, "exported.xml"), os.path.join(folder, "changed.xml")
        model.export(exported, format="openvino", verbose=False)
        graph = _parse(*_read(exported))
        sink_concatenations(graph)
        # save_model would round the weights to float16.
        openvino.serialize(_take_bytes(graph), changed)
        return _read(changed)


class OpenvinoNetwork:
    """A `Network` of what `convert` gave, in float32; or, with `exact=False`, as the processor is fastest."""

    runtime = OPENVINO
    # Fixed sizes run a fifth faster than a free one; a third would take longer to prepare than it saves.
    batch_sizes = (1, 8)

    def __init__(self, name: str, graph: bytes, weights: bytes, exact: bool = True):
        self.name = name
        self._parts, self._exact = (graph, weights), exact
        self._core = import_openvino().Core()
        self._graph = _parse(graph, weights)
        self._shape = [dimension.get_length() for dimension in self._graph.input().get_partial_shape()[1:]]
        self.size = self._shape[0]
        self._requests = {}
        self._one_at_a_time = threading.Lock()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        with self._one_at_a_time:
            if len(crops) not in self._requests:
                self._requests[len(crops)] = self._prepare(len(crops))
            return self._requests[len(crops)].infer([crops], share_inputs=True)[0][:, 0]

    def rounded(self) -> OpenvinoNetwork:
        """The same network for many calls whose scores are averaged: `exact=False`."""
        return OpenvinoNetwork(self.name, *self._parts, exact=False)

    def _prepare(self, count):
        from openvino import Type, properties

        graph = self._graph.clone()
        graph.reshape([count, *self._shape])
        settings = {
            properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
            # Threads bound to cores wait for the decoding processes there.
            properties.hint.enable_cpu_pinning: False,
        }
        if self._exact:
            # Left to itself OpenVINO rounds to bfloat16 where the processor can, and scores move by 0.002.
            settings[properties.hint.inference_precision] = Type.f32
        return self._core.compile_model(graph, "CPU", settings).create_infer_request()


def _parse(graph, weights):
    openvino = import_openvino()
    return openvino.Core().read_model(graph, openvino.Tensor(np.frombuffer(weights, np.uint8)))


def _take_bytes(graph):
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(Type.u8)
    steps.input().preprocess().convert_element_type(Type.f32).scale(255.0)
    return steps.build()


def _read(graph_file):
    parts = []
    for name in (graph_file, graph_file.removesuffix(".xml") + ".bin"):
        with open(name, "rb") as file:
            parts.append(file.read())
    return tuple(parts)
