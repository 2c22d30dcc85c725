# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Files named with ``--out``: their checks, so that none is silently written over, and their writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from snf_app.cli.common import error_messages, fail
from snf_app.cli.score_output import JudgingModel
from snf_runtime.errors import USAGE
from snf_worker.process_setup import user_umask

Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there and holds something else.")]
ENDINGS = (".parquet", ".csv", ".jsonl")
"""Endings of tables of scores."""
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


def check_held(
    out: Path, model: JudgingModel, images: Sequence[str] | None, *, dataset: str | None = None, force: bool
) -> None:
    """Exit with code 2 if a file holds scores of other images or another calibration, unless ``force`` is set."""
    from snf_models.bulk.tables import read_content

    if force or not out.exists():
        return
    held = read_content(out)
    if held is None:
        raise fail(f"--out: {out} exists and is no table of scores; {ADVICE}", USAGE)
    held_model = JudgingModel(held.model, held.calibration)
    if (held_model.ref, held_model.calibration) != (model.ref, model.calibration):
        raise fail(f"--out: {out} holds scores of {held_model.label}, not of {model.label}; {ADVICE}", USAGE)
    if held.dataset != dataset:
        of = f"the dataset {held.dataset}" if held.dataset else "image files"
        wanted = f"the dataset {dataset}" if dataset else "image files"
        raise fail(f"--out: {out} holds scores of {of}, not of {wanted}; {ADVICE}", USAGE)
    if images is not None and held.paths != tuple(images):
        raise fail(
            f"--out: {out} holds scores of {_files(held.paths)}, not of {_files(images)}; {ADVICE}",
            USAGE,
        )


def _files(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    return f"{len(paths)} files from {paths[0]} to {paths[-1]}" if paths else "no files"
