"""Faults in a real installation: ``python -m benchmarks.faults kills`` and ``python -m benchmarks.faults outages``.

``snf up`` trains one small job after the other while a client scores images and another one follows the events of each
job.

``kills``: at a random moment in the life of each job one process gets a signal: the trainer, the worker, the service,
or the broker, which is the keeper and the valkey server in turn. KILL ends it, TERM asks it to end, STOP halts it for
good. In another phase worker and trainer are killed at once, as where memory runs out; it ends with a job that this
happens to at every attempt, and that must fail with its cause after three. The last phase has the default lease.

``outages``: several workers use a server of their own, which is stopped for some seconds while each of them trains, and
started again; one trainer is killed meanwhile. Then each worker gets an endless job, which shows that it takes jobs.

Recovery is the time from the signal, or from the start of the server, until

- trainer, worker: the first event of a newer attempt that is news: a step beyond the last one known before, or what
  follows training. Where the attempt outlives the fault, its next event, or the end of the job.
- service: another process answers ``/readyz`` with 200 and knows the job.
- broker: another process is there in place of the victim, and submitting again with the key of the round's job is
  accepted and answers that job.
- first job, all workers: so many of the endless jobs run.

After each round it is checked that each job succeeded, after no more attempts than faults, with one version in the
registry, whose weights are bit for bit those of an undisturbed job; that all jobs are there once; that no event of an
attempt follows one of a newer attempt, and that the stream of events had each event of the file once, in order; that no
two trainers of one job were ever seen at once; and that every image was scored, unless the service itself was away.

Rounds are written to a log as they end; with ``--resume`` the ones in it are not played again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.common import DIGITS, RESULTS, machine, parser_of, table, write_results
from benchmarks.installation import PatientClient, Process, end_all, find, processes, running, snf_up, until
from snf_client import Client, ClientError
from snf_client import Event as StreamedEvent
from snf_models.disk import sha256_file
from snf_worker.broker.connection import broker_url
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.settings import Settings

KILL, TERM, HALT, TOGETHER, DEFAULT = "kill", "term", "halt", "worker and trainer", "default lease"
# One thread: two that wait for each other stand still where anything else uses the machine.
SHORT_LEASE = {
    "lease_seconds": 3,
    "heartbeat_seconds": 1,
    "reconcile_seconds": 1,
    "dispatch_seconds": 3,
    "stall_seconds": 30,
    "train_threads": 1,
    "nice": 0,
}
DEFAULT_LEASE = {"train_threads": 1}
EVERYTHING = [["trainer"], ["worker"], ["service"], ["keeper", "server"]]
LIMITS_S = {TERM: 15.0, HALT: 180.0, DEFAULT: 60.0, "first job": 60.0}
"""Longest recovery, by phase or by what recovers."""
ATTEMPTS = 3
"""Of a job that brings no checkpoint, before it fails."""
MODEL = "faults"
PARAMETERS = {"batch_size": 32, "validations": 2, "validation_images": 50, "checkpoint_seconds": 1, "seed": 1}
REQUEST: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "model": MODEL,
    "parameters": {**PARAMETERS, "max_steps": 250},
}
ENDLESS = {**REQUEST, "model": "endless", "parameters": {**PARAMETERS, "max_steps": 1_000_000}}
AFTER_TRAINING = {"scoring", "evaluation", "published"}
HEADER = ["phase", "recovery of", "faults", "recovered", "attempts", "median", "worst", "limit", "verdict"]
TERMINAL = {"succeeded", "failed", "cancelled"}
JOB_S = 300.0
SCORE_S, LOOK_S, IN_FLIGHT_S = 0.5, 0.1, 5.0
TRIES = 6
LAST_MOMENT = 0.97
"""Share of the undisturbed life after which no fault is begun: the job would often be over before it."""
Line = dict[str, Any]


def journal(folder: Path) -> list[Line]:
    """Return the complete events of a job in the order in which they were written."""
    path = folder / "events.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line, parse_constant=lambda _name: None))
        except ValueError:  # half a line of a killed trainer
            continue
    return found


def newest_step(folder: Path) -> int:
    """Return the last step that is known of a job, 0 for none."""
    return max((event.get("step", 0) for event in journal(folder)), default=0)


def newest_attempt(folder: Path) -> int:
    """Return the number of the newest attempt that a worker has prepared, 0 for none."""
    path = folder / "job.json"
    return int(json.loads(path.read_text())["attempts"]) if path.exists() else 0


def moment(text: str) -> float:
    """Return an ISO time in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def resumed_at(events: list[Line], attempt: int, step: int, fault_at: float, finished_at: float) -> float:
    """Return when a job went on after a fault that found it at ``step`` of ``attempt``."""
    for event in events:
        if event["attempt"] > attempt and (event.get("step", 0) > step or event["event"] in AFTER_TRAINING):
            return moment(event["time"])
    times = [moment(event["time"]) for event in events if event["attempt"] == attempt]
    return min((at for at in times if at > fault_at), default=finished_at)


