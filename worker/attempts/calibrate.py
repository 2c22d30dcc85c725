"""Calibrating a registered model on other images: `python -m worker.attempts.calibrate JOB_DIR`.

An attempt that was interrupted starts again: it is minutes of work. A job publishes once, however often it is tried:
the record of a calibration carries the job's id, and whether the fencing token is still the newest one is asked under
the registry's lock, right before the calibration appears.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import time
from collections.abc import Callable
from pathlib import Path

from worker.attempts.attempt import Fence, JobSpec, StopFlag, attempt
from worker.broker.embedded import redis_client
from worker.jobs.events import EventLog
from worker.jobs.store import JobStore
from worker.settings import Settings

REPORT_S = 0.5
PREPARING_S = 5.0
"""Time between two words on the preparation of a dataset's images."""


def run(_folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Calibrates and publishes; raises what stands in the way (`Interrupted`, `StaleAttempt`, `ModelsError`, ...)."""
    import torch

    from models.anomaly.calibration_file import calibration_bytes
    from models.anomaly.fitting.calibrate import count_image_passes
    from models.anomaly.fitting.reference_images import as_seen, reference_of
    from models.datasets import DatasetStore, load_dataset
    from models.naming import parse_ref
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.training.loop import Interrupted

    if settings.train_threads is not None:
        torch.set_num_threads(settings.train_threads)
    fence = Fence(JobStore(redis_client(settings), settings.key_prefix), spec, settings, stop)
    fence.require()

    def check_stop() -> None:
        if stop.is_set():
            raise Interrupted("asked to stop while calibrating; another attempt starts again")

    def go_on() -> None:
        fence.check_now_and_then()
        check_stop()

    def admit() -> None:
        check_stop()
        fence.admit()

    registry = Registry(settings.registry_dir)
    name, version = registry.locate(parse_ref(spec.model))
    calibrations = registry.calibrations(name, version)
    number = calibrations.of_job(spec.id)
    if number is None:
        # With the artifact's own calibration, so that a damaged later one can be replaced by another.
        scorer = Scorer.load(registry.with_calibration(name, version, 0).path, options=settings.job_engine_options)
        prepared = _Preparation(events, go_on)
        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        dataset = load_dataset(
            spec.dataset, settings.data_dir, datasets, as_seen(scorer.preprocessing), prepared.progress
        )
        reference = reference_of(dataset, scorer.manifest)
        precision = spec.parameters.get("precision", "float32")
        reports = _Reports(count_image_passes(reference, precision), events, go_on)
        calibration, summary = scorer.calibrate(reference, reports.progress, precision)
        fence.require()  # before the registry's lock is held, for an outage may last
        number = calibrations.publish(
            calibration_bytes(calibration),
            summary,
            job=spec.id,
            activate=spec.parameters.get("activate", True),
            before_publish=admit,
        )
    smallest = calibrations.record(number).summary.smallest_p
    made = {"model": name, "version": version, "ref": f"{name}:{version}"}
    events.write({"event": "calibrated", **made, "calibration": number, "smallest_p": smallest})


class _Preparation:
    """Says now and then how many images of a dataset were brought to the model's size."""

    def __init__(self, events: EventLog, go_on: Callable[[], None]) -> None:
        self._events = events
        self._go_on = go_on
        self._told = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """Takes progress in."""
        if time.monotonic() - self._told > PREPARING_S:
            self._told = time.monotonic()
            self._events.write({"event": "log", "message": f"prepares the images: {done} of {total}"})
        self._go_on()


class _Reports:
    """Says how many looks at images are done, forwards and backwards, at most twice a second and at the end."""

    def __init__(self, total: int, events: EventLog, go_on: Callable[[], None]) -> None:
        self._total = total
        self._events = events
        self._go_on = go_on
        self._began = self._told = time.monotonic()
        self._done: dict[str, int] = {}
        events.write({"event": "started", "step": 0, "steps": total})

    def progress(self, part: str, done: int, _images: int) -> None:
        """Takes the progress of one part in; raises what ends the work."""
        self._go_on()
        self._done[part] = done
        step, now = sum(self._done.values()), time.monotonic()
        if step < self._total and now - self._told < REPORT_S:
            return
        self._told = now
        speed = step / max(now - self._began, 1e-3)
        progress = {"step": step, "steps": self._total, "progress": step / self._total}
        eta = (self._total - step) / speed
        self._events.write({"event": "metrics", **progress, "images_per_second": speed, "eta_seconds": eta})


if __name__ == "__main__":
    raise SystemExit(attempt(run))
