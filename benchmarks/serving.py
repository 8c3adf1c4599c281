"""`tfdfd serve` against the same SavedModel called in process, in one run.

    python -m benchmarks.serving [--model HANDLE] [--rounds N] [--seconds S] [--requests N]

Both get the same 256 px JPEG crops. In process, the model is called with batches of 1 to 64 and its best size counts;
16 clients in another process ask the server for one crop at a time. The two alternate, because times on shared machines
drift, and the best round counts. Server and clients share the machine's cores.

A second server decodes in the graph (`--sandbox off`); the two take turns.

Then, at 70 % of the throughput of the server, an open loop measures latency, and again while the model's next version
appears, during which no request may fail. Finally, many requests reveal leaks: the slope of the resident memory from
the second fifth on.

Bounds: 0.95 of the throughput in process and of that with decoding in the graph, p99 at most 2.5 times the median, a
first answer within 6 s, no failed request; memory growth below 1 kB per request
counts as flat.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.common import hardware, in_child, print_bounds, run
from tfdfd.hub.resolve import find

CLIENTS, LOAD, SIZES = 16, 0.7, (1, 4, 8, 16, 32, 64)
CROPS = 64


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tfdfd/meso_inception4", metavar="HANDLE", help="a published model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--requests", type=int, default=20_000, help="over which memory is looked at")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        hub, crops = Path(folder, "model"), Path(folder, "crops")
        write_crops(crops)
        shutil.copytree(find(arguments.model).folder, hub / "1")
        rows = decoding(hub, crops, arguments)
        with Server(hub) as server:
            rows += start(server, crops)
            more, rate = throughput(server, hub / "1", crops, arguments)
            rows += more
            rows += latency(server, crops, LOAD * rate, arguments)
            rows += swap(server, hub, crops, LOAD * rate, 2 * arguments.seconds)
            rows += memory(server, crops, arguments.requests)
    print(f"{arguments.model}, {CLIENTS} clients; {hardware()}, Python {platform.python_version()}\n")
    return print_bounds(("what", "measured", "bound"), rows)


def write_crops(folder):
    """Windows of the frames of a clip that the package carries, as JPEGs of 256 px."""
    import cv2

    import tfdfd

    folder.mkdir()
    clip = cv2.VideoCapture(str(Path(tfdfd.__file__).parent / "samples" / "genuine.mp4"))
    for number in range(CROPS):
        _, frame = clip.read()
        top, left = number * 7 % (frame.shape[0] - 256), number * 13 % (frame.shape[1] - 256)
        window = frame[top : top + 256, left : left + 256]
        cv2.imwrite(str(folder / f"{number:03}.jpg"), window, [cv2.IMWRITE_JPEG_QUALITY, 95])
    clip.release()


def start(server, crops):
    """Rows on the time from the command to the first answer."""
    check(clients(server, crops, "closed", "--requests", 1, "--clients", 1))
    return [("from the command to the ready line", f"{server.start_s:.1f} s", "< 6 s", server.start_s < 6)]


def decoding(models, crops, arguments):
    """Rows on pictures decoded in sealed processes, against those decoded in the graph."""
    rates, spent = {"auto": [], "off": []}, {"auto": [], "off": []}
    with Server(models, "--sandbox", "auto") as sealed, Server(models, "--sandbox", "off") as graph:
        for _ in range(arguments.rounds):
            for mode, server in (("auto", sealed), ("off", graph)):
                before = server.processor_s()
                seen = clients(server, crops, "closed", "--seconds", arguments.seconds)
                check(seen)
                rates[mode].append(len(seen["times"]) / seen["seconds"])
                spent[mode].append((server.processor_s() - before) / len(seen["times"]))
    ratio = max(rates["auto"]) / max(rates["off"])
    shown = {mode: ", ".join(f"{rate:.0f}" for rate in values) for mode, values in rates.items()}
    text = f"{ratio:.2f} (rounds {shown['auto']} against {shown['off']}/s), processor time a crop "
    text += " against ".join(f"{1000 * min(spent[mode]):.2f}" for mode in ("auto", "off")) + " ms"
    return [("sealed processes / decoding in the graph", text, ">= 0.95", ratio >= 0.95)]


def throughput(server, folder, crops, arguments):
    """Rows on the best of both ways, and the rate that the server reached."""
    own, price, served, spent, waits = {}, {}, [], [], []
    for _ in range(arguments.rounds):
        words = str(folder), str(crops), arguments.seconds / len(SIZES), list(SIZES)
        seen = json.loads(in_child("benchmarks.serving", "in_process", *words))
        for size, (rate, seconds) in seen.items():
            own[size] = max(own.get(size, 0), rate)
            price[size] = min(price.get(size, seconds), seconds)
        before = server.processor_s()
        seen = clients(server, crops, "closed", "--seconds", arguments.seconds)
        check(seen)
        served.append(len(seen["times"]) / seen["seconds"])
        spent.append((server.processor_s() - before) / len(seen["times"]))
        waits.append(np.percentile(seen["times"], (50, 99)))
    size, best = max(own.items(), key=lambda pair: pair[1])
    rate = max(served)
    text = f"{1000 * min(spent):.2f} ms, in process {1000 * price[size]:.2f} ms"
    rows = [
        ("in process, by batch size", ", ".join(f"{key}: {value:.0f}/s" for key, value in own.items()), "-", None),
        ("served, 16 clients", f"{rate:.0f}/s (rounds {', '.join(f'{value:.0f}' for value in served)})", "-", None),
        ("processor time of the server a crop", text, "-", None),
        (f"served / in process at batch {size}", f"{rate / best:.2f}", ">= 0.95", rate >= 0.95 * best),
        percentiles("latency of 16 clients", waits),
    ]
    return rows, rate


def latency(server, crops, rate, arguments):
    """Rows on answers to an open loop; the quietest round counts, since others' work on a shared machine is in all."""
    rounds = []
    for _ in range(arguments.rounds):
        seen = clients(server, crops, "open", "--rate", rate, "--seconds", arguments.seconds)
        check(seen)
        rounds.append(np.percentile(seen["times"], (50, 99)))
    return [percentiles(f"latency at {rate:.0f}/s, open loop", rounds)]


