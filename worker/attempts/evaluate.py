"""``python -m worker.attempts.evaluate JOB_DIR``: evaluate a model. Another attempt or a retry keeps finished sets."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from worker.attempts.attempt import Fence, JobSpec, attempt
from worker.attempts.progress import LabelledProgress, write_note
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.jobs.event_log import EventLog
from worker.jobs.retention import adopt_earlier
from worker.jobs.store import JobStore
from worker.settings import Settings

if TYPE_CHECKING:
    from models.evaluation.schema import EvaluationReport

SETS = "sets"
REPORT_JSON, REPORT_HTML = "report.json", "report.html"


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Evaluate how well a model detects anomalous images; write the report as JSON and HTML to the folder."""
    from models.atomic_files import write_atomically
    from models.datasets import DatasetStore
    from models.evaluation.assemble import Subject
    from models.evaluation.evaluate import evaluate
    from models.evaluation.report import render_html
    from models.evaluation.schema import EvaluationParameters, EvaluationReport
    from models.naming import parse_ref
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.training.interrupted import Interrupted

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)
    fence.require()
    if (folder / REPORT_JSON).exists():  # complete: an earlier attempt died before it could report the result
        _finish(EvaluationReport.model_validate_json((folder / REPORT_JSON).read_bytes()), folder, events)
        return
    earlier = adopt_earlier(store, folder, spec.retry_of, SETS)
    if earlier is not None:
        write_note(events, f"goes on from the scores of job {earlier}")
    progress = LabelledProgress(events)

    def observe(label: str, done: int, total: int) -> None:
        fence.check_periodically()
        if stop.is_set():
            raise Interrupted("asked to stop")
        progress.report(label, done, total)

    registry = Registry(settings.registry_dir)
    name, number = registry.locate(parse_ref(spec.model))
    given = dict(spec.parameters)
    if given.pop("thorough", False):  # of a job that an earlier version queued
        write_note(events, "verdicts with gradients have been removed: the model is evaluated without them")
    parameters = EvaluationParameters.model_validate(given)
    # The calibration that was active when the job was queued.
    calibration = registry.calibrations(name, number).active() if (n := parameters.calibration) is None else n
    version = registry.with_calibration(name, number, calibration)
    subject = Subject(
        scorer=Scorer.load(version.path, version.calibration_path, settings.job_engine_options),
        model=spec.model,
        dataset=spec.dataset,
        parameters=parameters,
        data_dir=settings.data_dir,
        store=DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes),
        calibration=calibration,
    )
    report = evaluate(subject, observe, folder / SETS, lambda _set: progress.checkpoint())
    fence.require()
    write_atomically(folder / REPORT_HTML, render_html(report).encode())
    write_atomically(folder / REPORT_JSON, report.model_dump_json(indent=1).encode())
    _finish(report, folder, events)


def _finish(report: "EvaluationReport", folder: Path, events: EventLog) -> None:
    shutil.rmtree(folder / SETS, ignore_errors=True)
    combined = report.columns[0]
    events.write(
        {
            "event": "evaluated",
            "model": report.model,
            "auroc": {images.name: images.results[0].auroc for images in report.sets},
            "auroc_over_baseline": {images.name: images.auroc_over_baseline for images in report.sets},
            "false_alarms": [rate.model_dump(mode="json") for rate in combined.false_alarms],
        }
    )


if __name__ == "__main__":
    raise SystemExit(attempt(run))
