"""Attempt to calibrate a model, from the start again after an interruption."""

from typing import Any

from snf_models.anomaly.calibrate import count_image_passes
from snf_models.anomaly.reference_images import as_seen, reference_of
from snf_models.datasets import load_dataset
from snf_models.registry.calibrations import CalibrationStore, UnlessCoarser, calibration_bytes
from snf_models.scorer import load_model
from snf_worker.attempts.run_attempt import Attempt, ProgressReporter, open_model


def run(attempt: Attempt) -> None:
    """Calibrate the p-values of a model on images taken as normal, and publish at most one calibration a job."""
    job, settings = attempt.job, attempt.settings
    attempt.require_lease()
    # With the calibration of the artifact itself, so that a damaged later one can be replaced.
    model = open_model(job, attempt.registry, 0)
    calibrations = attempt.registry.calibrations(model.name, model.version)
    number = calibrations.of_job(job.id)
    if number is None:
        scorer = load_model(model.path, options=settings.job_engine_options)
        seen = as_seen(scorer.preprocessing)
        dataset = load_dataset(job.dataset, settings.data_dir, attempt.datasets, seen, attempt.preparation())
        reference = reference_of(dataset, scorer.manifest)
        activate = job.parameters.get("activate")
        precision = job.parameters.get("precision", "float32")
        progress = ProgressReporter(attempt.events, count_image_passes(reference, precision))
        passes: dict[str, int] = {}

        def on_pass(part: str, done: int, _images: int) -> None:
            attempt.go_on()
            passes[part] = done
            progress.report(sum(passes.values()))

        def before_publish() -> None:
            attempt.go_on()
            attempt.check_before_publish()

        calibration, summary = scorer.calibrate(reference, on_pass, precision)
        attempt.require_lease()  # before the registry is locked, because an outage may last
        number = calibrations.publish(
            calibration_bytes(calibration),
            summary,
            job=job.id,
            activate=UnlessCoarser(scorer.manifest.calibration) if activate is None else activate,
            before_publish=before_publish,
        )
    ref = f"{model.name}:{model.version}"
    made = {"model": model.name, "version": model.version, "ref": ref, "calibration": number}
    attempt.events.write({"event": "calibrated", **made, **_decided(calibrations, number)})


def _decided(calibrations: CalibrationStore, number: int) -> dict[str, Any]:
    """Return the smallest p-value of a calibration, and whether and why it became the active one."""
    record = calibrations.record(number)
    smallest, activation = record.summary.smallest_p, record.activation
    if activation is None:  # made by an attempt of an earlier version
        return {"smallest_p": smallest, "active": calibrations.active() == number, "reason": None}
    return {"smallest_p": smallest, **activation.model_dump()}