def percentiles(what, rounds):
    """The row on median and 99th percentile of the round in which they are closest."""
    middle, high = min(rounds, key=lambda round: round[1] / round[0])
    text = f"p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms"
    text += f" (rounds {', '.join(f'{1000 * high:.0f}/{1000 * middle:.0f}' for middle, high in rounds)})"
    return what, text, "p99 <= 2.5 x p50", high <= 2.5 * middle


def swap(server, models, crops, rate, seconds):
    """Rows on the next version appearing under the same load."""
    seen = {}
    thread = threading.Thread(
        target=lambda: seen.update(clients(server, crops, "open", "--rate", rate, "--seconds", seconds))
    )
    thread.start()
    time.sleep(seconds / 3)
    shutil.copytree(models / "1", models / ".2")
    (models / ".2").rename(models / "2")
    thread.join()
    failed, versions = sum(seen["errors"].values()), seen["versions"]
    middle, high = np.percentile(seen["times"], (50, 99))
    text = (
        f"{failed} failed of {failed + len(seen['times'])} ({versions.get('1', 0)} by 1, {versions.get('2', 0)} by 2)"
    )
    text += f", p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms"
    return [("hot swap under that load", text, "0 failed, both versions", failed == 0 and set(versions) == {"1", "2"})]


def memory(server, crops, requests):
    """Rows on resident memory over many requests."""
    points, over = [], threading.Event()

    def look():
        while not over.wait(0.5):
            points.append((server.requests_done(), server.resident_bytes()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        seen = clients(server, crops, "closed", "--requests", requests)
    finally:
        over.set()
        thread.join()
    check(seen)
    done, resident = np.array([point for point in points if point[0] >= points[0][0] + requests / 5], float).T
    slope = np.polyfit(done, resident, 1)[0]
    text = f"{slope:+.0f} B a request, {resident[0] / 1e6:.0f} MB to {resident[-1] / 1e6:.0f} MB"
    return [(f"memory over {requests:,} requests", text, "< 1000 B a request", slope < 1000)]


class Server:
    """`tfdfd serve` with these options on ports of its own choice, once it is ready."""

    def __init__(self, models, *words):
        import psutil

        command = [sys.executable, "-m", "tfdfd", "serve", "--models", f"model={models}", "--port", "0", *words]
        start = time.perf_counter()
        self._process = subprocess.Popen([*command, "--rest-port", "0", "--quiet"], stdout=subprocess.PIPE, text=True)
        found = re.search(r"gRPC at (\S+), REST at (\S+)", self._process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        self.start_s = time.perf_counter() - start
        self.address, self.rest_address = found[1], found[2]
        self._seen = psutil.Process(self._process.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def processor_s(self):
        """Of the server and its decoding processes."""
        times = [process.cpu_times() for process in (self._seen, *self._seen.children())]
        return sum(one.user + one.system for one in times)

    def resident_bytes(self):
        return sum(process.memory_info().rss for process in (self._seen, *self._seen.children()))

    def requests_done(self):
        """As its metrics tell."""
        import urllib.request

        with urllib.request.urlopen(f"http://{self.rest_address}/monitoring/prometheus/metrics", timeout=60) as reply:  # noqa: S310
            text = reply.read().decode()
        return float(re.search(r'request_count\{model_name="model",status="OK"\} (\S+)', text)[1])


def clients(server, crops, *words):
    """What clients in a process of their own saw."""
    command = [sys.executable, "-m", "benchmarks.serving_clients", server.address, "model", str(crops)]
    return json.loads(run([*command, "--clients", str(CLIENTS), *map(str, words)]))


def check(seen):
    """Nothing may fail but where failing is what is measured."""
    if seen["errors"]:
        raise SystemExit(f"requests failed: {seen['errors']}")


def in_process(folder: str, crops: str, seconds: float, sizes: list[int]) -> dict[int, tuple[float, float]]:
    """Images per second and processor seconds per image of a SavedModel called in this process, by batch size."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    call = tf.saved_model.load(folder).signatures["image_bytes"]
    jpegs = [file.read_bytes() for file in sorted(Path(crops).glob("*.jpg"))]
    rates = {}
    for size in sizes:
        batches = [[jpegs[(start + n) % len(jpegs)] for n in range(size)] for start in range(0, len(jpegs), size)]
        call(image_bytes=tf.constant(batches[0]))["fake_probability"].numpy()
        done, start, processor = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < start + seconds:
            call(image_bytes=tf.constant(batches[done % len(batches)]))["fake_probability"].numpy()
            done += 1
        images = done * size
        rates[size] = images / (time.perf_counter() - start), (time.process_time() - processor) / images
    return rates


if __name__ == "__main__":
    raise SystemExit(main())
