"""Attempt to compare families of models on a dataset."""

import shutil

from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import load_dataset
from snf_models.disk import write_atomically
from snf_models.recommendation.compare import compare_families
from snf_worker.attempts.run_attempt import Attempt
from snf_worker.jobs.record import RECOMMENDATION

MODELS = "models"


def run(attempt: Attempt) -> None:
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
