"""Mixed load with restarts of every part: ``python -m benchmarks.mixed_load [--minutes 10]``.

A real installation by ``snf up`` is asked by callers of all kinds at once: scores (three callers), samples, moves of
an alias, uploads and trainings. Meanwhile one part after the other is killed (KILL) or asked to go (TERM): service,
worker, trainer, and of the broker its keeper and its server. Every answer is checked:

- scores and p-values are equal to the bit to those of the idle service, samples of a seed are the same bytes,
- after a move of an alias was acknowledged, its version answers as soon as it is loaded, and no other one after that,
- every image of an upload is stored to the byte,
- every training succeeds, is listed once and has one version, with the weights of all others.

A service that is away, starts, or has too much to do may refuse (429, 503, 504) or cut a connection; nothing else.
Memory and descriptors of each part are looked at every two seconds. Those of the first third after a minute of warm-up
are compared with those of the last third, of processes that are at least 20 s old.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.faults_checks import Checks, TrainerWatch
from benchmarks.installation import (
    PatientClient,
    Process,
    end_all,
    find,
    machine,
    processes,
    resident_bytes,
    snf_up,
    until,
    write_results,
)
from benchmarks.mixed_callers import PAIR, Caller, Moves, Samples, Scores, Trainings, Uploads
from benchmarks.repeated import Repeated
from models.registry.registry import ZOO

RESULTS = Path(__file__).parent / "results"
TRAINED = "mixed"
REQUEST: dict[str, Any] = {
    "type": "train",
    "dataset": "mnist-mini",
    "preset": "snf-glow-tiny",
    "model": TRAINED,
    "parameters": {
        "max_steps": 60,
        "batch_size": 32,
        "validations": 1,
        "validation_images": 50,
        "checkpoint_seconds": 1,
        "seed": 1,
    },
}
SETTINGS = {
    "lease_seconds": 10,
    "heartbeat_seconds": 2,
    "reconcile_seconds": 2,
    "dispatch_seconds": 5,
    "train_threads": 1,
    "threads": 1,
    # A training may be hit again before its first checkpoint, which is no fault of it.
    "max_attempts_without_progress": 10,
}
HITS = [
    (role, sign) for sign in ("SIGKILL", "SIGTERM") for role in ("service", "worker", "trainer", "keeper", "server")
]
EVERY_S = 10.0
"""Pause between two restarts."""
PARTS = ("launcher", "keeper", "server", "worker", "service")
WARM_UP_S = 60.0
OLD_S = 20.0
LOOK_S = 2.0
MAX_GROWTH = 1.15
SLACK_BYTES, SLACK_DESCRIPTORS = 16 * 2**20, 8
END_S = 300


class Looks(Repeated):
    """A thread that looks at memory and descriptors of each part."""

    def __init__(self, home: Path) -> None:
        super().__init__(LOOK_S)
        self._home = home
        self._began = time.monotonic()
        self._born: dict[int, float] = {}
        self.found: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
        """Of each part: seconds since the start, bytes of memory, open descriptors."""

    def turn(self) -> None:
        """Look at all parts that are not new."""
        now = time.monotonic()
        for process in processes(self._home):
            born = self._born.setdefault(process.pid, now)
            if process.role in PARTS and now - born >= OLD_S:
                with suppress(OSError, StopIteration):  # it ended meanwhile
                    descriptors = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
                    self.found[process.role].append((now - self._began, resident_bytes(process.pid), descriptors))

    def growth(self) -> list[dict[str, Any]]:
        """Return a row for each part: medians of the first and the last third, and whether they are alike."""
        rows = []
        for part in PARTS:
            looks = self.found[part]
            end = max((at for at, _, _ in looks), default=0.0)
            third = max(0.0, end - WARM_UP_S) / 3
            first = [look for look in looks if WARM_UP_S <= look[0] <= WARM_UP_S + third]
            last = [look for look in looks if look[0] >= end - third]
            if not first or not last:
                rows.append({"part": part, "looks": len(looks), "flat": None})
                continue
            memory, memory_after = (int(statistics.median(look[1] for look in some)) for some in (first, last))
            files, files_after = (int(statistics.median(look[2] for look in some)) for some in (first, last))
            flat = memory_after <= MAX_GROWTH * memory + SLACK_BYTES and files_after <= files + SLACK_DESCRIPTORS
            rows.append(
                {
                    "part": part,
                    "looks": len(looks),
                    "memory_bytes": [memory, memory_after],
                    "descriptors": [files, files_after],
                    "flat": flat,
                }
            )
        return rows


def restart_in_turn(home: Path, client: PatientClient, minutes: float) -> list[dict[str, Any]]:
    """Hit one part after the other for some minutes; return what was hit, and after how long it was there again."""
    hits: list[dict[str, Any]] = []
    end = time.monotonic() + 60 * minutes
    for role, sign in itertools.cycle(HITS):
        time.sleep(EVERY_S)
        if time.monotonic() > end:
            return hits
        hits.append({"role": role, "signal": sign, "back_s": restart(home, client, role, sign)})
        print(f"{sign} {role}: back after {hits[-1]['back_s']:.1f} s", flush=True)
    return hits


def restart(home: Path, client: PatientClient, role: str, sign: str) -> float:
    """Send a signal to a part; return the seconds until it is there again, of a trainer until the service is ready."""
    victim: Process = until(role, END_S, lambda: find(home, role))
    with suppress(ProcessLookupError):
        os.kill(victim.pid, getattr(signal, sign))
    began = time.monotonic()

    def again() -> bool:
        found = find(home, role)
        return role == "trainer" or (found is not None and found.pid != victim.pid)

    until(f"{role} again", END_S, again)
    until("readiness", END_S, lambda: client.once("GET", "/readyz") is not None)
    return round(time.monotonic() - began, 2)


def play(home: Path, minutes: float) -> dict[str, Any]:
    """Run the load; return what was found."""
    for version, model in enumerate(("mnist-snf-glow", "fashion-snf-glow"), start=1):
        shutil.copytree(ZOO / model / "1", home / "registry" / PAIR / str(version))
    with snf_up(home, **SETTINGS) as client, TrainerWatch(home) as watch:
        trainings, uploads, moves = Trainings(client.port, REQUEST), Uploads(client.port, home), Moves(client.port)
        scoring = [Scores(client.port) for _ in range(3)]
        callers: list[Caller] = [*scoring, Samples(client.port), moves, uploads, trainings]
        with Looks(home) as looks, ExitStack() as calling:
            for caller in callers:
                calling.enter_context(caller)
            hits = restart_in_turn(home, client, minutes)
        checks = Checks(home, client, watch)
        checks.jobs = trainings.jobs
        wrong = [text for caller in callers for text in caller.wrong]
        lost = _jobs(client, checks)
    return {
        "restarts": hits,
        "answers": {
            kind.__name__: dict(sum((c.answers for c in callers if isinstance(c, kind)), start=Counter[str]()))
            for kind in (Scores, Samples, Moves, Uploads, Trainings)
        },
        "trainings": len(trainings.jobs),
        "uploads": uploads.uploaded,
        "slowest_move_s": round(moves.slowest_s, 1),
        "wrong": wrong,
        "lost": lost,
        "parts": looks.growth(),
    }


def _jobs(client: PatientClient, checks: Checks) -> list[str]:
    """Wait for the end of all trainings; return what is wrong with them."""
    found = []
    for job_id in checks.jobs:

        def over(job_id: str = job_id) -> dict[str, Any] | None:
            record = client.document(f"/v1/jobs/{job_id}")
            return record if record["status"] in ("succeeded", "failed", "cancelled") else None

        found += checks.job(until(f"end of job {job_id}", END_S, over))
    return found + checks.all_jobs(TRAINED)


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["| part | memory, first and last third | descriptors | flat |", "|---|---:|---:|---|"]
    for row in result["parts"]:
        if row["flat"] is None:
            lines.append(f"| {row['part']} | not seen long enough | | |")
            continue
        memory = " -> ".join(f"{value / 2**20:.0f} MiB" for value in row["memory_bytes"])
        descriptors = " -> ".join(map(str, row["descriptors"]))
        lines.append(f"| {row['part']} | {memory} | {descriptors} | {'yes' if row['flat'] else 'NO'} |")
    right = {kind: answers.get("200", 0) + answers.get("201", 0) for kind, answers in result["answers"].items()}
    answered = ", ".join(f"{count} of {kind.lower()}" for kind, count in right.items())
    on = result["machine"]
    said = [
        f"{on['cpu']}, {on['cores']} cores, load {on['load_before']:.0f} before it began.",
        f"{result['minutes']:g} minutes, {len(result['restarts'])} restarts, {result['trainings']} trainings, "
        f"{result['uploads']} uploads. Checked answers: {answered}. Slowest move of an alias: "
        f"{result['slowest_move_s']:.1f} s.",
        f"Wrong answers: {len(result['wrong'])}. Lost or doubled jobs: {len(result['lost'])}.",
        "\n".join(lines),
        "Every part but the launcher was restarted again and again: its memory is that of processes of different ages.",
        *(f"- {text}" for text in [*result["wrong"], *result["lost"]]),
    ]
    return "\n\n".join(said)


def main() -> int:
    """Run the load, and write and print the result; 1 where something was wrong, lost, or grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of mixed_load.json and mixed_load.md")
    arguments = parser.parse_args()
    described = machine()
    home = Path(tempfile.mkdtemp(prefix="snf-mixed-")).resolve()
    # Being asked to go is an interruption as well: nothing that was started here may be left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = {"machine": described, "minutes": arguments.minutes, "settings": SETTINGS} | play(
            home, arguments.minutes
        )
    finally:
        end_all(home)
    text = table(result)
    write_results(arguments.out, "mixed_load", result, f"# Mixed load with restarts\n\n{text}\n")
    print(text)
    kept = not result["wrong"] and not result["lost"] and all(row["flat"] is not False for row in result["parts"])
    if kept:
        shutil.rmtree(home, ignore_errors=True)
    else:
        print(f"state and logs are kept in {home}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
