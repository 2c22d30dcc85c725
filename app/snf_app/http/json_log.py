"""Log files of JSON lines, shared by several processes, and a background thread that writes them."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import queue
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 10_000_000
"""Size after which a file is renamed to ``<name>.1``, the file of that name to ``.2``, and so on."""
KEPT = 10
WAITING = 10_000
"""Most records that wait for the disk; further ones are dropped and counted."""
BATCH = 1000

Record = dict[str, Any]

log = logging.getLogger(__name__)


class JsonLines:
    """Log file with a JSON object per line, readable by its owner only and rotated at 10 MB by default."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept

    def write(self, records: Iterable[Record]) -> None:
        """Append records after rotating a full file; if it raises ``OSError``, none of them is in the file."""
        # In ASCII: text from outside can hold other line breaks and lone surrogates.
        data = "".join(json.dumps(record, default=str) + "\n" for record in records).encode("ascii")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (self.path.parent / f".{self.path.name}.lock").open("w") as lock:
            # Of two processes only one renames, and none writes into a file that was renamed meanwhile.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_full(len(data)):
                self._rename()
            _append(self.path, data)

    def _is_full(self, more: int) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        return size > 0 and size + more > self._max_bytes

    def _rename(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))


def _append(path: Path, data: bytes) -> None:
    """Append all of ``data`` to a file, or nothing: records after a part of a line could not be read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise


class BackgroundLog:
    """Thread that writes log records, so that no request waits for the disk or fails because of it."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[JsonLines, Record] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._lost = 0

    def put(self, file: JsonLines, record: Record) -> None:
        """Queue a record, on the event loop only; beyond 10 000 waiting records it is counted as lost."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="json-lines", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait((file, record))
        except queue.Full:
            self._count_lost(1, file, "the disk is too slow")

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            by_file: dict[JsonLines, list[Record]] = {}
            for item in batch:
                if item is not None:
                    by_file.setdefault(item[0], []).append(item[1])
            for file, records in by_file.items():
                self._write(file, records)
            if None in batch:
                return

    def _write(self, file: JsonLines, records: list[Record]) -> None:
        try:
            file.write(records)
        except OSError as error:
            self._count_lost(len(records), file, str(error))
            return
        if self._lost:
            log.error("%s can be written again; %d records were lost", file.path, self._lost)
            self._lost = 0

    def _count_lost(self, records: int, file: JsonLines, why: str) -> None:
        if not self._lost:
            log.error("%s cannot be written; requests are still answered: %s", file.path, why)
        self._lost += records
