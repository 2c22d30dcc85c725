"""Options, exit codes, settings and error messages that the commands of ``snf`` share."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from typer.core import TyperGroup

from snf_app.cli import completion
from snf_models.disk import folder_problem, storage_error
from snf_models.errors import ErrorKind, Interrupted, ModelsError, StorageReadOnly
from snf_models.texts import error_line
from snf_runtime.errors import FAILED, USAGE
from snf_worker.errors import JobsError
from snf_worker.process_setup import signals_handled_by
from snf_worker.settings import Settings, load_settings

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
WRONG_USAGE = {ErrorKind.NOT_FOUND, ErrorKind.CONFLICT, ErrorKind.INVALID, ErrorKind.BUSY}

INTERRUPTED = 130  # exit code after Ctrl-C, beside those of :mod:`snf_runtime.errors`
EXIT_CODES = (
    "Exit codes: 0 every file was judged; 1 an anomaly, with --fail-on-anomaly; 2 wrong usage; 3 the service or this "
    "program failed; 4 at least one file was not judged, whatever else was found."
)
"""The exit codes of commands that judge images, for their help."""

DEFAULT_MODEL = "mnist-snf-glow"
MODEL = "Model as NAME, NAME:VERSION or NAME@ALIAS."
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL, autocompletion=completion.models)]
Ref = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, autocompletion=completion.models)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FailOnAnomaly = Annotated[
    bool,
    typer.Option("--fail-on-anomaly", help="Exit with code 1 if an image is an anomaly and every image was judged."),
]
Promote = Annotated[bool, typer.Option("--promote", help="Make the new version live, fit or not.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter as NAME=VALUE; repeatable."),
]


def fail(message: str, code: int) -> typer.Exit:
    """Print ``snf: MESSAGE`` on stderr; return the ``typer.Exit`` for the caller to raise."""
    typer.echo(f"snf: {message}", err=True)
    return typer.Exit(code)


@contextmanager
def error_messages() -> Iterator[None]:
    """Exit with a message for known errors: code 2 for wrong usage, 3 for failures, a full disk, lack of memory."""
    try:
        yield
    except (ModelsError, JobsError) as error:
        code = USAGE if error.kind in WRONG_USAGE or isinstance(error, StorageReadOnly) else FAILED
        raise fail(f"{error.title}: {error.detail}", code) from error
    except OSError as error:
        problem = storage_error(error)
        if error.filename is None and problem is None:
            raise  # a closed stdout
        code = USAGE if isinstance(problem, StorageReadOnly) else FAILED
        what = error.filename or (problem.title if problem else "the file")
        raise fail(f"{what}: {error.strerror}", code) from error
    except typer.Exit:  # a RuntimeError
        raise
    except (MemoryError, RuntimeError) as error:
        from snf_models.bijections.devices import lack_of_memory  # noqa: PLC0415 - takes a second

        if (lack := lack_of_memory(error)) is None:
            raise
        raise fail(lack, FAILED) from error


def read_settings(*, writes: bool = False) -> Settings:
    """Return the settings; exit with code 2 if one is invalid or ``home`` cannot be used, or written if ``writes``."""
    settings = checked(load_settings, "settings")
    if problem := folder_problem(settings.home, writes=writes):
        raise fail(f"SNF_HOME: {problem}", USAGE)
    return settings


def checked(read: Callable[[], R], whole: str, known: Collection[str] = ()) -> R:
    """Return what is read; exit with code 2 and what is wrong with each value, or with the ``whole``."""
    try:
        return read()
    except ValidationError as error:
        raise fail(error_line(error, known, whole), USAGE) from error


class ListingGroup(TyperGroup):
    """Group of commands that runs ``list`` without a subcommand."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and (not args or (args[0].startswith("-") and args[0] != "--help")):
            if later := [word for word in args if word in self.commands]:
                raise fail(f"{args[0]} belongs after the command: {ctx.command_path} {later[0]}", USAGE)
            args = ["list", *args]
        return super().parse_args(ctx, args)


def url_option(url: str | None) -> str:
    """Return ``--url`` with a blank before it for a suggested command, or "" where that needs none."""
    if (url or "") == os.environ.get("SNF_URL", ""):
        return ""
    return f" --url {shlex.quote(url)}" if url else ' --url ""'


def require_local(command: str, reason: str) -> None:
    """Exit with code 2 if ``SNF_URL`` is set; ``reason`` is a sentence without a full stop."""
    if address := os.environ.get("SNF_URL"):
        raise fail(f"{command} works on this machine alone, not on SNF_URL={address}: {reason}; unset SNF_URL", USAGE)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or the first Ctrl-C sets; the next raises ``KeyboardInterrupt``."""
    stop = threading.Event()

    def set_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with signals_handled_by(set_stop):
        yield stop


@contextmanager
def interruptible(advice: str) -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or Ctrl-C sets; exit with code 130 and ``advice`` if the work stops for it."""
    with stop_on_signals() as stop:
        try:
            yield stop
        except Interrupted as error:
            raise fail(f"interrupted; {advice}", INTERRUPTED) from error


def print_json(value: Any) -> None:
    """Print a value, or an answer of the service, as JSON."""
    json.dump(value.model_dump(mode="json") if isinstance(value, BaseModel) else value, sys.stdout, indent=2)
    sys.stdout.write("\n")
