# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""What every command shares: options, exit codes, settings and errors for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import completion

if TYPE_CHECKING:
    from pydantic import BaseModel

    from worker.settings import Settings

OK, ANOMALY, USAGE, SERVICE = 0, 1, 2, 3
"""Exit codes: fine, an anomaly was found and `--fail-on-anomaly` given, wrong usage, the service failed."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Url = Annotated[
    str | None, typer.Option("--url", envvar="SNF_URL", help="Use a running service instead of this process.")
]
Key = Annotated[
    str | None,
    typer.Option("--key", envvar="SNF_API_KEY", show_envvar=True, help="Key for the service.", show_default=False),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="NAME, NAME:VERSION or NAME@ALIAS.", autocompletion=completion.models),
]

DEFAULT_MODEL = "mnist-snf-glow"


def fail(message: str, code: int) -> typer.Exit:
    """Prints a message on stderr; the result is to be raised."""
    typer.echo(f"snf: {message}", err=True)
    return typer.Exit(code)


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turns typed errors into one line on stderr and an exit code; anything else keeps its traceback."""
    from app.http.errors import Problem, status_of
    from models.errors import ModelsError
    from worker.errors import JobsError

    try:
        yield
    except (ModelsError, JobsError, Problem) as error:
        code = USAGE if status_of(error) < 500 else SERVICE
        raise fail(f"{error.title}: {error.detail}", code) from error


def settings() -> Settings:
    """The settings of this process; a wrong variable ends the command as wrong usage."""
    from pydantic import ValidationError

    from worker.settings import load_settings

    try:
        return load_settings()
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}" for item in error.errors()]
        raise fail("; ".join(lines), USAGE) from error


def print_json(value: Any) -> None:
    """Prints a JSON document on stdout."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def say_deleted(what: str, *, as_json: bool) -> None:
    """Says that something is gone."""
    if as_json:
        print_json({"deleted": what})
    else:
        typer.echo(f"deleted {what}")


def print_answer(answer: BaseModel) -> None:
    """Prints an answer of the service as JSON on stdout, as the service gives it."""
    print_json(answer.model_dump(mode="json"))
