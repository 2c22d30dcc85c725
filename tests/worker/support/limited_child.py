"""A task for the tests of sandboxed processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snf_models.errors import DatasetRefused


def use_torch(_order: Any, _progress: Callable[[int, int], None]) -> bool:
    return bool(__import__("torch"))


def work(order: Any, progress: Callable[[int, int], None]) -> Any:
    match order:
        case {"echo": content}:
            print("this is no answer", flush=True)
            print("nor is this", file=sys.stderr)
            return {"content": content, "environment": dict(os.environ), "nice": os.nice(0)}
        case "limits":
            return {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("DATA", "CPU", "CORE")}
        case "refuse":
            raise DatasetRefused("some-slug", "Some title", "some detail \udcff")
        case "hold memory":
            return [bytes(2**20) for _ in range(1000)] and None
        case "compute":
            while True:
                pass
        case "crash":
            raise ZeroDivisionError("by purpose")
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(0)
        case {"wait beside a child": file}:
            child = subprocess.Popen(["sleep", "600"])
            Path(file).write_text(f"{os.getpid()} {child.pid}")
            progress(3, 7)
            time.sleep(600)
        case "talk without end":
            while True:
                sys.stderr.write("x" * 2**16)
    return None
