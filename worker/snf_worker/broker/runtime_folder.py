"""The folder of the embedded broker's socket. In ``/tmp``, a folder of another user could hold that user's server."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snf_worker.errors import BrokerStartFailed
from snf_worker.settings import Settings


def check_runtime_folder(folder: Path) -> None:
    """Raise ``BrokerStartFailed`` if another user can change the runtime folder; it need not exist."""
    with suppress(FileNotFoundError):
        _check(folder, folder.lstat())


def make_runtime_folder(folder: Path) -> None:
    """Create the runtime folder for its owner only, or check an existing one."""
    with suppress(FileExistsError):  # also for a link
        folder.mkdir(mode=0o700, parents=True)
    check_runtime_folder(folder)


@contextmanager
def runtime_folder_in_use(settings: Settings) -> Iterator[None]:
    """Hold the socket's folder during the block. The last process removes it, unless a setting names it."""
    if settings.redis_url is not None:
        yield
        return
    folder = settings.runtime_folder
    descriptor = _open_shared(folder)
    try:
        yield
    finally:
        if settings.runtime_dir is None:
            with suppress(OSError):  # another process keeps it, or it is not empty
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder.rmdir()
        os.close(descriptor)


def _open_shared(folder: Path) -> int:
    """Open the folder, which is created where it is missing, with a shared lock; return the file descriptor."""
    while True:
        make_runtime_folder(folder)
        with suppress(FileNotFoundError):  # the process that kept it last has removed it meanwhile
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(folder, descriptor):
                return descriptor
            os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        return False


def _check(folder: Path, state: os.stat_result) -> None:
    mode = stat.S_IMODE(state.st_mode)
    if not stat.S_ISDIR(state.st_mode):
        problem = "is a symbolic link" if stat.S_ISLNK(state.st_mode) else "is a file"
    elif state.st_uid != os.getuid():
        problem = f"belongs to another user (uid {state.st_uid})"
    elif mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"may be changed by other users (mode {mode:o})"
    else:
        return
    raise BrokerStartFailed(
        f"expected a runtime folder of uid {os.getuid()} that no other user may change, but {folder} {problem}; remove "
        "it, or set SNF_RUNTIME_DIR to a folder of your own"
    )
