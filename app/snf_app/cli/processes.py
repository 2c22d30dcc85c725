"""Commands ``snf up``, ``snf serve`` and ``snf worker``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from snf_app.cli.common import error_messages, fail, read_settings
from snf_runtime.errors import USAGE
from snf_worker.log_setup import configure_logging
from snf_worker.runtime.launcher import check_workers, run_workers, supervise

commands = typer.Typer(rich_markup_mode="markdown")

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.  [env: SNF_HOST]")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port to listen on.  [env: SNF_PORT]")]


@commands.command()
def up(host: Host = None, port: Port = None) -> None:
    """Run Redis (unless REDIS_URL is set), the workers and the HTTP service on this machine until Ctrl-C."""
    _set(host=host, port=port)
    with error_messages():
        code = supervise(read_settings(writes=True))
    raise typer.Exit(code)


@commands.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Run only the HTTP service, without Redis and workers, until Ctrl-C."""
    _set(host=host, port=port)
    settings = read_settings(writes=True)
    from snf_app.server import serve as run  # noqa: PLC0415 - the launcher needs no FastAPI

    with error_messages():
        configure_logging(settings, "service")
        code = run(settings)
    raise typer.Exit(code)


@commands.command()
def worker(
    queues: Annotated[
        str | None, typer.Option("--queues", help="Queues to serve: train-cpu,train-gpu,score.  [env: SNF_QUEUES]")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", help="Devices, one job at a time on each: auto, cpu, cuda:0,...  [env: SNF_DEVICES]"),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only check the running workers of this machine. Exit code 1: one is unhealthy."),
    ] = False,
) -> None:
    """Run only the worker processes, which take jobs from the Redis server at REDIS_URL.

    By default that is the Redis server of this machine.
    """
    _set(queues=queues, devices=devices)
    settings = read_settings(writes=not check)
    try:
        with error_messages():
            if check:
                healthy, line = check_workers(settings)
                typer.echo(line)
                raise typer.Exit(0 if healthy else 1)
            code = run_workers(settings)
    except ValueError as error:
        raise fail(str(error), USAGE) from error
    raise typer.Exit(code)


def _set(**options: str | int | None) -> None:
    # Through the environment, so that they are validated together with all other settings.
    for name, value in options.items():
        if value is not None:
            os.environ[f"SNF_{name.upper()}"] = str(value)
