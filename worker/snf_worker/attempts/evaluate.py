"""Attempt to evaluate a model. Another attempt or a retry keeps finished sets."""

import shutil

from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_models.disk import write_atomically
from snf_models.evaluation.assemble import Subject
from snf_models.evaluation.evaluate import evaluate
from snf_models.evaluation.report import render_html
from snf_models.scorer import load_model
from snf_worker.attempts.run_attempt import Attempt, LabelledProgress, open_model
from snf_worker.jobs.record import REPORT_HTML, REPORT_JSON

SETS = "sets"


def run(attempt: Attempt) -> None:
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
    report = evaluate(subject, progress.report, folder / SETS, lambda _set: progress.checkpoint())
    attempt.require_lease()
    write_atomically(folder / REPORT_HTML, render_html(report).encode())
    write_atomically(folder / REPORT_JSON, report.model_dump_json(indent=1).encode())
    return report
