"""One round of faults: a training job, one signal at a random moment of its life, and what became of both."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.faults_checks import Checks, newest_attempt, newest_step, read_events, resumed_at
from benchmarks.installation import PatientClient, Process, find, processes, until

MODEL = "faults"
REQUEST: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "model": MODEL,
    "parameters": {
        "max_steps": 250,
        "batch_size": 32,
        "validations": 2,
        "validation_images": 50,
        "checkpoint_seconds": 1,
        "seed": 1,
    },
}
TERMINAL = {"succeeded", "failed", "cancelled"}
JOB_S = 240
TRIES = 6
LAST_MOMENT = 0.97
"""Share of the undisturbed life after which no fault is begun: the job would often be over before it."""


@dataclass(frozen=True)
class Plan:
    """A fault to make: the signal, the victim, and when in the life of its job (0 to 1)."""

    phase: str
    number: int
    signal: str
    target: str
    moment: float

    @property
    def roles(self) -> list[str]:
        """The processes that are hit, all at once."""
        return self.target.split("+")

    @property
    def victim(self) -> str:
        """The part that is hit; the broker is two processes."""
        return "broker" if self.target in {"keeper", "server"} else self.target


@dataclass(frozen=True)
class Lives:
    """Seconds of an undisturbed job, from its submission to its end, and of its training process."""

    job: float
    trainer: float


def plans(phase: str, count: int, sign: str, targets: list[list[str]], seed: int) -> list[Plan]:
    """Return ``count`` faults in random order that hit the victims evenly; each victim's ``targets`` take turns."""
    chance = random.Random(f"{seed} {phase}")
    found: list[Plan] = []
    turn = 0
    while len(found) < count:
        chosen = [kinds[turn % len(kinds)] for kinds in targets]
        chance.shuffle(chosen)
        for target in chosen[: count - len(found)]:
            found.append(Plan(phase, len(found), sign, target, chance.uniform(0, LAST_MOMENT)))
        turn += 1
    return found


def hit(victim: Process, sign: str) -> bool:
    """Send the signal; return whether the victim was still there."""
    try:
        os.kill(victim.pid, getattr(signal, sign))
    except ProcessLookupError:
        return False
    return True


