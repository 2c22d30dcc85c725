"""``python -m worker.attempts.calibrate JOB_DIR``: calibrate a model, from the start again after an interruption."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

from pathlib import Path
from typing import Any

from models.registry.calibrations import CalibrationStore
from worker.attempts.attempt import Fence, JobSpec, attempt
from worker.attempts.progress import PreparationReporter, ProgressReporter
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.jobs.event_log import EventLog
from worker.jobs.store import JobStore
from worker.settings import Settings


def run(_folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Calibrate the p-values of a model on images taken as normal, and publish at most one calibration a job."""
    from models.anomaly.calibration_file import calibration_bytes
    from models.anomaly.fitting.calibrate import count_image_passes
    from models.anomaly.fitting.reference_images import as_seen, reference_of
    from models.datasets import DatasetStore, load_dataset
    from models.naming import parse_ref
    from models.registry.activation import UnlessCoarser
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.training.interrupted import Interrupted

    fence = Fence(JobStore(redis_client(settings), settings.key_prefix), spec, settings, stop)
    fence.require()

    def check_stop() -> None:
        if stop.is_set():
            raise Interrupted("asked to stop while calibrating; another attempt starts again")

    def go_on() -> None:
        fence.check_periodically()
        check_stop()

    def check_before_publish() -> None:
        check_stop()
        fence.check_before_publish()

    registry = Registry(settings.registry_dir)
    name, version = registry.locate(parse_ref(spec.model))
    calibrations = registry.calibrations(name, version)
    number = calibrations.of_job(spec.id)
    if number is None:
        # With the calibration of the artifact itself, so that a damaged later one can be replaced.
        scorer = Scorer.load(registry.with_calibration(name, version, 0).path, options=settings.job_engine_options)
        preparation = PreparationReporter(events)

        def on_prepared(done: int, total: int) -> None:
            preparation.report(done, total)
            go_on()

        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        dataset = load_dataset(spec.dataset, settings.data_dir, datasets, as_seen(scorer.preprocessing), on_prepared)
        reference = reference_of(dataset, scorer.manifest)
        activate = spec.parameters.get("activate")
        precision = spec.parameters.get("precision", "float32")
        progress = ProgressReporter(events, count_image_passes(reference, precision))
        passes: dict[str, int] = {}

        def on_pass(part: str, done: int, _images: int) -> None:
            go_on()
            passes[part] = done
            progress.report(sum(passes.values()))

        calibration, summary = scorer.calibrate(reference, on_pass, precision)
        fence.require()  # before the registry is locked, because an outage may last
        number = calibrations.publish(
            calibration_bytes(calibration),
            summary,
            job=spec.id,
            activate=UnlessCoarser(scorer.manifest.calibration) if activate is None else activate,
            before_publish=check_before_publish,
        )
    made = {"model": name, "version": version, "ref": f"{name}:{version}", "calibration": number}
    events.write({"event": "calibrated", **made, **_decided(calibrations, number)})


def _decided(calibrations: CalibrationStore, number: int) -> dict[str, Any]:
    """Return the smallest p-value of a calibration, and whether and why it became the active one."""
    record = calibrations.record(number)
    smallest, activation = record.summary.smallest_p, record.activation
    if activation is None:  # made by an attempt of an earlier version
        return {"smallest_p": smallest, "active": calibrations.active() == number, "reason": None}
    return {"smallest_p": smallest, **activation.model_dump()}


if __name__ == "__main__":
    raise SystemExit(attempt(run))
