"""Attempt to train a model: publish at most one version a job, and record the run."""

import logging
import shutil
import time
from dataclasses import replace
from typing import Any

from snf_client.schemas.training import TrainingConfig
from snf_models.artifacts.manifest import TrainingRecord, read_manifest
from snf_models.datasets import Dataset, DatasetSummary, load_dataset
from snf_models.pipeline.architecture_file import find_recipe
from snf_models.pipeline.feature_fit import UNITS, passes_of_fit
from snf_models.pipeline.presets import TrainingRecipe
from snf_models.pipeline.run import begun_config, train
from snf_models.scoring import EngineName
from snf_worker.attempts.run_attempt import BEGAN, Attempt, ProgressReporter
from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown
from snf_worker.jobs.measured import MeasuredTraining, MeasuredTrainings, kind_of_training, peak_memory_bytes
from snf_worker.jobs.record import Job
from snf_worker.jobs.runs import RunRecorder, RunStore
from snf_worker.settings import Settings

log = logging.getLogger(__name__)


def run(attempt: Attempt) -> None:
    """Train the model of a job and publish it, unless an earlier attempt of the job has published it."""
    job, settings, folder, registry = attempt.job, attempt.settings, attempt.folder, attempt.registry
    fit: ProgressReporter | None = None

    def observe(event: dict[str, Any]) -> None:
        attempt.events.write(event)
        record(event)
        if event["event"] == "scoring":
            if fit is not None:
                fit.report(event["done"] * UNITS.get(event["part"], 1), part=event["part"])
            attempt.go_on()  # the evaluation after the last step does not call ``should_stop``

    version = registry.of_job(job.model, job.id)
    if version is None:
        attempt.require_lease()
        attempt.adopt("checkpoints", "resumes from the checkpoints")
        recipe = find_recipe(job.preset, job.architecture)
        config = begun_config(folder, recipe, job.parameters)
        preset, parameters = recipe.name, config.model_dump(mode="json", include=set(recipe.parameters))
    else:
        preset, parameters = version.manifest.training.preset, version.manifest.training.config
    whole = job.model_copy(update={"preset": preset, "parameters": parameters})
    with RunRecorder(RunStore(settings.run_records_dir), whole) as record:
        if version is None:
            dataset = load_dataset(job.dataset, settings.data_dir, attempt.datasets, config, attempt.preparation())
            if recipe.family == "features":
                fit = ProgressReporter(attempt.events, passes_of_fit(dataset, config))
            # "openvino" is a preference here: a training must not fail at its end because of the engine.
            name: EngineName = "torch" if settings.engine == "torch" else "auto"
            artifact = train(
                dataset,
                recipe,
                config,
                folder,
                observe=observe,
                should_stop=attempt.should_stop,
                threads=settings.train_threads,
                job=job.id,
                device=job.device,
                engine=replace(settings.job_engine_options, name=name, device="cpu"),
                began=BEGAN,
            )
            _store_measured(job, settings, recipe, config, dataset, read_manifest(artifact).training)
            # Before the registry is locked, because an outage of Redis may last.
            attempt.require_lease()
            version = registry.publish(
                artifact, job.model, promote=job.promote, before_publish=attempt.check_before_publish
            )
        elif job.promote:
            # The earlier attempt may have died between publishing and promoting. A version promoted since then stays.
            attempt.require_lease()
            registry.promote(version)
        live = registry.live_version(version.name)
        if problem := record.published(version, live=live == version.version):
            attempt.note(problem)
    for part in ("checkpoints", "artifact"):  # the registry has a copy
        shutil.rmtree(folder / part, ignore_errors=True)
    attempt.events.write(
        {
            "event": "published",
            "model": version.name,
            "version": version.version,
            "ref": f"{version.name}:{version.version}",
            "live": live == version.version,
            "live_version": live,
            "smallest_p": version.manifest.calibration.smallest_p,
            "unfit": [{"code": check.code, "detail": check.sentence} for check in version.manifest.unfit],
        }
    )


def _store_measured(
    job: Job,
    settings: Settings,
    recipe: TrainingRecipe,
    config: TrainingConfig,
    dataset: Dataset,
    training: TrainingRecord,
) -> None:
    """Store what a training took that ran in one attempt and was not limited in minutes."""
    if job.attempts > 1 or job.retry_of is not None or config.max_minutes is not None:
        return
    architecture = recipe.architecture_for(dataset.image_shape, config, settings.backbones_dir)
    images = DatasetSummary.of(dataset).images
    steps, seconds = training.steps, training.seconds if training.steps else 0.0
    measured = MeasuredTraining(
        step_seconds=seconds / max(steps, 1),
        image_seconds=max(0.0, time.monotonic() - BEGAN - seconds) / images,
        images=images,
        memory_bytes=peak_memory_bytes(),
    )
    try:
        trainings = MeasuredTrainings(redis_client(settings), settings.key_prefix)
        trainings.store(kind_of_training(architecture, config, job.device), measured)
    except BrokerDown as problem:
        log.info("the time and memory of the training are not stored: %s", problem.detail)
