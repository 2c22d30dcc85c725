"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("torch", "openvino", "numpy", "fastapi", "uvicorn")


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0))


def describe(threads: int) -> dict[str, Any]:
    """Return processor, cores, threads used, instruction sets and versions; the load tells whether it was quiet."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": cpu,
        "cores": cores(),
        "threads": threads,
        "flags": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed(name)) is not None},
        "load_before": round(os.getloadavg()[0], 2),
    }


def installed(name: str) -> str | None:
    """Return the version of a package of this environment, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
