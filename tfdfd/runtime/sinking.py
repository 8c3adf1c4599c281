"""Moves concatenations of channels behind what works on each channel by itself.

On a CPU a concatenation of few channels, and a batch normalisation after it, cost MesoInception4 a quarter of its
time: pixel by pixel, over the whole image. Normalised and pooled branch by branch, the normalisation becomes a part
of the branch's convolution and the concatenation has a quarter of the pixels. The numbers stay the same.
"""

from __future__ import annotations

import numpy as np

CHANNELS = 1  # of OpenVINO's images: (batch, channels, height, width)


def sink_concatenations(graph) -> None:
    """Changes an `openvino.Model` in place; one with no such concatenation stays as it is."""
    for node in graph.get_ordered_ops():
        concat = node if node.get_type_name() == "Concat" and _has_rank_4(node) else None
        while concat:
            concat = _swapped_with_next(concat)
    graph.validate_nodes_and_infer_types()


def _has_rank_4(node):
    rank = node.output(0).get_partial_shape().rank
    return rank.is_static and rank.get_length() == 4


def _swapped_with_next(concat):
    """The concatenation in its new place behind its only consumer; None where it must stay."""
    consumers = concat.output(0).get_target_inputs()
    if concat.get_attributes()["axis"] not in (CHANNELS, CHANNELS - 4) or len(consumers) != 1:
        return None
    follower = consumers.pop().get_node()
    branches = [source.get_source_output() for source in concat.inputs()]
    if follower.get_type_name() == "MaxPool":
        moved = _pooled(follower, branches)
    elif follower.get_type_name() in ("Multiply", "Add"):
        moved = _scaled(follower, branches)
    else:
        return None
    if moved is None:
        return None
    from openvino import opset14

    behind = opset14.concat(moved, CHANNELS)
    follower.output(0).replace(behind.output(0))
    return behind


def _scaled(follower, branches):
    from openvino import opset14

    constant = next((source.get_node() for source in follower.input_values() if not source.get_node().inputs()), None)
    if constant is None or constant.get_type_name() != "Constant":
        return None
    values = constant.get_data()
    counts = [branch.get_partial_shape()[CHANNELS].get_length() for branch in branches]
    if values.shape != (1, sum(counts), 1, 1):
        return None
    make = opset14.multiply if follower.get_type_name() == "Multiply" else opset14.add
    parts = np.split(values, np.cumsum(counts)[:-1], axis=CHANNELS)
    return [make(branch, opset14.constant(part)) for branch, part in zip(branches, parts, strict=True)]


def _pooled(follower, branches):
    from openvino import opset14

    # The second output says where each maximum was.
    if any(output.get_target_inputs() for output in follower.outputs()[1:]):
        return None
    settings = follower.get_attributes()
    names = ("strides", "dilations", "pads_begin", "pads_end", "kernel", "rounding_type", "auto_pad")
    return [opset14.max_pool(branch, *(settings[name] for name in names)).output(0) for branch in branches]
