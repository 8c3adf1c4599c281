"""`tfdfd serve` under everything at once: good and hostile requests, half-open connections, deadline storms, hot swaps.

    python -m benchmarks.soak [--quick] [--seconds S] [--requests N] [--clients N] [--swaps N]

Clients send one request after the other, a tenth of them hostile, until the time and the number of requests have passed
and the last version has answered. Meanwhile connections that say half of something are held open, bursts of requests
come whose deadlines cannot be kept, and new versions of the model appear and replace the one that is served.

Bounds: no good request fails, every hostile one is refused with its status, p99 at most 3 times the median, and the
memory of the server with its processes in the last quarter at most a tenth above that in the second.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import io
import platform
import random
import shutil
import struct
import tempfile
import time
import zlib
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from benchmarks.common import hardware, print_bounds
from benchmarks.serving import Server, write_crops
from benchmarks.serving_clients import METHOD, request_of
from tfdfd.hub.resolve import find

HOSTILE, DEADLINE = 0.1, 60.0
HALF_OPEN, STORM = 32, 64
# A version may need so long on a busy machine.
SWAP_SECONDS = 120.0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tfdfd/meso_inception4", metavar="HANDLE", help="a published model")
    parser.add_argument("--quick", action="store_true", help="60 seconds, 2,000 requests and 2 versions")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--swaps", type=int, default=5, help="versions that appear meanwhile")
    if (arguments := parser.parse_args(argv)).quick:
        parser.set_defaults(seconds=60.0, requests=2_000, swaps=2)
        arguments = parser.parse_args(argv)
    gc.freeze()  # no pause of the clients is one of the server
    with tempfile.TemporaryDirectory() as folder:
        write_crops(Path(folder, "crops"))
        crops = [file.read_bytes() for file in sorted(Path(folder, "crops").glob("*.jpg"))]
        models = Path(folder, "model")
        shutil.copytree(find(arguments.model).folder, models / "1")
        with Server(models) as server:
            seen = asyncio.run(soak(server, models, crops, arguments))
    print(f"{arguments.model}, {arguments.clients} clients; {hardware()}, Python {platform.python_version()}\n")
    return print_bounds(("what", "measured", "bound"), rows_of(seen))


def rows_of(seen):
    """Rows on what a soak saw."""
    starts, times = np.array(seen["times"]).T
    middle, high = np.percentile(times, (50, 99))
    latency = f"p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms ({high / middle:.1f} times"
    is_loading = np.any([(first <= starts) & (starts <= last) for first, last in seen["loads"].values()], axis=0)
    if is_loading.any() and not is_loading.all():
        apart = (1000 * np.percentile(times[part], 99) for part in (is_loading, ~is_loading))
        latency += "; p99 {:.0f} ms while a version is loaded, {:.0f} ms otherwise".format(*apart)
    memory = np.array(seen["memory"]) / 1e6
    early, late = (
        np.median(part) for part in (memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :])
    )
    failed, wrong = sum(seen["failed"].values()), sum(seen["wrong"].values())
    why = "".join(f"; {text}: {count}" for text, count in (seen["failed"] + seen["wrong"]).items())
    text = f"{seen['hostile']} hostile, {wrong} answered otherwise; {seen['half_open']} half-open connections"
    text += f", {sum(seen['storm'].values())} requests of storms ({dict(seen['storm'])})"
    return [
        ("good requests", f"{failed} failed of {len(seen['times']) + failed}{why}", "0 failed", failed == 0),
        ("hostile requests", text, "all refused", wrong == 0),
        ("versions that answered", ", ".join(map(str, sorted(seen["versions"]))), "-", None),
        ("latency of good ones", f"{latency})", "p99 <= 3 x p50", high <= 3 * middle),
        ("memory, second and last quarter", f"{early:.0f} MB, {late:.0f} MB", "<= 1.1 times", late <= 1.1 * early),
    ]


async def soak(server, models, crops, arguments):
    """Begin and seconds of good requests, of each version when it appeared and first answered, and counts."""
    seen = {name: collections.Counter() for name in ("failed", "wrong", "versions", "storm")}
    seen |= {"times": [], "loads": {}, "memory": [], "hostile": 0, "half_open": 0}
    good, bad = [request_of("model", crop) for crop in crops], hostile(crops[0])
    end, sent, chance = time.monotonic() + arguments.seconds, 0, random.Random(0)
    async with contextlib.AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        calls = []
        for _ in range(arguments.clients):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            await channel.channel_ready()
            calls.append(channel.unary_unary(METHOD, response_deserializer=PredictResponse.FromString))

        def is_over():
            is_swapped = arguments.swaps + 1 in seen["versions"] or time.monotonic() > end + SWAP_SECONDS
            return time.monotonic() >= end and sent >= arguments.requests and is_swapped

        async def client(call):
            nonlocal sent
            while not is_over():
                sent += 1
                if chance.random() < HOSTILE:
                    await refused(call, chance.choice(list(bad)))
                    continue
                start = time.perf_counter()
                try:
                    answer = await call(chance.choice(good), timeout=DEADLINE)
                except grpc.aio.AioRpcError as error:
                    seen["failed"][f"{error.code().name}: {error.details()}"] += 1
                else:
                    now, version = time.perf_counter(), answer.model_spec.version.value
                    seen["times"].append((start, now - start))
                    seen["versions"][version] += 1
                    if version in seen["loads"] and seen["versions"][version] == 1:
                        seen["loads"][version][1] = now

        async def refused(call, name):
            seen["hostile"] += 1
            message, expected = bad[name]
            try:
                await call(message, timeout=DEADLINE)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            if code != expected:
                seen["wrong"][f"{name}: {code}"] += 1

        async def storms():
            while True:
                await asyncio.sleep(arguments.seconds / 20)
                asked = [
                    calls[n % len(calls)](good[0], timeout=chance.choice((0.001, 0.01, 0.05))) for n in range(STORM)
                ]
                for answer in await asyncio.gather(*asked, return_exceptions=True):
                    code = answer.code().name if isinstance(answer, grpc.aio.AioRpcError) else "OK"
                    seen["storm"][code] += 1

        async def swaps():
            for number in range(2, arguments.swaps + 2):
                await asyncio.sleep(arguments.seconds / (arguments.swaps + 1))
                await asyncio.to_thread(shutil.copytree, models / "1", models / f".{number}")
                (models / f".{number}").rename(models / str(number))
                seen["loads"][number] = [time.perf_counter(), np.inf]

        async def look():
            while True:
                with contextlib.suppress(Exception):  # a process that has just ended
                    seen["memory"].append(server.resident_bytes())
                await asyncio.sleep(min(0.5, arguments.seconds / 40))

        others = [asyncio.ensure_future(work) for work in (storms(), swaps(), look(), *half_open(server, seen))]
        await asyncio.gather(*map(client, calls))
        for task in others:
            if task.done() and not task.cancelled():
                task.result()
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    return seen


def half_open(server, seen):
    """Clients that say half of something and wait."""
    starts = (
        b"POST /v1/models/model:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{",
        b"POST /v1/models/mo",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"",
    )

    async def hold(number):
        while True:
            address = (server.rest_address, server.address)[number % 2]
            host, port = address.rsplit(":", 1)
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                seen["half_open"] += 1
                writer.write(starts[number % len(starts)])
                try:
                    await asyncio.wait_for(reader.read(), 20)
                except asyncio.TimeoutError:
                    pass
                finally:
                    writer.close()
            await asyncio.sleep(0.2)

    return [hold(number) for number in range(HALF_OPEN)]


def hostile(crop):
    """By name: a serialized request, and the status that it must get."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side, rows):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

    def encoded(*pictures, signature="image_bytes", name="model"):
        request = PredictRequest.FromString(request_of("model", pictures[0]))
        request.model_spec.name, request.model_spec.signature_name = name, signature
        tensor = request.inputs["image_bytes"]
        tensor.tensor_shape.dim[0].size = len(pictures)
        tensor.string_val[:] = pictures
        return request.SerializeToString()

    def image(value, *shape):
        request = PredictRequest()
        request.model_spec.name = "model"
        tensor = request.inputs["image"]
        tensor.dtype = DT_FLOAT
        for size in shape:
            tensor.tensor_shape.dim.add().size = size
        tensor.float_val.append(value)
        return request.SerializeToString()

    file = io.BytesIO()  # a decoder reads all of its scans, which are the same again and again
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    head, marker, scans = file.getvalue()[:-2].partition(b"\xff\xda")
    return {
        "cut short": (encoded(crop[: len(crop) // 2]), "INVALID_ARGUMENT"),
        "damaged PNG": (encoded(png(64, b"nothing")), "INVALID_ARGUMENT"),
        "PNG bomb": (encoded(png(60_000, bytes(1 << 16))), "INVALID_ARGUMENT"),
        "many large PNGs": (encoded(*[png(4096, bytes(1 << 16))] * 17), "INVALID_ARGUMENT"),
        "many scans": (encoded(head + (marker + scans) * 50 + b"\xff\xd9"), "INVALID_ARGUMENT"),
        "text": (encoded(b"no picture, but a text that is long enough"), "INVALID_ARGUMENT"),
        "NaN": (image(float("nan"), 1, 64, 64, 3), "INVALID_ARGUMENT"),
        "another rank": (image(0.5, 64, 64), "INVALID_ARGUMENT"),
        "many rows": (image(0.5, 1 << 40, 64, 64, 3), "INVALID_ARGUMENT"),
        "another signature": (encoded(crop, signature="other"), "FAILED_PRECONDITION"),
        "another model": (encoded(crop, name="other"), "NOT_FOUND"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
