"""Real servers, Valkey or Redis, and settings with short times."""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from snf_worker.broker.connection import redis_client
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.jobs.record import Job
from snf_worker.jobs.store import JobStore
from snf_worker.jobs.submission import make_celery
from snf_worker.jobs.submission import submit as submit_job
from snf_worker.runtime.supervisor import Supervisor
from snf_worker.settings import Settings
from tests.support.compiled_cache import share_compiled
from tests.support.fork_server import Process, fork_server
from tests.support.paths import IMPORT_PATH, ROOT
from tests.worker.support.helpers import Start, Submit, fake_command, new_job
from tests.worker.support.redis_server import RedisServer, redis_settings


@pytest.fixture
def home() -> Iterator[Path]:
    folder = share_compiled(Path(tempfile.mkdtemp(prefix="snf-test-")))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="snf-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_server(shared_folder: Path) -> Iterator[Callable[[str, Settings], None]]:
    """Starts the shared server of a kind at its first use."""
    servers: dict[str, EmbeddedBroker | RedisServer] = {}

    def ensure(kind: str, settings: Settings) -> None:
        if kind not in servers:
            at = settings.model_copy(update={"home": shared_folder})
            server = RedisServer(at) if kind == "redis" else EmbeddedBroker(at)
            server.start()
            servers[kind] = server

    yield ensure
    for server in servers.values():
        server.stop()


@pytest.fixture
def server() -> str:
    """`valkey`, the embedded one, or `redis`; a module whose tests hold for both overrides this."""
    return "valkey"


@pytest.fixture
def settings(
    home: Path, shared_folder: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    for name in [name for name in os.environ if name.startswith("SNF_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    # The supervisor's children import the package from the tree.
    monkeypatch.setenv("PYTHONPATH", IMPORT_PATH)
    shared = "served" in request.fixturenames and "broker" not in request.fixturenames
    at = shared_folder if shared else home
    settings = Settings(
        home=home,
        runtime_dir=at / "run",
        key_prefix=f"{home.name.lower().replace('_', '-')}:" if shared else "snf:",
        lease_seconds=3,
        heartbeat_seconds=0.5,
        reconcile_seconds=0.5,
        dispatch_seconds=1,
        stop_grace_seconds=5,
        train_threads=1,
    )
    return redis_settings(settings, at) if server == "redis" else settings


@pytest.fixture
def broker(settings: Settings) -> Iterator[EmbeddedBroker | RedisServer]:
    broker: EmbeddedBroker | RedisServer = RedisServer(settings) if settings.redis_url else EmbeddedBroker(settings)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def served(
    request: pytest.FixtureRequest, settings: Settings, server: str, shared_server: Callable[[str, Settings], None]
) -> None:
    """A server runs: that of `broker` where the test asks for it, else the shared one."""
    if "broker" in request.fixturenames:
        request.getfixturevalue("broker")
    else:
        shared_server(server, settings)


@pytest.fixture
def store(settings: Settings, served: None) -> JobStore:
    return JobStore(redis_client(settings), settings.key_prefix)


@pytest.fixture
def stopping() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()  # a test that failed leaves no trainer behind


@pytest.fixture
def supervisor(store: JobStore, settings: Settings, stopping: threading.Event) -> Supervisor:
    return Supervisor(store, settings, stopping, command=fake_command)


@pytest.fixture
def add(store: JobStore) -> Callable[..., Job]:
    """Makes a queued job whose fake trainer behaves as asked."""

    def make(behave: str = "succeed", **changes: Any) -> Job:
        return store.create(new_job(behave, **changes))[0]

    return make


@pytest.fixture
def start(settings: Settings, served: None, home: Path) -> Iterator[Start]:
    """Starts workers, which are forked; those still alive at the end are killed."""
    started = []

    def go(module: str = "tests.worker.support.fake_worker", arguments: Sequence[str] = (), **changes: Any) -> Process:
        with (home / f"worker-{len(started)}.txt").open("wb") as output:
            worker = fork_server().popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                env={**os.environ, **settings.model_copy(update=changes).environment()},
                cwd=ROOT,
            )
        started.append(worker)
        return worker

    yield go
    for worker in started:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


@pytest.fixture
def submit(settings: Settings, store: JobStore) -> Submit:
    celery = make_celery(settings)

    def go(behave: str, **more: Any) -> Job:
        return submit_job(store, celery, new_job(behave), **more)

    return go
