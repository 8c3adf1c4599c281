"""`tfdfd detect` on a folder of short clips, and the first answers of `tfdfd app`.

    python -m benchmarks.many [--clips N] [--rounds N] [--model HANDLE] [--before CHECKOUT]

The clips are copies of the samples. Ways alternate, and the round with the fewest processor seconds counts: those of
the command and its decoding processes, which other work on the machine disturbs less than its time. CHECKOUT is a
folder with earlier code of the package. Bounds: no slower per clip than the earlier code; results, hashes, record,
report and pictures of `-o` add under 2 %; the page in 2 s; a warm first score in 3 s.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common import TFDFD, hardware, print_bounds

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = sorted((ROOT / "tfdfd" / "samples").glob("*.mp4"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", metavar="HANDLE", help="model of all clips (default: that of each code)")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="folder with earlier code to compare with")
    arguments = parser.parse_args(argv)
    print(f"{hardware()}; {arguments.clips} clips of 4 s, {arguments.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = clips(Path(folder), arguments.clips, arguments.rounds, arguments.model, arguments.before)
        rows += page(Path(folder))
    return print_bounds(("what", "value", "bound"), rows)


def clips(work: Path, count: int, rounds: int, model: str | None, before: Path | None) -> list[tuple]:
    """Processor seconds per clip with and without `-o`, and with the earlier code."""
    folder, out = work / "clips", work / "out"
    folder.mkdir()
    for number in range(count):
        shutil.copy(SAMPLES[number % len(SAMPLES)], folder / f"{number:04d}.mp4")
    detect = [*TFDFD, "detect", str(folder), "--quiet", *(["--model", model] if model else [])]
    ways = {"detect": (ROOT, detect), "detect -o": (ROOT, [*detect, "-o", str(out)])}
    if before:
        ways["detect, before"] = (before.resolve(), detect)
    best = dict.fromkeys(ways, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, (code, command) in ways.items():
            shutil.rmtree(out, ignore_errors=True)
            best[name] = min(best[name], _cost(code, command))
    rows: list[tuple] = [
        (f"{name}: processor seconds a clip; seconds", f"{used / count:.3f}; {seconds / count:.3f}", "-", None)
        for name, (used, seconds) in best.items()
    ]
    added = best["detect -o"][0] / best["detect"][0] - 1
    rows.append(("added by -o", f"{100 * added:+.1f} %", "< 2 %", added < 0.02))
    if before:
        ratio = best["detect"][0] / best["detect, before"][0]
        rows.append(("processor seconds a clip, to those before", f"{ratio:.2f} x", "<= 1", ratio <= 1))
    return rows


def _cost(code: Path, command: Sequence[str]) -> tuple[float, float]:
    """Processor and wall seconds of a command and its children; all inputs must be scored."""
    start, used = time.perf_counter(), _used()
    environment = os.environ | {"PYTHONPATH": str(code)}
    subprocess.run(command, check=True, cwd=code, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _used() - used, time.perf_counter() - start


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def page(work: Path) -> list[tuple]:
    """Seconds from the start of `tfdfd app` to its first page, and from an upload to a warm one to its first score."""
    environment = os.environ | {"TMPDIR": str(work), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    command = [*TFDFD, "app"]
    app = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = urlsplit(app.stdout.readline().removeprefix("page: ").strip())  # type: ignore[union-attr]

        def ask(method: str, path: str, body: bytes | None = None) -> bytes:
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
            connection.request(method, address.path + path, body, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            content = response.read()
            connection.close()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {content[:200]!r}")
            return content

        def until(condition: Callable[[dict], object]) -> float:
            while not condition(json.loads(ask("GET", "files"))):
                time.sleep(0.01)
            return time.perf_counter()

        ask("GET", "")
        first_page = time.perf_counter() - start
        until(lambda state: state["ready"])
        uploaded = time.perf_counter()
        ask("POST", "files?name=clip.mp4", SAMPLES[0].read_bytes())
        first_score = until(lambda state: state["files"][0]["first"]) - uploaded
        verdict = until(lambda state: state["files"][0]["result"]) - uploaded
    finally:
        app.kill()
        app.communicate()
    return [
        ("tfdfd app: first page", f"{first_page:.2f} s", "< 2 s", first_page < 2),
        ("first score of a clip of 4 s", f"{first_score:.2f} s", "< 3 s", first_score < 3),
        ("its verdict", f"{verdict:.2f} s", "-", None),
    ]


if __name__ == "__main__":
    sys.exit(main())
