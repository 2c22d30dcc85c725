"""Disk space for the embedded broker: a file that is deleted when the disk is full, so that the server can go on."""

import logging
import os
import shutil

from models.atomic_files import remove_leftovers, write_atomically
from models.disk_space import existing_folder, usable_bytes
from worker.settings import Settings

log = logging.getLogger(__name__)

BYTES = 8 * 2**20
"""Size of the file. The server rewrites its own file from 4 MiB on, so a few thousand jobs need no more."""
SHARE = 8
"""The file is at most the whole disk divided by this number."""
_LEFTOVER_S = 60.0


class BrokerReserve:
    """A file in the broker's folder that takes up disk space until the disk is nearly full, and is then deleted.

    A Valkey server exits when it cannot append a change to its file, and other programs may fill the disk. The space
    that becomes free is left to the server: large writes of this product are refused while the disk has less than
    ``models.disk_space.RESERVE``, which is more.

    Args:
        settings: Settings with the data folder.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "broker"
        self._path = self._folder / "reserve"
        self._refused = False

    def balance(self) -> None:
        """Delete the file if the disk is nearly full; create it if there is room for it beside the disk's reserve."""
        size = self._size()
        if not self.has_room():
            if self._path.exists():
                self._path.unlink(missing_ok=True)
                log.error("the disk is full: %d bytes that were kept for the broker are free now", size)
        elif not (self._path.exists() or self._refused) and usable_bytes(self._folder) > size:
            try:
                remove_leftovers(self._folder, _LEFTOVER_S)
                # Random bytes: some file systems store no zeros.
                write_atomically(self._path, os.urandom(size), mode=0o600)
            except OSError as error:
                self._refused = True  # by a quota, for example
                log.warning("no space can be kept for the broker: %s", error)

    def has_room(self) -> bool:
        """Return whether the disk has the space that a server needs to start and to rewrite its file."""
        return shutil.disk_usage(existing_folder(self._folder)).free >= self._size() // 2

    def _size(self) -> int:
        return min(BYTES, shutil.disk_usage(existing_folder(self._folder)).total // SHARE)
