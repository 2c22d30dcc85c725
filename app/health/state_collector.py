from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.drift.monitor import DriftMonitor
from app.jobs.store_monitor import JobStoreMonitor
from app.registry.loaded import ModelState
from app.registry.model_pool import ModelPool
from app.scoring.queue import ScoringQueue

MODEL = ["model", "version", "calibration", "source"]


class StateCollector(Collector):
    """Collector of queue lengths, model states and drift, from memory and the registry's folders only."""

    def __init__(self, queue: ScoringQueue, pool: ModelPool, jobs: JobStoreMonitor, drift: DriftMonitor) -> None:
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
            "snf_drift_images", "Images in a window of drift; without a source, all sources together.", labels=MODEL
        )
        statistic = GaugeMetricFamily(
            "snf_drift_statistic", "Kolmogorov-Smirnov distance of recent p-values from calibration.", labels=MODEL
        )
        p_value = GaugeMetricFamily(
            "snf_drift_p_value", "Probability of a distance this large without drift.", labels=MODEL
        )
        low_share = GaugeMetricFamily(
            "snf_drift_low_share", "Share of recent images with a p-value of 0.05 or less.", labels=MODEL
        )
        white_level = GaugeMetricFamily(
            "snf_drift_white_level_p_value", "Probability of white levels so unusual without drift.", labels=MODEL
        )
        capital = GaugeMetricFamily(
            "snf_drift_martingale_log10", "Decimal logarithm of the capital of the martingale test.", labels=MODEL
        )
        highest = GaugeMetricFamily(
            "snf_drift_martingale_highest_log10", "Decimal logarithm of the highest capital so far.", labels=MODEL
        )
        alarm = GaugeMetricFamily("snf_drift_alarm", "Whether recent images drift from calibration.", labels=MODEL)
        registered = self._pool.registered()
        for key, windows in self._drift.all().items():
            if (key.name, key.version) not in registered:
                continue
            for window in windows:
                labels = [key.name, str(key.version), str(key.calibration), window.source or ""]
                images.add_metric(labels, window.images)
                low_share.add_metric(labels, window.low_share)
                alarm.add_metric(labels, int(window.alarm))
                if window.statistic is not None and window.p_value is not None:
                    statistic.add_metric(labels, window.statistic)
                    p_value.add_metric(labels, window.p_value)
                if window.white_level is not None:
                    white_level.add_metric(labels, window.white_level.p_value)
                if window.martingale is not None:
                    capital.add_metric(labels, window.martingale.log10_capital)
                    highest.add_metric(labels, window.martingale.log10_highest)
        return images, statistic, p_value, white_level, capital, highest, low_share, alarm
