import os
import socket

HOST_VARIABLE = "SNF_WORKER_HOST"
"""Environment variable in which a launcher passes its host name to its workers."""
HOST = os.environ.get(HOST_VARIABLE) or socket.gethostname()
"""Host name in the names of workers: that of the launcher's start, because the name of a machine may change."""


def worker_name(pid: int | None = None) -> str:
    """Return the name ``host:pid`` of a worker process on this host, by default of the current one."""
    return f"{HOST}:{os.getpid() if pid is None else pid}"
