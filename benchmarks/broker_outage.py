"""Outages of the broker: ``python -m benchmarks.broker_outage [--rounds 20x10,70x5,300x2] [--workers 2] [--resume]``.

An installation by ``snf up`` and more workers beside it use a server of their own over ``REDIS_URL``, which the
benchmark stops and starts again: in between every connection is refused. All lease settings are the defaults.

A round begins with one small training for each worker. Once all of them train, the broker is stopped for the given
seconds. In the outage one trainer is killed, so that its attempt ends there, and the others come to the end of their
training. As soon as the broker answers again, one endless job for each worker is submitted. It is checked that

- the first of these runs at most 60 s after the broker is back, and in the end all of them at once: no worker is deaf,
- every training succeeded, has one version in the registry, and cost no attempt but the one that was killed,
- the workers are the same processes as before, and none is said not to receive messages,
- no image failed to be scored, at a steady pace throughout.

Results are written after each round; with ``--resume`` the rounds in ``broker_outage.json`` are not played again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.faults_checks import newest_step, read_events
from benchmarks.installation import PatientClient, end_all, machine, processes, running, snf_up, until
from benchmarks.repeated import Steady, readiness, score
from snf_worker.broker.connection import broker_url
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.settings import Settings

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 60.0
JOB_S = 300.0
TRAINING = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny"}
SMALL = {"max_steps": 250, "batch_size": 32, "validations": 2, "validation_images": 50, "checkpoint_seconds": 1}
ENDLESS = {"max_steps": 1_000_000, "batch_size": 32, "checkpoint_seconds": 1}
Line = dict[str, Any]


class Outages:
    """An installation whose broker is stopped and started again."""

    def __init__(self, home: Path, client: PatientClient, broker: EmbeddedBroker, workers: int) -> None:
        self._home = home
        self._client = client
        self._broker = broker
        self._workers = workers

    def play(self, seconds: float, number: int, scoring: Steady, asking: Steady) -> Line:
        """Play a round and return what is known of it; raises ``TimeoutError`` where something does not come back."""
        began = time.monotonic()
        name = f"outage-{seconds:g}-{number}"
        until("workers", LIMIT_S, lambda: len(self._listed_workers()) == self._workers)
        before = self._listed_workers()
        jobs = [self._submit(f"{name}-{index}", SMALL) for index in range(self._workers)]
        until("training of every job", JOB_S, lambda: all(newest_step(self._folder(job)) > 0 for job in jobs))
        self._broker.stop()
        down = time.monotonic()
        killed = self._kill_a_trainer(jobs)
        time.sleep(max(0.0, down + seconds - time.monotonic()))
        ended = sum(self._has_trained(job) for job in jobs)
        self._broker.start()
        back = time.monotonic()
        probes = [self._submit(f"{name}-probe-{index}", ENDLESS) for index in range(self._workers)]
        running_s = []
        for count in range(1, self._workers + 1):
            until(f"{count} running jobs", JOB_S, lambda count=count: self._count(probes, "running") >= count)  # type: ignore[misc]
            running_s.append(round(time.monotonic() - back, 2))
        # They keep every worker busy, so what waits behind them is not waited for before they are cancelled.
        for probe in probes:
            self._client.patient("POST", f"/v1/jobs/{probe}/cancel").raise_for_status()
        over = ("succeeded", "failed", "cancelled")
        until("end of all jobs", JOB_S, lambda: self._count([*jobs, *probes], *over) == 2 * self._workers)
        scored = scoring.since(began)
        failures = [text for _, text, _ in scored if not text.startswith("{")]
        return {
            "seconds": seconds,
            "number": number,
            "trained_in_outage": ended,
            "killed_in_outage": 0 if killed is None else 1,
            "running_s": running_s,
            "attempts": [self._record(job)["attempts"] for job in jobs],
            "scored": len(scored),
            "readyz": asking.counts(down, back),
            "violations": [
                *(text for job in jobs for text in self._check(job, attempts=2 if job == killed else 1)),
                *self._check_workers(before),
                *([f"{len(failures)} images were not scored: {failures[0]}"] if failures else []),
                *([f"the first job ran after {running_s[0]} s"] if running_s[0] > LIMIT_S else []),
            ],
        }

    def _kill_a_trainer(self, jobs: list[str]) -> str | None:
        time.sleep(1)
        for process in processes(self._home):
            job = Path(process.arguments[-1]).name
            if process.role == "trainer" and job in jobs and not self._has_trained(job):
                os.kill(process.pid, signal.SIGKILL)
                return job
        return None

    def _check(self, job: str, attempts: int) -> list[str]:
        record = self._record(job)
        found = [] if record["status"] == "succeeded" else [f"job {job} is {record['status']}: {record['error']}"]
        manifests = (self._home / "registry" / record["model"]).glob("[0-9]*/manifest.json")
        versions = sum(json.loads(path.read_text())["training"]["job"] == job for path in manifests)
        if versions != 1:
            found.append(f"job {job} has {versions} versions in the registry")
        if record["attempts"] > attempts:
            found.append(f"job {job} took {record['attempts']} attempts, expected {attempts}")
        return found

    def _check_workers(self, before: list[Line]) -> list[str]:
        after = self._listed_workers()
        names = [[worker["name"] for worker in workers] for workers in (before, after)]
        found = [] if names[0] == names[1] else [f"the workers were {names[0]} and are {names[1]}"]
        return found + [f"{one['name']} receives nothing" for one in after if one["state"] == "not-receiving"]

    def _has_trained(self, job: str) -> bool:
        return any(event.kind == "evaluation" for event in read_events(self._folder(job)))

    def _submit(self, model: str, parameters: Line) -> str:
        return self._client.submit({**TRAINING, "model": model, "parameters": parameters}, model)

    def _count(self, jobs: list[str], *statuses: str) -> int:
        return sum(self._record(job)["status"] in statuses for job in jobs)

    def _record(self, job: str) -> Line:
        return self._client.document(f"/v1/jobs/{job}")

    def _listed_workers(self) -> list[Line]:
        workers: list[Line] = self._client.document("/v1/workers")["workers"]
        return workers

    def _folder(self, job: str) -> Path:
        return self._home / "jobs" / job


def report(described: Line, rounds: list[Line], out: Path) -> bool:
    """Write the results; return whether every promise was kept."""
    rows = [
        "| outage | rounds | attempts ended | first job ran | all workers took a job | violations |",
        "|---" * 6 + "|",
    ]
    for seconds in dict.fromkeys(line["seconds"] for line in rounds):
        mine = [line for line in rounds if line["seconds"] == seconds]
        ended = sum(line["trained_in_outage"] + line["killed_in_outage"] for line in mine)
        first, last = (max(line["running_s"][place] for line in mine) for place in (0, -1))
        broken = sum(len(line["violations"]) for line in mine)
        rows.append(f"| {seconds:g} s | {len(mine)} | {ended} | {first:.2f} s | {last:.2f} s | {broken} |")
    violations = [
        f"{line['seconds']:g} s, {line['number'] + 1}: {text}" for line in rounds for text in line["violations"]
    ]
    said = [
        "# Outages of the broker",
        f"{described['cpu']}, {described['cores']} cores; default settings. Times are seconds since the broker is "
        f"back, the worst of all rounds; the limit of the first job is {LIMIT_S:g} s.",
        "\n".join(rows),
        f"{sum(line['scored'] for line in rounds)} images were scored meanwhile. Violations: {len(violations)}",
        *(f"- {text}" for text in violations),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "broker_outage.md").write_text("\n\n".join(said) + "\n")
    summary = {"machine": described, "limit_s": LIMIT_S, "violations": violations, "rounds": rounds}
    (out / "broker_outage.json").write_text(json.dumps(summary, indent=1) + "\n")
    return not violations


def plan(text: str) -> list[tuple[float, int]]:
    """Return seconds and number of each round.

    >>> plan("20x2,300x1")
    [(20.0, 0), (20.0, 1), (300.0, 0)]
    """
    pairs = [part.split("x") for part in text.split(",")]
    return [(float(seconds), number) for seconds, count in pairs for number in range(int(count))]


def main() -> int:
    """Play the rounds and report; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker_outage", description=__doc__)
    parser.add_argument("--rounds", type=plan, default="20x10,70x5,300x2", help="seconds x rounds, separated by commas")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on after the rounds that OUT holds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of broker_outage.json and .md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left behind
    described = machine()
    before = arguments.out / "broker_outage.json"
    rounds: list[Line] = json.loads(before.read_text())["rounds"] if arguments.resume and before.exists() else []
    played = {(line["seconds"], line["number"]) for line in rounds}
    home = Path(tempfile.mkdtemp(prefix="snf-outages-")).resolve()
    broker_settings = Settings(home=home / "own", runtime_dir=home / "own" / "run", redis_url=None)
    broker = EmbeddedBroker(broker_settings)
    settings = {"redis_url": broker_url(broker_settings), "train_threads": 1}
    kept = True
    try:
        broker.start()
        with ExitStack() as stack:
            client = stack.enter_context(snf_up(home, **settings))
            for _ in range(1, arguments.workers):
                stack.enter_context(running("snf_app.cli.main", "worker", home=home, **settings))
            scoring = stack.enter_context(Steady(client.port, score))
            asking = stack.enter_context(Steady(client.port, readiness))
            outages = Outages(home, client, broker, arguments.workers)
            for seconds, number in arguments.rounds:
                if (seconds, number) in played:
                    continue
                rounds.append(outages.play(seconds, number, scoring, asking))
                kept = report(described, rounds, arguments.out)
                print(json.dumps(rounds[-1]), flush=True)
    finally:
        end_all(home)
        broker.stop()
        shutil.rmtree(home, ignore_errors=True)
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
