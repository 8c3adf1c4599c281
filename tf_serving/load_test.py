"""Load on a model server: throughput, latency percentiles, errors by status, and growth of the server's memory.

    python -m tf_serving.load_test --clients 16 --seconds 30 crops/*.jpg           # closed loop: as fast as it answers
    python -m tf_serving.load_test --rate 200 --seconds 60 --pid 4711 crops/*.jpg  # open loop: 200 requests a second

In the closed loop each client sends its next request when the last is answered: it finds the throughput. In the open
loop requests are due at times of a Poisson process that does not care how the server does, and a latency counts from
the time its request was due, sent or not: a server that stalls for a second delays all requests of that second, where
a closed loop would see a single slow one. Requests of the warm-up do not count. No request is sent twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tf_serving.scoring import ServingError

PERCENTILES = (50, 90, 95, 99, 99.9)
MEMORY_EVERY_S = 0.25
# What was due while all clients waited for the server, and still was after twice the time of the test.
NOT_SENT = "NOT_SENT"


@dataclass
class Load:
    """What a load test saw after its warm-up.

    Attributes:
        latencies_s: of the requests that were answered with OK, in seconds.
        statuses: how many requests ended in each gRPC status, or were due and `NOT_SENT`.
        seconds: from the end of the warm-up to the last answer.
        memory: `(time in s, answered requests, resident bytes)` of the server, where its process is known.
    """

    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    memory: list[tuple[float, int, int]] = field(default_factory=list)

    def to_dict(self) -> dict:
        """The figures: per second, milliseconds, and MiB for each 1000 requests and each minute."""
        answered = sorted(self.latencies_s)
        figures = {
            "requests": sum(self.statuses.values()),
            "seconds": round(self.seconds, 3),
            "ok_per_second": round(len(answered) / self.seconds, 2) if self.seconds else None,
            "statuses": dict(sorted(self.statuses.items())),
        }
        if answered:
            shares = {f"p{share:g}": _ms(percentile(answered, share)) for share in PERCENTILES}
            figures["latency_ms"] = shares | {"mean": _ms(sum(answered) / len(answered)), "max": _ms(answered[-1])}
        if len(self.memory) > 2:
            times, requests, sizes = zip(*self.memory, strict=True)
            mib = [size / 2**20 for size in sizes]
            figures["memory"] = {
                "first_mib": round(mib[0], 1),
                "last_mib": round(mib[-1], 1),
                "most_mib": round(max(mib), 1),
                "mib_per_minute": _rounded(slope(times, mib), 60),
                "mib_per_1000_requests": _rounded(slope(requests, mib), 1000),
            }
        return figures


def percentile(ordered: list[float], share: float) -> float:
    """The smallest of ascending values that `share` percent do not exceed (nearest rank)."""
    rank = -(-len(ordered) * share // 100)
    return ordered[max(int(rank), 1) - 1]


def slope(x, y) -> float | None:
    """Of the least-squares line through points; None where all `x` are the same."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if not spread:
        return None
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


def closed_loop(
    senders: list[Callable[[], None]],
    seconds: float,
    *,
    requests: int | None = None,
    warmup_s: float = 5,
    memory: Callable[[], int] | None = None,
) -> Load:
    """Each sender in a thread of its own, again and again.

    Args:
        senders: one a client; each call sends one request and returns when it is answered, or raises `ServingError`.
        seconds: for how long after the warm-up.
        requests: end earlier, after so many requests that count.
        memory: resident bytes of the server, read now and then.
    """
    return _Run(senders, itertools.repeat(None), seconds, requests, warmup_s, memory).load()


def open_loop(
    senders: list[Callable[[], None]],
    rate: float,
    seconds: float,
    *,
    requests: int | None = None,
    warmup_s: float = 5,
    memory: Callable[[], int] | None = None,
    seed: int = 0,
) -> Load:
    """Requests due at random times, `rate` a second on average; arguments as for `closed_loop`.

    The number of senders bounds how many requests are under way at a time; one that is due while all are busy waits,
    and its waiting counts.
    """
    draw = random.Random(seed)
    gaps = (draw.expovariate(rate) for _ in itertools.count())
    return _Run(senders, itertools.accumulate(gaps), seconds, requests, warmup_s, memory).load()


