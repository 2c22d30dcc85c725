"""Names of worker processes: host name and process id."""

import os
import socket

HOST_VARIABLE = "SNF_WORKER_HOST"
"""Environment variable in which a launcher passes its host name to its workers."""
HOST = os.environ.get(HOST_VARIABLE) or socket.gethostname()
"""Host name in the names of workers: that of the launcher's start, because the name of a machine may change."""


def worker_name(pid: int | None = None) -> str:
    """Return the name of a worker process of this host, by default this one: ``host:pid``."""
    return f"{HOST}:{os.getpid() if pid is None else pid}"
