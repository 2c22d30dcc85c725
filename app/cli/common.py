# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Options, exit codes, settings and error messages that the commands of ``snf`` share."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli import completion

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from models.registry.registry import Registry
    from worker.settings import Settings

    M = TypeVar("M", bound=BaseModel)

OK, ANOMALY, USAGE, SERVICE, NOT_JUDGED, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes: success, an anomaly with ``--fail-on-anomaly``, wrong usage, failure of the service, an image that was
not judged (whatever else was found), Ctrl-C."""

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
    """Print ``snf: MESSAGE`` on stderr, and return a ``typer.Exit`` with the exit code, for the caller to raise."""
    typer.echo(f"snf: {message}", err=True)
    return typer.Exit(code)


@contextmanager
def error_messages() -> Iterator[None]:
    """Turn a known exception of the ``with`` block into a line on stderr and exit code 2 (usage) or 3 (service failed).

    Known are ``ModelsError``, ``JobsError`` and ``Problem``: below HTTP status 500 the code is 2, else 3.
    """
    from app.http.errors import Problem, status_of
    from models.errors import ModelsError
    from worker.errors import JobsError

    try:
        yield
    except (ModelsError, JobsError, Problem) as error:
        code = USAGE if status_of(error) < 500 else SERVICE
        raise fail(f"{error.title}: {error.detail}", code) from error


def read_settings() -> Settings:
    """Return the settings from the environment; for an invalid variable, print why and exit with code 2."""
    from pydantic import ValidationError

    from worker.settings import load_settings

    try:
        return load_settings()
    except ValidationError as error:
        raise fail_validation(error, "settings") from error


def registry() -> Registry:
    """Return the ``Registry`` of the models that are stored in this machine's home folder, ``SNF_HOME``."""
    from models.registry.registry import Registry

    return Registry(read_settings().registry_dir)


def fail_validation(error: ValidationError, whole: str) -> typer.Exit:
    """Print what is wrong with each invalid value on stderr, and return the exception to raise for exit code 2.

    Args:
        error: The failed validation.
        whole: Name of the values as a whole, for errors that belong to none of them.
    """
    lines = [f"{'.'.join(map(str, item['loc'])) or whole}: {item['msg']}" for item in error.errors()]
    return fail("; ".join(lines), USAGE)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Yield a ``threading.Event`` that Ctrl-C or SIGTERM sets; a second Ctrl-C raises ``KeyboardInterrupt``."""
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


def require_folder(file: Path) -> None:
    """Print an error and exit with code 2 if the folder in which ``file`` would be written does not exist."""
    if not file.absolute().parent.is_dir():
        raise fail(f"the folder of {file} does not exist; create it first", USAGE)


def client_schema(schema: type[M], response: BaseModel) -> M:
    """Return a server-side pydantic object as ``schema``, the Python client's class of the same name.

    Commands handle the response of a service and that of this process by the same code.
    """
    return schema.model_validate(response.model_dump(exclude_unset=True))


def print_json(value: Any) -> None:
    """Print a value on stdout as JSON, indented by two spaces."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_rows(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table on stdout, without a header if all column names are empty."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, overflow="fold") for name in columns), show_header=any(columns))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def print_response(response: BaseModel) -> None:
    """Print a pydantic object, such as an answer of the service, on stdout as indented JSON."""
    print_json(response.model_dump(mode="json"))


def print_deleted(name: str, *, as_json: bool) -> None:
    """Print on stdout ``deleted NAME``, or ``{"deleted": "NAME"}`` if ``as_json`` is set."""
    if as_json:
        print_json({"deleted": name})
    else:
        typer.echo(f"deleted {name}")
