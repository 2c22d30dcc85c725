"""A child process whose restart fails for a time, and whose output grows."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snf_worker.runtime import child_process
from snf_worker.runtime.child_process import ChildProcess, stop_all
from snf_worker.settings import Settings
from tests.support.ports import free_port
from tests.worker.support.helpers import until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    settings = Settings(home=tmp_path, port=free_port(), host="127.0.0.1")
    process = ChildProcess("service", "tests.worker.support.fake_service", settings)
    yield process
    stop_all([process], 0)


def test_a_restart_that_fails_is_tried_again(child: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(child_process, "_LONGEST_PAUSE_S", 0.0)
    child.start()
    before = child.pid
    assert before is not None
    os.kill(before, 9)
    said: list[str] = []

    def restarted() -> bool:
        said.extend(filter(None, [child.restart_if_dead()]))
        return bool(said)

    until(restarted)
    assert said.pop().startswith("service ended by SIGKILL")

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    files = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as lack:
        lack.setattr(subprocess, "Popen", refused)
        for _ in range(3):
            text = child.restart_if_dead()
            assert text == "service cannot be started: Resource temporarily unavailable; trying again in 0 s"
    assert len(list(Path("/dev/fd").iterdir())) == files
    assert child.restart_if_dead() == "service started again"
    assert child.pid not in (None, before)


def test_output_is_emptied_when_it_is_large(child: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_LARGEST_OUTPUT", 100)
    child.start()
    output = child.settings.logs_dir / "service.out"
    output.write_bytes(b"x" * 100)
    assert child.restart_if_dead() is None
    assert output.stat().st_size == 100
    output.write_bytes(b"x" * 101)
    assert child.restart_if_dead() is None
    assert output.stat().st_size == 0
