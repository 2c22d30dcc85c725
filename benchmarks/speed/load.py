"""Loading servers by the client process, and what it finds."""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.installation import percentile
from benchmarks.speed.http_servers import Server
from benchmarks.speed.peers import SIDE, Child, PeerUnavailable

RAMP_S = 1.0


@dataclass(frozen=True)
class Found:
    """What one turn of load found: requests completed, latencies in seconds, and who used how much CPU time."""

    completed: int
    seconds: float
    latencies: list[float]
    client_cpu: float
    server_cpu: float

    @property
    def throughput(self) -> float:
        """Images a second, as measured."""
        return self.completed / self.seconds

    def per_core_second(self, cores: int) -> float:
        """Images a second of a core that the client left to the server."""
        return self.completed / (self.seconds * cores - self.client_cpu)

    def latency(self, share: float) -> float:
        """Return a percentile of the latencies, in seconds."""
        return percentile(self.latencies, share)


class Driver:
    """The client process."""

    def __init__(self, process: Child, images: Sequence[bytes]) -> None:
        self.process = process
        self.images = images

    def load(self, server: Server, clients: int, seconds: float, ramp: float = RAMP_S) -> Found:
        """Load a server for some seconds. Raises ``PeerUnavailable`` where an answer is no score."""
        before = server.cpu_seconds()
        found = self.process.ask(
            "drive",
            port=server.port,
            path=server.path,
            headers=server.headers,
            bodies=[base64.b64encode(server.body(image)).decode() for image in self.images],
            clients=clients,
            seconds=seconds,
            ramp=ramp,
        )
        used = server.cpu_seconds() - before
        if found["errors"]:
            raise PeerUnavailable(f"{server.name}: {found['errors']} requests failed: {found['first_errors']}")
        if not found["completed"]:
            raise PeerUnavailable(f"{server.name} answered nothing in {seconds:g} s")
        return Found(found["completed"], found["seconds"], found["latencies"], found["client_cpu"], used)


@contextmanager
def driver(images: Sequence[bytes]) -> Iterator[Driver]:
    """Run the client process until the block ends; it computes nothing and needs no environment of its own."""
    with tempfile.TemporaryDirectory(prefix="snf-client-") as folder:
        process = Child(Path(sys.executable), SIDE / "load_client.py", Path(folder), 1)
        try:
            yield Driver(process, images)
        finally:
            process.stop()
