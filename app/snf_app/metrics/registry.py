"""Metrics of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAGS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WAITS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServiceMetrics:
    """Counters and histograms with few labels: routes are templates, models registered, errors slugs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter(
            "snf_http_requests", "Requests by route template, method and status.", "route", "method", "status"
        )
        self.latency = histogram(
            "snf_http_request_seconds",
            "Time from a request's head to the head of its answer.",
            LATENCIES,
            "route",
            "method",
        )
        self.scored = counter("snf_images_scored", "Images scored by model version.", "model", "version")
        self.flagged = counter(
            "snf_images_flagged",
            "Images flagged as anomalies, at the false-alarm rate of their request.",
            "model",
            "version",
        )
        self.image_errors = counter("snf_image_errors", "Images that could not be scored, by type of error.", "type")
        self.lag = histogram(
            "snf_event_loop_lag_seconds", "Lag of the event loop: the delay that it adds to every request.", LAGS
        )
        self.batches = histogram("snf_batch_images", "Images of a shared batch, each counted once per draw.", BATCHES)
        self.waits = histogram(
            "snf_queue_wait_seconds", "Time that a request waits in the scoring queue until its first batch.", WAITS
        )
        self.authentication_failures = counter(
            "snf_authentication_failures",
            "Requests without a valid key, by reason; held-off: refused without a check after too many wrong keys.",
            "reason",
        )

    def render(self, registered: Callable[[], set[tuple[str, int]]]) -> bytes:
        """Return the metrics in Prometheus text format, without those of models that are not ``registered``."""
        known = registered()
        for counter in (self.scored, self.flagged):
            samples = next(iter(counter.collect())).samples
            versions = {(sample.labels["model"], sample.labels["version"]) for sample in samples}
            for name, version in versions:
                if (name, int(version)) not in known:
                    counter.remove(name, version)
        return generate_latest(self.registry)
