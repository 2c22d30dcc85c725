"""Reserve file of the embedded broker, deleted to free disk space when the disk is nearly full."""

import logging
import os
import shutil
import time

from snf_models.atomic_files import remove_leftovers, write_atomically
from snf_models.disk_space import existing_folder, usable_bytes
from snf_worker.settings import Settings

log = logging.getLogger(__name__)

BYTES = 8 * 2**20
"""Size of the file. The server rewrites its own file from 4 MiB on, so a few thousand jobs need no more."""
SHARE = 8
"""The file is at most the whole disk divided by this number."""
_LEFTOVER_S = 60.0
_RETRY_S = 60.0
"""Time until the next try after an error of the disk, a quota for example."""


class BrokerReserve:
    """File that reserves disk space, because a Valkey server exits when it cannot append a change."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "broker"
        self._path = self._folder / "reserve"
        self._next_try = 0.0  # by time.monotonic()

    def balance(self) -> None:
        """Delete the file if the disk is nearly full, or create it if there is room; pause 60 s after an error."""
        if time.monotonic() < self._next_try:
            return
        try:
            self._balance()
        except OSError as error:
            self._next_try = time.monotonic() + _RETRY_S
            log.warning("the space that is kept for the broker cannot be changed: %s", error)

    def _balance(self) -> None:
        size = self._size()
        if not self.has_room():
            if self._path.exists():
                self._path.unlink(missing_ok=True)
                log.error("the disk is full: %d bytes that were kept for the broker are free now", size)
        elif not self._path.exists() and usable_bytes(self._folder) > size:
            remove_leftovers(self._folder, _LEFTOVER_S)
            # Random bytes: some file systems store no zeros.
            write_atomically(self._path, os.urandom(size), mode=0o600)

    def has_room(self) -> bool:
        """Return whether the server has the space to start and to rewrite its file."""
        return shutil.disk_usage(existing_folder(self._folder)).free >= self._size() // 2

    def _size(self) -> int:
        return min(BYTES, shutil.disk_usage(existing_folder(self._folder)).total // SHARE)
