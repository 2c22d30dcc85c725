"""Memory: ``python -m benchmarks.speed memory``. Resident memory of the service idle, and under work of any size."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import httpx
import numpy as np

from benchmarks.installation import resident_bytes
from benchmarks.speed.artifact import registry
from benchmarks.speed.context import Context
from benchmarks.speed.http_servers import Server, our_service
from benchmarks.speed.pairing import Target, ratio
from tests.support.paths import DIGITS

TITLE = "Resident memory of the service"
NAMES = ("first", "second")
MANY = 1000
FLAT = Target(high=1.25)
"""Of many images over one, and of the last round over the first."""


def measure(context: Context) -> None:
    """Measure all rows: rounds of one image, many images in a request, and a request after a request."""
    keys = ("memory/many", "memory/steady", "memory/idle")
    if not context.wants(*keys):
        return
    with tempfile.TemporaryDirectory(prefix="snf-memory-") as name:
        home = Path(name)
        registry(home, *NAMES, preset=context.glow)
        server = our_service(home, NAMES[0], context.threads)
        try:
            found = rounds(context, server)
        finally:
            server.stop()
    details = {f"{what}, MiB": [round(value, 1) for value in values] for what, values in found.items()}
    context.record(
        keys[2],
        f"two models of {context.glow} beside the shipped ones: peak after one image / idle",
        ratio(found["one image"], found["idle"]),
        **details,
    )
    context.record(
        keys[1],
        f"idle after the last round / after the first, {context.rounds} rounds of 1 and {MANY} images",
        ratio([found["after work"][-1]], [found["after work"][0]]),
        Target(high=1.05),
    )
    context.record(
        keys[0],
        f"peak while scoring {MANY} images in one request / while scoring one",
        ratio(found[f"{MANY} images"], found["one image"]),
        FLAT,
    )


def rounds(context: Context, server: Server) -> dict[str, list[float]]:
    """Return the resident MiB of the service by what it had done, for every round; peaks while it works."""
    png = DIGITS[0].read_bytes()
    for name in NAMES:
        server.path = f"/v1/models/{name}/score"
        server.await_ready(png)
    pid = server.process.pid
    found: dict[str, list[float]] = {}

    def note(what: str, mib: float) -> None:
        found.setdefault(what, []).append(mib)

    images = np.random.default_rng(0).integers(0, 256, (MANY, 28, 28), dtype=np.uint8)
    archive = io.BytesIO()
    np.save(archive, images)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=600, trust_env=False) as client:

        def post(content: bytes, kind: str) -> None:
            answer = client.post(server.path, content=content, headers={"Content-Type": kind})
            answer.raise_for_status()
            json.loads(answer.content)

        for _ in range(context.rounds):
            note("idle", resident_bytes(pid) / 2**20)
            forget_peak(pid)
            post(png, "image/png")
            note("one image", peak_mib(pid))
            forget_peak(pid)
            post(archive.getvalue(), "application/x-npy")
            note(f"{MANY} images", peak_mib(pid))
            note("after work", resident_bytes(pid) / 2**20)
    return found


def forget_peak(pid: int | str) -> None:
    """Let the peak of a process start anew at what it uses now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int | str) -> float:
    """Return the greatest resident memory, in MiB, of a process since its peak was forgotten."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
