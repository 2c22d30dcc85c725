# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Progress bars for long operations, drawn on stderr if it is a terminal and removed at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def images_bar(label: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function of newly finished images, negative for images to be done again; ``done`` were before."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[rate]} img/s"),
        TextColumn("ETA {task.fields[eta]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="-", eta="-")
        started, before = time.monotonic(), done

        def advance(images: int) -> None:
            nonlocal done
            done += images
            rate = (done - before) / max(time.monotonic() - started, 1e-9)
            eta = "-" if total is None or rate <= 0 else duration((total - done) / rate)
            bar.update(task, completed=done, rate=f"{rate:.0f}", eta=eta)

        yield advance


@contextmanager
def bytes_bar(label: str, label_at_end: str = "checking the images") -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the bytes done and of all bytes; the label changes once all are done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            description = label if done < total else label_at_end
            bar.update(task, completed=done, total=total, description=description)

        yield update


@contextmanager
def labelled_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of the label, the steps done and the total steps."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.fields[label]}"), MofNCompleteColumn(), BarColumn(), TextColumn("ETA {task.fields[eta]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, label="", eta="-")
        started: tuple[float, int] | None = None

        def update(label: str, done: int, total: int) -> None:
            nonlocal started
            started = started or (time.monotonic(), done)
            speed = (done - started[1]) / max(time.monotonic() - started[0], 1e-3)
            eta = duration((total - done) / speed) if speed > 0 else "-"
            bar.update(task, completed=done, total=total, label=escape(label), eta=eta)

        yield update


@contextmanager
def events_bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function of a job's events: the last ``log`` is the label, ``metrics`` the progress."""
    label = ""
    with labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            nonlocal label
            if event["event"] == "log":
                label = event["message"]
            elif event["event"] == "metrics":
                bar(label, event["step"], event["steps"])

        yield observe


@contextmanager
def spinner(label: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


def duration(seconds: float | None) -> str:
    """Format seconds as ``h:mm:ss``, or ``m:ss`` below an hour; None gives ``-``."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
