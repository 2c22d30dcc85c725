"""Story: every error that docs/errors.md lists, provoked in a real service over HTTP and read by the Python client.

    python examples/stories/backend.py [--only TYPE]

Starts services of its own with small limits, in a temporary folder, so it needs none that runs. Each answer is compared
with the page: status, type, the members of its body, and the exception of the client.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from backend_errors import LIMITS, PNG, SCORE, Answer, png, provocations, submit, upload

from snf_client import Client, Conflict, InvalidRequest, NotFound, ProblemError
from snf_client.errors import problem_of

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
ROW = re.compile(r"^\| +(\d+) \| `([a-z-]+)` \| .+ \| `(\w+)` \|$", re.MULTILINE)
NOT_PROVOKED = {
    "too-long-expected": "needs an earlier training of the same kind",
    "out-of-memory-expected": "needs an earlier training of the same kind that took more memory than there is",
    "model-failed": "needs a model that is whole and cannot be loaded",
    "storage-read-only": "needs a disk that is mounted read-only",
    "upload-cut-off": "the caller who cuts off an upload gets no answer",
    "draining": "only within the moment in which a service stops",
    "too-many-files": "needs a form of more files than one should send in an example",
    "too-many-pixels": "needs a model that resizes images or keeps their size, and the shipped ones do neither",
    "samples-unsupported": "needs a model of features, and so a backbone",
    "dataset-too-large": "needs an upload of more pixels than the service may hold",
    "near-duplicate": "stands in the report of an upload, by a file that was left out",
    "reading-limit": "needs an upload that takes a minute to read",
    "size-not-calibrated": "needs a model of tiles, and so a backbone",
    "score-not-finite": "no file is known for which the shipped models overflow",
    "file-not-in-model": "needs a model of an early version, without a card",
    "reading-failed": "only where the system kills the process that reads an upload",
    "queue-full": "depends on what the machine scores within milliseconds; benchmarks.overload provokes it",
    "too-many-aliases": "needs a hundred aliases of one model",
    "location-unavailable": "needs an object store that does not answer",
    "result-at-output": "needs SNF_ALLOWED_LOCATIONS, and a scoring that has written there",
    "file-changed": "only for a file that changes while it is indexed",
    "unsuitable-column": "needs a Parquet file at a location that callers may name",
    "internal-error": "would be a fault of the service",
}
"""Errors that this program does not provoke, and why."""


@contextmanager
def service(home: Path, command: str, **settings: str) -> Iterator[httpx.Client]:
    """Run ``snf up`` or ``snf serve`` until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SNF_") and name != "REDIS_URL"}
    own = {"SNF_HOME": str(home), "SNF_PORT": str(port), **settings}
    with (home / "output").open("wb") as output:
        words = [sys.executable, "-m", "snf_app.cli.main", command]
        process = subprocess.Popen(words, env=clean | own, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            for _ in range(600):
                assert process.poll() is None, (home / "output").read_text()
                try:
                    http.get("/healthz")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def await_job(http: httpx.Client, job: str, *status: str) -> None:
    """Wait until a job has one of the given states."""
    deadline = time.monotonic() + 180
    while (view := http.get(f"/v1/jobs/{job}").json())["status"] not in status:
        assert time.monotonic() < deadline, view
        time.sleep(0.3)


def with_models(http: httpx.Client, home: Path) -> dict[str, Callable[[], Answer]]:
    """Train a model of exact dense layers in one step, and return the calls that it and a damaged copy refuse."""
    few = {"max_steps": 1, "validations": 1, "validation_images": 20, "batch_size": 16}
    job = submit(http, model="hasty", preset="exact-fc-2l", parameters=few).json()["id"]
    await_job(http, job, "succeeded")
    one = "/v1/models/hasty:1"

    def damage() -> Answer:
        shutil.copytree(home / "registry" / "hasty", home / "registry" / "damaged")
        (home / "registry" / "damaged" / "1" / "weights.safetensors").write_bytes(b"damaged")
        return http.post("/v1/models/damaged:1/score", content=png(), headers=PNG)

    def delete_live() -> Answer:
        http.put("/v1/models/hasty/aliases/champion", json={"version": 1}).raise_for_status()
        return http.delete("/v1/models/hasty/versions/1")

    return {
        "damaged-artifact": damage,
        "no-live-version": lambda: http.get("/v1/models/hasty"),
        "no-learned-inverse": lambda: http.get(f"{one}/samples", params={"inverse": "learned", "n": 1}),
        "explain-unsupported": lambda: http.post(f"{one}/score", params={"explain": True}, content=png(), headers=PNG),
        "version-in-use": delete_live,
    }


def with_keys(http: httpx.Client, home: Path) -> dict[str, Callable[[], Answer]]:
    """Create a key with limits, and return the calls that are refused from then on."""
    words = "keys create line-1 --role score --requests 3/hour --images 1/hour"
    created = subprocess.run(
        [sys.executable, "-m", "snf_app.cli.main", *words.split()],
        env=os.environ | {"SNF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    key = {"x-api-key": created.stdout.split()[0]}
    time.sleep(1.5)  # within a second the service notices

    def damage() -> Answer:
        (home / "keys.json").write_text("damaged")
        time.sleep(1.5)
        return http.get("/v1/me", headers=key)

    return {
        "unauthorized": lambda: http.get("/v1/me"),
        "insufficient-role": lambda: http.delete("/v1/datasets/cells", headers=key),
        "larger-than-rate-limit": lambda: http.post(SCORE, files=[("images", png())] * 2, headers=key),
        "rate-limited": lambda: [http.get("/v1/me", headers=key) for _ in range(4)][-1],
        "too-many-wrong-keys": lambda: [http.get("/v1/me", headers={"x-api-key": "wrong"}) for _ in range(12)][-1],
        "keys-unreadable": damage,
    }


def check(name: str, answer: Answer, documented: dict[int, str]) -> str | None:
    """Return what is wrong with an answer, or None.

    Args:
        name: The expected type.
        answer: The answer of the service.
        documented: What the client raises, by status.
    """
    raised = documented.get(answer.status_code)
    body = answer.json()
    problem = problem_of(answer)
    wrong = [
        f"{what}: expected {expected!r}, got {got!r}"
        for what, expected, got in (
            ("status", True, answer.status_code in documented),
            ("type", name, body.get("type")),
            ("client", raised, type(problem).__name__),
            ("members", True, {"type", "title", "detail", "status", "instance"} <= body.keys()),
            ("client's detail", body.get("detail"), problem.detail),
            ("Retry-After", True, answer.status_code not in (429, 503) or problem.retry_after is not None),
        )
        if expected != got
    ]
    return "; ".join([*wrong, str(body)[:300]]) if wrong else None


def client_raises(url: str) -> None:
    """Check that calls of the client itself raise these exceptions."""
    calls: list[tuple[type[ProblemError], Callable[[Client], object]]] = [
        (NotFound, lambda client: client.models.get("nobody")),
        (Conflict, lambda client: client.datasets.delete("mnist-mini")),
        (InvalidRequest, lambda client: client.score("mnist-snf-glow", png(), alpha=1e-9)),
    ]
    with Client(url) as client:
        for expected, call in calls:
            try:
                call(client)
            except ProblemError as error:
                assert type(error) is expected, error  # noqa: PT017 - a program, no test
            else:
                raise AssertionError(f"expected {expected.__name__}")


def main() -> None:
    """Provoke, compare, print and check the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="type of a problem")
    options = parser.parse_args()
    documented: dict[str, dict[int, str]] = {}
    for status, name, raised in ROW.findall(PAGE.read_text(encoding="utf-8")):
        documented.setdefault(name, {})[int(status)] = raised
    provoked: dict[str, str | None] = {}

    def provoke(calls: dict[str, Callable[[], Answer]]) -> None:
        for name, call in calls.items():
            if options.only in (None, name):
                try:
                    answer = call()
                except (httpx.TransportError, ValueError, LookupError) as error:
                    provoked[name] = f"{type(error).__name__}: {error}"
                    continue
                provoked[name] = check(name, answer, documented[name])
                print(f"{answer.status_code} {name}: {answer.json().get('detail')}"[:150], flush=True)

    with tempfile.TemporaryDirectory() as work:
        home, other = Path(work) / "a", Path(work) / "b"
        home.mkdir()
        other.mkdir()
        with service(home, "up", **LIMITS) as http:
            upload(http, "cells", 20).raise_for_status()
            client_raises(str(http.base_url))
            provoke(with_models(http, home))
            # No worker here has such a device, so the job waits until it is cancelled.
            job = submit(http, dataset="cells", device="cuda").json()["id"]
            provoke(provocations(http, job))
            http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
            provoke(with_keys(http, home))
        unable = {
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "SNF_DATASET_QUOTA_BYTES": "0",
            "SNF_SHIPPED_MODELS": str(other / "none"),  # neither call needs a model
        }
        with service(other, "serve", **unable) as http:
            provoke(
                {"jobs-unavailable": lambda: http.get("/v1/jobs"), "storage-full": lambda: upload(http, "cells", 20)}
            )

    right = [name for name, wrong in provoked.items() if wrong is None]
    print()
    for name, reason in NOT_PROVOKED.items():
        print(f"not provoked: {name}: {reason}")
    for name, wrong in provoked.items():
        if wrong is not None:
            print(f"WRONG: {name}: {wrong}")
    print(f"{len(right)} of {len(documented)} documented errors provoked, {len(NOT_PROVOKED)} not")
    assert options.only or provoked.keys() | NOT_PROVOKED.keys() == documented.keys(), documented.keys() ^ (
        provoked.keys() | NOT_PROVOKED.keys()
    )
    assert len(right) == len(provoked)


if __name__ == "__main__":
    main()
