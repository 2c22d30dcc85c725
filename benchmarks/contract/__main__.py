"""The service against its own OpenAPI document: ``python -m benchmarks.contract [--minutes 10] [--program PATH]``.

``snf up`` runs twice, open on loopback and with keys. Each time schemathesis makes up requests from the OpenAPI
document for half of the time, valid ones and others, and checks every answer against the document. What is checked, and
what is not and why, is in ``schemathesis.toml`` of this folder. It passes where schemathesis finds no failure and no
traceback is in the service's log.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, machine, parser_of, write_results
from benchmarks.installation import PatientClient, snf_up, temporary_home, until
from benchmarks.needs import end

CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "contract-benchmark-0123456789abcdef"
SEED = 1
GRACE_S = 120
"""Time that schemathesis may take beyond its own limit, for the last requests and its report."""
PATIENCE_S = 600
NOT_CHECKED = ("max_response_time", "ignored_object_permissions")
"""Other benchmarks measure times, and keys have roles in place of objects of their own."""
INSTALL = "python -m venv var/schemathesis && var/schemathesis/bin/pip install 'schemathesis>=4.32,<5'"


def prepare(client: PatientClient) -> None:
    """Give a new service what requests can ask about; ``schemathesis.toml`` has the names."""
    client.timeout = PATIENCE_S
    images = np.random.default_rng(SEED).integers(0, 256, (40, 28, 28), np.uint8)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, images)
    np.savez(npz, images=images)
    packed = client.get("/v1/models/mnist-snf-glow/artifact").raise_for_status().content
    for path, content, kind in (
        *[("/v1/models?name=my-digits", packed, "application/x-tar")] * 2,
        ("/v1/models/my-digits/score?source=line-1", npy.getvalue(), "application/x-npy"),
    ):
        client.post(path, content=content, headers={"Content-Type": kind}).raise_for_status()
    file = {"file": ("bottles.npz", npz.getvalue())}
    client.post("/v1/datasets", data={"name": "bottles"}, files=file).raise_for_status()
    few = {"max_steps": 20, "batch_size": 8, "validations": 1, "validation_images": 8, "fit": "stretch"}
    train = {"type": "train", "dataset": "mnist-mini", "model": "any-size", "preset": "snf-glow-tiny"}
    requests: tuple[dict[str, Any], ...] = (
        train | {"parameters": few, "promote": True},
        {"type": "score", "dataset": "bottles", "model": "my-digits"},
    )
    jobs = [client.submit(request, request["type"]) for request in requests]
    until("end of the jobs", PATIENCE_S, lambda: all(client.document(f"/v1/jobs/{job}")["finished_at"] for job in jobs))


def measure(program: str, seconds: int, keyed: bool) -> dict[str, Any]:
    """Test a new service, with keys or open on loopback."""
    with temporary_home("contract") as home:
        # Each request names an address of its own, see ``hooks``.
        settings: dict[str, Any] = {"trusted_proxies": "127.0.0.1"} | ({"api_keys": KEY} if keyed else {})
        with snf_up(home, **settings) as client:
            client.headers["X-API-Key"] = KEY
            prepare(client)
            command = [program, "--config-file", str(CONFIG), "run", f"{client.base_url}/openapi.json", "--no-color"]
            command += ["--max-time", str(seconds), "--seed", str(SEED), "--exclude-checks", ",".join(NOT_CHECKED)]
            command += ["--header", f"X-API-Key: {KEY}"] if keyed else []
            variables, limit = os.environ | {"PYTHONPATH": str(ROOT)}, seconds + GRACE_S
            done = subprocess.run(
                command, cwd=home, env=variables, capture_output=True, text=True, timeout=limit, check=False
            )
            alive = client.get("/healthz").status_code == 200
        logs = [path for path in sorted(home.rglob("*")) if path.suffix in {".log", ".jsonl", ".out"}]
        log = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    print(done.stdout, done.stderr, flush=True)
    tracebacks = log.count("Traceback (most recent call last)")
    passed = alive and done.returncode == 0 and not tracebacks
    summary = done.stdout[done.stdout.rfind("SUMMARY") :].splitlines()
    return {"passed": passed, "exit_code": done.returncode, "tracebacks": tracebacks, "summary": summary}


def main() -> int:
    """Test, print and store the results; 1 where something is wrong."""
    parser = parser_of("contract", __doc__)
    parser.add_argument("--minutes", type=float, default=10, help="time of both runs together")
    parser.add_argument("--program", help="path of schemathesis; default: that of PATH, or of var/schemathesis")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of contract.json")
    arguments = parser.parse_args()
    installed = shutil.which("schemathesis") or shutil.which(ROOT / "var" / "schemathesis" / "bin" / "schemathesis")
    program = arguments.program or installed
    if program is None:
        end(f"needs schemathesis, which is not on PATH: {INSTALL}")
    described = {"machine": machine(), "minutes": arguments.minutes, "seed": SEED}
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    runs = {
        name: measure(program, round(30 * arguments.minutes), keyed)
        for name, keyed in (("open", False), ("keys", True))
    }
    write_results(arguments.out, "contract", described | {"schemathesis": version, **runs})
    return 0 if all(found["passed"] for found in runs.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
