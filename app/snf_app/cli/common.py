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
from snf_models.errors import ErrorKind, ModelsError, StorageReadOnly
from snf_models.texts import error_line
from snf_runtime.errors import FAILED, USAGE
from snf_worker.errors import JobsError
from snf_worker.settings import Settings, load_settings

M = TypeVar("M", bound=BaseModel)
WRONG_USAGE = {ErrorKind.NOT_FOUND, ErrorKind.CONFLICT, ErrorKind.INVALID, ErrorKind.BUSY}

INTERRUPTED = 130
"""Exit code after Ctrl-C, beside those of :mod:`snf_runtime.errors`."""
EXIT_CODES = (
    "Exit codes: 0 every file was judged; 1 an anomaly, with --fail-on-anomaly; 2 wrong usage; 3 the service or this "
    "program failed; 4 at least one file was not judged, whatever else was found."
)
"""The exit codes of commands that judge images, for their help."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="SNF_URL", help="Address of a running service. Default: compute in this process."),
]
ServiceUrl = Annotated[
    str | None,
    typer.Option("--url", envvar="SNF_URL", help="Address of the service. Default: the service of this machine."),
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="SNF_API_KEY", show_envvar=True, help="API key of the service.", show_default=False),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Model as NAME, NAME:VERSION or NAME@ALIAS.", autocompletion=completion.models),
]

DEFAULT_MODEL = "mnist-snf-glow"


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
    try:
        settings = load_settings()
    except ValidationError as error:
        raise fail_validation(error, "settings") from error
    if problem := folder_problem(settings.home, writes=writes):
        raise fail(f"SNF_HOME: {problem}", USAGE)
    return settings


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


def refuse_gradients(option: typer.CallbackParam, value: object) -> None:
    """Refuse an option of verdicts with gradients, which earlier versions had."""
    if value:
        raise fail(f"verdicts with gradients have been removed: leave {option.opts[0]} out", USAGE)


def fail_validation(error: ValidationError, whole: str, known: Collection[str] = ()) -> typer.Exit:
    """Print what is wrong with each value, or with the ``whole``; return the exit with code 2 to raise."""
    return fail(error_line(error, known, whole), USAGE)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or the first Ctrl-C sets; the next raises ``KeyboardInterrupt``."""
    stop = threading.Event()

    def set_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, set_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_response(response: BaseModel) -> None:
    print_json(response.model_dump(mode="json"))


def print_result(result: M, as_json: bool, show: Callable[[M], object]) -> None:
    """Print JSON, or the text that ``show`` prints."""
    if as_json:
        print_response(result)
    else:
        show(result)


def print_deleted(name: str, *, as_json: bool) -> None:
    """Print ``deleted NAME`` or ``{"deleted": "NAME"}``."""
    if as_json:
        print_json({"deleted": name})
    else:
        typer.echo(f"deleted {name}")
