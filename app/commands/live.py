# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""The live view of a training, in this process or in a running service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

Event = dict[str, Any]

STAMPS = frozenset({"event", "time", "attempt"})
"""What events of every kind carry."""


@contextmanager
def live_view(as_json: bool) -> Iterator[Callable[[Event], None]]:
    """Gives an observer of a training's events that keeps a progress bar, or prints one JSON line an event."""
    if as_json:
        yield lambda event: typer.echo(json.dumps(event))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[rate]} img/s"),
        TextColumn("{task.fields[bits]} bits/dim"),
        TextColumn("recon {task.fields[error]}"),
        TextColumn("ETA {task.fields[eta]}"),
    )
    # Messages are no markup, whatever brackets they have.
    with Progress(*columns, console=Console(markup=False)) as bar:
        task = bar.add_task("training", total=None, rate="-", bits="-", error="-", eta="-")

        def observe(event: Event) -> None:
            match event["event"]:
                case "state":
                    bar.console.print(_state(event))
                case "started":
                    bar.update(task, completed=event["step"], total=event["steps"])
                case "metrics":
                    bar.update(
                        task,
                        completed=event["step"],
                        total=event["steps"],
                        rate=_number(event.get("images_per_second"), ".0f"),
                        bits=_number(event.get("bits_per_dim"), ".4f"),
                        error=_number(event.get("reconstruction_error"), ".2e"),
                        eta=duration(event.get("eta_seconds")),
                    )
                case "validation":
                    bar.update(task, completed=event["step"])
                    bar.console.print(
                        f"step {event['step']}: validation {_number(event['bits_per_dim'], '.4f')} bits/dim"
                    )
                case "evaluation":
                    for key, value in event.items():
                        if key not in STAMPS:
                            bar.console.print(f"{key.replace('_', ' ')}: {value}")
                case "log":
                    bar.console.print(event["message"])
                case "error":
                    bar.console.print(f"{event['title']}: {event['detail']}")

        yield observe


def _state(event: Event) -> str:
    attempt = f", attempt {event['attempt']}" if event["attempt"] else ""
    worker = f" on {event['worker']}" if "worker" in event else ""
    return f"{event['status']}{attempt}{worker}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def duration(seconds: float | None) -> str:
    """A time span as a clock shows it."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
