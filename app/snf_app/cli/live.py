"""Live view of a job as a progress bar with learning curves, lines of text, or JSON lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from snf_app.cli.output import duration, text_of

EventData = dict[str, Any]
Observer = Callable[[EventData], None]

LINE_INTERVAL_S = 10.0  # time between two lines of progress without a terminal
MAX_WIDTH = 100  # columns of a learning curve at most


@contextmanager
def live_view(as_json: bool) -> Iterator[Observer]:
    """Yield a function that shows each event in the terminal, as lines of text, or as JSON lines."""
    if as_json:
        yield lambda event: typer.echo(json.dumps(event))
        return
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
                        rate=text_of(event.get("images_per_second"), ".0f", "-"),
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
            return [f"step {event['step']}: validation {text_of(event['bits_per_dim'], '.4f', '-')} bits/dim"]
        case "evaluation":
            return _evaluation(event)
        case "log":
            return [event["message"]]
        case "error":
            return [f"{event['title']}: {event['detail']}"]
    return []


def _evaluation(event: EventData) -> list[str]:
    """Return what a training has reached, in words."""
    test = measured(event.get("test_bits_per_dim"), event.get("test_nats"), event.get("test_images"))
    validation = measured(event.get("validation_bits_per_dim"), event.get("validation_nats"), None)
    lines = [f"validation: {validation}"] if validation else []
    lines.append(f"test: {test or 'no test images'}")
    if event.get("reconstruction_error") is not None:
        lines.append(f"largest error of learned inverses: {event['reconstruction_error']:.2g}")
    return lines


def measured(bits: float | None, nats: float | None, images: int | None) -> str:
    """Return the mean score of held-out images: bits/dim of pixels, or the log-likelihood of features in nats."""
    on_images = f" on {images:,} images" if images else ""
    if bits is not None:
        return f"{bits:.4f} bits/dim{on_images}"
    return "" if nats is None else f"mean log-likelihood {-nats:.1f} nats{on_images}, of features"


def _progress_line(event: EventData) -> str:
    parts = [f"{event['step']}/{event['steps']}", f"{text_of(event.get('images_per_second'), '.0f', '-')} img/s"]
    if event.get("bits_per_dim") is not None:
        parts.append(f"{event['bits_per_dim']:.4f} bits/dim")
    if event.get("reconstruction_error") is not None:
        parts.append(f"reconstruction error {event['reconstruction_error']:.2e}")
    return "  ".join([*parts, f"ETA {duration(event.get('eta_seconds'))}"])


ROWS = 5
MARGIN = 9  # characters of the axis labels
BLANK = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a Braille character, by row and column (Unicode 2800 to 28FF)."""
RANGE, LOG_RANGE = (0.0, 0.9), (0.05, 0.95)
"""Quantiles of the values at the ends of the axis: the first values of a training would flatten all later ones."""
MIN_LOG_VALUE = 1e-30


@dataclass
class Line:
    """Coloured line of a chart: finite values by training step."""

    name: str
    style: str
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: float, value: float | None) -> None:
        """Append a value, or a gap; points from its step on go, because a resumed training repeats them."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        if value is not None and math.isfinite(value):
            self.steps.append(step)
            self.values.append(value)


@dataclass
class Chart:
    """Line chart over training steps, with a linear or logarithmic value axis."""

    title: str
    lines: list[Line]
    log: bool = False

    def draw(self, width: int) -> list[Text]:
        """Return a title and 5 rows of ``width`` characters; none for fewer than two values or too small a width."""
        series = [(line, [self._scaled(value) for value in line.values]) for line in self.lines]
        values = sorted(value for _, scaled in series for value in scaled)
        columns = width - MARGIN
        if len(values) < 2 or columns < 2:
            return []
        low, high = (values[round(share * (len(values) - 1))] for share in (LOG_RANGE if self.log else RANGE))
        high = high if high > low else low + 1e-9
        last = max(line.steps[-1] for line in self.lines if line.steps)
        cells: list[list[tuple[int, str]]] = [[(0, "")] * columns for _ in range(ROWS)]
        for line, scaled in series:
            for x, value in _columns(line.steps, scaled, last, 2 * columns):
                height = (min(max(value, low), high) - low) / (high - low)
                y = round((1 - height) * (4 * ROWS - 1))
                bits, _ = cells[y // 4][x // 2]
                cells[y // 4][x // 2] = (bits | DOTS[y % 4][x % 2], line.style)
        ends = {0: high, ROWS - 1: low}
        return [self._title(), *(self._row(cells[row], ends.get(row)) for row in range(ROWS))]

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, MIN_LOG_VALUE)) if self.log else value

    def _title(self) -> Text:
        text = Text(" " * MARGIN, no_wrap=True)
        text.append(self.title, "bold")
        for line in self.lines:
            if line.values:
                text.append(f"  {line.name} {line.values[-1]:.4g}", line.style)
        return text

    def _row(self, cells: Sequence[tuple[int, str]], end: float | None) -> Text:
        number = "" if end is None else f"{10**end:.1e}" if self.log else f"{end:.4g}"
        text = Text(no_wrap=True)
        text.append(f"{number:>{MARGIN - 2}} │", "dim")
        for bits, style in cells:
            text.append(chr(BLANK + bits), style)
        return text


def _columns(steps: Sequence[float], values: Sequence[float], last: float, columns: int) -> list[tuple[int, float]]:
    """Return the mean value in each column, interpolated linearly in columns without values."""
    sums: dict[int, tuple[float, int]] = {}
    for step, value in zip(steps, values, strict=True):
        x = min(columns - 1, int(step / max(last, 1) * columns))
        total, count = sums.get(x, (0.0, 0))
        sums[x] = (total + value, count + 1)
    known = sorted((x, total / count) for x, (total, count) in sums.items())
    points = known[:1]
    for (left, low), (right, high) in pairwise(known):
        points += ((x, low + (high - low) * (x - left) / (right - left)) for x in range(left + 1, right + 1))
    return points
