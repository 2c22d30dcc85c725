"""A real Valkey server a module, and settings with short times."""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from worker.broker import EmbeddedBroker, redis_client
from worker.jobs import Job, new_job_id
from worker.settings import Settings
from worker.store import JobStore
from worker.supervisor import Supervisor

STAND_IN = Path(__file__).with_name("stand_in_trainer.py")


def stand_in_command(folder: Path) -> list[str]:
    return [sys.executable, str(STAND_IN), str(folder)]


def until(condition: Callable[[], Any], seconds: float = 60.0, every: float = 0.05) -> Any:
    """The first true answer of `condition`; fails the test where there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(every)
    pytest.fail(f"still not true after {seconds} s: {condition}")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="snf-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("SNF_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    # The supervisor's children import the package from the tree.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return Settings(
        home=home,
        runtime_dir=home / "run",
        lease_seconds=3,
        heartbeat_seconds=0.5,
        reconcile_seconds=0.5,
        dispatch_seconds=1,
        stop_grace_seconds=5,
        train_threads=1,
    )


@pytest.fixture
def broker(settings: Settings) -> Iterator[EmbeddedBroker]:
    server = EmbeddedBroker(settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(settings: Settings, broker: EmbeddedBroker) -> JobStore:
    return JobStore(redis_client(settings), settings.key_prefix)


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


@pytest.fixture
def supervisor(store: JobStore, settings: Settings, stopping: threading.Event) -> Supervisor:
    return Supervisor(store, settings, stopping, command=stand_in_command)


def new_job(behave: str = "succeed", **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "id": new_job_id(),
        "model": "digits",
        "dataset": "mnist-mini",
        "preset": "snf-glow-tiny",
        "parameters": {"behave": behave},
        "created_at": datetime.now(UTC),
    }
    return Job(**(fields | changes))


@pytest.fixture
def add(store: JobStore) -> Callable[..., Job]:
    """Makes a queued job whose stand-in trainer behaves as asked."""

    def make(behave: str = "succeed", **changes: Any) -> Job:
        return store.create(new_job(behave, **changes))[0]

    return make
