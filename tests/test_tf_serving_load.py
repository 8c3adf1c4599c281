"""The load test itself: does it measure what it says, also of a server that stalls?"""

import itertools
import json
import os
import subprocess
import sys
import threading
import time

import grpc
import pytest
from PIL import Image

from tests.fake_serving import Script, grpc_server, rest_server
from tf_serving.load_test import NOT_SENT, Load, closed_loop, main, memory_of, open_loop, percentile, slope
from tf_serving.scoring import ServingError


def sleeper(seconds):
    return lambda: time.sleep(seconds)


def test_percentiles_are_of_the_values_that_were():
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, share) for share in (50, 90, 99, 99.9, 100)] == [50, 90, 99, 100, 100]
    assert percentile([3.0], 50) == percentile([3.0], 99.9) == 3
    assert percentile([1.0, 2.0, 3.0], 50) == 2


def test_slope_is_that_of_the_line():
    assert slope([0, 1, 2, 3], [5, 7, 9, 11]) == pytest.approx(2)
    assert slope([1, 1], [2, 3]) is None


def test_closed_loop_finds_throughput_and_latency():
    figures = closed_loop([sleeper(0.02)] * 4, 0.8, warmup_s=0.2).to_dict()
    assert figures["statuses"].keys() == {"OK"}
    assert 20 < figures["ok_per_second"] <= 201
    assert 20 <= figures["latency_ms"]["p50"] < 200
    assert figures["requests"] == figures["statuses"]["OK"]


def test_open_loop_sends_at_its_rate_whatever_the_server_does():
    load = open_loop([sleeper(0.05)] * 40, 200, 1, warmup_s=0.2)
    assert 140 < len(load.latencies_s) < 260
    assert 50 <= load.to_dict()["latency_ms"]["p50"] < 400


def test_a_stall_delays_all_that_was_due_meanwhile():
    """What a closed loop cannot see: half a second without answers, at 100 requests a second, hits 50 requests."""

    def stalling():
        number = itertools.count()
        return lambda: time.sleep(0.5 if next(number) == 10 else 0.001)

    opened = open_loop([stalling()], 100, 1.5, warmup_s=0)
    closed = closed_loop([stalling()], 1.5, warmup_s=0)
    assert sum(latency > 0.1 for latency in opened.latencies_s) > 20
    assert sum(latency > 0.1 for latency in closed.latencies_s) < 5
    assert opened.to_dict()["latency_ms"]["p90"] > 100 > closed.to_dict()["latency_ms"]["p99"]


def test_what_was_never_sent_is_counted():
    """A server that does 10 a second, asked for 100: after twice the time, what is still due counts as not sent."""
    load = open_loop([sleeper(0.1)], 100, 0.5, warmup_s=0)
    assert load.statuses[NOT_SENT] > 20
    assert sum(load.statuses.values()) == pytest.approx(50, abs=25)
    assert load.to_dict()["latency_ms"]["max"] > 300


def test_the_warm_up_does_not_count():
    begun = time.monotonic()

    def slow_at_first():
        time.sleep(0.4 if time.monotonic() - begun < 0.4 else 0.001)

    load = closed_loop([slow_at_first], 0.3, warmup_s=1)
    assert max(load.latencies_s) < 0.4
    assert load.seconds < 0.7


def test_errors_are_counted_by_status_and_have_no_latency():
    turn = itertools.cycle([None, "UNAVAILABLE", "RESOURCE_EXHAUSTED", None])

    def send():
        time.sleep(0.001)
        status = next(turn)
        if status:
            raise ServingError(status, "")

    load = closed_loop([send], 9, requests=100, warmup_s=0)
    assert load.statuses == {"OK": 50, "UNAVAILABLE": 25, "RESOURCE_EXHAUSTED": 25}
    assert len(load.latencies_s) == 50


def test_an_error_of_the_test_itself_is_no_status():
    with pytest.raises(ZeroDivisionError):
        closed_loop([lambda: 1 / 0, sleeper(0.01)], 9, warmup_s=0)


@pytest.mark.parametrize(
    "loop", [closed_loop, lambda senders, seconds, **more: open_loop(senders, 500, seconds, **more)]
)
def test_as_many_requests_as_were_asked_for(loop):
    lock, sent = threading.Lock(), []

    def send():
        with lock:
            sent.append(1)

    load = loop([send] * 4, 9, requests=123, warmup_s=0)
    assert sum(load.statuses.values()) == len(sent) == 123


def test_growth_of_memory_is_a_slope():
    begun = time.monotonic()
    load = closed_loop(
        [sleeper(0.005)], 1.6, warmup_s=0.2, memory=lambda: int((100 + 4 * (time.monotonic() - begun)) * 2**20)
    )
    figures = load.to_dict()["memory"]
    assert figures["mib_per_minute"] == pytest.approx(240, rel=0.05)
    assert 100 < figures["first_mib"] < figures["last_mib"] == figures["most_mib"]
    assert figures["mib_per_1000_requests"] > 0
    assert "memory" not in Load(latencies_s=[1.0]).to_dict()


def test_memory_of_a_process():
    psutil = pytest.importorskip("psutil")
    assert memory_of(os.getpid())() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    with pytest.raises(ValueError, match="no process"):
        memory_of(2**22 + 1)


@pytest.fixture
def crop(tmp_path):
    Image.new("RGB", (16, 16), "grey").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def constant(crops):
    return [0.5] * len(crops)


@pytest.mark.parametrize("loop", [["--clients", "2"], ["--rate", "50"]], ids=["closed", "open"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_command_over_both_protocols(protocol, loop, crop, tmp_path, capsys):
    script = Script(constant)
    with (grpc_server if protocol == "grpc" else rest_server)(script) as address:
        server = address if protocol == "grpc" else f"http://{address}"
        words = ["--server", server, "--model", "toy", "--seconds", "9", "--requests", "20", "--warmup", "0", *loop]
        words += ["--batch", "2", "--pid", str(os.getpid()), "--json", str(tmp_path / "a.json"), str(crop)]
        assert main(words) == 0
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["loop"] == ("open" if "--rate" in loop else "closed")
    assert figures["statuses"] == {"OK": 20} and figures["batch"] == 2
    assert len(script.requests) == 21  # the first one is to see whether all is well
    assert "latency_ms p99" in capsys.readouterr().out


def test_refusals_are_seen_and_not_repeated(crop, capsys):
    script = Script(constant, [None, *[grpc.StatusCode.RESOURCE_EXHAUSTED] * 5])
    with grpc_server(script) as address:
        words = ["--server", address, "--clients", "1", "--requests", "10", "--warmup", "0", "--json", "-", str(crop)]
        assert main(words) == 1
    assert json.loads(capsys.readouterr().out)["statuses"] == {"OK": 5, "RESOURCE_EXHAUSTED": 5}
    assert len(script.requests) == 11


@pytest.mark.parametrize(
    "words",
    [
        ["--rate", "-1"],
        ["--clients", "0"],
        ["--rate", "0"],
        ["--seconds", "nan"],
        ["--warmup", "-1"],
        ["--pid", "4194305"],
        ["absent.jpg"],
        [],
    ],
)
def test_wrong_usage(words, crop):
    with grpc_server(Script(constant)) as address, pytest.raises(SystemExit) as stop:
        main(["--server", address, "--seconds", "0.1", str(crop), *words] if words else [])
    assert stop.value.code == 2


def test_no_server_is_told_at_once(crop):
    words = ["-m", "tf_serving.load_test", "--server", "http://127.0.0.1:1", "--deadline", "0.5", str(crop)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "UNAVAILABLE" in done.stderr and "Traceback" not in done.stderr
