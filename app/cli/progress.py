# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Progress bars of work that takes long; they are drawn on stderr, where it is a terminal, and leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def images_bar(label: str, total: int | None, *, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Shows images, images/s and the time left; gives what is to be told how many images came to an end."""
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
            eta = "-" if total is None else duration((total - done) / rate)
            bar.update(task, completed=done, rate=f"{rate:.0f}", eta=eta)

        yield advance


@contextmanager
def bytes_bar(label: str, then: str = "looking at the images") -> Iterator[Callable[[int, int], None]]:
    """Gives a function that hears of bytes: done, total; `then` is what happens after the last ones."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def told(done: int, total: int) -> None:
            description = label if done < total else then
            bar.update(task, completed=done, total=total, description=description)

        yield told


@contextmanager
def labelled_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function that hears what is being done, and how much of it: label, done, total."""
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

        def observe(label: str, done: int, total: int) -> None:
            nonlocal started
            started = started or (time.monotonic(), done)
            speed = (done - started[1]) / max(time.monotonic() - started[0], 1e-3)
            eta = duration((total - done) / speed) if speed > 0 else "-"
            bar.update(task, completed=done, total=total, label=escape(label), eta=eta)

        yield observe


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Shows that something of unknown length goes on."""
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


def duration(seconds: float | None) -> str:
    """A time span as a clock shows it."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
