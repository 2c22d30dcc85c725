"""What no fault may do to jobs, read from the outside: REST, registry, event files and Linux' list of processes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.installation import PatientClient, processes
from benchmarks.repeated import Repeated
from snf_models.disk import sha256_file

SAMPLE_S = 0.1
AFTER_TRAINING = {"scoring", "evaluation", "published"}


@dataclass(frozen=True)
class Event:
    """One line of a job's ``events.jsonl``; ``step`` is -1 where the event has none, ``at`` is seconds since 1970."""

    at: float
    attempt: int
    kind: str
    step: int


def read_events(folder: Path) -> list[Event]:
    """Return the complete events of a job in the order in which they were written."""
    path = folder / "events.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            event = json.loads(line)
        except ValueError:  # half a line of a killed trainer
            continue
        at = datetime.fromisoformat(event["time"]).timestamp()
        found.append(Event(at, event["attempt"], event["event"], event.get("step", -1)))
    return found


def newest_attempt(folder: Path) -> int:
    """Return the number of the newest attempt that a worker has prepared, 0 for none."""
    path = folder / "job.json"
    return int(json.loads(path.read_text())["attempts"]) if path.exists() else 0


def newest_step(folder: Path) -> int:
    """Return the last step that is known of a job, -1 for none."""
    return max((event.step for event in read_events(folder)), default=-1)


def resumed_at(events: list[Event], attempt: int, step: int, fault_at: float, finished_at: float) -> float:
    """Return when a job went on after a fault that found it at ``step`` of ``attempt``.

    That is the first event of a newer attempt that is news: a step beyond ``step``, or what follows training. Where the
    old attempt survived it is its next event, and where that had nothing left to do, the end of the job.
    """
    for event in events:
        if event.attempt > attempt and (event.step > step or event.kind in AFTER_TRAINING):
            return event.at
    survivors = [event.at for event in events if event.attempt == attempt and event.at > fault_at]
    return min(survivors, default=finished_at)


class TrainerWatch(Repeated):
    """A thread that looks for training processes again and again and notes which folders had several at once."""

    def __init__(self, home: Path) -> None:
        super().__init__(SAMPLE_S)
        self._home = home
        self.samples = 0
        self.doubled: dict[str, set[int]] = defaultdict(set)

    def turn(self) -> None:
        """Look at the training processes once."""
        folders = defaultdict(set)
        for process in processes(self._home):
            if process.role == "trainer":
                folders[Path(process.arguments[-1]).name].add(process.pid)
        self.samples += 1
        for job, pids in folders.items():
            if len(pids) > 1:
                self.doubled[job] |= pids


class Checks:
    """The promises of one installation; each method returns its violations in words."""

    def __init__(self, home: Path, client: PatientClient, watch: TrainerWatch) -> None:
        self._home = home
        self._client = client
        self._watch = watch
        self.jobs: list[str] = []
        self.weights: str | None = None

    def folder(self, job_id: str) -> Path:
        """Return where a job keeps its files."""
        return self._home / "jobs" / job_id

    def job(self, record: dict[str, Any]) -> list[str]:
        """Check one job that is over: succeeded, one version, the reference's weights, no two attempts at once."""
        job_id = record["id"]
        found = []
        if record["status"] != "succeeded":
            found.append(f"job {job_id} is {record['status']}: {record['error']}")
        versions = [path for path, job in self._versions(record["model"]) if job == job_id]
        if len(versions) != 1:
            found.append(f"job {job_id} has {len(versions)} versions in the registry")
        for version in versions:
            found += self._weights(version)
        for before, after in pairwise(read_events(self.folder(job_id))):
            if after.attempt < before.attempt:
                found.append(f"job {job_id}: attempt {after.attempt} wrote {after.kind} after one of {before.attempt}")
        if job_id in self._watch.doubled:
            found.append(f"job {job_id}: trainers {sorted(self._watch.doubled[job_id])} ran at once")
        return found

    def all_jobs(self, model: str) -> list[str]:
        """Check that every job that was submitted is there once and succeeded, with one version each, no more."""
        listed = list(self._listed())
        found = [f"job {job['id']} is {job['status']}" for job in listed if job["status"] != "succeeded"]
        counts = Counter(job["id"] for job in listed)
        found += [f"job {job} is lost" for job in self.jobs if job not in counts]
        found += [f"job {job} was never submitted" for job in counts if job not in self.jobs]
        found += [f"job {job} is listed {count} times" for job, count in counts.items() if count > 1]
        versions = len(self._versions(model))
        if versions != len(self.jobs):
            found.append(f"{versions} versions of {len(self.jobs)} jobs")
        return found

    def _weights(self, version: Path) -> list[str]:
        digest = sha256_file(version / "weights.safetensors")
        self.weights = self.weights or digest
        return [] if digest == self.weights else [f"version {version.name} has weights {digest}, not {self.weights}"]

    def _versions(self, model: str) -> list[tuple[Path, str]]:
        # A version that a killed trainer did not finish lies in a folder with another kind of name.
        manifests = [p for p in (self._home / "registry" / model).glob("*/manifest.json") if p.parent.name.isdigit()]
        return [(path.parent, json.loads(path.read_text())["training"]["job"]) for path in manifests]

    def _listed(self) -> Iterable[dict[str, Any]]:
        after = None
        for _ in range(1 + len(self.jobs)):
            page = self._client.document("/v1/jobs", limit=200, **({"after": after} if after else {}))
            yield from page["jobs"]
            after = page["next"]
            if after is None:
                return
