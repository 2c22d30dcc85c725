"""Startup: ``python -m benchmarks.speed startup``. The service with its models ready against importing torch."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.common import DIGITS
from benchmarks.installation import serving, temporary_home
from benchmarks.speed.pairing import Target, in_turns, ratio, timed
from benchmarks.speed.results import Context

TITLE = "Time to start"
PATH = "/v1/models/mnist-snf-glow/score"


def measure(context: Context) -> None:
    """Measure from starting the process until a shipped model has scored an image."""
    if not context.wants("startup/shipped"):
        return
    with temporary_home("startup") as home:

        def service() -> float:
            began = time.perf_counter()
            with serving(home, threads=context.threads) as client:
                png, kind = DIGITS[0].read_bytes(), {"Content-Type": "image/png"}
                client.post(PATH, content=png, headers=kind).raise_for_status()
                return time.perf_counter() - began

        torch = timed(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True))
        seconds = in_turns({"service": service, "import torch": torch}, context.rounds)
    context.record(
        "startup/shipped",
        "service alone, the shipped models ready, first scores answered / python -c 'import torch'",
        ratio(seconds["service"], seconds["import torch"]),
        Target(high=2),
        **{"seconds, median": {side: statistics.median(took) for side, took in seconds.items()}},
    )
