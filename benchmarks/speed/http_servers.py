"""Servers as real processes: started, frozen while others have their turn, and stopped with all that they started."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.speed.ours import COMPILED
from benchmarks.speed.peers import QUIET, ROOT, SIDE, PeerUnavailable, environments, peer_environment
from tests.end_to_end.support.service import environment
from tests.support.paths import IMPORT_PATH

READY_S = 180
STOP_S = 30
MARK = "SPEED_MARK"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server: how its route is called, and its processes, told by a variable that all of them inherit."""

    name: str
    port: int
    path: str
    headers: dict[str, str]
    form: str | None
    mark: str
    process: subprocess.Popen[bytes]
    log: Path
    frozen: bool = field(default=False)

    def body(self, png: bytes) -> bytes:
        """Return the body of a request with this image."""
        if self.form is None:
            return png
        head = f'--speed\r\nContent-Disposition: form-data; name="{self.form}"; filename="i.png"\r\n'
        return head.encode() + b"Content-Type: image/png\r\n\r\n" + png + b"\r\n--speed--\r\n"

    def pids(self) -> list[int]:
        """Return its processes."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdigit() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU time that its living processes have used."""
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def idle_share(self, seconds: float = 2.0) -> float:
        """Return the share of a core that it uses while nobody asks."""
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def freeze(self) -> None:
        """Let none of its processes run."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)
        self.frozen = False

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def await_ready(self, png: bytes) -> None:
        """Wait until it scores an image. Raises ``PeerUnavailable``."""
        deadline = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, timeout=60) as client:
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise PeerUnavailable(f"{self.name} ended at its start: {self.last_words()}")
                with suppress(httpx.TransportError):
                    url = f"http://127.0.0.1:{self.port}{self.path}"
                    answer = client.post(url, content=self.body(png), headers=self.headers)
                    if answer.status_code == 200 and "log_likelihood" in answer.text:
                        return
                    if answer.status_code in {400, 415, 422, 500}:
                        raise PeerUnavailable(f"{self.name} answers {answer.status_code}: {answer.text[:300]}")
                time.sleep(0.2)
        raise PeerUnavailable(f"{self.name} is not ready after {READY_S} s: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log on one line."""
        return " ".join(self.log.read_text(errors="replace").split())[-400:]

    def stop(self) -> None:
        """Ask it to stop, and kill what does not."""
        self.thaw()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        while self.pids():
            self._signal(signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()


def start(
    name: str, command: list[str], variables: dict[str, str], folder: Path, path: str, form: str | None = None
) -> Server:
    """Start a server; its variables are all it gets, and ``{port}`` in its command and variables its port."""
    port, mark = free_port(), uuid.uuid4().hex
    log = folder / f"{name.replace(' ', '-')}.log"
    own = {key: value.replace("{port}", str(port)) for key, value in variables.items()}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=folder,
            env=own | {MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    kind = "image/png" if form is None else "multipart/form-data; boundary=speed"
    return Server(name, port, path, {"Content-Type": kind}, form, mark, process, log)


def our_service(home: Path, model: str, threads: int) -> Server:
    """Start the product's service on an installation."""
    variables = environment(home) | QUIET | {"SNF_PORT": "{port}", "SNF_THREADS": str(threads)}
    variables |= {"SNF_RUNTIME_DIR": str(home / "run"), "PYTHONPATH": IMPORT_PATH}
    return start("service", [sys.executable, "-m", "snf_app.server"], variables, home, f"/v1/models/{model}/score")


def free_port() -> int:
    """Return a port that nobody listens on, not of those that the system gives to connections by itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


FORMS = {"litserve": "image", "bentoml": "images"}
"""Frameworks whose routes take an image as a field of a form."""


def behind(framework: str, kind: str, folder: Path, threads: int, batch: int, artifact: Path, glow: str) -> Server:
    """Start a framework's route with what ``kind`` says behind it. Raises ``PeerUnavailable``."""
    python = str(environments()[framework].ready())
    variables = peer_environment(folder, threads) | {
        "PYTHONPATH": os.pathsep.join([str(SIDE), str(ROOT)]),
        "SPEED_KIND": kind,
        "SPEED_CACHE": str(COMPILED),
        "SPEED_ARTIFACT": str(artifact),
        "SPEED_GLOW": glow,
        "SPEED_THREADS": str(threads),
        "SPEED_BATCH": str(batch),
        "SPEED_PORT": "{port}",
    }
    command = [python, str(SIDE / f"route_{framework}.py")]
    if framework == "bentoml":
        target = ["--host", "127.0.0.1", "--port", "{port}", "--working-dir", str(SIDE)]
        command = [python, "-m", "bentoml", "serve", "route_bentoml:Glow", *target]
    return start(f"{kind} behind {framework}", command, variables, folder, "/score", FORMS.get(framework))