class _Run:
    def __init__(self, senders, due, seconds, requests, warmup_s, memory):
        self._senders, self._due = senders, due
        self._length, self._most, self._warmup = warmup_s + seconds, requests, warmup_s
        self._memory = memory
        self._lock = threading.Lock()
        self._taken = 0
        self._result = Load()
        self._error = None

    def load(self):
        self._begun = time.monotonic()
        threads = [threading.Thread(target=self._client, args=(send,)) for send in self._senders]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._look_at_memory()
            threads[0].join(MEMORY_EVERY_S) if threads[0].is_alive() else time.sleep(MEMORY_EVERY_S / 10)
        if self._error:
            raise self._error
        return self._result

    def _client(self, send):
        try:
            for due in iter(self._next, None):
                self._send(send, due)
        except BaseException as error:  # noqa: BLE001 - raised in `load`, where somebody looks
            self._error = self._error or error

    def _next(self):
        """When the next request is due, in seconds since the beginning; None: no more."""
        with self._lock:
            now = time.monotonic() - self._begun
            while True:
                due = next(self._due)
                due = now if due is None else due
                if self._error or due >= self._length or self._taken == self._most:
                    return None
                self._taken += due >= self._warmup
                if now < 2 * self._length:
                    break
                # The server is so far behind that the rest would only make the test longer.
                self._result.statuses[NOT_SENT] += due >= self._warmup
        time.sleep(max(0.0, self._begun + due - time.monotonic()))
        return due

    def _send(self, send, due):
        status = "OK"
        try:
            send()
        except ServingError as error:
            status = error.status
        now = time.monotonic() - self._begun
        if due < self._warmup:
            return
        with self._lock:
            self._result.statuses[status] += 1
            if status == "OK":
                self._result.latencies_s.append(now - due)
            self._result.seconds = max(self._result.seconds, now - self._warmup)

    def _look_at_memory(self):
        now = time.monotonic() - self._begun
        if self._memory and now >= self._warmup:
            self._result.memory.append((now, sum(self._result.statuses.values()), self._memory()))


def memory_of(pid: int) -> Callable[[], int]:
    """A function that tells the resident bytes of a process.

    Raises:
        ValueError: there is no such process, or nothing to ask about it.
    """
    if Path("/proc/self/statm").exists():
        import resource

        file = Path(f"/proc/{pid}/statm")
        if not file.exists():
            raise ValueError(f"there is no process {pid}.")
        page = resource.getpagesize()
        return lambda: int(file.read_text().split()[1]) * page
    try:
        import psutil
    except ImportError as error:
        raise ValueError("--pid needs psutil on this system: pip install psutil") from error
    if not psutil.pid_exists(pid):
        raise ValueError(f"there is no process {pid}.")
    process = psutil.Process(pid)
    return lambda: process.memory_info().rss


@contextmanager
def grpc_senders(server: str, model: str, bodies: list[list[bytes]], count: int, **options) -> Iterator[list[Callable]]:
    """Senders for the loops, each with a connection of its own that sends the bodies in turn.

    Requests are encoded once and answers are not decoded: the load is to be the server's. One request goes ahead, so
    that a server that is away or refuses is told at once.

    Args:
        bodies: encoded crops, one list a request.
        options: of `GrpcClient`, without those for TLS.
    """
    import grpc

    from tf_serving.client_grpc import GrpcClient

    with GrpcClient(server, model, **options) as client:
        requests = [client.request(crops).SerializeToString() for crops in bodies]
        client.predict(bodies[0])
    deadline = options.get("deadline_s", 10)

    def sender(channel, turn):
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

        def send():
            try:
                predict(next(turn), timeout=deadline)
            except grpc.RpcError as error:
                raise ServingError(error.code().name, error.details()) from error

        return send

    # Otherwise gRPC leads all channels to one address over one connection.
    settings = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server, settings)) for _ in range(count)]
        yield [sender(channel, _from(requests, number)) for number, channel in enumerate(channels)]


