from __future__ import annotations

import asyncio
import threading
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

from snf_worker.runtime.parent_death import beat

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAGS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WAITS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServiceMetrics:
    """Counters and histograms with few labels: routes are templates, models registered, errors slugs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "snf_http_requests",
            "Requests by route template, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._latency = Histogram(
            "snf_http_request_seconds",
            "Time from a request's head to the head of its answer.",
            ["route", "method"],
            buckets=LATENCIES,
            registry=self.registry,
        )
        self._scored = Counter(
            "snf_images_scored", "Images scored by model version.", ["model", "version"], registry=self.registry
        )
        self._flagged = Counter(
            "snf_images_flagged",
            "Images flagged as anomalies, at the false-alarm rate of their request.",
            ["model", "version"],
            registry=self.registry,
        )
        self._image_errors = Counter(
            "snf_image_errors", "Images that could not be scored, by type of error.", ["type"], registry=self.registry
        )
        self._lag = Histogram(
            "snf_event_loop_lag_seconds",
            "Lag of the event loop: the delay that it adds to every request.",
            buckets=LAGS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "snf_batch_images",
            "Images of a shared batch, each counted once per draw.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._waits = Histogram(
            "snf_queue_wait_seconds",
            "Time that a request waits in the scoring queue until its first batch.",
            buckets=WAITS,
            registry=self.registry,
        )
        self._authentication_failures = Counter(
            "snf_authentication_failures",
            "Requests without a valid key, by reason; held-off: refused without a check after too many wrong keys.",
            ["reason"],
            registry=self.registry,
        )
        self._models: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route, method).observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def observe_batch(self, images: int) -> None:
        self._batches.observe(images)

    def observe_waits(self, seconds: Iterable[float]) -> None:
        """Record how many seconds each of several requests waited in the scoring queue before its work began."""
        for waited in seconds:
            self._waits.observe(waited)

    def count_images(self, name: str, version: int, scored: int, flagged: int) -> None:
        with self._lock:
            self._models.add((name, version))
            self._scored.labels(name, str(version)).inc(scored)
            self._flagged.labels(name, str(version)).inc(flagged)

    def count_image_errors(self, slugs: Iterable[str]) -> None:
        """Count images that could not be scored; ``slugs`` has an error name per image."""
        for slug, count in Tally(slugs).items():
            self._image_errors.labels(slug).inc(count)

    def count_authentication_failure(self, reason: str) -> None:
        self._authentication_failures.labels(reason).inc()

    def render(self, registered: Callable[[], set[tuple[str, int]]]) -> bytes:
        """Return the metrics in Prometheus text format, without those of models that are not ``registered``."""
        known = registered()
        with self._lock:
            for name, version in self._models - known:
                for counter in (self._scored, self._flagged):
                    counter.remove(name, str(version))
            self._models &= known
        return generate_latest(self.registry)


EVERY_S = 0.5


@asynccontextmanager
async def measure_loop_lag(metrics: ServiceMetrics) -> AsyncIterator[None]:
    """Record every 0.5 s how late a sleeping task wakes up, and send the launcher a heartbeat."""
    task = asyncio.create_task(_measure(metrics), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _measure(metrics: ServiceMetrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY_S
        await asyncio.sleep(EVERY_S)
        metrics.observe_lag(max(0.0, loop.time() - due))
        beat()
