"""What one service counts while it works; every service has a registry of its own."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAGS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WAITS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters and histograms, to be changed from any thread.

    Labels are bounded: routes are templates, models are versions in the registry, errors are slugs in the code.
    """

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
            "Images flagged as anomalies, at whatever false-alarm rate their request asked for.",
            ["model", "version"],
            registry=self.registry,
        )
        self._image_errors = Counter(
            "snf_image_errors", "Images that could not be scored, by type of error.", ["type"], registry=self.registry
        )
        self._lag = Histogram(
            "snf_event_loop_lag_seconds",
            "How late the event loop comes back to who asked it to: the delay that every request sees.",
            buckets=LAGS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "snf_batch_images",
            "Images, each counted once a draw, of a batch that requests can share.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._waits = Histogram(
            "snf_queue_wait_seconds",
            "Time from a request's place in the scoring queue to the batch that it begins in.",
            buckets=WAITS,
            registry=self.registry,
        )
        self._authentication_failures = Counter(
            "snf_authentication_failures",
            "Requests without a valid key, by reason; held-off: refused unseen after too many wrong ones.",
            ["reason"],
            registry=self.registry,
        )
        self._models: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts a request whose answer begins."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route, method).observe(seconds)

    def observe_lag(self, seconds: float) -> None:
        """Takes in one measurement of the event loop's lag."""
        self._lag.observe(seconds)

    def observe_batch(self, images: int) -> None:
        """Takes in one batch that was scored."""
        self._batches.observe(images)

    def observe_waits(self, seconds: Iterable[float]) -> None:
        """Takes in how long the requests that a batch begins with have waited."""
        for one in seconds:
            self._waits.observe(one)

    def count_images(self, name: str, version: int, scored: int, flagged: int) -> None:
        """Counts the scored images of a request to a version that was served, so that is in the registry."""
        with self._lock:
            self._models.add((name, version))
            self._scored.labels(name, str(version)).inc(scored)
            self._flagged.labels(name, str(version)).inc(flagged)

    def count_image_errors(self, slugs: Iterable[str]) -> None:
        """Counts images that could not be scored."""
        for slug, count in Tally(slugs).items():
            self._image_errors.labels(slug).inc(count)

    def count_authentication_failure(self, reason: str) -> None:
        """Count a request without a valid key; ``reason`` is one of a few in the code."""
        self._authentication_failures.labels(reason).inc()

    def render(self, registered: Callable[[], set[tuple[str, int]]]) -> bytes:
        """All metrics in Prometheus' text format, without models that are not in the registry any more."""
        known = registered()
        with self._lock:
            for name, version in self._models - known:
                for counter in (self._scored, self._flagged):
                    counter.remove(name, str(version))
            self._models &= known
        return generate_latest(self.registry)
