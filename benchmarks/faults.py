"""Jobs under fire: ``python -m benchmarks.faults [--kill 50] [--term 50] [--together 10] [--default-lease 6]``.

A real installation by ``snf up`` trains one small job after the other. At a random moment in the life of each, one
process is killed (KILL) or asked to go (TERM): the trainer, the worker, the service, or the broker, which is the keeper
and the valkey server in turn. In another phase worker and trainer are killed at once, as where memory runs out; it ends
with a job that this happens to at every attempt, and that must fail with its cause after three. The last phase alone
uses the default lease of 30 s.

Recovery is the time from the signal until

- trainer, worker: the first event of a newer attempt that is news: a step beyond the last one known before, or what
  follows training. Where the attempt outlives the fault, as when the signal meets it after its last step, its next
  event, or the end of the job.
- service: another process answers ``/readyz`` with 200 and knows the job.
- broker: another process is there in place of the victim, and submitting again with the key of the round's job is
  accepted and answers that job.

After each round it is checked that the job succeeded and has exactly one version in the registry, whose weights are bit
for bit those of an undisturbed job; that all jobs so far are there, succeeded, and as many as there are versions; that
no event of an attempt follows one of a newer attempt, and that no two trainers of one job were ever seen at once.

Rounds are written to a log as they end; with ``--resume-log`` the ones in it are not played again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.faults_checks import Checks, TrainerWatch
from benchmarks.faults_rounds import REQUEST, House, Plan, plans
from benchmarks.installation import end_all, machine, snf_up

RESULTS = Path(__file__).parent / "results"
KILL, TERM, TOGETHER, DEFAULT = "kill", "term", "worker and trainer", "default lease"
# One thread: two that wait for each other stand still where anything else uses the machine.
SHORT_LEASE = {
    "lease_seconds": 3,
    "heartbeat_seconds": 1,
    "reconcile_seconds": 1,
    "dispatch_seconds": 3,
    "train_threads": 1,
    "nice": 0,
}
DEFAULT_LEASE = {"train_threads": 1, "nice": 10}
EVERYTHING = [["trainer"], ["worker"], ["service"], ["keeper", "server"]]
ATTEMPTS = 3
"""Of a job that brings no checkpoint, before it fails."""
LIMITS_S = {TERM: 15.0, DEFAULT: 60.0}
Line = dict[str, Any]


class Log:
    """A JSON line for each round, and for each installation that was started what it found outside of rounds."""

    def __init__(self, path: Path, resume: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text("")
        self.lines: list[Line] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, line: Line) -> None:
        """Append a line."""
        self.lines.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def rounds(self) -> list[Line]:
        """The rounds that were played to their end."""
        return [line for line in self.lines if "number" in line]

    @property
    def violations(self) -> list[str]:
        """Every violation, with the round that it was seen in."""
        found = [f"{_name(line)}: {text}" for line in self.lines for text in line["violations"]]
        weights = {line["weights"] for line in self.lines if line.get("weights")}
        return found + ([f"undisturbed jobs have {len(weights)} different weights"] if len(weights) > 1 else [])


def _name(line: Line) -> str:
    if "number" not in line:
        return f"{line['phase']} (outside of rounds)"
    return f"{line['phase']} {line['number'] + 1} ({line['signal']} to {line['target']} of job {line['job']})"


def play_all(phase: str, chosen: list[Plan], settings: dict[str, Any], log: Log) -> None:
    """Play the rounds of a phase in one installation; the state of one that broke a promise is kept."""
    home = Path(tempfile.mkdtemp(prefix="snf-faults-")).resolve()
    before = len(log.violations)
    doing = "before the first round"
    try:
        with snf_up(home, **settings) as client, TrainerWatch(home) as watch:
            house = House(home, client, Checks(home, client, watch))
            # The first one also loads what an idle machine has to load, and so lives longer.
            violations = [text for key in ("first", "second") for text in house.undisturbed(key)]
            undisturbed = {"job_s": house.lives.job, "trainer_s": house.lives.trainer}
            log.add({"phase": phase, "weights": house.checks.weights, **undisturbed, "violations": violations})
            print(f"{phase}: an undisturbed job takes {house.lives.job:.1f} s", flush=True)
            for done, plan in enumerate(chosen, 1):
                doing = f"round {plan.number + 1}, {plan.signal} to {plan.target}"
                found = house.play(plan)
                log.add(found)
                print(f"[{done}/{len(chosen)}] {progress(found)}", flush=True)
            if phase == TOGETHER:
                doing = "the poison job"
                log.add({"phase": phase, **house.poison(ATTEMPTS)})
                print(f"poison job: {log.lines[-1]['poison']}", flush=True)
            doing = "at the end"
    except (RuntimeError, TimeoutError, httpx.HTTPError) as problem:
        log.add({"phase": phase, "violations": [f"{doing}: {problem}"]})
        print(f"{phase}, {doing}: {problem}", flush=True)
    finally:
        end_all(home)
        if len(log.violations) > before:
            print(f"state and logs are kept in {home}", flush=True)
        else:
            shutil.rmtree(home, ignore_errors=True)


def progress(found: Line) -> str:
    """Return the line that tells of a round."""
    said = f"{found['signal']} {found['target']:7} at {found['moment_s']:5.1f} s, step {found['step_hit']:3}"
    said += f": back after {found['recovery_s']:5.2f} s, {found['attempts']} attempts, round {found['round_s']:.1f} s"
    return "; ".join([said, *found["violations"]])


def summarize(rounds: list[Line]) -> list[Line]:
    """Return a row for each phase and victim."""
    rows = []
    for phase, victim in dict.fromkeys((line["phase"], line["victim"]) for line in rounds):
        mine = [line for line in rounds if (line["phase"], line["victim"]) == (phase, victim)]
        seconds = [line["recovery_s"] for line in mine]
        limit = LIMITS_S.get(phase)
        rows.append(
            {
                "phase": phase,
                "victim": victim,
                "faults": len(mine),
                "recovered": sum(not line["violations"] for line in mine),
                "attempts": sum(line["attempts"] for line in mine),
                "median_s": statistics.median(seconds),
                "worst_s": max(seconds),
                "limit_s": limit,
                "verdict": "" if limit is None else "PASS" if max(seconds) <= limit else "FAIL",
            }
        )
    return rows


def table(rows: list[Line]) -> str:
    """Return the summary as a Markdown table."""
    lines = ["| " + " | ".join(key.removesuffix("_s") for key in rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        shown = [f"{v:.2f} s" if k.endswith("_s") and v is not None else str(v or "") for k, v in row.items()]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines)


def report(log: Log, described: Line, out: Path) -> bool:
    """Write and print the results; return whether every promise was kept within its limit."""
    rows = summarize(log.rounds)
    violations = log.violations
    out.mkdir(parents=True, exist_ok=True)
    summary = {
        "machine": described,
        "request": REQUEST,
        "short_lease": SHORT_LEASE,
        "default_lease": DEFAULT_LEASE,
        "summary": rows,
    }
    text = json.dumps({**summary, "violations": violations, "lines": log.lines}, indent=1)
    (out / "faults.json").write_text(text + "\n")
    jobs = sum(line["jobs"] for line in log.rounds)
    said = [
        "# Jobs under fire",
        f"{len(log.rounds)} rounds, a fault each, {jobs} jobs. {described['cpu']}, {described['cores']} cores. "
        "What counts as recovery is defined in `benchmarks/faults.py`; the limits hold for the worst round.",
        table(rows) if rows else "no round was played to its end",
        *(f"A poison job: {line['poison']}" for line in log.lines if "poison" in line),
        f"Violations: {len(violations)}",
        *(f"- {text}" for text in violations),
    ]
    (out / "faults.md").write_text("\n\n".join(said) + "\n")
    print("\n".join(said[2:]))
    return not violations and all(row["verdict"] != "FAIL" for row in rows)


def main() -> int:
    """Play the rounds that the log lacks and report on all that it has; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--kill", type=int, default=50, help="rounds with KILL")
    parser.add_argument("--term", type=int, default=50, help="rounds with TERM")
    parser.add_argument("--together", type=int, default=10, help="rounds with KILL to worker and trainer at once")
    parser.add_argument("--default-lease", type=int, default=6, help="rounds with KILL at the default lease")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of faults.json and faults.md")
    parser.add_argument("--resume-log", type=Path, help="log to go on with; without it, OUT/faults.jsonl begins anew")
    arguments = parser.parse_args()
    log = Log(arguments.resume_log or arguments.out / "faults.jsonl", resume=arguments.resume_log is not None)
    described = machine()
    phases = [
        (plans(KILL, arguments.kill, "SIGKILL", EVERYTHING, arguments.seed), SHORT_LEASE),
        (plans(TERM, arguments.term, "SIGTERM", EVERYTHING, arguments.seed), SHORT_LEASE),
        (plans(TOGETHER, arguments.together, "SIGKILL", [["worker+trainer"]], arguments.seed), SHORT_LEASE),
        (plans(DEFAULT, arguments.default_lease, "SIGKILL", EVERYTHING[:2], arguments.seed), DEFAULT_LEASE),
    ]
    played = {(line["phase"], line["number"]) for line in log.rounds}
    # Being asked to go is an interruption as well: nothing that was started here may be left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for planned, settings in phases:
            left = [plan for plan in planned if (plan.phase, plan.number) not in played]
            poisoned = any("poison" in line for line in log.lines)
            if left or (planned and planned[0].phase == TOGETHER and not poisoned):
                play_all(planned[0].phase, left, settings, log)
    except KeyboardInterrupt:
        print("interrupted; --resume-log goes on from here")
    return 0 if report(log, described, arguments.out) else 1


if __name__ == "__main__":
    raise SystemExit(main())
