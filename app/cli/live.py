# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""The live view of a job: a progress bar with learning curves under it, plain lines, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from app.cli.progress import duration

Event = dict[str, Any]

STAMPS = frozenset({"event", "time", "attempt"})
"""What events of every kind carry."""
LINE_S = 10.0
"""Time between two lines of progress where there is no terminal."""


@contextmanager
def live_view(as_json: bool) -> Iterator[Callable[[Event], None]]:
    """Gives an observer of a job's events: a bar and curves on a terminal, else lines, or one JSON line an event."""
    if as_json:
        yield lambda event: typer.echo(json.dumps(event))
        return
    from rich.console import Console

    # Messages are no markup, whatever brackets they have.
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        from app.cli.live_terminal import terminal_view

        with terminal_view(console) as observe:
            yield observe
    else:
        yield _Lines()


class _Lines:
    """Prints what happens; of progress a line every few seconds."""

    def __init__(self) -> None:
        self._told = -LINE_S

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event["event"] == "metrics" and (now - self._told >= LINE_S or event["step"] == event["steps"]):
            self._told = now
            typer.echo(progress_line(event))
        for line in messages(event):
            typer.echo(line)


def messages(event: Event) -> list[str]:
    """What an event says to people, besides progress."""
    match event["event"]:
        case "state":
            attempt = f", attempt {event['attempt']}" if event["attempt"] else ""
            worker = f" on {event['worker']}" if "worker" in event else ""
            return [f"{event['status']}{attempt}{worker}"]
        case "validation":
            return [f"step {event['step']}: validation {number(event['bits_per_dim'], '.4f')} bits/dim"]
        case "evaluation":
            return [f"{key.replace('_', ' ')}: {value}" for key, value in event.items() if key not in STAMPS]
        case "log":
            return [event["message"]]
        case "error":
            return [f"{event['title']}: {event['detail']}"]
    return []


def progress_line(event: Event) -> str:
    """Progress in one line; only a training has bits/dim."""
    parts = [f"{event['step']}/{event['steps']}", f"{number(event.get('images_per_second'), '.0f')} img/s"]
    if event.get("bits_per_dim") is not None:
        parts.append(f"{event['bits_per_dim']:.4f} bits/dim")
    if event.get("reconstruction_error") is not None:
        parts.append(f"recon {event['reconstruction_error']:.2e}")
    return "  ".join([*parts, f"ETA {duration(event.get('eta_seconds'))}"])


def number(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)