@contextmanager
def repeating(pause_s: float, turn: Callable[[], None]) -> Iterator[None]:
    """Call a function again and again in a thread while the block runs."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(pause_s):
            turn()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Stream:
    """The events of a job as a client reads them, also across restarts of the service."""

    def __init__(self, port: int, job_id: str) -> None:
        self._events: list[StreamedEvent] = []
        self._job_id = job_id
        self._url = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with Client(self._url) as client:
            while not self._events or self._events[-1].event != "end":
                try:
                    for event in client.jobs.events(self._job_id, after=self._events[-1].id if self._events else ""):
                        self._events.append(event)
                except ClientError:  # a service that is away for long
                    time.sleep(1)

    def violations(self, written: list[Line]) -> list[str]:
        """Compare all events with those of the file; each must have come once and in order."""
        self._thread.join(JOB_S)
        ids = Counter(event.id for event in self._events)
        read = [event.data for event in self._events if event.event not in ("state", "end")]
        found = [f"event {id} came {count} times" for id, count in ids.items() if count > 1]
        if read != written:
            found.append(f"the stream had {len(read)} events, the file {len(written)}, or others")
        if [event.event for event in self._events].count("end") != 1:
            found.append("the stream had no end, or several")
        return [f"job {self._job_id}: {text}" for text in found]


class Plan(NamedTuple):
    """A fault to make: the signal, the processes, and when in the life of its job (0 to 1)."""

    phase: str
    number: int
    signal: str
    target: str
    moment: float

    @property
    def victim(self) -> str:
        """The part that is hit; the broker is two processes."""
        return "broker" if self.target in {"keeper", "server"} else self.target


def plans(phase: str, count: int, sign: str, targets: list[list[str]], seed: int) -> list[Plan]:
    """Return ``count`` faults in random order that hit the victims evenly; each victim's ``targets`` take turns."""
    chance = random.Random(f"{seed} {phase}")
    found: list[Plan] = []
    for turn in range(count):
        chosen = [kinds[turn % len(kinds)] for kinds in targets]
        chance.shuffle(chosen)
        for target in chosen[: count - len(found)]:
            found.append(Plan(phase, len(found), sign, target, chance.uniform(0, LAST_MOMENT)))
    return found


def hit(victim: Process, sign: str) -> bool:
    """Send the signal; return whether the victim was still there."""
    try:
        os.kill(victim.pid, getattr(signal, sign))
    except ProcessLookupError:
        return False
    return True


