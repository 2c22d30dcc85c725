"""A data folder that cannot be used is a wrong usage: a sentence, no traceback, exit code 2."""

import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from snf_app.cli import main
from snf_runtime.errors import FAILED, USAGE
from tests.support.disks import refuse_writes
from tests.support.paths import DIGITS

WRITING = [
    "up",
    "serve",
    "worker",
    "train --data mnist-mini --set max_steps=1",
    "recommend mnist-mini",
    "limit mnist-snf-glow",
    "keys create bob --role read",
    "keys rotate bob",
    "keys revoke bob",
]
READING = ["models", "datasets", "keys list", "worker --check", f"score {DIGITS[0]}", "sample"]


def run(command: str, home: Path) -> tuple[int, str]:
    variables = {**{name: None for name in os.environ if name.startswith("SNF_")}, "SNF_HOME": str(home)}
    done = CliRunner().invoke(main.cli, command.split(), env=variables)
    return done.exit_code, done.stderr


@pytest.mark.parametrize("command", [*WRITING, *READING])
def test_a_file_is_no_home(command: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("no folder")
    assert run(command, home) == (USAGE, f"snf: SNF_HOME: expected a folder, got {home}: {home} is a file\n")


@pytest.mark.parametrize("command", WRITING)
def test_a_home_that_cannot_be_written(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)  # root may write everywhere
    reason = f"expected a folder that can be written, got {tmp_path}: this user has no right to"
    assert run(command, tmp_path) == (USAGE, f"snf: SNF_HOME: {reason}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "title"),
    [
        (errno.ENOSPC, FAILED, "There is no room on the disk"),
        (errno.EROFS, USAGE, "The disk cannot be written"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_no_writes(
    number: int, code: int, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writes(monkeypatch, number)
    command = "models alias mnist-snf-glow champion 1"
    ended, message = run(command, tmp_path)
    assert (ended, message.startswith(f"snf: {title}: "), message.endswith(f"{os.strerror(number)}\n")) == (
        code,
        True,
        True,
    )


def test_a_full_disk_under_a_whole_installation_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/home/snf/logs")

    monkeypatch.setattr(main, "cli", full)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == FAILED
    expected = "snf: There is no room on the disk: [Errno 28] No space left on device: '/home/snf/logs'\n"
    assert capsys.readouterr().err == expected
