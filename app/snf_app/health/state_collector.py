from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from snf_app.drift.service import DriftMonitor
from snf_app.jobs.service import JobStoreMonitor
from snf_app.registry.model_pool import ModelPool, ModelState
from snf_app.scoring.fair_queue import FairQueue

DRIFT = {
    "images": (
        "snf_drift_images",
        "Images since the start or the last acknowledgement; without a source, all sources together.",
    ),
    "log10_capital": ("snf_drift_martingale_log10", "Decimal logarithm of the capital of the martingale test."),
    "log10_highest": ("snf_drift_martingale_highest_log10", "Decimal logarithm of the highest capital so far."),
    "alarm": ("snf_drift_alarm", "Whether images drift from calibration."),
}
"""The name and the description of the metric of each number of a drift."""


class StateCollector(Collector):
    """Collector of queue lengths, model states and drift, from memory and the registry's folders only."""

    def __init__(self, queue: FairQueue, pool: ModelPool, jobs: JobStoreMonitor, drift: DriftMonitor) -> None:
        self._queue = queue
        self._pool = pool
        self._jobs = jobs
        self._drift = drift

    def collect(self) -> Iterable[Metric]:
        waiting = "Images that wait or are being scored, each counted once per draw."
        yield GaugeMetricFamily("snf_queue_images", waiting, self._queue.images)
        yield GaugeMetricFamily("snf_queue_capacity_images", "Images that the queue holds.", self._queue.capacity)
        tally = Tally(state for state, _ in self._pool.states().values())
        states = (ModelState.LOADING, ModelState.READY, ModelState.FAILED)
        models = "Model versions in this process by state."
        yield _by_label("snf_models", models, "state", ((state, tally[state]) for state in states))
        yield GaugeMetricFamily("snf_job_store_up", "Whether the job store answers.", int(self._jobs.answers))
        absent = "Jobs that wait, by queue; absent while the job store does not answer."
        yield _by_label("snf_jobs_waiting", absent, "queue", self._jobs.waiting.items())
        yield from self._drifts()

    def _drifts(self) -> Iterable[Metric]:
        labels = ["model", "version", "calibration", "source"]
        families = {field: GaugeMetricFamily(*described, labels=labels) for field, described in DRIFT.items()}
        registered = self._pool.registered()
        for key, streams in self._drift.all().items():
            if (key.name, key.version) in registered:
                for drift in streams:
                    of_stream = [key.name, str(key.version), str(key.calibration), drift.source or ""]
                    for field, family in families.items():
                        family.add_metric(of_stream, float(getattr(drift, field)))
        return families.values()


def _by_label(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values:
        family.add_metric([str(value)], count)
    return family
