"""Startup: ``python -m benchmarks.speed startup``. The service with two models ready against importing torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.artifact import registry
from benchmarks.speed.context import Context
from benchmarks.speed.http_servers import Server, our_service
from benchmarks.speed.pairing import Target, in_turns, ratio, timed
from snf_models.registry.registry import Registry
from tests.support.paths import DIGITS

TITLE = "Time to start"
SHIPPED = "mnist-snf-glow"


def measure(context: Context) -> None:
    """Measure all rows: the models that ship with the product, and two of the paper's Glow."""
    with tempfile.TemporaryDirectory(prefix="snf-startup-") as name:
        shipped = Path(name) / "shipped"
        shipped.mkdir()
        row(context, "startup/shipped", "the shipped models", shipped, SHIPPED)
        if context.wants("startup/two"):
            home = Path(name) / "two"
            home.mkdir()
            registry(home, "first", "second", preset=context.glow)
            row(context, "startup/two", f"the shipped models and two of {context.glow}", home, "first", "second")


def row(context: Context, key: str, models: str, home: Path, *asked: str) -> None:
    """Measure one installation: from starting its process until each model of ``asked`` has scored an image."""
    if not context.wants(key):
        return
    png = DIGITS[0].read_bytes()

    def service() -> float:
        began = time.perf_counter()
        server: Server = our_service(home, asked[0], context.threads)
        try:
            for model in asked:
                server.path = f"/v1/models/{model}/score"
                server.await_ready(png)
            return time.perf_counter() - began
        finally:
            server.stop()

    command = [sys.executable, "-c", "import torch"]
    seconds = in_turns(
        {"service": service, "import torch": timed(lambda: subprocess.run(command, check=True))}, context.rounds
    )
    context.record(
        key,
        f"service alone, {models} ready, first scores answered / python -c 'import torch'",
        ratio(seconds["service"], seconds["import torch"]),
        Target(high=2),
        **{
            "seconds, median": {side: statistics.median(took) for side, took in seconds.items()},
            "models in the registry": len(Registry(home / "registry").names()),
        },
    )
