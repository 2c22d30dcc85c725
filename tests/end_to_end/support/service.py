# ruff: noqa: PLC0415 - a process that starts a service needs none of the product's modules
"""Real processes for the end-to-end tests: a service alone, or everything that `snf up` starts."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.support.compiled_cache import share_compiled
from tests.support.fork_server import Process, fork_server
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.unmeasured import MEASURED

READY_S = 120
MODEL = "digits"
MNIST = "mnist-snf-glow"
"""The shipped model of digits."""


def environment(home: Path, *, shipped: bool | str = True, measured: bool = False, **changes: Any) -> dict[str, str]:
    """The variables of a process of ours, whose home shares what is compiled; of those around what is not ours."""
    share_compiled(home)
    foreign = {"REDIS_URL"} if measured else {"REDIS_URL", MEASURED}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SNF_") and k not in foreign}
    own: dict[str, Any] = {"home": home, "nice": 0}
    if shipped is not True:
        own["shipped_models"] = _shipped_models(home, shipped)
    return clean | {f"SNF_{k.upper()}": str(v) for k, v in (own | changes).items()}


def _shipped_models(home: Path, only: str | Literal[False]) -> Path:
    """A folder of that shipped model alone; with False, one that does not exist."""
    if only is False:
        return home / "none"
    folder = home / "shipped"
    folder.mkdir(exist_ok=True)
    if not (folder / only).exists():
        (folder / only).symlink_to(ROOT / "models" / "snf_models" / "zoo" / only)
    return folder


def snf(home: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command of `snf` in this process, which has loaded already what takes a new one seconds."""
    import torch
    from typer.testing import CliRunner

    from snf_app.cli.main import cli

    variables = {**dict.fromkeys(os.environ), **environment(home, **settings)}
    threads = torch.get_num_threads()
    done = CliRunner().invoke(cli, arguments, env=variables, catch_exceptions=False)
    torch.set_num_threads(threads)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def snf_process(home: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command of `snf` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "snf_app.cli.main", *arguments],
        cwd=ROOT,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def installed(artifact: Path) -> Iterator[Path]:
    """A new `SNF_HOME` that has the artifact."""
    from snf_models.registry.registry import Registry

    home = Path(tempfile.mkdtemp(prefix="snf-home-"))
    Registry(home / "registry").publish(artifact, MODEL)
    yield home
    shutil.rmtree(home)


@contextmanager
def running(*arguments: str, home: Path, forked: bool = False, **changes: Any) -> Iterator[httpx.Client]:
    """Runs `python -m ...` until the block ends, then asks it to stop and checks that it does so cleanly.

    Args:
        arguments: The module and its arguments.
        home: Its `SNF_HOME`.
        forked: Whether it is forked: it starts with a fifth of the work, but cannot be found by its command line.
        changes: Settings, and those of `environment`.
    """
    port = free_port()
    log = home / f"{arguments[0]}.log"
    variables = environment(home, port=port, **changes)
    with log.open("ab") as output:
        command = [sys.executable, "-m", *arguments]
        start = fork_server().popen if forked else subprocess.Popen
        process = start(command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            await_ready(client, process, log)
            yield client
            assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def serving(home: Path, **changes: Any) -> AbstractContextManager[httpx.Client]:
    """Runs a service alone, forked, until the block ends."""
    return running("snf_app.server", home=home, forked=True, **changes)


def await_ready(client: httpx.Client, process: Process, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        if answers(client):
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {READY_S} s:\n{log.read_text()}")


def answers(client: httpx.Client) -> bool:
    """Whether a service is ready."""
    with suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def files(*paths: Path) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("images", (path.name, path.read_bytes(), "image/png")) for path in paths]


def score_one(client: httpx.Client, ref: str, data: bytes, **query: Any) -> float:
    answer = client.post(f"/v1/models/{ref}/score", params=query, content=data, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    value: float = answer.json()["results"][0]["log_likelihood"]
    return value


def await_job(client: httpx.Client, job_id: str, *statuses: str, seconds: float = 240) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["status"] in statuses:
            return job
        assert job["status"] not in {"failed", "succeeded", "partial", "cancelled"}, job
        time.sleep(0.3)
    raise AssertionError(f"job {job_id} did not get to {statuses} in {seconds} s: {job}")
