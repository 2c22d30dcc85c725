"""Attempts at jobs that work with trained models, or train them only to compare them.

An attempt goes on from what an earlier one has finished: a set of an evaluation, a cell of a detection limit, a model
of a recommendation. A calibration begins again.
"""

import shutil
from typing import Any

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_client.schemas.limits import LimitParameters
from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_client.schemas.training import ImageOptions
from snf_models.anomaly.calibrate import count_image_passes
from snf_models.anomaly.reference_images import as_seen, reference_of
from snf_models.datasets import load_dataset
from snf_models.disk import write_atomically
from snf_models.evaluation.evaluate import Subject
from snf_models.evaluation.evaluate import evaluate as evaluate_model
from snf_models.evaluation.report import render_html
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.recommendation.compare import compare_families
from snf_models.registry.calibrations import CalibrationStore, calibration_bytes
from snf_models.scorer import load_model
from snf_worker.attempts.run_attempt import Attempt, LabelledProgress, ProgressReporter, open_model
from snf_worker.jobs.record import RECOMMENDATION, REPORT_HTML, REPORT_JSON

SETS, CELLS, MODELS = "sets", "cells", "models"
"""Folders of a job with what is finished of an evaluation, a detection limit and a recommendation."""


def calibrate(attempt: Attempt) -> None:
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
            activate=job.parameters.get("activate"),
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


def evaluate(attempt: Attempt) -> None:
    """Evaluate how well a model detects anomalous images; write the report as JSON and HTML to the folder."""
    attempt.require_lease()
    file = attempt.folder / REPORT_JSON
    # An earlier attempt may have died before it could report the result.
    report = EvaluationReport.model_validate_json(file.read_bytes()) if file.exists() else _write_report(attempt)
    shutil.rmtree(attempt.folder / SETS, ignore_errors=True)
    attempt.events.write(
        {
            "event": "evaluated",
            "model": report.model,
            "auroc": {images.name: images.results[0].auroc for images in report.sets},
            "auroc_over_baseline": {images.name: images.auroc_over_baseline for images in report.sets},
            "false_alarms": [rate.model_dump(mode="json") for rate in report.columns[0].false_alarms],
        }
    )


def _write_report(attempt: Attempt) -> EvaluationReport:
    job, settings, folder = attempt.job, attempt.settings, attempt.folder
    attempt.adopt(SETS, "goes on from the scores")
    given = dict(job.parameters)
    if given.pop("thorough", False):  # of a job that an earlier version queued
        attempt.note("verdicts with gradients have been removed: the model is evaluated without them")
    parameters = EvaluationParameters.model_validate(given)
    # By default with the calibration that was active when the job was queued.
    model = open_model(job, attempt.registry, parameters.calibration)
    subject = Subject(
        scorer=load_model(model.path, model.calibration_path, settings.job_engine_options),
        model=job.model,
        dataset=job.dataset,
        parameters=parameters,
        data_dir=settings.data_dir,
        store=attempt.datasets,
        calibration=model.calibration,
    )
    progress = LabelledProgress(attempt.events, attempt.go_on)
    report = evaluate_model(subject, progress.report, folder / SETS, lambda _set: progress.checkpoint())
    attempt.require_lease()
    write_atomically(folder / REPORT_HTML, render_html(report).encode())
    write_atomically(folder / REPORT_JSON, report.model_dump_json(indent=1).encode())
    return report


def limit(attempt: Attempt) -> None:
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


def recommend(attempt: Attempt) -> None:
    """Compare model families on a dataset, and write the results and a proposal to the job's folder."""
    attempt.require_lease()
    file = attempt.folder / RECOMMENDATION
    # An earlier attempt may have died before it could report the result.
    record = RecommendationRecord.model_validate_json(file.read_bytes()) if file.exists() else _compare(attempt)
    shutil.rmtree(attempt.folder / MODELS, ignore_errors=True)
    attempt.events.write(
        {
            "event": "recommended",
            "proposal": record.proposal,
            "preset": record.preset,
            "reasons": list(record.reasons),
            "seconds": record.seconds,
        }
    )


def _compare(attempt: Attempt) -> RecommendationRecord:
    job, settings, folder = attempt.job, attempt.settings, attempt.folder
    attempt.adopt(MODELS, "goes on from the models")
    parameters = RecommendParameters.model_validate(job.parameters)
    images = ImageOptions.model_validate(parameters.image_settings)
    record = compare_families(
        load_dataset(job.dataset, settings.data_dir, attempt.datasets, images, attempt.preparation()),
        parameters,
        folder / MODELS,
        observe=attempt.events.write,
        should_stop=attempt.should_stop,
        options=settings.job_engine_options,
        threads=settings.train_threads,
        job=job.id,
    )
    attempt.require_lease()
    write_atomically(folder / RECOMMENDATION, record.model_dump_json(indent=1).encode())
    return record
