"""What benchmarks share: places, the machine, free ports, settings of processes, tables and files of results."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import SystemRandom
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DIGITS = sorted((ROOT / "tests" / "data" / "mnist").glob("*.png"))
IMPORT_PATH = os.pathsep.join(map(str, (ROOT, *(ROOT / p for p in ("app", "worker", "models", "client", "runtime")))))
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("torch", "openvino", "numpy", "fastapi", "uvicorn")


def parser_of(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks.NAME``, whose help is the docstring of its module."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine(threads: int | None = None) -> dict[str, Any]:
    """Return processor, cores, threads used, instruction sets and versions. The load shows whether it was quiet."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": found.get("model name", "unknown"),
        "cores": cores(),
        "threads": threads or cores(),
        "flags": [flag for flag in FLAGS if flag in found.get("flags", "").split()],
        "python": platform.python_version(),
        "versions": {name: number for name in PACKAGES if (number := installed(name)) is not None},
        "load_before": round(os.getloadavg()[0], 2),
    }


def installed(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def environment(home: Path, **settings: Any) -> dict[str, str]:
    """Return the variables of a process of the product on ``home``: those around it without settings, and its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SNF_") and name != "REDIS_URL"}
    return kept | {f"SNF_{name.upper()}": str(value) for name, value in ({"home": home, "nice": 0} | settings).items()}


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing uses, below those that connections get."""
    while True:
        port = SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed, 0.5 for the median."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table.

    >>> table(["a", "b"], [[1, None]])
    ['| a | b |', '|---|---|', '| 1 |  |']
    """
    lines = [heads, *rows]
    cells = ["| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines]
    return [cells[0], "|" + "---|" * len(heads), *cells[1:]]


def read_results(path: Path) -> Any:
    """Return the document of a JSON file of results; an empty dictionary without one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_results(folder: Path, name: str, document: Any, text: str | None = None, indent: int | None = 1) -> None:
    """Write ``NAME.json`` and, with a text, ``NAME.md``; each is whole or that of before."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in (("json", json.dumps(document, indent=indent) + "\n"), ("md", text)):
        if content is not None:
            partial = folder / f"{name}.{suffix}.partial"
            partial.write_text(content, encoding="utf-8")
            partial.replace(folder / f"{name}.{suffix}")
