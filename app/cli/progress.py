# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Progress bars for long operations, drawn on stderr if it is a terminal and removed at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def images_bar(label: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr that counts processed images while the ``with`` block runs.

    Yields a function to be called with the number of images that were just finished.

    The number is negative where images have to be done again.

    Args:
        label: Text beside the bar.
        total: Images in all, None if that is unknown.
        done: Images that were finished before.
    """
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
    """Show a progress bar on stderr that counts transferred bytes while the ``with`` block runs.

    Yields a function to be called with the bytes done and the total bytes.

    Args:
        label: Text beside the bar.
        label_at_end: Text once all bytes are done.
    """
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
    """Show a progress bar on stderr, whose label can change, while the ``with`` block runs.

    Yields a function to be called with the label, the steps done and the total steps.
    """
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
    """Show the progress of a job as a bar on stderr while the ``with`` block runs.

    Yields a function to be called with each event of the job.

    The message of the last ``log`` is the label, the steps of ``metrics`` are the progress.
    """
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
    """Show a turning spinner with a label on stderr while the ``with`` block runs."""
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


def duration(seconds: float | None) -> str:
    """Format a number of seconds as ``h:mm:ss``, or ``m:ss`` below an hour.

    For example ``1:02:03``. Fractions of a second are dropped. None gives ``-``.
    """
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
