# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Checks and writing of files named with ``--out``, which are not silently written over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from snf_app.cli.common import error_messages, fail
from snf_runtime.judged_counts import USAGE
from snf_worker.process_setup import user_umask

Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there and holds something else.")]
ADVICE = "choose another name, or write over it with --force"


def check_place(out: Path, endings: Sequence[str]) -> None:
    """Exit with code 2 unless ``out`` has one of the endings and its folder exists."""
    if out.suffix not in endings:
        expected = " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))
        raise fail(f"--out: expected a file that ends in {expected}, got {out}", USAGE)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise fail(f"--out: expected a file in a folder that exists, got {out}; create the folder first", USAGE)


def check_new(out: Path, endings: Sequence[str], *, force: bool) -> None:
    """Exit with code 2 as :func:`check_place`, and if the file exists, unless ``force`` is set."""
    check_place(out, endings)
    if out.exists() and not force:
        raise fail(f"--out: {out} exists already; {ADVICE}", USAGE)


def write_out(out: Path, content: bytes) -> None:
    """Write a file by the user's umask; exit with code 2 if the folder is not writable, 3 for other errors."""
    from snf_models.disk import write_atomically

    with error_messages(), user_umask():
        write_atomically(out.absolute(), content)
