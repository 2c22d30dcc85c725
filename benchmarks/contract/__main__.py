"""The service against its own OpenAPI document: ``python -m benchmarks.contract [--minutes 10] [--program PATH]``.

``snf up`` runs twice, open on loopback and with keys. Each time schemathesis makes up requests from the OpenAPI
document for half of the time, valid ones and others, and checks every answer against the document. What is checked, and
what is not and why, is in ``schemathesis.toml`` of this folder.

It passes where no check fails, no answer is a 5xx but 503 and 504, and no traceback is in the service's log.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contract.contents import prepare
from benchmarks.installation import PatientClient, end_all, machine, snf_up
from benchmarks.needs import end
from tests.support.paths import ROOT

RESULTS = Path(__file__).parents[1] / "results"
CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "contract-benchmark-0123456789abcdef"
SEED = 1
GRACE_S = 120
"""Time that schemathesis may take beyond its own limit, for the last requests and its reports."""
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header"),
    *("unsupported_method", "allow_header_conformance", "use_after_free", "ensure_resource_availability"),
    "ignored_auth",
)
"""All checks but two: other benchmarks measure times, and keys have roles in place of objects of their own."""
ALLOWED = {503, 504}
INSTALL = "python -m venv var/schemathesis && var/schemathesis/bin/pip install 'schemathesis>=4.32,<5'"


@dataclass
class Outcome:
    """Checks, answers and failures of a run of schemathesis.

    Attributes:
        checks: Cases by check.
        failures: One example of each different failure: operation, what is wrong, and the request.
        statuses: Answers by status.
        errors: Operations for which schemathesis could make no requests, with the reason.
    """

    checks: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    @property
    def server_errors(self) -> dict[int, int]:
        """Answers with 5xx that are not by design, by status."""
        return {status: n for status, n in self.statuses.items() if status >= 500 and status not in ALLOWED}


def run_schemathesis(program: str, client: PatientClient, seconds: int, reports: Path, key: str | None) -> str:
    """Test the service for about this time and return what schemathesis printed."""
    command = [program, "--config-file", str(CONFIG), "run", f"{client.base_url}/openapi.json"]
    command += ["--max-time", str(seconds), "--checks", ",".join(CHECKS), "--seed", str(SEED), "--no-color"]
    command += ["--report", "ndjson", "--report-ndjson-path", str(reports / "report.ndjson")]
    if key is not None:
        command += ["--header", f"X-API-Key: {key}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=reports, env=environment, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def read_report(path: Path) -> Outcome:
    """Return what a report of schemathesis in lines of JSON says."""
    outcome = Outcome()
    for event in events(path):
        if error := event.get("NonFatalError"):
            outcome.errors.append(json.dumps(error)[:500])
        if (recorder := event.get("ScenarioFinished", {}).get("recorder")) is None:
            continue
        interactions = recorder.get("interactions", {})
        for interaction in interactions.values():
            if interaction["response"] is not None:
                outcome.statuses[interaction["response"]["status_code"]] += 1
        for case, checks in recorder.get("checks", {}).items():
            for check in checks:
                outcome.checks[check["name"]] += 1
                if check["status"] == "failure":
                    failure = check["failure_info"]["failure"]
                    name = f"{check['name']}: {failure['operation']}: {failure['title']}"
                    request = interactions.get(case, {}).get("request", {})
                    outcome.failures.setdefault(name, f"{failure['message']}\n{request.get('uri', '')}"[:1000])
    return outcome


def events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a report."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def measure(program: str, seconds: int, keyed: bool, folder: Path) -> dict[str, Any]:
    """Test a new service, with keys or open on loopback."""
    home = folder / "home"
    home.mkdir(parents=True)
    # Each request names an address of its own, see ``hooks``.
    settings: dict[str, Any] = {"trusted_proxies": "127.0.0.1"} | ({"api_keys": KEY} if keyed else {})
    try:
        with snf_up(home, **settings) as client:
            client.headers["X-API-Key"] = KEY
            prepare(client)
            printed = run_schemathesis(program, client, seconds, folder, KEY if keyed else None)
            alive = client.get("/healthz").status_code == 200
        logs = [path for path in sorted(home.rglob("*")) if path.suffix in {".log", ".jsonl", ".out"}]
        log = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    finally:
        end_all(home)
    (folder / "schemathesis.txt").write_text(printed, encoding="utf-8")
    outcome = read_report(folder / "report.ndjson")
    return {
        "requests": sum(outcome.statuses.values()),
        "statuses": {str(status): outcome.statuses[status] for status in sorted(outcome.statuses)},
        "server_errors": outcome.server_errors,
        "checks": dict(sorted(outcome.checks.items())),
        "failures": outcome.failures,
        "errors": outcome.errors,
        "tracebacks": log.count("Traceback (most recent call last)"),
        "alive": alive,
    }


def passed(found: dict[str, Any]) -> bool:
    """Tell whether a run found nothing wrong."""
    wrong = ("server_errors", "failures", "errors", "tracebacks")
    return found["alive"] and found["requests"] > 0 and not any(found[name] for name in wrong)


def text_of(runs: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = ["| | " + " | ".join(runs) + " |", "|---|" + "---|" * len(runs)]
    for name in ("requests", "server_errors", "failures", "errors", "tracebacks"):
        cells = [found[name] if isinstance(found[name], int) else len(found[name]) for found in runs.values()]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(map(str, cells)) + " |")
    for check in sorted({check for found in runs.values() for check in found["checks"]}):
        lines.append(f"| {check} | " + " | ".join(str(found["checks"].get(check, 0)) for found in runs.values()) + " |")
    for service, found in runs.items():
        lines += [f"\n{service}: {name}\n{text}" for name, text in found["failures"].items()]
        lines += [f"\n{service}: {error}" for error in found["errors"]]
    return "\n".join(lines)


def main() -> int:
    """Test, print and store the results; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="time of both runs together")
    parser.add_argument("--program", help="path of schemathesis; default: that of PATH, or of var/schemathesis")
    parser.add_argument("--keep", type=Path, help="folder for the reports and logs; default: none is kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of contract.json")
    arguments = parser.parse_args()
    installed = shutil.which("schemathesis") or shutil.which(ROOT / "var" / "schemathesis" / "bin" / "schemathesis")
    program = arguments.program or installed
    if program is None:
        end(f"needs schemathesis, which is not on PATH: {INSTALL}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left behind
    described = machine()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="snf-contract-"))
    try:
        runs = {
            name: measure(program, round(30 * arguments.minutes), keyed, folder.resolve() / name)
            for name, keyed in (("open", False), ("keys", True))
        }
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(text_of(runs))
    stored = {"machine": described, "schemathesis": version, "minutes": arguments.minutes, "seed": SEED, **runs}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "contract.json").write_text(json.dumps(stored, indent=1) + "\n")
    return 0 if all(passed(found) for found in runs.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
