"""The broker restarted under a running worker: ``python -m benchmarks.broker_restart [--times 5]``.

In an installation by ``snf up`` at the default settings the keeper of the broker is asked to go (TERM), which stops the
valkey server; the launcher starts both again. Right after the signal a job is submitted again and again until it is
accepted, and must then be running within the limit, though the worker was waiting for messages on a connection that
died. A thread scores images at a steady pace meanwhile, of which none may fail, and another one asks ``/readyz``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.installation import PatientClient, end_all, find, machine, processes, snf_up, until
from tests.end_to_end.service import DIGITS

RESULTS = Path(__file__).parent / "results"
MODEL = "mnist-snf-glow"
LIMIT_S = 60.0
EVERY_S = 0.2
CALM_S = 5.0
# Longer than any round: the job must not end before it is seen running.
REQUEST = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny", "model": "endless"}
STEPS = {"max_steps": 1_000_000, "batch_size": 32, "checkpoint_seconds": 1}


class Steady:
    """A thread that makes a call at a steady pace and keeps what came of it."""

    def __init__(self, port: int, call: Callable[[httpx.Client, int], httpx.Response]) -> None:
        self._port = port
        self._call = call
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.answers: list[tuple[float, str, float]] = []
        """When it was asked, what came, and after how many seconds."""

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, began: float) -> list[tuple[float, str, float]]:
        """Return what was asked after ``began``."""
        return [answer for answer in list(self.answers) if answer[0] >= began]

    def _loop(self) -> None:
        with PatientClient(self._port) as client:
            while not self._stop.wait(EVERY_S):
                began = time.monotonic()
                try:
                    answer = self._call(client, len(self.answers))
                    said = answer.text if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
                except httpx.TransportError as error:
                    said = f"failed: {error!r}"
                self.answers.append((began, said, time.monotonic() - began))


def score(client: httpx.Client, turn: int) -> httpx.Response:
    """Score one image."""
    content = DIGITS[turn % len(DIGITS)].read_bytes()
    return client.post(f"/v1/models/{MODEL}/score", content=content, headers={"content-type": "image/png"})


def readiness(client: httpx.Client, _turn: int) -> httpx.Response:
    """Ask how the service is."""
    return client.get("/readyz")


def restart(home: Path, client: PatientClient, number: int, scoring: Steady, asking: Steady) -> dict[str, Any]:
    """Restart the broker once and return how long it took until jobs ran again; raises ``TimeoutError``."""
    server, keeper = find(home, "server"), find(home, "keeper")
    if server is None or keeper is None:
        raise RuntimeError("there is no broker to restart")
    began = time.monotonic()
    os.kill(keeper.pid, signal.SIGTERM)
    until("end of the server", LIMIT_S, lambda: server not in processes(home))
    gone = time.monotonic()
    job = client.submit({**REQUEST, "parameters": STEPS}, f"restart {number}")
    accepted = time.monotonic()
    until("running job", 2 * LIMIT_S, lambda: client.document(f"/v1/jobs/{job}")["status"] == "running")
    running = time.monotonic()
    client.patient("POST", f"/v1/jobs/{job}/cancel").raise_for_status()
    until("cancelled job", LIMIT_S, lambda: client.document(f"/v1/jobs/{job}")["status"] == "cancelled")
    scored, said = scoring.since(began), asking.since(began)
    return {
        "gone_s": gone - began,
        "accepted_s": accepted - began,
        "running_s": running - began,
        "scored": len(scored),
        "failed": [text for _, text, _ in scored if not text.startswith("{")],
        "worst_score_s": max(seconds for _, _, seconds in scored),
        "readyz": dict(Counter(brief(text) for _, text, _ in said)),
    }


def brief(text: str) -> str:
    """Return what an answer of ``/readyz`` comes down to."""
    if not text.startswith("{"):
        return text
    document = json.loads(text)
    return f"200 {document['status']}, jobs {document['jobs']}"


def table(rounds: list[dict[str, Any]]) -> str:
    """Return the restarts as a Markdown table."""
    heads = ("restart", "server gone", "submit accepted", "job running", "scored", "failed", "worst score", "/readyz")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for number, found in enumerate(rounds, 1):
        times = [f"{found[key]:.2f} s" for key in ("gone_s", "accepted_s", "running_s")]
        scored = [str(found["scored"]), str(len(found["failed"])), f"{found['worst_score_s']:.2f} s"]
        said = "; ".join(f"{text} ({count})" for text, count in found["readyz"].items())
        lines.append("| " + " | ".join([str(number), *times, *scored, said]) + " |")
    return "\n".join(lines)


def report(described: dict[str, Any], calm: list[float], rounds: list[dict[str, Any]], out: Path) -> bool:
    """Write and print the results; return whether every limit was kept."""
    worst = max(found["running_s"] for found in rounds)
    failed = sum(len(found["failed"]) for found in rounds)
    scored = sum(found["scored"] for found in rounds)
    verdicts = [
        f"{'PASS' if worst <= LIMIT_S else 'FAIL'}: a job submitted right after a restart ran after {worst:.2f} s at "
        f"worst, limit {LIMIT_S:.0f} s",
        f"{'FAIL' if failed else 'PASS'}: {failed} of {scored} scoring requests failed",
    ]
    said = [
        "# The broker restarted under a running worker",
        f"{described['cpu']}, {described['cores']} cores; seconds since TERM to the keeper, default settings. "
        f"One image was scored in {1e3 * statistics.median(calm):.0f} ms (median, {len(calm)} images) before.",
        table(rounds),
        *verdicts,
    ]
    print("\n".join(verdicts))
    out.mkdir(parents=True, exist_ok=True)
    (out / "broker_restart.md").write_text("\n\n".join(said) + "\n")
    summary = {"machine": described, "limit_s": LIMIT_S, "undisturbed_score_s": calm, "restarts": rounds}
    (out / "broker_restart.json").write_text(json.dumps(summary, indent=1) + "\n")
    return worst <= LIMIT_S and not failed


def main() -> int:
    """Restart and report; 1 where a job was not running within the limit or an image was not scored."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker_restart", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of broker_restart.json and .md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left behind
    described = machine()
    home = Path(tempfile.mkdtemp(prefix="snf-restarts-")).resolve()
    rounds = []
    try:
        with (
            snf_up(home) as client,
            Steady(client.port, score) as scoring,
            Steady(client.port, readiness) as asking,
        ):
            time.sleep(CALM_S)
            calm = [seconds for _, _, seconds in scoring.since(0)]
            for number in range(arguments.times):
                rounds.append(restart(home, client, number, scoring, asking))
                print(table(rounds).splitlines()[-1], flush=True)
    finally:
        end_all(home)
        shutil.rmtree(home, ignore_errors=True)
    return 0 if report(described, calm, rounds, arguments.out) else 1


if __name__ == "__main__":
    raise SystemExit(main())
