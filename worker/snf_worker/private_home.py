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
    """Set the umask 077 for this process and its children, and return the user's own."""
    own = os.umask(_OTHERS)
    return int(os.environ.setdefault(USER_UMASK, f"{own:03o}"), 8)


@contextmanager
def user_umask() -> Iterator[None]:
    """Restore the user's umask during the block, for files outside of ``home`` that a user asks for."""
    given = keep_files_private()
    os.umask(given)
    try:
        yield
    finally:
        os.umask(_OTHERS)


@contextmanager
def private_umask() -> Iterator[None]:
    """Make new files private during the block, for ``home`` inside :func:`user_umask`."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def protect_home(home: Path) -> str | None:
    """Make the data folder private to its owner; return a sentence on what was or could not be changed, or None."""
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
