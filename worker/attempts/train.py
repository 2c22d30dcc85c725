"""The trainer: `python -m worker.attempts.train JOB_DIR`.

It reads `job.json`, writes `events.jsonl`, trains with checkpoints in the same folder, and publishes the model.

A job publishes once, however often it is tried: the manifest of the artifact carries the job's id, and an
attempt that finds a registered version with its id answers that one. Whether its fencing token is still the newest
one is asked under the registry's lock, right before the version appears.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

from dataclasses import replace
from pathlib import Path
from typing import Any

from models.scoring.options import EngineName, EngineOptions
from worker.attempts.attempt import Fence, JobSpec, StopFlag, attempt
from worker.attempts.progress import PreparationReporter
from worker.attempts.ranks import other_ranks, threads_each
from worker.broker.connection import redis_client
from worker.jobs.events import EventLog
from worker.jobs.retention import adopt_earlier, drop_training_files
from worker.jobs.store import JobStore
from worker.settings import Settings


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Trains and publishes; raises what stands in the way (`Interrupted`, `StaleAttempt`, `ModelsError`, ...)."""
    from models.datasets import DatasetStore, load_dataset
    from models.registry.registry import Registry
    from models.training.loop import Interrupted
    from models.training.presets import find_preset
    from models.training.run import train

    store = JobStore(redis_client(settings), settings.key_prefix)
    fence = Fence(store, spec, settings, stop)

    def should_stop() -> bool:
        fence.check_periodically()
        return stop.is_set()

    def observe(event: dict[str, Any]) -> None:
        events.write(event)
        # The evaluation after the last step takes a while, and nobody asks `should_stop` in it.
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
            events.write({"event": "log", "message": f"goes on from the checkpoints of job {earlier}"})
        config = find_preset(spec.preset).config(spec.parameters)
        datasets = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
        dataset = load_dataset(spec.dataset, settings.data_dir, datasets, config, prepared)
        # A worker has one GPU, and two processes would but share it.
        size = settings.train_processes if spec.device == "cpu" else 1
        threads = threads_each(settings, size)
        with other_ranks(folder, size, threads, events) as ranks:
            artifact = train(
                dataset,
                spec.preset,
                config,
                folder,
                observe=observe,
                should_stop=should_stop,
                threads=threads,
                job=spec.id,
                device=spec.device,
                ranks=ranks,
                engine=_engine(settings),
            )
        fence.require()  # before the registry's lock is held, for an outage may last
        version = registry.publish(artifact, spec.model, promote=spec.promote, admit=fence.check_before_publish)
    elif spec.promote:
        # The earlier attempt may have died between the two; a version that went live since then stays.
        fence.require()
        registry.promote(version)
    drop_training_files(folder)
    reference = f"{version.name}:{version.version}"
    events.write({"event": "published", "model": version.name, "version": version.version, "ref": reference})


def _engine(settings: Settings) -> EngineOptions:
    # "openvino" is no more than a wish here: a training must not fail at its end over an engine.
    name: EngineName = "torch" if settings.engine == "torch" else "auto"
    return replace(settings.job_engine_options, name=name, device="cpu")


if __name__ == "__main__":
    raise SystemExit(attempt(run))
