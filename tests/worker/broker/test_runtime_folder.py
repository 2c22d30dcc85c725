"""The runtime folder: whose it must be, for which parts, and when it ends."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snf_worker.broker.connection import redis_client, runtime_folder_in_use
from snf_worker.broker.embedded import EmbeddedBroker
from snf_worker.errors import BrokerStartFailed
from snf_worker.jobs.events import ChangeReader
from snf_worker.jobs.submission import make_celery
from snf_worker.settings import Settings
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.programs import PROGRAM, run_module, run_program

Spoil = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture
def derived(settings: Settings) -> Iterator[Settings]:
    """Settings whose runtime folder follows from the home."""
    plain = settings.model_copy(update={"runtime_dir": None})
    yield plain
    with contextlib.suppress(FileNotFoundError):
        plain.runtime_folder.rmdir()


def foreign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: uid + 1)


def writable(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def link(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def file(folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    folder.touch(mode=0o600)


SPOILED = [(foreign, "another user"), (writable, "mode 770"), (link, "symbolic link"), (file, "is a file")]
PARTS: dict[str, Callable[[Settings], object]] = {
    "broker": lambda settings: EmbeddedBroker(settings).start(timeout=5),
    "commands, attempts and job store": redis_client,
    "queue": make_celery,
    "event streams": ChangeReader,
    "launcher, service and worker": lambda settings: contextlib.ExitStack().enter_context(
        runtime_folder_in_use(settings)
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
@pytest.mark.parametrize("part", PARTS)
def test_each_part_refuses_a_folder_that_others_may_change(
    part: str, spoil: Spoil, reason: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=home, runtime_dir=home / "run")
    spoil(settings.runtime_folder, monkeypatch)
    with pytest.raises(BrokerStartFailed, match=f"{reason}.*SNF_RUNTIME_DIR"):
        PARTS[part](settings)


def refused(settings: Settings, *commands: list[str]) -> list[str]:
    """What commands say that end with exit code 3, in one process, a fork."""
    program = settings.home / "commands.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, **settings.environment(), "SNF_PORT": str(free_port())}
    done = run_program(program, json.dumps(commands), cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [said.splitlines()[-1] for said in done.stderr.split("ended with 3\n")[:-1]]


def test_commands_say_so_in_a_sentence(settings: Settings) -> None:
    writable(settings.runtime_folder, pytest.MonkeyPatch())
    commands = ["up"], ["serve"], ["worker"], ["worker", "--check"]
    sentences = refused(settings, *commands)
    assert len(sentences) == len(commands)
    assert all("mode 770" in sentence for sentence in sentences), sentences


def test_the_launcher_starts_nothing_beside_the_broker_of_another_installation(
    broker: EmbeddedBroker, settings: Settings, home: Path
) -> None:
    other = settings.model_copy(update={"home": home / "other"})
    environment = {**os.environ, **other.environment(), "SNF_PORT": str(free_port())}
    done = run_module("snf_app.cli.main", "up", cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == 3
    assert str(home / "broker") in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert broker.alive()
    assert not list(other.logs_dir.glob("*.out")), "no child process has started"


def test_the_last_process_removes_it(derived: Settings) -> None:
    folder = derived.runtime_folder
    with runtime_folder_in_use(derived):
        with runtime_folder_in_use(derived):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.exists()
    assert not folder.exists()


def test_it_stays_while_there_is_a_socket_and_where_it_was_chosen(derived: Settings, settings: Settings) -> None:
    with runtime_folder_in_use(derived):
        (derived.runtime_folder / "broker.sock").touch()
    assert derived.runtime_folder.exists()
    (derived.runtime_folder / "broker.sock").unlink()
    with runtime_folder_in_use(settings):
        pass
    assert settings.runtime_folder.exists()


def test_another_server_needs_no_folder(derived: Settings) -> None:
    with runtime_folder_in_use(derived.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})):
        assert not derived.runtime_folder.exists()


def test_an_old_socket_in_a_foreign_folder_does_not_stop_the_broker(home: Path, settings: Settings) -> None:
    old = home / "old"
    writable(old, pytest.MonkeyPatch())
    (home / "broker").mkdir()
    (home / "broker" / "socket").write_text(str(old / "broker.sock"))
    broker = EmbeddedBroker(settings)
    assert broker.start() == "started"
    broker.stop()
