"""The end of an upload's work when its client leaves or the service stops."""

from __future__ import annotations

import threading
import time

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from app.http.errors import draining
from app.http.uploads import LOOK_S


class UploadWatch:
    """A progress callback that raises `ClientDisconnect` or the problem of a stopping service; for upload threads."""

    def __init__(self, request: Request, stopping: threading.Event) -> None:
        self._request = request
        self._stopping = stopping
        self._looked = time.monotonic()

    def __call__(self, _done: int, _total: int) -> None:
        if self._stopping.is_set():
            raise draining()
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            if anyio.from_thread.run(self._request.is_disconnected):
                raise ClientDisconnect
