"""``python -m worker.attempts.limit JOB_DIR``: find the smallest defects that a model detects."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import shutil
from pathlib import Path

from worker.attempts.attempt import Fence, JobSpec, attempt
from worker.attempts.progress import LabelledProgress, PreparationReporter, write_note
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.jobs.event_log import EventLog
from worker.jobs.retention import adopt_earlier
from worker.jobs.store import JobStore
from worker.settings import Settings

CELLS = "cells"


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Measure the detection limit of a model with synthetic defects, and publish at most one limit a job."""
    from models.artifacts.detection_limit import LimitParameters
    from models.datasets import DatasetStore
    from models.limits.good_images import good_images
    from models.limits.measure import measure_limits
    from models.naming import parse_ref
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.training.interrupted import Interrupted

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)
    fence.require()

    def go_on() -> None:
        fence.check_periodically()
        if stop.is_set():
            raise Interrupted("asked to stop")

    registry = Registry(settings.registry_dir)
    name, version = registry.locate(parse_ref(spec.model))
    limits = registry.limits(name, version)
    number = limits.of_job(spec.id)
    if number is None:
        earlier = adopt_earlier(store, folder, spec.retry_of, CELLS)
        if earlier is not None:
            write_note(events, f"goes on from the defects of job {earlier}")
        parameters = LimitParameters.model_validate(spec.parameters)
        # The calibration that was active when the job was queued.
        calibration = registry.calibrations(name, version).active() if (n := parameters.calibration) is None else n
        model = registry.with_calibration(name, version, calibration)
        scorer = Scorer.load(model.path, model.calibration_path, settings.job_engine_options)
        preparation = PreparationReporter(events)

        def on_prepared(done: int, total: int) -> None:
            preparation.report(done, total)
            go_on()

        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        good = good_images(
            spec.dataset,
            scorer.manifest,
            scorer.calibration_summary,
            parameters.images,
            settings.data_dir,
            datasets,
            on_prepared,
        )
        progress = LabelledProgress(events)

        def observe(label: str, done: int, total: int) -> None:
            go_on()
            progress.report(label, done, total)

        record = measure_limits(
            scorer,
            good,
            parameters,
            progress=observe,
            folder=folder / CELLS,
            finished=progress.checkpoint,
            calibration=calibration,
            job=spec.id,
        )
        fence.require()  # before the registry is locked, because an outage may last
        number = limits.publish(record, fence.check_before_publish)
    shutil.rmtree(folder / CELLS, ignore_errors=True)
    record = limits.record(number)
    events.write(
        {
            "event": "limited",
            "model": name,
            "version": version,
            "ref": f"{name}:{version}",
            "limit": number,
            "calibration": record.calibration,
            "alpha": record.alpha,
            "sizes": {curve.label: curve.limit for curve in record.curves},
            "not_determinable": record.not_determinable,
        }
    )


if __name__ == "__main__":
    raise SystemExit(attempt(run))
