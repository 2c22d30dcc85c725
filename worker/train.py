"""The trainer: `python -m worker.train JOB_DIR`, the only module of `worker` that imports PyTorch.

It reads `job.json`, writes `events.jsonl`, trains with checkpoints in the same folder, and publishes the model.

A job publishes once, however often it is tried: the manifest of the artifact carries the job's id, and an
attempt that finds a registered version with its id answers that one. Two attempts never run side by side on one
machine (a lock on the folder), and an attempt asks whether its fencing token is still the newest one before
each checkpoint that could be late and, under the registry's lock, right before the version appears.
"""

# ruff: noqa: PLC0415  # PyTorch takes seconds to import: signals and niceness are set before that

import fcntl
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from worker.broker import redis_client
from worker.events import EventLog
from worker.lifeline import watch
from worker.problems import BrokerDown, StaleAttempt
from worker.process import Exit, StopReason
from worker.retention import adopt_checkpoints, drop_training_files
from worker.settings import Settings, load_settings
from worker.store import JobStore

log = logging.getLogger(__name__)

PREPARING_SECONDS = 5.0
"""Time between two words on the preparation of a dataset's images."""


class JobSpec(BaseModel):
    """What `job.json` tells the trainer."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    attempt: int
    model: str
    dataset: str
    preset: str
    parameters: dict[str, Any]
    promote: bool
    device: Literal["cpu", "cuda"] = "cpu"
    retry_of: str | None = None


class StopFlag:
    """Set by TERM, by the supervisor's message, or by its death; the first reason given by a message counts."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = StopReason.PREEMPT

    def install(self) -> None:
        """Listens to the supervisor and to TERM and INT."""

        def on_signal(_signum: int, _frame: FrameType | None) -> None:
            self._event.set()

        def on_message(message: bytes) -> None:
            self.reason = StopReason(message.decode())
            self._event.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        watch(on_message, self._event.set)

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._event.is_set()

    @property
    def exit_code(self) -> Exit:
        """How a trainer that was asked to stop exits."""
        return Exit.CANCELLED if self.reason is StopReason.CANCEL else Exit.PREEMPTED


