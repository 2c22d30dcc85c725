"""The real trainer on real digits: success, resume after kill -9, cancel, refusals, and publishing once."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from snf_client.schemas.training import TrainingConfig
from snf_models.bijections.devices import OUT_OF_GPU_MEMORY
from snf_models.errors import Interrupted
from snf_models.pipeline.presets import TrainingRecipe
from snf_models.registry.registry import ZOO, Registry
from snf_worker.attempts.run_attempt import Attempt, StopFlag, explain, lock_folder, run_attempt
from snf_worker.attempts.train import run
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import StaleAttempt
from snf_worker.jobs.events import AttemptSummary, EventLog
from snf_worker.jobs.record import ExitCode, Job
from snf_worker.jobs.store import JobStore
from snf_worker.runtime.supervisor import Outcome, Supervisor, attempt_command
from snf_worker.settings import Settings
from tests.support.fork_server import ForkServer
from tests.support.paths import ROOT
from tests.worker.support.helpers import new_job, take, until
from tests.worker.support.scoring import in_background

SHORT = {"max_steps": 6, "batch_size": 8, "validation_images": 8, "validations": 1}
LONG = SHORT | {"max_steps": 100_000, "checkpoint_seconds": 0.1}


def spec_of(job: Job, attempt: int) -> Job:
    return job.model_copy(update={"attempts": attempt, "device": "cpu"})


def artifact_of(job: Job, folder: Path) -> Path:
    """A shipped model with the id of the job, as if the job had trained it."""
    artifact = shutil.copytree(ZOO / "mnist-snf-glow" / "1", folder / "artifact")
    manifest = artifact / "manifest.json"
    document = json.loads(manifest.read_text())
    document["training"]["job"] = job.id
    manifest.write_text(json.dumps(document))
    return Path(artifact)


@pytest.mark.timeout(300)
def test_a_job_becomes_a_registered_model_once(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer
) -> None:
    job, _ = store.create(new_job(parameters=SHORT))
    assert real.run(job.queue) is Outcome.SUCCEEDED
    done = store.get(job.id)
    unfit = [{"code": "hardly-trained", "detail": done.result["unfit"][0]["detail"]}] if done.result else []
    version = {"model": "digits", "version": 1, "ref": "digits:1"}
    result = {**version, "live": False, "live_version": None, "smallest_p": pytest.approx(1 / 51), "unfit": unfit}
    assert done.result == result
    assert done.progress["step"] == SHORT["max_steps"]
    assert done.metrics["bits_per_dim"] > 0
    assert done.metrics["evaluation"]["test_bits_per_dim"] > 0
    registry = Registry(settings.registry_dir)
    assert registry.versions("digits") == [1]
    left = {path.name for path in (settings.jobs_dir / job.id).iterdir()}
    kept = {"job.json", "events.jsonl", "trainer.log", "trainer.lock", "samples"}
    assert left == kept, "the registry has the model"
    assert "p-values are ranks among 50 images" in (settings.jobs_dir / job.id / "trainer.log").read_text()
    assert registry.resolve("digits:1").manifest.training.job == job.id
    # The worker died before it could note the success: the next attempt finds the model and trains nothing.
    with (settings.home / "again.log").open("wb") as output:
        command = attempt_command(settings.jobs_dir / job.id, "train")
        again = forked.popen(command, stdout=output, env={**os.environ, **settings.environment()}, cwd=ROOT)
    assert again.wait(120) == ExitCode.DONE
    assert registry.versions("digits") == [1]
    last = (settings.jobs_dir / job.id / "events.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["ref"] == "digits:1"


@pytest.mark.timeout(300)
def test_kill_9_resumes_cancel_ends_and_another_job_takes_over_the_checkpoints(
    real: Supervisor, store: JobStore, settings: Settings, forked: ForkServer
) -> None:
    job, _ = store.create(new_job(parameters=LONG))
    thread, outcomes = in_background(real, job)
    until(lambda: store.get(job.id).checkpoint_step, 120)
    os.kill(forked.pids[str(settings.jobs_dir / job.id)], signal.SIGKILL)
    thread.join(120)
    assert outcomes == [Outcome.QUEUED_AGAIN]
    reached = store.get(job.id).checkpoint_step or 0
    thread, outcomes = in_background(real, job)
    until(lambda: (store.get(job.id).checkpoint_step or 0) > reached, 120)
    steps = [
        event["step"]
        for event in map(json.loads, (settings.jobs_dir / job.id / "events.jsonl").read_text().splitlines())
        if event["attempt"] == 2 and event["event"] == "metrics"
    ]
    assert min(steps) > reached, "the second attempt goes on where the checkpoint was"
    store.request_cancel(job.id)
    thread.join(120)
    assert outcomes == [Outcome.CANCELLED]
    assert Registry(settings.registry_dir).versions("digits") == []

    step = store.get(job.id).checkpoint_step or 0
    assert step > reached
    again, _ = store.create(new_job(parameters=job.parameters, retry_of=job.id))
    thread, outcomes = in_background(real, again)
    until(lambda: (store.get(again.id).progress.get("step") or 0) > step, 60)
    shutil.rmtree(settings.jobs_dir / job.id)  # the old job is forgotten meanwhile
    store.request_pause(again.id)
    thread.join(120)
    assert outcomes == [Outcome.PAUSED]
    events = [json.loads(line) for line in (settings.jobs_dir / again.id / "events.jsonl").read_text().splitlines()]
    assert next(event for event in events if event["event"] == "started")["step"] == step


def test_a_job_that_an_earlier_version_began_goes_on_with_its_optimiser(
    store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        pass

    def train(_dataset: object, recipe: TrainingRecipe, config: TrainingConfig, *_: object, **__: object) -> None:
        raise Reached(recipe.name, config.optimizer)

    monkeypatch.setattr("snf_worker.attempts.train.train", train)
    begun, _ = store.create(new_job(preset="snf-glow-small", parameters=SHORT))
    checkpoints = settings.jobs_dir / begun.id / "checkpoints"
    (checkpoints / "step-00000002").mkdir(parents=True)
    again, _ = store.create(new_job(preset="snf-glow-small", parameters=SHORT, retry_of=begun.id))
    new, _ = store.create(new_job(preset="snf-glow-small", parameters=SHORT))
    for job, optimizer in ((again, "adam"), (new, "muon")):
        folder = settings.jobs_dir / job.id
        folder.mkdir(parents=True, exist_ok=True)
        attempt = take(store, job, lease_s=30)
        with pytest.raises(Reached, match=f"snf-glow-small.*{optimizer}"):
            run(Attempt(folder, spec_of(job, attempt), settings, EventLog(folder, attempt), StopFlag()))


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("changes", "slug"),
    [
        ({"dataset": "no-such-data"}, "dataset-not-found"),
        ({"parameters": {"max_steps": -1}}, "invalid-parameters"),
    ],
)
def test_what_no_attempt_can_change_fails_at_once(
    real: Supervisor, store: JobStore, changes: dict[str, Any], slug: str
) -> None:
    job, _ = store.create(new_job(**({"parameters": SHORT} | changes)))
    assert real.run(job.queue) is Outcome.FAILED
    failed = store.get(job.id)
    assert failed.error is not None
    assert failed.error["type"] == slug
    assert failed.attempts == 1


@pytest.mark.usefixtures("forked")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count a process's memory")
def test_a_job_that_reaches_its_memory_limit_fails_by_name(
    store: JobStore, settings: Settings, stopping: threading.Event
) -> None:
    narrow = settings.model_copy(update={"train_memory_bytes": 800 * 2**20})
    large = SHORT | {"batch_size": 2000}
    job, _ = store.create(new_job(preset="snf-glow-small", parameters=large))
    assert Supervisor(store, narrow, stopping).run(job.queue) is Outcome.FAILED
    failed = store.get(job.id)
    assert failed.error is not None
    assert failed.error["type"] == "memory-limit"
    for words in ("limit of 0.8 GB", "image_size, batch_size or preset"):
        assert words in failed.error["detail"]
    assert failed.attempts == 1, "another one would need as much"


def test_a_gpu_without_memory_is_named() -> None:
    error = explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 2**30)
    assert error["type"] == "out-of-memory"
    assert error["detail"] == OUT_OF_GPU_MEMORY, "and not the limit of the process"


@pytest.mark.parametrize("moment", ["training", "publishing"])
def test_a_stale_attempt_publishes_nothing(
    store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    job, _ = store.create(new_job(parameters=SHORT))
    attempt = take(store, job, "slow", 0.05)
    folder = settings.jobs_dir / job.id
    shutil.copytree(ZOO / "mnist-snf-glow" / "1", folder / "artifact")

    trained = False

    def take_over() -> None:
        time.sleep(0.1)
        assert store.expire(job.id, 3) == "queued"
        assert take(store, job, "quick", 30) == 2

    def slow_training(*_: Any, **__: Any) -> Path:
        nonlocal trained
        trained = True
        if moment == "training":
            take_over()
        return folder / "artifact"

    def require(attempt: Attempt, *patience: float) -> None:
        still_there(attempt, *patience)
        if trained and not patience:  # it is asked once more under the lock of the registry
            take_over()

    still_there = Attempt.require_lease
    monkeypatch.setattr(Attempt, "require_lease", require)
    monkeypatch.setattr("snf_worker.attempts.train.train", slow_training)
    with pytest.raises(StaleAttempt):
        run(Attempt(folder, spec_of(job, attempt), settings, EventLog(folder, attempt), StopFlag()))
    assert Registry(settings.registry_dir).versions("digits") == []
    assert [path.name for path in settings.registry_dir.glob("digits/*") if path.name != ".lock"] == []
    assert (folder / "events.jsonl").read_text() == ""


def test_an_attempt_that_slept_through_anothers_success_publishes_no_second_version(
    store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = store.create(new_job(parameters=SHORT))
    attempt = take(store, job, lease_s=30)
    folder = settings.jobs_dir / job.id
    artifact_of(job, folder)
    registry = Registry(settings.registry_dir)

    def training_beside_another(*_: Any, **__: Any) -> Path:
        registry.publish(folder / "artifact", "digits")
        return folder / "artifact"

    monkeypatch.setattr("snf_worker.attempts.train.train", training_beside_another)
    run(Attempt(folder, spec_of(job, attempt), settings, EventLog(folder, attempt), StopFlag()))
    assert registry.versions("digits") == [1]


def test_an_outage_that_outlasts_the_lease_is_no_crash(settings: Settings) -> None:
    folder = settings.jobs_dir / "some-job"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(spec_of(new_job(), 1).model_dump_json())
    nowhere = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0", "lease_seconds": 0.1})
    assert run_attempt(Attempt.check_before_publish, folder, nowhere, StopFlag()) == ExitCode.PREEMPTED
    assert not (folder / "events.jsonl").exists() or (folder / "events.jsonl").read_text() == ""


def test_a_stale_trainer_stops_between_two_steps(store: JobStore, settings: Settings, tmp_path: Path) -> None:
    job, _ = store.create(new_job())
    number = take(store, job, "slow", 0.05)
    eager = settings.model_copy(update={"heartbeat_seconds": 0.01})
    attempt = Attempt(tmp_path, spec_of(job, number), eager, EventLog(tmp_path, number), StopFlag())
    time.sleep(0.1)
    attempt.should_stop()  # the lease ran out, but nobody took the job: going on harms nobody
    store.expire(job.id, 3)
    time.sleep(0.05)
    with pytest.raises(StaleAttempt):
        attempt.should_stop()


def test_the_end_of_a_training_waits_for_a_broker_that_is_down(
    store: JobStore, settings: Settings, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    job, _ = store.create(new_job())
    number = take(store, job, lease_s=0.1)
    stop = StopFlag()
    brief = settings.model_copy(update={"lease_seconds": 0.1})
    attempt = Attempt(tmp_path, spec_of(job, number), brief, EventLog(tmp_path, number), stop)
    broker.stop()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(attempt.require_lease)
        with pytest.raises(TimeoutError):
            waiting.result(1.5)  # far longer than the lease
        again = EmbeddedBroker(settings)
        again.start()
        waiting.result(10)
        again.stop()
        stopped = pool.submit(attempt.require_lease)
        stop.set()
        with pytest.raises(Interrupted):
            stopped.result(10)


def test_a_death_between_publishing_and_promoting_is_made_good(
    store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(settings.registry_dir)
    registry.publish(ZOO / "mnist-snf-glow" / "1", "digits")
    job, _ = store.create(new_job(parameters=SHORT, promote=True))
    folder = settings.jobs_dir / job.id
    registry.publish(artifact_of(job, folder), "digits")
    assert registry.resolve("digits").version == 1, "the first attempt died before it moved the alias"
    attempt = take(store, job, "next", 30)
    monkeypatch.setattr("snf_worker.attempts.train.train", lambda *_, **__: pytest.fail("it must not train again"))
    run(Attempt(folder, spec_of(job, attempt), settings, EventLog(folder, attempt), StopFlag()))
    assert registry.resolve("digits").version == 2
    assert registry.versions("digits") == [1, 2]
    # What is registered needs no recipe any more, and no record: the disk of the records takes no writes.
    settings.run_records_dir.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(settings.run_records_dir)
    settings.run_records_dir.touch()
    gone = spec_of(job, attempt).model_copy(update={"preset": "no-such-preset"})
    run(Attempt(folder, gone, settings, EventLog(folder, attempt), StopFlag()))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["published", "log", "published"]
    assert events[1]["message"].startswith("the record of this training could not be written")


def test_one_trainer_a_folder(tmp_path: Path) -> None:
    with lock_folder(tmp_path, 1), pytest.raises(StaleAttempt), lock_folder(tmp_path, 0.3):
        pass
    with lock_folder(tmp_path, 1):
        pass


def test_the_evaluation_does_not_overwrite_the_training() -> None:
    summary = AttemptSummary({}, {}, None)
    summary.add({"event": "metrics", "step": 1, "reconstruction_error": 0.5})
    summary.add({"event": "evaluation", "reconstruction_error": 2.0, "test_nats": float("nan"), "attempt": 1})
    assert summary.changes()["metrics"] == {
        "reconstruction_error": 0.5,
        "evaluation": {"reconstruction_error": 2.0, "test_nats": None},
    }
