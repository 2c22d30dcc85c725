"""Connections to Ray clusters. This program starts none, as a head node of Ray contacts other hosts."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from snf_models.bulk.part import Stopped
from snf_models.errors import RayUnavailable

log = logging.getLogger(__name__)

CONNECT_S = 5.0
ANSWER_S = 30.0
"""Time in seconds that a cluster has to answer."""
TICK_S = 0.2
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})


@contextmanager
def ray_at(address: str, should_stop: Callable[[], bool]) -> Iterator[Any]:
    """Yield ``ray``, connected; end this process's actors after the block; raise ``Stopped``, ``RayUnavailable``."""
    _check_reachable(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end of a connection starts no Ray
    ray: Any = import_module("ray")  # an extra, and after its settings
    try:
        _connect(ray, address, should_stop)
        with redirect_stdout(sys.stderr):  # Ray prints what happens to its nodes
            yield ray
    finally:
        ray.shutdown()


def places(ray: Any, threads: int, *, on_gpu: bool) -> int:
    """Return how many actors fit on all nodes, resources in use included; raise ``RayUnavailable`` for none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) if on_gpu else float("inf")) for node in nodes]
    if not any(rooms):
        wanted = f"{threads} core{'s' if threads > 1 else ''}" + (" and a GPU" if on_gpu else "")
        raise RayUnavailable(f"expected a node of {wanted} in the Ray cluster, got {len(nodes)} nodes without")
    return int(sum(rooms))


def _connect(ray: Any, address: str, should_stop: Callable[[], bool]) -> None:
    """Connect within a time limit, in a thread, so that Ray puts no signal handlers in the place of ours."""
    failures: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)  # it warns of the handlers
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=connect, name="ray-connection", daemon=True)
    thread.start()
    deadline = time.monotonic() + ANSWER_S
    while thread.is_alive():
        if should_stop():
            raise Stopped("connecting to Ray was stopped")
        if time.monotonic() > deadline:
            raise RayUnavailable(
                f"no Ray answers at {address} (SNF_RAY_ADDRESS) within {ANSWER_S:g} s{_advice(address)}"
            )
        thread.join(TICK_S)
    if failures:
        log.error("cannot connect to Ray: %s", failures[0])
        what = str(failures[0]).strip().partition("\n")[0]
        raise RayUnavailable(f"cannot connect to Ray at {address}: {what}{_advice(address)}") from failures[0]


def _advice(address: str) -> str:
    """Return what is wrong with a loopback address, or ''."""
    if address.rpartition(":")[0] not in LOOPBACK:
        return ""
    return (
        "; Ray takes a loopback address for the outward address of this machine: expected the address that `ray start` "
        "printed on the head node"
    )


def _check_reachable(address: str) -> None:
    """Raise ``RayUnavailable`` unless something answers at an address; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RayUnavailable(f"cannot reach Ray at {address} (SNF_RAY_ADDRESS): {error}") from error
