from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from snf_app.drift.service import DriftMonitor
from snf_app.jobs.service import JobStoreMonitor
from snf_app.registry.model_pool import ModelPool, ModelState
from snf_app.scoring.fair_queue import FairQueue

MODEL = ["model", "version", "calibration", "source"]


class StateCollector(Collector):
    """Collector of queue lengths, model states and drift, from memory and the registry's folders only."""

    def __init__(self, queue: FairQueue, pool: ModelPool, jobs: JobStoreMonitor, drift: DriftMonitor) -> None:
        self._queue = queue
        self._pool = pool
        self._jobs = jobs
        self._drift = drift

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "snf_queue_images", "Images that wait or are being scored, each counted once per draw.", self._queue.images
        )
        yield GaugeMetricFamily("snf_queue_capacity_images", "Images that the queue holds.", self._queue.capacity)
        yield self._models()
        yield GaugeMetricFamily("snf_job_store_up", "Whether the job store answers.", int(self._jobs.answers))
        waiting = GaugeMetricFamily(
            "snf_jobs_waiting",
            "Jobs that wait, by queue; absent while the job store does not answer.",
            labels=["queue"],
        )
        for queue, count in self._jobs.waiting.items():
            waiting.add_metric([queue.value], count)
        yield waiting
        yield from self._drifts()

    def _models(self) -> Metric:
        family = GaugeMetricFamily("snf_models", "Model versions in this process by state.", labels=["state"])
        tally = Tally(state for state, _ in self._pool.states().values())
        for state in (ModelState.LOADING, ModelState.READY, ModelState.FAILED):
            family.add_metric([state.value], tally[state])
        return family

    def _drifts(self) -> Iterable[Metric]:
        images = GaugeMetricFamily(
            "snf_drift_images",
            "Images since the start or the last acknowledgement; without a source, all sources together.",
            labels=MODEL,
        )
        capital = GaugeMetricFamily(
            "snf_drift_martingale_log10", "Decimal logarithm of the capital of the martingale test.", labels=MODEL
        )
        highest = GaugeMetricFamily(
            "snf_drift_martingale_highest_log10", "Decimal logarithm of the highest capital so far.", labels=MODEL
        )
        alarm = GaugeMetricFamily("snf_drift_alarm", "Whether images drift from calibration.", labels=MODEL)
        registered = self._pool.registered()
        for key, streams in self._drift.all().items():
            if (key.name, key.version) not in registered:
                continue
            for drift in streams:
                labels = [key.name, str(key.version), str(key.calibration), drift.source or ""]
                images.add_metric(labels, drift.images)
                capital.add_metric(labels, drift.log10_capital)
                highest.add_metric(labels, drift.log10_highest)
                alarm.add_metric(labels, int(drift.alarm))
        return images, capital, highest, alarm
