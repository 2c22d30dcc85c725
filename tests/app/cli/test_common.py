"""What commands do on the way out."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.cli.common import error_messages, fail
from app.cli.main import cli
from snf_runtime.judged_counts import USAGE
from tests.client.scripted_server import scripted


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

    monkeypatch.setattr("app.cli.model_files.bytes_bar", bytes_bar)
    with scripted() as server:
        done = CliRunner().invoke(cli, ["models", "import", "first", str(file), "--url", server.url])
    assert done.exit_code == USAGE
    assert f"snf: {file} became shorter while it was read; send the files again\n" in done.stderr
