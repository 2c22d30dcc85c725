"""Check a running `docker compose up`: scores, jobs, restarts of each container, and that the hardening is in force.

    docker compose up --build --detach --wait
    python3 docker/verify.py

It needs nothing but Python and docker. DC is the command in place of `docker compose`, SNF_PORT the published port.
"""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

COMPOSE = shlex.split(os.environ.get("DC", "docker compose"))
URL = f"http://127.0.0.1:{os.environ.get('SNF_PORT', '8000')}"
DIGIT = Path(__file__).resolve().parents[1] / "tests/data/mnist/00027-4.png"
LOG_LIKELIHOOD, TOLERANCE = -515.77, 0.01
ENDS = ("failed", "partial", "cancelled")
SERVICES = ("api", "worker", "redis")
OTHERS = "-perm /077"
HARDENING = {"ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"], "Privileged": False}


def compose(*words: str, expect: int = 0) -> str:
    """Run a compose command, and return what it prints; its exit code is as expected, or the check ends."""
    done = subprocess.run([*COMPOSE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    check(done.returncode == expect, f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def check(holds: bool, problem: str) -> None:
    """End the program with a sentence unless something holds."""
    if not holds:
        sys.exit(f"FAILED: {problem}")


def call(path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
    """Return the JSON answer of the service; wait up to two minutes while it restarts."""
    end = time.monotonic() + 120
    while True:
        request = urllib.request.Request(URL + path, body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            check(error.code == 503 and time.monotonic() < end, f"{path}: {error.code} {error.read().decode()}")
        except OSError as error:
            check(time.monotonic() < end, f"{path}: {error}")
        time.sleep(1)


def score() -> float:
    """Return the log-likelihood of a digit, which is the same everywhere."""
    answer = call("/v1/models/mnist-snf-glow/score", DIGIT.read_bytes(), "image/png")
    value = float(answer["results"][0]["log_likelihood"])
    check(abs(value - LOG_LIKELIHOOD) < TOLERANCE, f"expected the score {LOG_LIKELIHOOD}, got {value}")
    return value


def train(name: str) -> dict[str, Any]:
    """Train a small model to its end, and return its job."""
    order = {
        "type": "train",
        "dataset": "mnist-mini",
        "preset": "snf-glow-tiny",
        "model": name,
        "parameters": {"max_steps": 2, "validations": 1, "validation_images": 20, "batch_size": 16},
    }
    return ended(call("/v1/jobs", json.dumps(order).encode())["id"])


def ended(job_id: str) -> dict[str, Any]:
    """Return a job when it has succeeded; wait up to ten minutes."""
    end = time.monotonic() + 600
    while True:
        job: dict[str, Any] = call(f"/v1/jobs/{job_id}")
        if job["status"] == "succeeded":
            return job
        check(job["status"] not in ENDS and time.monotonic() < end, f"the job is {job['status']}: {job}")
        time.sleep(1)


def hardening(service: str) -> str:
    """Check the flags of a container, and return them as a line."""
    details = json.loads(subprocess.check_output(["docker", "inspect", *compose("ps", "-q", service).split()]))
    for container in details:
        flags = container["HostConfig"]
        for name, value in HARDENING.items():
            check(flags[name] == value, f"{service}: expected {name} {value}, got {flags[name]}")
        for name in ("Memory", "PidsLimit"):
            check((flags[name] or 0) > 0, f"{service}: expected a limit in {name}, got {flags[name]}")
        check(container["Config"]["User"] not in ("", "root", "0"), f"{service}: it runs as root")
        published = [port["HostIp"] for ports in (flags["PortBindings"] or {}).values() for port in ports]
        check(published == (["127.0.0.1"] if service == "api" else []), f"{service}: it is published on {published}")
    shown = ("ReadonlyRootfs", "CapDrop", "SecurityOpt", "Memory", "PidsLimit")
    return ", ".join(f"{name} {details[0]['HostConfig'][name]}" for name in shown)


def main() -> None:
    """Run all checks; print a line for each, and end with exit code 1 at the first that fails."""
    sys.stdout.reconfigure(line_buffering=True)
    for service in SERVICES:
        print(f"{service}: {hardening(service)}")
    print(f"score: {score()}")
    job = train("verify")
    print(f"job {job['id']}: {job['status']}, model {job['result']['version']}")
    for service in SERVICES:
        compose("restart", service)
        print(f"restart of {service}: score {score()}, job {ended(job['id'])['status']}")
    print(f"a job after all restarts: {train('verify-again')['status']}")
    # Of the container's own files, those of the volumes count: /data of the service and of Redis.
    for service in ("api", "redis"):
        found = compose("exec", "-T", service, "find", "/data", *OTHERS.split(), "!", "-type", "l")
        check(found == "", f"{service}: other users may read {found}")
        count = len(compose("exec", "-T", service, "find", "/data").splitlines())
        print(f"/data of {service}: {count} files and folders, all for their owner alone")
    refused = compose("exec", "-T", "redis", "sh", "-c", "redis-cli -e ping 2>&1", expect=1)
    check("NOAUTH" in refused, f"expected Redis to refuse a call without its password, got {refused}")
    print(f"Redis without its password: {refused}")
    listed = json.loads(compose("exec", "-T", "api", "cat", "/opt/snf/sbom.json"))["components"]
    check({"torch", "fastapi"} <= {part["name"] for part in listed}, "the SBOM misses torch or fastapi")
    print(f"SBOM: {len(listed)} packages")
    print("all checks passed")


if __name__ == "__main__":
    main()
