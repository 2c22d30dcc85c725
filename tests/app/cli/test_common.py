"""What commands do on the way out."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from snf_app.cli.common import INTERRUPTED, error_messages, fail
from snf_app.cli.main import cli
from snf_runtime.errors import FAILED, USAGE
from tests.app.conftest import shipped_detail
from tests.client.scripted_server import Answer, scripted
from tests.support.paths import DIGITS, ROOT
from tests.support.programs import in_turn, interruptible


def test_a_command_that_failed_does_not_wait_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """``typer.Exit`` is a ``RuntimeError``, as the one of a GPU without memory is."""
    monkeypatch.setitem(sys.modules, "torch", None)  # any import of it fails
    with pytest.raises(typer.Exit), error_messages():
        raise fail("no such file", USAGE)


@pytest.mark.usefixtures("own_home")
def test_a_file_that_becomes_shorter_while_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.tar"
    file.write_bytes(bytes(300_000))

    def bytes_bar(*_labels: str) -> nullcontext[Callable[[int, int], None]]:
        return nullcontext(lambda _done, _total: os.truncate(file, 100_000))

    monkeypatch.setattr("snf_app.cli.model_files.bytes_bar", bytes_bar)
    with scripted() as server:
        done = CliRunner().invoke(cli, ["models", "import", "first", str(file), "--url", server.url])
    assert done.exit_code == USAGE
    assert f"snf: {file} became shorter while it was read; send the files again\n" in done.stderr


@pytest.mark.usefixtures("own_home", "unmeasured_processes")
@pytest.mark.parametrize(
    ("command", "buffered"),
    [
        (["keys", "list", "--json"], True),
        (["keys", "list", "--json"], False),
        (["--help"], False),
        (["score", str(DIGITS[0])], False),
    ],
)
def test_output_that_nobody_reads_is_no_anomaly(command: list[str], buffered: bool) -> None:
    """Python's own codes are 1, if a write fails, and 120, if the last one does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", "snf_app.cli.main", *command]
    done = subprocess.run(
        line, cwd=ROOT, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(write)
    assert done.returncode == FAILED, done.stderr
    assert "Exception" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("own_home")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full, a file on a full disk")
def test_a_full_disk_below_short_output(capfd: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "snf_app.cli.main", "keys", "list", "--json"]
        assert subprocess.run(line, cwd=ROOT, stdout=full, timeout=120, check=False).returncode == FAILED
    assert capfd.readouterr().err == "snf: There is no room on the disk: [Errno 28] No space left on device\n"


@pytest.mark.usefixtures("own_home", "unmeasured_processes")
def test_an_interrupted_command_does_not_wait_for_the_service() -> None:
    model = shipped_detail().model_dump(mode="json")
    asked, released = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        released.wait()

    with scripted(Answer(body=model), Answer(before=hold)) as server:
        line = interruptible("-m", "snf_app.cli.main", "score", str(DIGITS[0]), "--url", server.url)
        with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert asked.wait(60)
                process.send_signal(signal.SIGINT)
                told = process.communicate(timeout=20)[1]
            finally:
                process.kill()
                released.set()
    assert (process.returncode, told) == (INTERRUPTED, "")


@pytest.mark.usefixtures("own_home", "unmeasured_processes")
def test_a_name_that_the_terminal_cannot_show_costs_no_result(tmp_path: Path) -> None:
    image, table = tmp_path / "stück 图.png", tmp_path / "wörter.csv"
    image.write_bytes(DIGITS[0].read_bytes())
    commands = [["score", str(image), *options] for options in ([], ["--json"], ["--out", str(table)])]
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(in_turn(*commands), cwd=ROOT, env=environment, capture_output=True, timeout=120, check=True)
    assert done.stderr == b"1 image judged, 0 anomalies, 0 not judged\nended with 0\n" * 3
    _, shown, _ = done.stdout.split(b"ended with 0\n", 2)
    assert json.loads(shown)["results"][0]["filename"] == str(image)
    assert str(image) in table.read_text(encoding="utf-8")
