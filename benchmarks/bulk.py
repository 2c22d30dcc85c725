"""Bulk scoring against the scorer itself: ``python -m benchmarks.bulk --data FOLDER [--images 70000]``.

``FOLDER`` holds ``mnist.npz``; its images, training and test, become stored datasets. Measured are

- images a second of a score job over all of them, from the start of its process to its table, against the scorer in
  this process on the same images already in memory, in batches of 64, before and after the job;
- peak resident memory of the scoring process for 10,000 images and for all;
- two workers against one, each with one thread, on 20,000 images, from the first part to the last;
- a worker and its processes killed at half time: every image must have one row.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet

from benchmarks.common import RESULTS, machine, parser_of, write_results
from benchmarks.installation import Running, end_all, until
from benchmarks.needs import with_files
from snf_models.datasets import DatasetStore, Source
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_worker.broker.connection import redis_client
from snf_worker.jobs.record import Job, Queue, Status, new_job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery, submit
from snf_worker.runtime.machine import WorkerRegistry
from snf_worker.settings import Settings

MODEL = "mnist-snf-glow:1"
BATCH = 64
JOB_S = 1800


def in_process(scorer: Scorer, images: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Return images a second of the scorer alone."""
    started = time.perf_counter()
    for start in range(0, len(images), BATCH):
        scorer.score(images[start : start + BATCH])
    return len(images) / (time.perf_counter() - started)


