"""``python -m worker.attempts.recommend JOB_DIR``: compare families of models on a dataset."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from worker.attempts.attempt import Fence, JobSpec, attempt
from worker.attempts.progress import PreparationReporter, write_note
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.jobs.event_log import EventLog
from worker.jobs.retention import adopt_earlier
from worker.jobs.store import JobStore
from worker.settings import Settings

if TYPE_CHECKING:
    from models.recommendation.record import RecommendationRecord

MODELS = "models"
RECORD = "recommendation.json"


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Compare model families on a dataset, and write the results and a proposal to the job's folder."""
    from models.atomic_files import write_atomically
    from models.datasets import DatasetStore, load_dataset
    from models.images.options import ImageOptions
    from models.recommendation.compare import compare_families
    from models.recommendation.record import RecommendationRecord, RecommendParameters
    from models.training.interrupted import Interrupted

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)
    fence.require()
    if (folder / RECORD).exists():  # complete: an earlier attempt died before it could report the result
        _finish(RecommendationRecord.model_validate_json((folder / RECORD).read_bytes()), folder, events)
        return
    earlier = adopt_earlier(store, folder, spec.retry_of, MODELS)
    if earlier is not None:
        write_note(events, f"goes on from the models of job {earlier}")

    def should_stop() -> bool:
        fence.check_periodically()
        return stop.is_set()

    preparation = PreparationReporter(events)

    def on_prepared(done: int, total: int) -> None:
        if preparation.report(done, total) and should_stop():
            raise Interrupted("asked to stop while preparing the images")

    parameters = RecommendParameters.model_validate(spec.parameters)
    datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    images = ImageOptions.model_validate(parameters.image_settings)
    record = compare_families(
        load_dataset(spec.dataset, settings.data_dir, datasets, images, on_prepared),
        parameters,
        folder / MODELS,
        observe=events.write,
        should_stop=should_stop,
        options=settings.job_engine_options,
        threads=settings.train_threads,
        job=spec.id,
    )
    fence.require()
    write_atomically(folder / RECORD, record.model_dump_json(indent=1).encode())
    _finish(record, folder, events)


def _finish(record: "RecommendationRecord", folder: Path, events: EventLog) -> None:
    shutil.rmtree(folder / MODELS, ignore_errors=True)
    events.write(
        {
            "event": "recommended",
            "proposal": record.proposal,
            "preset": record.preset,
            "reasons": list(record.reasons),
            "seconds": record.seconds,
        }
    )


if __name__ == "__main__":
    raise SystemExit(attempt(run))
