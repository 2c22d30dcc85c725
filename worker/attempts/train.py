"""``python -m worker.attempts.train JOB_DIR``: train, publish at most one version a job, and record the run."""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.artifacts.manifest import TrainingRecord, read_manifest
from models.datasets import Dataset, DatasetSummary
from models.registry.version import ModelVersion
from models.scoring.options import EngineName, EngineOptions
from models.training.config import TrainingConfig
from models.training.recipe import TrainingRecipe
from worker.attempts.attempt import BEGAN, Fence, JobSpec, attempt
from worker.attempts.progress import FitReporter, PreparationReporter, write_note
from worker.attempts.stop_flag import StopFlag
from worker.broker.connection import redis_client
from worker.errors import BrokerDown
from worker.jobs.event_log import EventLog
from worker.jobs.measured_trainings import MeasuredTraining, MeasuredTrainings, kind_of_training, peak_memory_bytes
from worker.jobs.retention import adopt_earlier, drop_training_files
from worker.jobs.store import JobStore
from worker.runs.record import RunStart
from worker.runs.recorder import RunRecorder
from worker.runs.store import RunStore
from worker.settings import Settings

log = logging.getLogger(__name__)


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Train the model of a job and publish it, unless an earlier attempt of the job has published it."""
    from models.datasets import DatasetStore, load_dataset
    from models.registry.registry import Registry
    from models.training.fit_feature_flows import UNITS, passes_of_fit
    from models.training.interrupted import Interrupted
    from models.training.run import train

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)

    def should_stop() -> bool:
        fence.check_periodically()
        return stop.is_set()

    fit: FitReporter | None = None

    def observe(event: dict[str, Any]) -> None:
        events.write(event)
        record(event)
        if fit is not None and event["event"] == "scoring":
            fit.report(event["part"], event["done"] * UNITS.get(event["part"], 1))
        # The evaluation after the last step takes a while and does not call ``should_stop``.
        if event["event"] == "scoring" and should_stop():
            raise Interrupted("asked to stop while evaluating")

    preparation = PreparationReporter(events)

    def prepared(done: int, total: int) -> None:
        if preparation.report(done, total) and should_stop():
            raise Interrupted("asked to stop while preparing the images")

    registry = Registry(settings.registry_dir)
    version = registry.of_job(spec.model, spec.id)
    if version is None:
        fence.require()
        earlier = adopt_earlier(store, folder, spec.retry_of, "checkpoints")
        if earlier is not None:
            write_note(events, f"resumes from the checkpoints of job {earlier}")
        recipe, config = _recipe(spec, folder)
        start = _start(spec, recipe.name, config.model_dump(mode="json", include=set(recipe.parameters)))
    else:
        start = _start(spec, version.manifest.training.preset, version.manifest.training.config)
    with RunRecorder(RunStore(settings.run_records_dir), start, lambda: spec.id, spec.attempt) as record:
        if version is None:
            dataset = load_dataset(
                spec.dataset,
                settings.data_dir,
                DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes),
                config,
                prepared,
            )
            if recipe.family == "features":
                fit = FitReporter(events, passes_of_fit(dataset, config))
            artifact = train(
                dataset,
                recipe,
                config,
                folder,
                observe=observe,
                should_stop=should_stop,
                threads=settings.train_threads,
                job=spec.id,
                device=spec.device,
                engine=_engine(settings),
                began=BEGAN,
            )
            _store_measured(spec, settings, recipe, config, dataset, read_manifest(artifact).training)
            # Before the registry is locked, because an outage of Redis may last.
            fence.require()
            version = registry.publish(
                artifact, spec.model, promote=spec.promote, before_publish=fence.check_before_publish
            )
        elif spec.promote:
            # The earlier attempt may have died between publishing and promoting. A version promoted since then stays.
            fence.require()
            registry.promote(version)
        live = registry.live_version(version.name)
        if problem := record.published(version, live=live == version.version):
            write_note(events, problem)
    drop_training_files(folder)
    events.write(_published(version, live))


def _store_measured(
    spec: JobSpec,
    settings: Settings,
    recipe: TrainingRecipe,
    config: TrainingConfig,
    dataset: Dataset,
    training: TrainingRecord,
) -> None:
    """Store what a training took that ran in one attempt and was not limited in minutes."""
    if spec.attempt > 1 or spec.retry_of is not None or config.max_minutes is not None:
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
        trainings.store(kind_of_training(architecture, config, spec.device), measured)
    except BrokerDown as problem:
        log.info("the time and memory of the training are not stored: %s", problem.detail)


def _published(version: ModelVersion, live: int | None) -> dict[str, Any]:
    return {
        "event": "published",
        "model": version.name,
        "version": version.version,
        "ref": f"{version.name}:{version.version}",
        "live": live == version.version,
        "live_version": live,
        "smallest_p": version.manifest.calibration.smallest_p,
        "unfit": [{"code": check.code, "detail": check.sentence} for check in version.manifest.unfit],
    }


def _recipe(spec: JobSpec, folder: Path) -> tuple[TrainingRecipe, TrainingConfig]:
    from models.training.architecture_file import find_recipe
    from models.training.same_run_check import begun_config

    recipe = find_recipe(spec.preset, spec.architecture)
    return recipe, begun_config(folder, recipe, spec.parameters)


def _start(spec: JobSpec, preset: str, parameters: dict[str, Any]) -> RunStart:
    return RunStart(
        origin="job",
        model=spec.model,
        dataset=spec.dataset,
        preset=preset,
        parameters=parameters,
        device=spec.device,
        retry_of=spec.retry_of,
    )


def _engine(settings: Settings) -> EngineOptions:
    # "openvino" is a preference here: a training must not fail at its end because of the engine.
    name: EngineName = "torch" if settings.engine == "torch" else "auto"
    return replace(settings.job_engine_options, name=name, device="cpu")


if __name__ == "__main__":
    raise SystemExit(attempt(run))
