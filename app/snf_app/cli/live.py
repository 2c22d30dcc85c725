# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Live view of a job as a progress bar with learning curves, lines of text, or JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from snf_app.cli.progress import duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

EventData = dict[str, Any]
Observer = Callable[[EventData], None]

LINE_INTERVAL_S = 10.0
"""Time between two lines of progress without a terminal."""
MAX_WIDTH = 100
"""Columns of a learning curve at most."""


@contextmanager
def live_view(as_json: bool) -> Iterator[Observer]:
    """Yield a function that shows each event in the terminal, as lines of text, or as JSON lines."""
    if as_json:
        yield lambda event: typer.echo(json.dumps(event))
        return
    from rich.console import Console

    # Messages may contain brackets, which are no markup.
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        with terminal_view(console) as observe:
            yield observe
    else:
        yield _LinePrinter()


@contextmanager
def terminal_view(console: Console) -> Iterator[Observer]:
    """Yield a function that shows each event in a progress bar and learning curves."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.text import Text

    bar = Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[rate]} img/s"),
        TextColumn("{task.fields[bits]}"),
        TextColumn("ETA {task.fields[eta]}"),
        console=console,
    )
    task = bar.add_task("waiting", total=None, rate="-", bits="", eta="-")
    curves = LearningCurves()
    with Live(Group(bar, curves), console=console, refresh_per_second=4):

        def observe(event: EventData) -> None:
            curves.add(event)
            match event["event"]:
                case "started":
                    bar.update(task, completed=event["step"], total=event["steps"])
                case "metrics":
                    bits = event.get("bits_per_dim")
                    bar.update(
                        task,
                        description="images" if bits is None else "step",
                        completed=event["step"],
                        total=event["steps"],
                        rate=_number(event.get("images_per_second"), ".0f"),
                        bits="" if bits is None else f"{bits:.4f} bits/dim",
                        eta=duration(event.get("eta_seconds")),
                    )
                case "scoring":
                    bar.update(
                        task,
                        description=event["part"],
                        completed=event["done"],
                        total=event["images"],
                        eta=duration(event.get("eta_seconds")),
                    )
            for line in _messages(event):
                console.print(Text(line))

        yield observe


class LearningCurves:
    """Charts of bits/dim and reconstruction error by step; empty for jobs other than trainings."""

    def __init__(self) -> None:
        from snf_app.cli.chart import Chart, Line

        self._train = Line("training", "cyan")
        self._validation = Line("validation", "yellow")
        self._error = Line("reconstruction error", "magenta")
        self._charts = (
            Chart("bits/dim", [self._train, self._validation]),
            Chart("logarithmic", [self._error], log=True),
        )

    def add(self, event: EventData) -> None:
        """Add a ``metrics`` or ``validation`` event; others are ignored."""
        match event["event"]:
            case "metrics":
                self._train.add(event["step"], event.get("bits_per_dim"))
                self._error.add(event["step"], event.get("reconstruction_error"))
            case "validation":
                self._validation.add(event["step"], event.get("bits_per_dim"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(MAX_WIDTH, options.max_width)
        rows_left = options.size.height - 4
        for chart in self._charts:
            rows = chart.draw(width)
            rows_left -= len(rows)
            if rows_left < 0:
                return
            yield from rows


class _LinePrinter:
    """Printer of messages, and of a line of progress every few seconds."""

    def __init__(self) -> None:
        self._last_line = -LINE_INTERVAL_S

    def __call__(self, event: EventData) -> None:
        now = time.monotonic()
        if event["event"] == "metrics" and (
            now - self._last_line >= LINE_INTERVAL_S or event["step"] == event["steps"]
        ):
            self._last_line = now
            typer.echo(_progress_line(event))
        for line in _messages(event):
            typer.echo(line)


def _messages(event: EventData) -> list[str]:
    """Return the text of an event other than progress."""
    match event["event"]:
        case "state":
            attempt = f", attempt {event['attempt']}" if event["attempt"] else ""
            worker = f" on {event['worker']}" if "worker" in event else ""
            return [f"{event['status']}{attempt}{worker}"]
        case "validation":
            return [f"step {event['step']}: validation {_number(event['bits_per_dim'], '.4f')} bits/dim"]
        case "evaluation":
            return _evaluation(event)
        case "log":
            return [event["message"]]
        case "error":
            return [f"{event['title']}: {event['detail']}"]
    return []


def _evaluation(event: EventData) -> list[str]:
    """Return what a training has reached, in words."""
    from snf_app.cli.model_tables import measured

    test = measured(event.get("test_bits_per_dim"), event.get("test_nats"), event.get("test_images"))
    validation = measured(event.get("validation_bits_per_dim"), event.get("validation_nats"), None)
    lines = [f"validation: {validation}"] if validation else []
    lines.append(f"test: {test or 'no test images'}")
    if event.get("reconstruction_error") is not None:
        lines.append(f"largest error of learned inverses: {event['reconstruction_error']:.2g}")
    return lines


def _progress_line(event: EventData) -> str:
    parts = [f"{event['step']}/{event['steps']}", f"{_number(event.get('images_per_second'), '.0f')} img/s"]
    if event.get("bits_per_dim") is not None:
        parts.append(f"{event['bits_per_dim']:.4f} bits/dim")
    if event.get("reconstruction_error") is not None:
        parts.append(f"reconstruction error {event['reconstruction_error']:.2e}")
    return "  ".join([*parts, f"ETA {duration(event.get('eta_seconds'))}"])


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