class House:
    """An installation under fire, with what is known of its undisturbed jobs."""

    def __init__(self, home: Path, client: PatientClient, checks: Checks) -> None:
        self.home = home
        self.client = client
        self.checks = checks
        self.lives = Lives(0.0, 0.0)

    def undisturbed(self, key: str) -> list[str]:
        """Run a job that nothing happens to, note how long it lives, and return its violations."""
        started = time.monotonic()
        job_id = self._submit(key)
        until("trainer", JOB_S, lambda: find(self.home, "trainer"))
        born = time.monotonic()
        record = self._await_end(job_id)
        ended = time.monotonic()
        self.lives = Lives(ended - started, ended - born)
        return self.checks.job(record)

    def play(self, plan: Plan) -> dict[str, Any]:
        """Make one fault and return what is known of it; raises ``TimeoutError`` where something does not come back."""
        began = time.monotonic()
        violations: list[str] = []
        for jobs in range(1, TRIES + 1):
            key = f"{plan.phase} {plan.number} {jobs}"
            job_id = self._submit(key)
            # A job that was quicker than expected is over before its moment: the next one is hit earlier.
            victims = self._await_moment(plan, job_id, plan.moment * 0.8 ** (jobs - 1))
            folder = self.checks.folder(job_id)
            attempt, step = newest_attempt(folder), newest_step(folder)
            fault_at = time.time()
            hits = [hit(victim, plan.signal) for victim in victims]  # all at once, whichever was still there
            if any(hits):
                break
            violations += self.checks.job(self._await_end(job_id))
        else:
            raise TimeoutError(f"no moment to hit the {plan.target} came in {TRIES} jobs")
        back_at = self._await_return(plan, victims[0], job_id, key)
        record = self._await_end(job_id)
        events = read_events(folder)
        if back_at is None:
            back_at = resumed_at(events, attempt, step, fault_at, _seconds(record["finished_at"]))
        restart = next((e.step for e in events if e.attempt > attempt and e.kind == "started"), None)
        violations += self.checks.job(record) + self.checks.all_jobs(MODEL)
        return {
            "phase": plan.phase,
            "number": plan.number,
            "signal": plan.signal,
            "victim": plan.victim,
            "target": plan.target,
            "job": job_id,
            "jobs": jobs,
            "moment_s": round(fault_at - _seconds(record["created_at"]), 3),
            "attempt_hit": attempt,
            "step_hit": max(step, 0),
            "steps_repeated": None if restart is None else max(0, step - restart),
            "attempts": record["attempts"],
            "recovery_s": round(max(0.0, back_at - fault_at), 3),
            "round_s": round(time.monotonic() - began, 3),
            "violations": violations,
        }

    def _submit(self, key: str) -> str:
        job_id = self.client.submit(REQUEST, key)
        self.checks.jobs.append(job_id)
        return job_id

    def poison(self, attempts: int) -> dict[str, Any]:
        """Kill worker and trainer at each attempt of a job at once, and return how it ended with what is wrong."""
        job_id = self._submit("poison")
        for attempt in range(1, attempts + 1):
            until(f"attempt {attempt}", JOB_S, lambda attempt=attempt: self._trains(job_id, attempt))
            for role in ("worker", "trainer"):
                process = find(self.home, role)
                if process is not None:
                    hit(process, "SIGKILL")
        record = self._await_end(job_id)
        error = record["error"] or {}
        said = f"{record['status']} after {record['attempts']} attempts: {error.get('detail')}"
        as_expected = (record["status"], record["attempts"], error.get("type")) == ("failed", attempts, "worker-lost")
        return {"poison": said, "violations": [] if as_expected else [f"a poison job is {said}"]}

    def _trains(self, job_id: str, attempt: int) -> bool:
        return newest_attempt(self.checks.folder(job_id)) >= attempt and find(self.home, "trainer") is not None

    def _await_moment(self, plan: Plan, job_id: str, moment: float) -> list[Process]:
        """Wait for the moment of a fault and return its victims; none where the job is over before."""
        life = self.lives.job
        if "trainer" in plan.roles:
            until("trainer", JOB_S, lambda: find(self.home, "trainer") or self._record(job_id)["status"] in TERMINAL)
            life = self.lives.trainer
        time.sleep(moment * life)
        victims = [process for role in plan.roles if (process := find(self.home, role)) is not None]
        # Asked last, so that as few faults as possible find a job that has just ended.
        over = self._record(job_id)["status"] in TERMINAL
        return [] if over or len(victims) < len(plan.roles) else victims

    def _await_return(self, plan: Plan, victim: Process, job_id: str, key: str) -> float | None:
        """Wait until a part that jobs outlive does its work again and return when; None for the other parts."""

        def replaced() -> bool:
            return any(p.role == victim.role and p.pid != victim.pid for p in processes(self.home))

        def serves() -> bool:
            calls = ("/readyz", f"/v1/jobs/{job_id}")
            return replaced() and all(self.client.once("GET", path) is not None for path in calls)

        def takes_jobs() -> bool:
            # The same key makes no other job; that the answer names the first one shows that the data are there.
            answer = self.client.once("POST", "/v1/jobs", json=REQUEST, headers={"Idempotency-Key": key})
            return replaced() and answer is not None and answer.json().get("id") == job_id

        works = {"service": serves, "broker": takes_jobs}.get(plan.victim)
        if works is None:
            return None
        until(f"{plan.target} again", JOB_S, works)
        return time.time()

    def _record(self, job_id: str) -> dict[str, Any]:
        return self.client.document(f"/v1/jobs/{job_id}")

    def _await_end(self, job_id: str) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            record = self._record(job_id)
            return record if record["status"] in TERMINAL else None

        found: dict[str, Any] = until(f"end of job {job_id}", JOB_S, over)
        return found


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