class PeakMemory:
    """The largest resident memory of any scoring process of a home, as Linux keeps it."""

    def __init__(self, home: Path) -> None:
        self.bytes = 0
        self._home = os.fsencode(home)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Stop watching and return the peak in bytes."""
        self._stop.set()
        self._thread.join()
        return self.bytes

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, StopIteration, ValueError):
                    line = (folder / "cmdline").read_bytes()
                    if b"snf_worker.attempts.score" in line and self._home in line:
                        status = (folder / "status").read_text().splitlines()
                        peak = next(row for row in status if row.startswith("VmHWM"))
                        self.bytes = max(self.bytes, 1024 * int(peak.split()[1]))


class Workplace:
    """A broker and some workers on a home of their own, and jobs on its stored datasets."""

    def __init__(self, settings: Settings) -> None:
        client = redis_client(settings)
        self.settings = settings
        self.store = JobStore(client, settings.key_prefix)
        self._presence = WorkerRegistry(client, settings.key_prefix)
        self._celery = make_celery(settings)

    @contextmanager
    def workers(self, count: int, threads: int) -> Iterator[list[Running]]:
        """Run so many workers with so many threads each."""
        options = {"train_threads": threads, "nice": 0, "runtime_dir": self.settings.runtime_dir, "lease_seconds": 10}
        with ExitStack() as stack:
            started = [Running("snf_worker.runtime.main", home=self.settings.home, **options) for _ in range(count)]
            for worker in started:
                stack.callback(worker.stop)
            until("workers", 60, lambda: len(self._presence.workers()) == count)
            yield started

    def submit(self, dataset: str, **parameters: Any) -> Job:
        """Queue the scoring of a dataset."""
        job = new_job(type="score", queue=Queue.SCORE, model=MODEL, dataset=dataset, parameters=parameters)
        return submit(self.store, self._celery, job)

    def finish(self, job: Job) -> Job:
        """Wait for the end of a job; raises ``RuntimeError`` where it did not succeed."""
        until("the end of the job", JOB_S, lambda: self.store.get(job.id).finished)
        done = self.store.get(job.id)
        if done.status is not Status.SUCCEEDED:
            raise RuntimeError(f"the job is {done.status}: {done.error}")
        return done

    def events(self, job: Job, kind: str) -> list[dict[str, Any]]:
        """Return a job's events of one kind."""
        lines = (self.settings.jobs_dir / job.id / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def paths(self, job: Job) -> list[str]:
        """Return the paths of all rows of a job's table."""
        table = parquet.read_table(self.settings.jobs_dir / job.id / "scores.parquet", columns=["path"])
        return [str(path) for path in table["path"].to_pylist()]


def seconds(job: Job) -> float:
    """Return the time from the start of a job's process to its end."""
    assert job.started_at is not None
    assert job.finished_at is not None
    return (job.finished_at - job.started_at).total_seconds()


def steady(place: Workplace, job: Job) -> float:
    """Return images a second of a job between its start, with the model loaded, and its last part."""
    first, last = place.events(job, "started")[0], place.events(job, "checkpoint")[-1]
    taken = moment(last) - moment(first)
    return float(last["step"] - first["step"]) / taken


def kill_at_half(place: Workplace, workers: list[Running], job: Job) -> None:
    """Kill the worker that owns a job, with its processes, when half of the images are scored."""
    total = 0

    def half() -> bool:
        nonlocal total
        progress = place.store.get(job.id).progress
        total = progress.get("steps") or 0
        return total > 0 and progress["step"] >= total / 2

    until("half of the images", JOB_S, half)
    owner = place.store.get(job.id).worker or ""
    victim = next(worker for worker in workers if owner.endswith(f":{worker.process.pid}"))
    os.kill(victim.process.pid, signal.SIGKILL)


def main() -> None:
    """Measure and write ``bulk.json``; ends with 1 where a row is lost or doubled."""
    parser = parser_of("bulk", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of mnist.npz")
    parser.add_argument("--images", type=int, default=70_000)
    parser.add_argument("--shared", type=int, default=20_000, help="images that two workers share")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    with np.load(with_files(arguments.data, "mnist") / "mnist.npz", allow_pickle=False) as arrays:
        images = np.concatenate([arrays["x_train"], arrays["x_test"]])[: arguments.images, None]
    scorer = load_model(Registry(Path("none")).resolve(MODEL).path)
    home = Path(tempfile.mkdtemp(prefix="snf-bulk-"))
    settings = Settings(home=home, runtime_dir=home / "run")
    for name, count in (("all", len(images)), ("few", 10_000), ("shared", arguments.shared)):
        np.savez(home / f"{name}.npz", x_train=images[:count, 0])
        DatasetStore(settings.datasets_dir).create(name, [Source(home / f"{name}.npz", f"{name}.npz")])
    broker = Running("snf_worker.broker.embedded", home=home, runtime_dir=home / "run")
    try:
        place = Workplace(settings)
        until("the broker", 60, lambda: broker_answers(place))
        found = measure(place, scorer, images, threads)
    finally:
        broker.stop()
        end_all(home)
    document = {"machine": machine(), "threads": threads, "images": len(images), **found}
    write_results(arguments.out, "bulk", document)
    print(json.dumps(document, indent=1))
    raise SystemExit(0 if found["killed_at_half"]["lost"] == found["killed_at_half"]["doubled"] == 0 else 1)


def broker_answers(place: Workplace) -> bool:
    """Tell whether the job store answers."""
    try:
        place.store.ping()
    except Exception:  # whatever it is, it does not answer yet
        return False
    return True


def measure(
    place: Workplace, scorer: Scorer, images: np.ndarray[Any, np.dtype[np.uint8]], threads: int
) -> dict[str, Any]:
    """Return all figures."""
    few = images[:10_000]
    in_process(scorer, few[:640])
    alone = [in_process(scorer, few)]
    peaks = {}
    jobs = {}
    for name in ("few", "all"):
        with place.workers(1, threads):
            memory = PeakMemory(place.settings.home)
            jobs[name] = place.finish(place.submit(name))
            peaks[name] = memory.end()
    alone.append(in_process(scorer, few))
    rate = steady(place, jobs["all"])
    shared: dict[int, float] = {}
    for count in (1, 2):
        with place.workers(count, 1):
            shared[count] = steady(place, place.finish(place.submit("shared")))
    with place.workers(2, 1) as workers:
        job = place.submit("shared")
        kill_at_half(place, workers, job)
        place.finish(job)
    rows = Counter(place.paths(job))
    wanted = place.events(job, "started")[0]["steps"]
    return {
        "in_process_images_per_second": alone,
        "job_images_per_second": rate,
        "job_seconds": seconds(jobs["all"]),
        "job_images_per_second_with_start": len(images) / seconds(jobs["all"]),
        "job_over_in_process": rate / (sum(alone) / len(alone)),
        "peak_memory_bytes": peaks,
        "peak_memory_all_over_few": peaks["all"] / peaks["few"],
        "workers_images_per_second": shared,
        "two_workers_over_one": shared[2] / shared[1],
        "killed_at_half": {
            "images": wanted,
            "attempts": place.store.get(job.id).attempts,
            "lost": wanted - len(rows),
            "doubled": sum(count - 1 for count in rows.values()),
        },
    }


def moment(event: dict[str, Any]) -> float:
    """Return the time of an event in seconds since 1970."""
    return datetime.fromisoformat(event["time"]).timestamp()


if __name__ == "__main__":
    main()
