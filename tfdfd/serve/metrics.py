"""Metrics for Prometheus, with TensorFlow Serving's names if it has one."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

# Microseconds: 100 µs to a minute and a half.
_BOUNDS = tuple(100 * 2**power for power in range(20))
# One label for all unknown models: otherwise clients could fill the memory with names.
_UNKNOWN = "unknown"


class Metrics:
    """Counts and times of requests; updated in the event loop."""

    def __init__(self) -> None:
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._requests: Counter[tuple[str, ...]] = Counter()
        self._times: dict[Any, _Histogram] = defaultdict(_Histogram)
        self._batch_rows, self._waits = _Histogram(tuple(2**power for power in range(11))), _Histogram()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request(self, model: str, is_known: bool, method: str, way: str, code: str, seconds: float) -> None:
        """Counts an answered request."""
        model = model if is_known else _UNKNOWN
        self._requests[model, code] += 1
        self._times[model, method, way].add(seconds * 1e6)

    def batch(self, rows: int, requests: int, waited: float) -> None:
        """Counts a call of a model."""
        self._batch_rows.add(rows)
        self._waits.add(waited * 1e6)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds the gauge `tfdfd_serve_NAME`."""
        self._gauges[name] = text, value

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return exposition.generate_latest(self._registry)

    def describe(self) -> list:
        """Empty: prometheus_client would otherwise collect at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        counts = Metric(":tensorflow:serving:request_count", "Requests by model and status.", "counter")
        for (model, code), count in self._requests.items():
            counts.add_sample(counts.name, {"model_name": model, "status": code}, count)
        yield counts
        times = HistogramMetricFamily(
            ":tensorflow:serving:request_latency",
            "Microseconds from a request's arrival to its answer.",
            labels=["model_name", "API", "entrypoint"],
        )
        for labels, histogram in self._times.items():
            times.add_metric(labels, *histogram.cumulated())
        yield times
        for name, text, histogram in (
            ("batching_session:queuing_latency", "Microseconds that the first of a batch waited.", self._waits),
            ("batching_session:processed_batch_size", "Rows of a call.", self._batch_rows),
        ):
            family = HistogramMetricFamily(f":tensorflow:serving:{name}", text)
            family.add_metric([], *histogram.cumulated())
            yield family
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"tfdfd_serve_{name}", text, value=value())


class _Histogram:
    def __init__(self, bounds: Sequence[float] = _BOUNDS) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def cumulated(self) -> tuple[list, float]:
        """Cumulated buckets for prometheus_client, and the sum."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets, self._sum
