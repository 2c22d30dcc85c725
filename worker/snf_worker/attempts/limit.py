"""Attempt to find the smallest defects that a model detects."""

import shutil

from snf_client.schemas.limits import LimitParameters
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.scorer import load_model
from snf_worker.attempts.run_attempt import Attempt, LabelledProgress, open_model

CELLS = "cells"


def run(attempt: Attempt) -> None:
    """Measure the detection limit of a model with synthetic defects, and publish at most one limit a job."""
    job, settings, folder = attempt.job, attempt.settings, attempt.folder
    attempt.require_lease()
    parameters = LimitParameters.model_validate(job.parameters)
    # By default with the calibration that was active when the job was queued.
    model = open_model(job, attempt.registry, parameters.calibration)
    limits = attempt.registry.limits(model.name, model.version)
    number = limits.of_job(job.id)
    if number is None:
        attempt.adopt(CELLS, "goes on from the defects")
        scorer = load_model(model.path, model.calibration_path, settings.job_engine_options)
        good = good_images(
            job.dataset,
            scorer.manifest,
            scorer.calibration_summary,
            parameters.images,
            settings.data_dir,
            attempt.datasets,
            attempt.preparation(),
        )
        progress = LabelledProgress(attempt.events, attempt.go_on)
        record = measure_limits(
            scorer,
            good,
            parameters,
            progress=progress.report,
            folder=folder / CELLS,
            finished=progress.checkpoint,
            calibration=model.calibration,
            job=job.id,
        )
        attempt.require_lease()  # before the registry is locked, because an outage may last
        number = limits.publish(record, attempt.check_before_publish)
    shutil.rmtree(folder / CELLS, ignore_errors=True)
    record = limits.record(number)
    attempt.events.write(
        {
            "event": "limited",
            "model": model.name,
            "version": model.version,
            "ref": f"{model.name}:{model.version}",
            "limit": number,
            "calibration": record.calibration,
            "alpha": record.alpha,
            "sizes": {curve.label: curve.limit for curve in record.curves},
            "not_determinable": record.not_determinable,
        }
    )