@dataclass
class House:
    """An installation under fire, and what is known of it."""

    home: Path
    client: PatientClient

    def __post_init__(self) -> None:
        self.job_s = self.trainer_s = 0.0  # of an undisturbed job and its training process
        self.weights: str | None = None
        self._streams: dict[str, Stream] = {}
        self._models: dict[str, str] = {}  # of all jobs that must succeed
        self._doubled: dict[str, set[int]] = defaultdict(set)  # trainers of one job that ran at once
        self._scorer = PatientClient(self.client.port)
        self.scored: list[tuple[float, str]] = []  # when images were sent, and what was wrong with the answer

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Score images and count trainers while the block runs."""
        with repeating(SCORE_S, self._score), repeating(LOOK_S, self._count_trainers):
            yield

    def _score(self) -> None:
        began, content = time.time(), DIGITS[len(self.scored) % len(DIGITS)].read_bytes()
        path, headers = "/v1/models/mnist-snf-glow/score", {"content-type": "image/png"}
        try:
            answer = self._scorer.post(path, content=content, headers=headers)
            problem = "" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
        except httpx.TransportError as error:
            problem = repr(error)
        self.scored.append((began, problem))

    def _count_trainers(self) -> None:
        folders = defaultdict(set)
        for process in processes(self.home):
            if process.role == "trainer":
                folders[Path(process.arguments[-1]).name].add(process.pid)
        for job, pids in folders.items():
            if len(pids) > 1:
                self._doubled[job] |= pids

    def folder(self, job_id: str) -> Path:
        """Return where a job keeps its files."""
        return self.home / "jobs" / job_id

    def submit(self, key: str, model: str = MODEL) -> str:
        """Submit a job that must succeed, and follow its events."""
        job_id = self.client.submit({**REQUEST, "model": model}, key)
        self._streams[job_id] = Stream(self.client.port, job_id)
        self._models[job_id] = model
        return job_id

    def record(self, job_id: str) -> Line:
        return self.client.document(f"/v1/jobs/{job_id}")

    def await_end(self, job_id: str) -> Line:
        """Return the record of a job once it is over."""
        until(f"end of job {job_id}", JOB_S, lambda: self.record(job_id)["status"] in TERMINAL)
        return self.record(job_id)

    def check(self, job_id: str, attempts: int) -> list[str]:
        """Return what is wrong with a job that is over and met ``attempts - 1`` faults at most."""
        record, written = self.record(job_id), journal(self.folder(job_id))
        found = self._streams.pop(job_id).violations(written) if job_id in self._streams else []
        if record["status"] != "succeeded":
            found.append(f"job {job_id} is {record['status']}: {record['error']}")
        if record["attempts"] > attempts:
            found.append(f"job {job_id} took {record['attempts']} attempts, expected {attempts}")
        versions = [path for path, job in self._versions(record["model"]) if job == job_id]
        if len(versions) != 1:
            found.append(f"job {job_id} has {len(versions)} versions in the registry")
        for version in versions:
            digest = sha256_file(version / "weights.safetensors")
            self.weights = self.weights or digest
            if digest != self.weights:
                found.append(f"version {version.name} of job {job_id} has weights {digest}, not {self.weights}")
        for before, after in pairwise(written):
            if after["attempt"] < before["attempt"]:
                found.append(f"job {job_id}: attempt {after['attempt']} wrote after attempt {before['attempt']}")
        if job_id in self._doubled:
            found.append(f"job {job_id}: trainers {sorted(self._doubled[job_id])} ran at once")
        return found

    def check_all(self) -> list[str]:
        """Return which jobs are missing, doubled or did not succeed, and models with too few or too many versions."""
        listed, query = [], {"limit": 200}
        while query:
            page = self.client.document("/v1/jobs", **query)
            listed += [job for job in page["jobs"] if job["id"] in self._models or job["model"] == MODEL]
            query = {"limit": 200, "after": page["next"]} if page["next"] else {}
        found = [f"job {job['id']} is {job['status']}" for job in listed if job["status"] != "succeeded"]
        counts = Counter(job["id"] for job in listed)
        found += [f"job {job} is listed {counts[job]} times" for job in {*counts, *self._models} if counts[job] != 1]
        found += [f"job {job} was never submitted" for job in counts if job not in self._models]
        for model, jobs in Counter(self._models.values()).items():
            if (versions := len(self._versions(model))) != jobs:
                found.append(f"{versions} versions of {jobs} jobs of {model}")
        return found

    def check_scores(self, began: float, away: tuple[float, float] | None = None) -> list[str]:
        """Return how many images sent since a moment were not scored, but for those while the service was away."""
        failed = [
            problem
            for at, problem in list(self.scored)
            if problem and at >= began and not (away and away[0] - IN_FLIGHT_S <= at <= away[1])
        ]
        return [f"{len(failed)} images were not scored: {failed[0]}"] if failed else []

    def _versions(self, model: str) -> list[tuple[Path, str]]:
        # A version that a killed trainer did not finish lies in a folder with another kind of name.
        manifests = [p for p in (self.home / "registry" / model).glob("*/manifest.json") if p.parent.name.isdigit()]
        return [(path.parent, json.loads(path.read_text())["training"]["job"]) for path in manifests]

    def undisturbed(self, key: str) -> list[str]:
        """Run a job that nothing happens to, note how long it lives, and return its violations."""
        started = time.monotonic()
        job_id = self.submit(key)
        until("trainer", JOB_S, lambda: find(self.home, "trainer"))
        born = time.monotonic()
        self.await_end(job_id)
        self.job_s, self.trainer_s = (time.monotonic() - since for since in (started, born))
        return self.check(job_id, attempts=1)


def play_kill(house: House, plan: Plan) -> Line:
    """Make one fault and return what is known of it; raises ``TimeoutError`` where something does not come back."""
    began, violations = time.time(), []
    for jobs in range(1, TRIES + 1):
        key = f"{plan.phase} {plan.number} {jobs}"
        job_id = house.submit(key)
        # A job that was quicker than expected is over before its moment: the next one is hit earlier.
        victims = _await_moment(house, plan, job_id, plan.moment * 0.8 ** (jobs - 1))
        folder = house.folder(job_id)
        attempt, step, fault_at = newest_attempt(folder), newest_step(folder), time.time()
        hits = [hit(victim, plan.signal) for victim in victims]  # all at once, whichever was still there
        if any(hits):
            break
        house.await_end(job_id)
        violations += house.check(job_id, attempts=1)
    else:
        raise TimeoutError(f"no moment to hit the {plan.target} came in {TRIES} jobs")
    back_at = _await_return(house, plan, victims[0], job_id, key)
    record = house.await_end(job_id)
    if back_at is None:
        back_at = resumed_at(journal(folder), attempt, step, fault_at, moment(record["finished_at"]))
    away = (fault_at, back_at) if plan.victim == "service" else None
    return {
        **plan._asdict(),
        "recovery": {plan.victim: round(max(0.0, back_at - fault_at), 3)},
        "job": job_id,
        "jobs": jobs,
        "step_hit": step,
        "attempts": record["attempts"],
        "scored": sum(at >= began for at, _ in house.scored),
        "round_s": round(time.time() - began, 3),
        # Halted for good, a worker and its trainer may both have lost their lease.
        "violations": violations
        + house.check(job_id, attempts=3 if plan.phase == HALT else 2)
        + house.check_all()
        + house.check_scores(began, away),
    }


def _await_moment(house: House, plan: Plan, job_id: str, share: float) -> list[Process]:
    """Wait for the moment of a fault and return its victims; none where the job is over before."""
    roles, life = plan.target.split("+"), house.job_s
    if "trainer" in roles:
        until("trainer", JOB_S, lambda: find(house.home, "trainer") or house.record(job_id)["status"] in TERMINAL)
        life = house.trainer_s
    time.sleep(share * life)
    victims = [process for role in roles if (process := find(house.home, role)) is not None]
    # Asked last, so that as few faults as possible find a job that has just ended.
    over = house.record(job_id)["status"] in TERMINAL
    return [] if over or len(victims) < len(roles) else victims


def _await_return(house: House, plan: Plan, victim: Process, job_id: str, key: str) -> float | None:
    """Wait until a part that jobs outlive does its work again and return when; None for the other parts."""

    def works() -> bool:
        if not any(p.role == victim.role and p.pid != victim.pid for p in processes(house.home)):
            return False
        if plan.victim == "service":
            return all(house.client.once("GET", path) is not None for path in ("/readyz", f"/v1/jobs/{job_id}"))
        # The same key makes no other job; that the answer names the first one shows that the data are there.
        answer = house.client.once("POST", "/v1/jobs", json=REQUEST, headers={"Idempotency-Key": key})
        return answer is not None and answer.json().get("id") == job_id

    if plan.victim not in ("service", "broker"):
        return None
    until(f"{plan.target} again", JOB_S, works)
    return time.time()


def poison(house: House) -> Line:
    """Kill worker and trainer at each attempt of a job at once, and return how it ended with what is wrong."""
    job_id = house.client.submit({**REQUEST, "model": "poison"}, "poison")
    folder, home = house.folder(job_id), house.home
    for attempt in range(1, ATTEMPTS + 1):
        until(f"attempt {attempt}", JOB_S, lambda n=attempt: newest_attempt(folder) >= n and find(home, "trainer"))
        for process in [find(home, role) for role in ("worker", "trainer")]:
            if process is not None:
                hit(process, "SIGKILL")
    record = house.await_end(job_id)
    error = record["error"] or {}
    said = f"{record['status']} after {record['attempts']} attempts: {error.get('detail')}"
    as_expected = (record["status"], record["attempts"], error.get("type")) == ("failed", ATTEMPTS, "worker-lost")
    return {"poison": said, "violations": [] if as_expected else [f"a poison job is {said}"]}


def play_outage(house: House, broker: EmbeddedBroker, workers: int, seconds: float, number: int) -> Line:
    """Stop the server for some seconds and return what is known; raises ``TimeoutError``."""
    began, phase = time.time(), f"outage of {seconds:g} s"

    def listed() -> list[Line]:
        found: list[Line] = house.client.document("/v1/workers")["workers"]
        return found

    def count(jobs: list[str], *statuses: str) -> int:
        return sum(house.record(job)["status"] in statuses for job in jobs)

    until("workers", JOB_S, lambda: len(listed()) == workers)
    before = [worker["name"] for worker in listed()]
    jobs = [house.submit(f"{phase} {number} {index}", f"outage-{index}") for index in range(workers)]
    until("training of every job", JOB_S, lambda: all(newest_step(house.folder(job)) > 0 for job in jobs))
    broker.stop()
    down = time.monotonic()
    time.sleep(1)
    killed = _kill_a_trainer(house, jobs)
    time.sleep(max(0.0, down + seconds - time.monotonic()))
    broker.start()
    back = time.monotonic()
    endless = [house.client.submit(ENDLESS, f"{phase} {number} endless {index}") for index in range(workers)]
    running_s = []
    for most in range(1, workers + 1):
        until(f"{most} running jobs", JOB_S, lambda most=most: count(endless, "running") >= most)
        running_s.append(round(time.monotonic() - back, 3))
    # They keep every worker busy, so what waits behind them is not waited for before they are cancelled.
    for job in endless:
        house.client.patient("POST", f"/v1/jobs/{job}/cancel").raise_for_status()
    until("end of all jobs", JOB_S, lambda: count([*jobs, *endless], *TERMINAL) == 2 * workers)
    after = {worker["name"]: worker["state"] for worker in listed()}
    return {
        "phase": phase,
        "number": number,
        "recovery": {"first job": running_s[0], "all workers": running_s[-1]},
        "jobs": workers,
        "attempts": sum(house.record(job)["attempts"] for job in jobs),
        "killed": killed is not None,
        "scored": sum(at >= began for at, _ in house.scored),
        "round_s": round(time.time() - began, 3),
        "violations": [text for job in jobs for text in house.check(job, attempts=2 if job == killed else 1)]
        + house.check_all()
        + house.check_scores(began)
        + ([] if sorted(after) == sorted(before) else [f"the workers were {before} and are {sorted(after)}"])
        + [f"{name} receives nothing" for name, state in after.items() if state == "not-receiving"],
    }


def _kill_a_trainer(house: House, jobs: list[str]) -> str | None:
    for process in processes(house.home):
        job = Path(process.arguments[-1]).name
        trained = any(event["event"] == "evaluation" for event in journal(house.folder(job)))
        if process.role == "trainer" and job in jobs and not trained and hit(process, "SIGKILL"):
            return job
    return None


class Log:
    """A JSON line for each round, and for each installation what was found outside of rounds."""

    def __init__(self, path: Path, resume: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text("")
        self.lines: list[Line] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, line: Line) -> None:
        """Append a line and print what it says."""
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps({key: value for key, value in line.items() if key not in ("job", "moment")}), flush=True)

    @property
    def rounds(self) -> list[Line]:
        """The rounds that were played to their end."""
        return [line for line in self.lines if "number" in line]

    def played(self, phase: str, number: int) -> bool:
        return any((line["phase"], line["number"]) == (phase, number) for line in self.rounds)

    @property
    def violations(self) -> list[str]:
        """Every violation, with the phase and the number of the round that it was seen in."""
        return [
            f"{line['phase']} {line.get('number', '')}: {text}" for line in self.lines for text in line["violations"]
        ]

    def report(self, name: str, title: str, out: Path, described: Line) -> bool:
        """Write and print the results; return whether every promise was kept within its limit."""
        rows, kept = [], not self.violations
        for phase, part in dict.fromkeys((line["phase"], part) for line in self.rounds for part in line["recovery"]):
            mine = [line for line in self.rounds if line["phase"] == phase and part in line["recovery"]]
            seconds = [line["recovery"][part] for line in mine]
            limit = LIMITS_S.get(part, LIMITS_S.get(phase))
            verdict = "" if limit is None else "PASS" if max(seconds) <= limit else "FAIL"
            kept &= verdict != "FAIL"
            whole, attempts = sum(not line["violations"] for line in mine), sum(line["attempts"] for line in mine)
            times = f"{statistics.median(seconds):.2f} s", f"{max(seconds):.2f} s", limit and f"{limit:g} s"
            rows.append([phase, part, len(mine), whole, attempts, *times, verdict])
        said = [
            f"# {title}",
            f"{len(self.rounds)} rounds, {sum(line['jobs'] for line in self.rounds)} jobs, "
            f"{sum(line['scored'] for line in self.rounds)} images scored meanwhile. {described['cpu']}, "
            f"{described['cores']} cores. What counts as recovery is defined in `benchmarks/faults.py`; the limits "
            "hold for the worst round.",
            "\n".join(table(HEADER, rows)),
            *(f"A poison job: {line['poison']}" for line in self.lines if "poison" in line),
            f"Violations: {len(self.violations)}",
            *(f"- {text}" for text in self.violations),
        ]
        document = {"machine": described, "request": REQUEST, "violations": self.violations, "lines": self.lines}
        write_results(out, name, document, "\n\n".join(said) + "\n")
        print("\n\n".join(said))
        return kept


@contextmanager
def home_of(log: Log, phase: str) -> Iterator[Path]:
    """Give the folder of an installation, which is kept if it breaks a promise; log what ends a phase early."""
    home, before = Path(tempfile.mkdtemp(prefix="snf-faults-")).resolve(), len(log.violations)
    try:
        yield home
    except (RuntimeError, TimeoutError, httpx.HTTPError) as problem:
        log.add({"phase": phase, "violations": [f"ended by {problem!r}"]})
    finally:
        end_all(home)
        if len(log.violations) > before:
            print(f"state and logs are kept in {home}", flush=True)
        else:
            shutil.rmtree(home, ignore_errors=True)


def kills(arguments: argparse.Namespace, log: Log) -> None:
    """Play the rounds with signals that the log lacks, each phase in an installation of its own."""
    for phase, count, sign, targets, settings in (
        (KILL, arguments.kill, "SIGKILL", EVERYTHING, SHORT_LEASE),
        (TERM, arguments.term, "SIGTERM", EVERYTHING, SHORT_LEASE),
        (HALT, arguments.halt, "SIGSTOP", EVERYTHING, SHORT_LEASE),
        (TOGETHER, arguments.together, "SIGKILL", [["worker+trainer"]], SHORT_LEASE),
        (DEFAULT, arguments.default_lease, "SIGKILL", EVERYTHING[:2], DEFAULT_LEASE),
    ):
        left = [
            plan for plan in plans(phase, count, sign, targets, arguments.seed) if not log.played(phase, plan.number)
        ]
        poisoned = phase != TOGETHER or any("poison" in line for line in log.lines)
        if not left and (poisoned or not count):
            continue
        with home_of(log, phase) as home, snf_up(home, **settings) as client:
            house = House(home, client)
            # The first one also loads what an idle machine has to load, and so lives longer.
            violations = [text for key in ("first", "second") for text in house.undisturbed(key)]
            log.add(
                {"phase": phase, "job_s": round(house.job_s, 1), "weights": house.weights, "violations": violations}
            )
            with house.watched():
                for plan in left:
                    log.add(play_kill(house, plan))
                if not poisoned:
                    log.add({"phase": phase, **poison(house)})


def outages(arguments: argparse.Namespace, log: Log) -> None:
    """Play the outages that the log lacks, all in one installation."""
    left = [(s, number) for s, number in arguments.rounds if not log.played(f"outage of {s:g} s", number)]
    if not left:
        return
    with home_of(log, "outages") as home, ExitStack() as stack:
        own = Settings(home=home / "own", runtime_dir=home / "own" / "run", redis_url=None)
        broker = EmbeddedBroker(own)
        broker.start()
        stack.callback(broker.stop)
        settings = {"redis_url": broker_url(own), **DEFAULT_LEASE}
        house = House(home, stack.enter_context(snf_up(home, **settings)))
        for _ in range(1, arguments.workers):
            stack.enter_context(running("snf_app.cli.main", "worker", home=home, **settings))
        stack.enter_context(house.watched())
        for seconds, number in left:
            log.add(play_outage(house, broker, arguments.workers, seconds, number))


def outage_rounds(text: str) -> list[tuple[float, int]]:
    """Return seconds and number of each round of a text such as ``20x10,300x2``."""
    pairs = [part.split("x") for part in text.split(",")]
    return [(float(seconds), number) for seconds, count in pairs for number in range(int(count))]


def main() -> int:
    """Play the rounds that the log lacks and report on all that it has; 1 where a promise was broken."""
    parser = parser_of("faults", __doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    one, other = parts.add_parser("kills"), parts.add_parser("outages")
    one.add_argument("--kill", type=int, default=50, help="rounds with KILL")
    one.add_argument("--term", type=int, default=50, help="rounds with TERM")
    one.add_argument("--halt", type=int, default=8, help="rounds with STOP")
    one.add_argument("--together", type=int, default=10, help="rounds with KILL to worker and trainer at once")
    one.add_argument("--default-lease", type=int, default=6, help="rounds with KILL at the default lease")
    one.add_argument("--seed", type=int, default=0)
    other.add_argument("--rounds", type=outage_rounds, default="20x10,70x5,300x2", help="seconds x rounds, ...")
    other.add_argument("--workers", type=int, default=2)
    for part in (one, other):
        part.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
        part.add_argument("--resume", action="store_true", help="go on after the rounds of the log in the folder")
    arguments = parser.parse_args()
    name = f"faults_{arguments.part}"
    log, described = Log(arguments.out / f"{name}.jsonl", arguments.resume), machine()
    # Being asked to go is an interruption as well: nothing that was started here may be left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    title, play = {"kills": ("Jobs under fire", kills), "outages": ("Outages of the broker", outages)}[arguments.part]
    try:
        play(arguments, log)
    except KeyboardInterrupt:
        print("interrupted; --resume goes on from here")
    return 0 if log.report(name, title, arguments.out, described) else 1


if __name__ == "__main__":
    raise SystemExit(main())