@contextmanager
def rest_senders(server: str, model: str, bodies: list[list[bytes]], count: int, **options) -> Iterator[list[Callable]]:
    """The same over REST, with all options of `RestClient`."""
    from tf_serving.client_rest import RestClient

    def sender(client, turn):
        return lambda: client.predict(next(turn))

    with ExitStack() as stack:
        clients = [stack.enter_context(RestClient(server, model, attempts=1, **options)) for _ in range(count)]
        clients[0].predict(bodies[0])
        yield [sender(client, _from(bodies, number)) for number, client in enumerate(clients)]


def _from(values, number):
    """The values again and again, not all senders beginning with the same."""
    first = number % len(values)
    return itertools.cycle(values[first:] + values[:first])


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: all requests were answered with OK; 1: some were not; 2: wrong usage, or no server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=main.__doc__)
    parser.add_argument("crops", nargs="+", type=Path, metavar="CROP", help="JPEG or PNG files, sent in turn")
    parser.add_argument("--server", default="localhost:8500", help="HOST:PORT for gRPC, http://HOST:PORT for REST")
    parser.add_argument("--model", default="meso_inception4", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--version", type=int, metavar="N")
    parser.add_argument("--label", metavar="LABEL")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="crops a request (default: %(default)s)")
    parser.add_argument("--clients", type=int, metavar="N", help="at a time (default: 16; open loop: 128)")
    parser.add_argument("--rate", type=float, metavar="R", help="requests a second: the open loop")
    parser.add_argument("--seconds", type=float, default=30, help="that count (default: %(default)s)")
    parser.add_argument("--requests", type=int, metavar="N", help="end after so many that count")
    parser.add_argument("--warmup", type=float, default=5, metavar="S", help="before (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=10, metavar="S", help="of a request (default: %(default)s)")
    parser.add_argument("--pid", type=int, help="process of the server on this machine, for its memory")
    parser.add_argument("--json", metavar="FILE|-", help="write the figures as JSON")
    arguments = parser.parse_args(argv)
    clients = arguments.clients
    if clients is None:
        clients = 16 if arguments.rate is None else 128
    rate = 1 if arguments.rate is None else arguments.rate
    positive = (clients, arguments.batch, arguments.seconds, rate, arguments.deadline)
    if not (all(0 < value < 1e9 for value in positive) and 0 <= arguments.warmup < 1e9):
        parser.error("--clients, --batch, --seconds, --rate and --deadline must be above 0, and --warmup not negative")
    try:
        figures = _measured(arguments, clients)
    except (OSError, ValueError, ServingError) as error:
        parser.error(str(error))
    text = json.dumps(figures, indent=1)
    if arguments.json == "-":
        print(text)
    else:
        print(table(figures))
        if arguments.json:
            Path(arguments.json).write_text(text + "\n")
    return 0 if set(figures["statuses"]) == {"OK"} else 1


def _measured(arguments, clients):
    crops = [path.read_bytes() for path in arguments.crops]
    turn = itertools.cycle(crops)
    bodies = [list(itertools.islice(turn, arguments.batch)) for _ in crops]
    options = {"version": arguments.version, "label": arguments.label, "deadline_s": arguments.deadline}
    make = rest_senders if "://" in arguments.server else grpc_senders
    settings = {"requests": arguments.requests, "warmup_s": arguments.warmup}
    settings["memory"] = memory_of(arguments.pid) if arguments.pid else None
    with make(arguments.server, arguments.model, bodies, clients, **options) as senders:
        if arguments.rate:
            load = open_loop(senders, arguments.rate, arguments.seconds, **settings)
        else:
            load = closed_loop(senders, arguments.seconds, **settings)
    how = {"loop": "open" if arguments.rate else "closed", "rate": arguments.rate, "clients": clients}
    how |= {"server": arguments.server, "model": arguments.model, "batch": arguments.batch}
    return how | {"warmup_s": arguments.warmup} | load.to_dict()


def table(figures: dict) -> str:
    """The figures as lines of name and value."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{name} {part}: {number}" for part, number in value.items()]
        elif value is not None:
            lines.append(f"{name}: {value}")
    width = max(line.index(":") for line in lines) + 2
    return "\n".join(f"{line.split(': ', 1)[0]:{width}}{line.split(': ', 1)[1]}" for line in lines)


def _ms(seconds):
    return round(1000 * seconds, 3)


def _rounded(value, times):
    return None if value is None else round(value * times, 3)


if __name__ == "__main__":
    sys.exit(main())
