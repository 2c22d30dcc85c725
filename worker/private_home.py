"""Protection of the data folder ``home`` from other users, by umask and folder permissions."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

USER_UMASK = "_SNF_USER_UMASK"
"""Environment variable that our processes hand to those that they start; it is no setting."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@cache
def keep_files_private() -> int:
    """Make all new files private to their owner, and return the user's original umask.

    The umask becomes 077 for this process and for the processes that it starts.

    All files and folders are then readable for their owner alone. Later calls change nothing. The umask of the user is
    that of the first of our processes, which the others get in their environment.
    """
    own = os.umask(_OTHERS)
    return int(os.environ.setdefault(USER_UMASK, f"{own:03o}"), 8)


@contextmanager
def user_umask() -> Iterator[None]:
    """Context manager that restores the user's original umask for files created in its block.

    It is for files outside of ``home`` that a user asks for.
    """
    given = keep_files_private()
    os.umask(given)
    try:
        yield
    finally:
        os.umask(_OTHERS)


@contextmanager
def private_umask() -> Iterator[None]:
    """Context manager that makes new files private to their owner.

    Use it for ``home`` inside :func:`user_umask`.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def protect_home(home: Path) -> str | None:
    """Make the data folder ``home`` and all new files private to their owner.

    Other users lose their permissions on the folder, if they have any.

    What an earlier version has left in the folder cannot be reached then either, whatever its permissions are.

    Args:
        home: The data folder, which need not exist.

    Returns:
        A sentence for the user about what was changed or could not be changed; None if nothing had to be changed.
    """
    keep_files_private()
    if not home.is_dir():
        return None
    state = home.stat()
    mode = stat.S_IMODE(state.st_mode)
    if not mode & _OTHERS:
        return None
    open_to = f"{home} was open to other users of this machine (mode {mode:o})"
    if state.st_uid != os.getuid():
        return f"{open_to} and stays so, because it belongs to uid {state.st_uid}: its owner should chmod 700 it"
    try:
        home.chmod(mode & ~_OTHERS)
    except OSError as error:
        return f"{open_to} and stays so: {error.strerror}"
    return f"{open_to}; now it is open to its owner alone"
