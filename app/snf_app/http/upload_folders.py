from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from snf_models.disk import remove_leftovers

LOCK = "lock"
TARGET = "target"

log = logging.getLogger(__name__)


class UploadFolders:
    """Temporary folders of uploads, each locked by its process; a free lock shows that the process was killed."""

    def __init__(self, root: Path, datasets: Path) -> None:
        self._root = root
        self._datasets = datasets

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Yield a new folder, which holds only the file of its lock, and delete it at the end of the block."""
        folder = self._root / uuid4().hex
        # A sweep must not find the folder without its lock.
        with self._locked():
            folder.mkdir()
            lock = (folder / LOCK).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with lock:
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete the upload folders that killed processes left, and the unfinished datasets made from them."""
        with self._locked():
            orphans, live = [], set()
            for folder in self._root.iterdir():
                if not folder.is_dir():
                    continue
                if _is_locked(folder):
                    live.add(_target(folder))
                else:
                    orphans.append(folder)
            for folder in orphans:
                name = _target(folder)
                if name is not None and name not in live:
                    remove_leftovers(self._datasets, name=name)
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def note_target(folder: Path, name: str) -> None:
    """Record the dataset to be made from an upload, which ``sweep`` removes if the service is killed."""
    (folder / TARGET).write_text(name, encoding="utf-8")


def _target(folder: Path) -> str | None:
    try:
        return (folder / TARGET).read_text(encoding="utf-8")
    except OSError:
        return None


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / LOCK).open("ab") as lock:
            return not _try_lock(lock)
    except FileNotFoundError:
        return False
    except OSError as error:
        # Another service may be receiving the upload: it is not deleted.
        log.warning("%s is taken as in use, because its lock cannot be read: %s", folder, error.strerror)
        return True


def _try_lock(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
