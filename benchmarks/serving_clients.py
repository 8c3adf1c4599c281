"""Load generator for a TensorFlow Serving server; prints its measurements as JSON.

    python -m benchmarks.serving_clients ADDRESS MODEL CROPS closed|open [--clients N] [--rate R] [--seconds S]

`closed`: each of N clients, on its own connection, sends the next request after each answer. `open`: requests arrive at
random times (exponential gaps, R per second on average) independent of the answers, and latency counts from the moment
at which a request was due.

CROPS is a folder of JPEGs; every request holds one. Requests are prepared beforehand, so that only the server is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path

import grpc
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

METHOD = "/tensorflow.serving.PredictionService/Predict"
_DEADLINE = 30.0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("crops", type=Path)
    parser.add_argument("loop", choices=("closed", "open"))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second of the open loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--requests", type=int, help="number of requests of the closed loop, instead of --seconds")
    arguments = parser.parse_args(argv)
    requests = [request_of(arguments.model, file.read_bytes()) for file in sorted(arguments.crops.glob("*.jpg"))]
    if not requests:
        parser.error(f"{arguments.crops} holds no *.jpg")
    json.dump(asyncio.run(run(arguments, requests)), sys.stdout)
    return 0


def request_of(model: str, jpeg: bytes) -> bytes:
    """A serialized request for one crop."""
    request = PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, "image_bytes"
    tensor = request.inputs["image_bytes"]
    tensor.dtype = DT_STRING
    tensor.tensor_shape.dim.add().size = 1
    tensor.string_val.append(jpeg)
    return request.SerializeToString()


async def run(arguments, requests) -> dict:
    """Latencies in seconds, errors by status, answers by version, and total times."""
    channels = [
        grpc.aio.insecure_channel(arguments.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(arguments.clients)
    ]
    calls = [channel.unary_unary(METHOD, response_deserializer=PredictResponse.FromString) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    times, errors, versions = [], {}, {}

    async def ask(call, number, due):
        try:
            answer = await call(requests[number % len(requests)], timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            text = f"{error.code().name}: {error.details()}"
            errors[text] = errors.get(text, 0) + 1
            return
        times.append(time.perf_counter() - due)
        version = answer.model_spec.version.value
        versions[version] = versions.get(version, 0) + 1
        (score,) = answer.outputs["fake_probability"].float_val
        if not 0 <= score <= 1:
            raise SystemExit(f"a score of {score}")

    start, processor = time.perf_counter(), time.process_time()
    if arguments.loop == "closed":
        await _closed(arguments, calls, ask, start)
    else:
        await _open(arguments, calls, ask, start)
    seconds = time.perf_counter() - start
    await asyncio.gather(*(channel.close() for channel in channels))
    return {
        "seconds": seconds,
        "times": times,
        "errors": errors,
        "versions": versions,
        "processor_s": time.process_time() - processor,
    }


async def _closed(arguments, calls, ask, start):
    asked = 0

    async def client(call):
        nonlocal asked
        while asked < arguments.requests if arguments.requests else time.perf_counter() < start + arguments.seconds:
            asked += 1
            await ask(call, asked, time.perf_counter())

    await asyncio.gather(*map(client, calls))


async def _open(arguments, calls, ask, start):
    chance, due, asked = random.Random(0), start, set()
    number = 0
    while due < start + arguments.seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        task = asyncio.ensure_future(ask(calls[number % len(calls)], number, due))
        asked.add(task)
        task.add_done_callback(asked.discard)
        number += 1
        due += chance.expovariate(arguments.rate)
    await asyncio.gather(*asked)


if __name__ == "__main__":
    raise SystemExit(main())
