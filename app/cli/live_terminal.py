"""A job on a terminal: a progress bar and learning curves that change in place, under what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from app.cli.chart import Chart, Line
from app.cli.live import Event, messages, number
from app.cli.progress import duration

WIDEST = 100


class Curves:
    """Bits/dim and reconstruction error of a training; nothing for jobs that have none."""

    def __init__(self) -> None:
        self._train = Line("training", "cyan")
        self._validation = Line("validation", "yellow")
        self._error = Line("reconstruction error", "magenta")
        self._charts = (
            Chart("bits/dim", [self._train, self._validation]),
            Chart("logarithmic", [self._error], log=True),
        )

    def add(self, event: Event) -> None:
        """Takes in what an event measured."""
        match event["event"]:
            case "metrics":
                self._train.add(event["step"], event.get("bits_per_dim"))
                self._error.add(event["step"], event.get("reconstruction_error"))
            case "validation":
                self._validation.add(event["step"], event.get("bits_per_dim"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(WIDEST, options.max_width)
        # A terminal that is too low for both shows the first alone.
        left = options.size.height - 4
        for chart in self._charts:
            rows = chart.draw(width)
            left -= len(rows)
            if left < 0:
                return
            yield from rows


@contextmanager
def terminal_view(console: Console) -> Iterator[Callable[[Event], None]]:
    """Gives an observer of a job's events."""
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
    curves = Curves()
    with Live(Group(bar, curves), console=console, refresh_per_second=4):

        def observe(event: Event) -> None:
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
                        rate=number(event.get("images_per_second"), ".0f"),
                        bits="" if bits is None else f"{bits:.4f} bits/dim",
                        eta=duration(event.get("eta_seconds")),
                    )
                case "scoring":
                    bar.update(task, description=event["part"], completed=event["done"], total=event["images"])
            for line in messages(event):
                console.print(Text(line))

        yield observe
