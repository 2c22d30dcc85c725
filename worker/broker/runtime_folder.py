"""The runtime folder, which holds the socket of the embedded broker: creation, owner, permissions, removal.

By default it lies in ``/tmp``, where any user may create a folder of its name. A socket in a folder of another user
could be a server of that user.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.errors import BrokerStartFailed
from worker.settings import Settings


def check_runtime_folder(folder: Path) -> None:
    """Check that no other user can change the runtime folder, which holds the broker's socket.

    It must be a folder of this user. A folder that does not exist passes the check.

    Raises:
        BrokerStartFailed: It belongs to another user, others may write to it, or it is a link or a file.
    """
    with suppress(FileNotFoundError):
        _check(folder, folder.lstat())


def make_runtime_folder(folder: Path) -> None:
    """Create the folder of the broker's socket, or check that other users cannot change an existing one.

    A new folder is accessible to its owner only.

    Raises:
        BrokerStartFailed: As in :func:`check_runtime_folder`.
    """
    with suppress(FileExistsError):  # also for a link
        folder.mkdir(mode=0o700, parents=True)
    check_runtime_folder(folder)


@contextmanager
def runtime_folder_in_use(settings: Settings) -> Iterator[None]:
    """Context manager that creates the embedded broker's socket folder and keeps it while it is in use.

    With any other broker it does nothing. The folder is held during the ``with`` block.

    While any process holds it, no other user can take its place. The last process to leave removes it, unless
    ``SNF_RUNTIME_DIR`` names it or something is in it.

    Raises:
        BrokerStartFailed: As in :func:`check_runtime_folder`.
    """
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
