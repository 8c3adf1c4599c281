"""Networks converted for OpenVINO, which runs these small convolutions about twice as fast as TensorFlow.

Keras's own export converts a network. Two changes follow: the division by 255 moves into the graph, which then takes
uint8 crops, and concatenations of channels move behind normalization and pooling (`sink_concatenations`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfdfd.files import temporary_folder
from tfdfd.runtime import OPENVINO

if TYPE_CHECKING:
    from types import ModuleType

    import keras
    import openvino


def import_openvino() -> ModuleType:
    """The `openvino` module, imported without its telemetry.

    The import alone reports to Google Analytics and leaves an identifier in the home folder. The package
    `openvino_telemetry` does both; OpenVINO works without it, and tfdfd reports to nobody.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


def identity() -> list[str]:
    """OpenVINO's version, and what it selects kernels by: the processor and its instruction sets."""
    openvino = import_openvino()
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [openvino.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(capabilities)]


def convert(model: keras.Model) -> tuple[bytes, bytes]:
    """Converts a Keras model for `OpenvinoNetwork`.

    Returns:
        Graph (XML) and weights; the graph takes uint8 RGB `(batch, size, size, 3)`, or clips of such crops.
    """
    openvino = import_openvino()
    with temporary_folder() as folder:
        exported, changed = os.path.join(folder, "exported.xml"), os.path.join(folder, "changed.xml")
        model.export(exported, format="openvino", verbose=False)
        graph = _parse(*_read(exported))
        sink_concatenations(graph)
        # save_model would round the weights to float16.
        openvino.serialize(_take_bytes(graph), changed)
        return _read(changed)


class OpenvinoNetwork:
    """A `tfdfd.runtime.networks.Network` on OpenVINO.

    Args:
        name: name of the model, for messages.
        graph: XML of `convert`.
        weights: as returned by `convert`.
        exact: computes in float32; False computes in the precision in which the processor is fastest.
    """

    runtime = OPENVINO
    # Fixed sizes run a fifth faster than a dynamic one; a third size would take longer to prepare than it saves.
    batch_sizes: tuple[int, ...] = (1, 8)

    def __init__(self, name: str, graph: bytes, weights: bytes, exact: bool = True):
        self.name = name
        self._parts, self._exact = (graph, weights), exact
        if not exact:
            # Half the data in the caches: a tenth less time for EfficientNet-Lite0 than with batches of 8.
            self.batch_sizes = (1, 4)
        self._core = import_openvino().Core()
        self._graph = _parse(graph, weights)
        self._shape = [dimension.get_length() for dimension in self._graph.input().get_partial_shape()[1:]]
        self.size = self._shape[-2]
        self.frames: int | None = None
        if len(self._shape) == 4:
            self.frames, self.batch_sizes = self._shape[0], (1,)
        self._requests: dict[int, openvino.InferRequest] = {}
        self._lock = threading.Lock()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """P(fake), float32 `(n,)`, of uint8 RGB crops; see `tfdfd.runtime.networks.Network`."""
        with self._lock:
            if len(crops) not in self._requests:
                self._requests[len(crops)] = self._prepare(len(crops))
            return self._requests[len(crops)].infer([crops], share_inputs=True)[0][:, 0]

    def rounded(self) -> OpenvinoNetwork:
        """The same network with `exact=False`, for many calls whose scores are averaged."""
        return OpenvinoNetwork(self.name, *self._parts, exact=False)

    def _prepare(self, count: int) -> openvino.InferRequest:
        from openvino import Type, properties

        graph = self._graph.clone()
        graph.reshape([count, *self._shape])
        settings = {
            properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
            # Pinned threads would wait for the decoding processes on their cores.
            properties.hint.enable_cpu_pinning: False,
        }
        if self._exact:
            # By default OpenVINO rounds to bfloat16 on processors that support it, and scores move by 0.002.
            settings[properties.hint.inference_precision] = Type.f32
        return self._core.compile_model(graph, "CPU", settings).create_infer_request()


def _parse(graph: bytes, weights: bytes) -> openvino.Model:
    openvino = import_openvino()
    return openvino.Core().read_model(graph, openvino.Tensor(np.frombuffer(weights, np.uint8)))


def _take_bytes(graph: openvino.Model) -> openvino.Model:
    from openvino import Type
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(Type.u8)
    steps.input().preprocess().convert_element_type(Type.f32).scale(255.0)
    return steps.build()


def _read(graph_file: str) -> tuple[bytes, bytes]:
    parts = []
    for name in (graph_file, graph_file.removesuffix(".xml") + ".bin"):
        with open(name, "rb") as file:
            parts.append(file.read())
    return tuple(parts)  # type: ignore[return-value]


CHANNELS = 1  # axis of OpenVINO's images: (batch, channels, height, width)


def sink_concatenations(graph: openvino.Model) -> None:
    """Moves concatenations of channels behind operations on single channels; changes the graph in place.

    On a CPU, a concatenation of few channels and the batch normalization after it take a quarter of MesoInception4's
    time: they run pixel by pixel over the whole image. In separate branches, the normalization is fused into the
    branch's convolution, and the concatenation behind the pooling has a quarter of the pixels. The results are equal.
    """
    for node in graph.get_ordered_ops():
        concat = node if node.get_type_name() == "Concat" and _has_rank_4(node) else None
        while concat:
            concat = _swap_with_consumer(concat)
    graph.validate_nodes_and_infer_types()


def _has_rank_4(node: openvino.Node) -> bool:
    rank = node.output(0).get_partial_shape().rank
    return rank.is_static and rank.get_length() == 4


def _swap_with_consumer(concat: openvino.Node) -> openvino.Node | None:
    """The concatenation in its new position behind its only consumer; None if it cannot move."""
    consumers = concat.output(0).get_target_inputs()
    if concat.get_attributes()["axis"] not in (CHANNELS, CHANNELS - 4) or len(consumers) != 1:
        return None
    consumer = consumers.pop().get_node()
    branches = [source.get_source_output() for source in concat.inputs()]
    if consumer.get_type_name() == "MaxPool":
        moved = _pool_branches(consumer, branches)
    elif consumer.get_type_name() in ("Multiply", "Add"):
        moved = _scale_branches(consumer, branches)
    else:
        return None
    if moved is None:
        return None
    from openvino import opset14

    behind = opset14.concat(moved, CHANNELS)
    consumer.output(0).replace(behind.output(0))
    return behind


def _scale_branches(consumer: openvino.Node, branches: Sequence[openvino.Output]) -> list[openvino.Node] | None:
    from openvino import opset14

    constant = next((source.get_node() for source in consumer.input_values() if not source.get_node().inputs()), None)
    if constant is None or constant.get_type_name() != "Constant":
        return None
    values = constant.get_data()
    counts = [branch.get_partial_shape()[CHANNELS].get_length() for branch in branches]
    if values.shape != (1, sum(counts), 1, 1):
        return None
    make = opset14.multiply if consumer.get_type_name() == "Multiply" else opset14.add
    parts = np.split(values, np.cumsum(counts)[:-1], axis=CHANNELS)
    return [make(branch, opset14.constant(part)) for branch, part in zip(branches, parts, strict=True)]


def _pool_branches(consumer: openvino.Node, branches: Sequence[openvino.Output]) -> list[openvino.Output] | None:
    from openvino import opset14

    # The second output holds the position of each maximum.
    if any(output.get_target_inputs() for output in consumer.outputs()[1:]):
        return None
    settings = consumer.get_attributes()
    names = ("strides", "dilations", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
    return [opset14.max_pool(branch, *(settings[name] for name in names)).output(0) for branch in branches]
