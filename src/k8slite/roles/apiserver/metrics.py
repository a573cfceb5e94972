"""/metrics: what the API server counts, in Prometheus' text.

A request costs one bisect and three additions; the families are built when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from k8slite.kit.clock import Clock

CONTENT_TYPE = CONTENT_TYPE_LATEST

#: Upper bounds in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

#: Seconds between looks at the loop's lag.
LAG_EVERY = 1.0


class _Latency:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Metrics:
    """Counters of the doors; gauges are functions asked at scrape time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latencies: dict[tuple[str, str], _Latency] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._labelled: list[tuple[str, str, str, Callable[[], dict[str, int]]]] = []
        self._lag = 0.0
        self._worst_lag = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def observe(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """One request was answered. ``verb`` and ``resource`` are words of ours, so that their
        number is bounded; streams count but do not weigh in the latencies."""
        key = (verb, resource, code)
        self._requests[key] = self._requests.get(key, 0) + 1
        if verb in ("watch", "connect"):
            return
        latency = self._latencies.get((verb, resource))
        if latency is None:
            latency = self._latencies[verb, resource] = _Latency()
        latency.counts[bisect_left(BUCKETS, seconds)] += 1
        latency.total += seconds

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._gauges.append((name, text, value))

    def gauges(
        self, name: str, text: str, label: str, values: Callable[[], dict[str, int]]
    ) -> None:
        self._labelled.append((name, text, label, values))

    async def run(self) -> None:
        """Measure how late the loop is, until cancelled."""
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(LAG_EVERY)
            self._lag = max(0.0, self._clock.monotonic() - before - LAG_EVERY)
            self._worst_lag = max(self._worst_lag, self._lag)

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's side of a collector."""
        requests = CounterMetricFamily(
            "apiserver_request",
            "Requests answered, by verb, resource and status code.",
            labels=("verb", "resource", "code"),
        )
        for (verb, resource, code), count in self._requests.items():
            requests.add_metric((verb, resource, str(code)), count)
        yield requests
        yield self._histogram()
        lag = GaugeMetricFamily(
            "k8slite_loop_lag_seconds", "How late the event loop was.", labels=("window",)
        )
        lag.add_metric(("last",), self._lag)
        lag.add_metric(("worst",), self._worst_lag)
        yield lag
        for name, text, value in self._gauges:
            yield GaugeMetricFamily(name, text, value=value())
        for name, text, label, values in self._labelled:
            family = GaugeMetricFamily(name, text, labels=(label,))
            for word, number in values().items():
                family.add_metric((word,), number)
            yield family

    def _histogram(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Time from request to answer, by verb and resource.",
            labels=("verb", "resource"),
        )
        for labels, latency in self._latencies.items():
            bounds = [*map(str, BUCKETS), "+Inf"]
            buckets: Iterable[tuple[str, float]] = zip(
                bounds, accumulate(latency.counts), strict=True
            )
            family.add_metric(labels, buckets=list(buckets), sum_value=latency.total)
        return family
