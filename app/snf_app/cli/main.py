# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from snf_app.cli.backbones import backbones
from snf_app.cli.bulk import bulk
from snf_app.cli.common import EXIT_CODES, error_messages, fail, read_settings
from snf_app.cli.datasets import datasets
from snf_app.cli.evaluate import evaluate
from snf_app.cli.export import export_graphs
from snf_app.cli.jobs import jobs
from snf_app.cli.keys import keys
from snf_app.cli.limit import limit
from snf_app.cli.models import models
from snf_app.cli.presets import presets
from snf_app.cli.recommend import recommend
from snf_app.cli.remote import service
from snf_app.cli.runs import runs
from snf_app.cli.sample import sample
from snf_app.cli.score import score
from snf_app.cli.train import train
from snf_app.cli.train_parameters import TrainCommand
from snf_runtime.errors import FAILED, USAGE
from snf_worker.process_setup import keep_files_private, tune_process

if TYPE_CHECKING:
    from snf_worker.settings import Settings

cli = typer.Typer(
    rich_markup_mode="markdown",
    name="snf",
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
)

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.  [env: SNF_HOST]")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Port to listen on.  [env: SNF_PORT]")]


@cli.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version; with --url or SNF_URL also that of the service.")
    ] = False,
    url: Annotated[str | None, typer.Option("--url", help="Address of a service, for --version.", hidden=True)] = None,
) -> None:
    """Score images by their exact density under Self Normalizing Flows."""
    if version:
        _print_versions(url or os.environ.get("SNF_URL"))
    elif url is not None:
        raise fail("--url belongs to a command: snf COMMAND --url ADDRESS, or set SNF_URL", USAGE)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def _print_versions(url: str | None) -> None:
    from snf_app.health.endpoints import package_version

    typer.echo(f"snf-density {package_version()}")
    if url:
        with service(url, None) as client:
            typer.echo(f"{url} {client.health().version}")
    raise typer.Exit


@cli.command()
def up(host: Host = None, port: Port = None) -> None:
    """Run Redis (unless REDIS_URL is set), the workers and the HTTP service on this machine until Ctrl-C."""
    _set(host=host, port=port)
    settings = read_settings(writes=True)
    from snf_worker.launch.launcher import supervise

    with error_messages():
        code = supervise(settings, echo=typer.echo)
    raise typer.Exit(code)


@cli.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Run only the HTTP service, without Redis and workers, until Ctrl-C."""
    _set(host=host, port=port)
    settings = read_settings(writes=True)
    from snf_app.server import serve as run
    from snf_worker.log_setup import configure_logging

    with error_messages():
        configure_logging(settings, "service")
        code = run(settings)
    raise typer.Exit(code)


@cli.command()
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
    if check:
        raise typer.Exit(_check_workers(settings))
    from snf_worker.launch.launcher import run_workers

    try:
        with error_messages():
            code = run_workers(settings, typer.echo)
    except ValueError as error:
        raise fail(str(error), USAGE) from error
    raise typer.Exit(code)


def _check_workers(settings: Settings) -> int:
    from snf_worker.launch.launcher import check_workers

    try:
        with error_messages():
            healthy, line = check_workers(settings)
    except ValueError as error:
        raise fail(str(error), USAGE) from error
    typer.echo(line)
    return 0 if healthy else 1


def _set(**options: str | int | None) -> None:
    # Through the environment, so that they are validated together with all other settings.
    for name, value in options.items():
        if value is not None:
            os.environ[f"SNF_{name.upper()}"] = str(value)


cli.command()(recommend)
cli.command(cls=TrainCommand)(train)
cli.command(epilog=EXIT_CODES)(score)
cli.command(epilog=EXIT_CODES)(bulk)
cli.command()(evaluate)
cli.command()(limit)
cli.command()(sample)
cli.command("export")(export_graphs)
cli.add_typer(models, name="models")
cli.add_typer(datasets, name="datasets")
cli.add_typer(jobs, name="jobs")
cli.add_typer(runs, name="runs")
cli.add_typer(presets, name="presets")
cli.add_typer(backbones, name="backbones")
cli.add_typer(keys, name="keys")


def main() -> None:
    """Run ``snf``; an unexpected error ends with 3, as 1 means an anomaly; a full disk or closed pipe is not one."""
    tune_process()
    keep_files_private()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: a file name that the terminal's encoding lacks costs no results.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:
        from snf_models.disk import storage_error

        if problem := storage_error(error):
            typer.echo(f"snf: {problem.title}: {error}", err=True)
        else:
            sys.excepthook(*sys.exc_info())
        sys.exit(FAILED)


def _run() -> None:
    """Run the command, and write out all that it printed; raise ``OSError`` if that fails."""
    try:
        cli()
    except SystemExit as end:
        # typer ends with code 1 where nobody reads the pipe.
        if isinstance(end.__context__, BrokenPipeError):
            raise end.__context__ from None
        raise
    finally:
        _flush()


def _flush() -> None:
    """Write out the buffered output; Python would do so at its end, where an error has neither message nor code."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # What is still buffered goes nowhere, so that Python does not fail again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


if __name__ == "__main__":
    main()
