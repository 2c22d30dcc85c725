"""What commands do on the way out."""

import sys

import pytest
import typer

from app.cli.common import error_messages, fail
from snf_runtime.judged_counts import USAGE


def test_a_command_that_failed_does_not_wait_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """``typer.Exit`` is a ``RuntimeError``, as the one of a GPU without memory is."""
    monkeypatch.setitem(sys.modules, "torch", None)  # any import of it fails
    with pytest.raises(typer.Exit), error_messages():
        raise fail("no such file", USAGE)
