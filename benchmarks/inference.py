"""Throughput of each runtime at batch 32, as ratios to plain OpenVINO in one run.

    python -m benchmarks.inference [--model HANDLE|FILE] [--rounds N] [--xla]

Plain OpenVINO is the network as exported by Keras, compiled for batches of 32, on prepared float32 images. The runtimes
of `detect` are timed from uint8 crops to P(fake), including division, padding and checks. The ways alternate, because
times on shared machines drift, and the best call counts. Bound: the default runtime reaches 0.9 of plain OpenVINO in
float32. With its own settings OpenVINO computes in bfloat16 where the processor supports it; that row shows its error
and has no bound if the error exceeds 1e-4.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time

import numpy as np

from benchmarks.common import hardware, print_table, verdict
from tfdfd.models import load
from tfdfd.runtime import AUTO, OPENVINO, TENSORFLOW, is_installed
from tfdfd.runtime.networks import TOLERANCE, Scorer, open_network
from tfdfd.runtime.openvino import import_openvino
from tfdfd.weights import DEFAULT_MODEL
from tfdfd.weights.store import locate

BATCH = 32
BOUND = 0.9


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="HANDLE|FILE")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--xla", action="store_true", help="TensorFlow through XLA as well; compiling takes a while")
    arguments = parser.parse_args(argv)
    if not is_installed(OPENVINO):
        parser.error("there is no OpenVINO to compare with: pip install 'tfdfd[edge]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    record, path = locate(arguments.model)
    network, note = open_network(record, path, AUTO)
    if note:
        parser.error(note)
    model = load(record, path)
    ways = plain_openvino(model) | tfdfd(network, open_network(record, path, TENSORFLOW)[0])
    ways |= tensorflow(model, arguments.xla)
    crops = np.random.default_rng(0).integers(0, 256, (BATCH, network.size, network.size, 3), dtype=np.uint8)
    images = crops / np.float32(255)
    seconds, scores = measure(ways, crops, images, arguments.rounds)

    import openvino

    libraries = f"OpenVINO {openvino.get_version().split('-')[0]}, {versions('keras', 'tensorflow')}"
    print(f"{record.model}, batch {BATCH}; {hardware()}, Python {platform.python_version()}, {libraries}\n")
    (plain, own_settings, default, *_), held, rows = ways, True, []
    for name, best in seconds.items():
        ratio = seconds[plain] / best
        bound = result = ""
        if name == default:
            to_beat = [way for way in (plain, own_settings) if apart(scores, way, plain) <= TOLERANCE]
            held = all(seconds[way] / best >= BOUND for way in to_beat)
            bound, result = f">= {BOUND}", verdict(held)
        rows.append((name, f"{BATCH / best:.0f}", f"{ratio:.2f}", f"{apart(scores, name, plain):.0e}", bound, result))
    print_table(("what", "images/s", "of plain OpenVINO", "largest difference", "bound", ""), rows)
    return 0 if held else 1


def plain_openvino(model) -> dict:
    """The network as Keras exports it: in float32, and with what OpenVINO chooses."""
    openvino = import_openvino()
    core, hint = openvino.Core(), openvino.properties.hint
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "plain.xml")
        model.export(file, format="openvino", verbose=False)
        graph = core.read_model(file)
        graph.reshape([BATCH, *model.input_shape[1:]])
        float32 = {hint.inference_precision: openvino.Type.f32}
        compiled = [core.compile_model(graph, "CPU", settings) for settings in (float32, {})]
    requests = [each.create_infer_request() for each in compiled]
    chosen = compiled[1].get_property(hint.inference_precision).to_string()
    names = "plain OpenVINO, float32", f"plain OpenVINO, its own settings ({chosen})"
    return {
        name: lambda _, images, request=request: request.infer([images], share_inputs=True)[0][:, 0]
        for name, request in zip(names, requests, strict=True)
    }


def tfdfd(default, keras_network) -> dict:
    """What `detect` calls, by runtime; the default comes first."""
    scorers = {network.runtime: Scorer(network) for network in (default, keras_network)}
    names = [f"tfdfd, {runtime}" for runtime in scorers]
    names[0] += " (default)"
    return {
        name: lambda crops, _, scorer=scorer: scorer(crops)
        for name, scorer in zip(names, scorers.values(), strict=True)
    }


def tensorflow(model, xla) -> dict:
    """The Keras model in TensorFlow, without our scorer."""
    import tensorflow as tf

    signature = [tf.TensorSpec((BATCH, *model.input_shape[1:]))]

    def graph(jit_compile):
        call = tf.function(lambda x: model(x, training=False), input_signature=signature, jit_compile=jit_compile)
        return lambda _, images: call(tf.convert_to_tensor(images)).numpy()[:, 0]

    ways = {"TensorFlow graph": graph(False)} | ({"TensorFlow graph, XLA": graph(True)} if xla else {})
    return ways | {"model.predict": lambda _, images: model.predict(images, batch_size=BATCH, verbose=0)[:, 0]}


def measure(ways, crops, images, rounds):
    """The best time of each way, and its scores."""
    scores = {name: np.array(way(crops, images)) for name, way in ways.items()}
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            for _ in range(2):  # the first warms the caches that the way before it left cold
                start = time.perf_counter()
                way(crops, images)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, scores


def apart(scores, name, plain):
    return float(np.abs(scores[name] - scores[plain]).max())


def versions(*names):
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
