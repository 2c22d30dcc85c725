"""The pool of threads that runs the worker's tasks."""

from typing import Any

from celery.concurrency.thread import TaskPool  # type: ignore[import-untyped]
from kombu.asynchronous import get_event_loop


class WakingThreads(TaskPool):  # type: ignore[misc]
    """Celery's threads, which also wake the event loop when a task has ended.

    The loop asks for the next message when it is awake; unless woken it sleeps on until a timer is due.
    """

    def on_apply(self, *args: Any, **options: Any) -> Any:
        """Run a task in a thread."""
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(lambda _future: _wake())
        return result


def _wake() -> None:
    hub = get_event_loop()
    if hub is not None:
        hub.call_soon(lambda: None)  # type: ignore[no-untyped-call]