class Fence:
    """Asks the job store whether this attempt is still the one that may write."""

    def __init__(self, store: JobStore, spec: JobSpec, settings: Settings) -> None:
        self._store = store
        self._spec = spec
        self._every_s = settings.heartbeat_seconds
        self._patience_s = settings.lease_seconds
        self._checked = time.monotonic()

    def check_now_and_then(self) -> None:
        """Asks once a heartbeat; an outage of the broker is borne. Raises `StaleAttempt`."""
        if time.monotonic() - self._checked < self._every_s:
            return
        try:
            self._check()
        except BrokerDown as problem:
            log.warning("cannot check the lease, training goes on: %s", problem.detail)
            self._checked = time.monotonic()

    def require(self) -> None:
        """Asks now, waiting for the broker for a lease's life; raises `StaleAttempt` or `BrokerDown`."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._check()
            except BrokerDown:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _check(self) -> None:
        if not self._store.holds(self._spec.id, self._spec.attempt):
            raise StaleAttempt(f"attempt {self._spec.attempt} of job {self._spec.id} lost its lease")
        self._checked = time.monotonic()


def run(folder: Path, spec: JobSpec, settings: Settings, events: EventLog, stop: StopFlag) -> None:
    """Trains and publishes; raises what stands in the way (`Interrupted`, `StaleAttempt`, `ModelsError`, ...)."""
    from models.datasets import DatasetStore, load_dataset
    from models.presets import find_preset
    from models.registry import Registry
    from models.training.loop import Interrupted
    from models.training.run import train

    fence = Fence(JobStore(redis_client(settings), settings.key_prefix), spec, settings)

    def should_stop() -> bool:
        fence.check_now_and_then()
        return stop.is_set()

    def observe(event: dict[str, Any]) -> None:
        events.write(event)
        # The evaluation after the last step takes a while, and nobody asks `should_stop` in it.
        if event["event"] == "scoring" and should_stop():
            raise Interrupted("asked to stop while evaluating")

    told = time.monotonic()

    def prepared(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told < PREPARING_SECONDS:
            return
        told = time.monotonic()
        events.write({"event": "log", "message": f"prepares the images: {done} of {total}"})
        if should_stop():
            raise Interrupted("asked to stop while preparing the images")

    registry = Registry(settings.registry_dir)
    version = registry.of_job(spec.model, spec.id)
    if version is None:
        fence.require()
        if spec.retry_of is not None and adopt_checkpoints(folder.parent / spec.retry_of, folder):
            events.write({"event": "log", "message": f"goes on from the checkpoints of job {spec.retry_of}"})
        config = find_preset(spec.preset).config(spec.parameters)
        datasets = DatasetStore(settings.datasets_dir)
        dataset = load_dataset(spec.dataset, settings.data_dir, datasets, config, prepared)
        artifact = train(
            dataset,
            spec.preset,
            config,
            folder,
            observe=observe,
            should_stop=should_stop,
            threads=settings.train_threads,
            job=spec.id,
            device=spec.device,
        )
        version = registry.publish(artifact, spec.model, promote=spec.promote, admit=fence.require)
    elif spec.promote:
        # The earlier attempt may have died between the two; a version that went live since then stays.
        fence.require()
        registry.promote(version)
    drop_training_files(folder)
    reference = f"{version.name}:{version.version}"
    events.write({"event": "published", "model": version.name, "version": version.version, "ref": reference})


@contextmanager
def only_one(folder: Path, patience_s: float) -> Iterator[None]:
    """Holds the folder's lock; raises `StaleAttempt` where another trainer keeps it longer than `patience_s`."""
    with (folder / "trainer.lock").open("a", encoding="utf-8") as handle:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StaleAttempt(f"another trainer works in {folder}") from None
                time.sleep(0.2)
        yield


def main() -> int:
    """Runs one attempt and answers its exit code (`worker.process.Exit`)."""
    stop = StopFlag()
    stop.install()
    settings = load_settings()
    os.nice(settings.nice)
    limit_memory(settings.train_memory_bytes)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    folder = Path(sys.argv[1])
    spec = JobSpec.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    events = EventLog(folder, spec.attempt)

    from models.problems import ModelsError
    from models.training.loop import Interrupted

    try:
        with only_one(folder, settings.lease_seconds):
            run(folder, spec, settings, events, stop)
    except Interrupted:
        return stop.exit_code
    except StaleAttempt as problem:
        log.error("%s", problem.detail)
        return Exit.STALE
    except ModelsError as problem:
        log.error("%s: %s", problem.slug, problem.detail)
        events.write(_error(problem.slug, problem.title, problem.detail))
        return Exit.REFUSED
    except ValidationError as problem:
        log.error("%s", problem)
        events.write(_error("invalid-parameters", "Invalid training parameters", str(problem)))
        return Exit.REFUSED
    except Exception as problem:
        # It may be the machine's fault: the supervisor tries again, and the record says why.
        log.exception("the trainer crashed")
        events.write(_explain(problem))
        return 1
    return Exit.DONE


def _explain(problem: Exception) -> dict[str, str]:
    import torch

    # PyTorch says of the CPU's memory in words alone that it ran out.
    if isinstance(problem, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(problem):
        detail = "the training process got no more memory: a smaller batch_size or preset needs less"
        return _error("out-of-memory", "Out of memory", detail)
    return _error("trainer-crashed", "The trainer crashed", f"{type(problem).__name__}: {problem}")


def limit_memory(most: int | None) -> None:
    """Makes allocations beyond `most` bytes fail, where a limit is set and the system (Linux) counts them."""
    if most is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _error(slug: str, title: str, detail: str) -> dict[str, str]:
    return {"event": "error", "type": slug, "title": title, "detail": detail}


if __name__ == "__main__":
    raise SystemExit(main())
