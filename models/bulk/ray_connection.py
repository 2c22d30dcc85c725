"""Connections to a Ray cluster. We start none: the head node of Ray asks other hosts where it runs, in any setting."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from models.errors import RayUnavailable

CONNECT_S = 5.0


@contextmanager
def ray_at(address: str) -> Iterator[Any]:
    """Yield the module of Ray, connected to a cluster; all actors of this process end with the block.

    Args:
        address: ``HOST:PORT`` of the cluster that this machine is a part of.

    Raises:
        RayUnavailable: The cluster cannot be reached.
    """
    _check_reachable(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end of a connection starts no Ray
    ray: Any = import_module("ray")  # an extra, and after its settings
    try:
        with _signal_handlers_kept():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayUnavailable(f"cannot connect to Ray at {address}: {error}") from error
    try:
        with redirect_stdout(sys.stderr):  # Ray prints what happens to its nodes
            yield ray
    finally:
        ray.shutdown()


def places(ray: Any, threads: int, *, on_gpu: bool) -> int:
    """Return the number of actors that the nodes of a cluster have room for, whoever uses it now.

    Args:
        ray: The module of Ray, connected.
        threads: Cores of an actor.
        on_gpu: Whether an actor takes a GPU, too.

    Raises:
        RayUnavailable: No node has room for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    rooms = [min(node.get("CPU", 0) // threads, node.get("GPU", 0) if on_gpu else float("inf")) for node in nodes]
    if not any(rooms):
        wanted = f"{threads} core{'s' if threads > 1 else ''}" + (" and a GPU" if on_gpu else "")
        raise RayUnavailable(f"expected a node of {wanted} in the Ray cluster, got {len(nodes)} nodes without")
    return int(sum(rooms))


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep the handlers of this process: those of Ray end the process at once, and callers have to stop it orderly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raise ``RayUnavailable`` unless something answers at an address; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RayUnavailable(f"cannot reach Ray at {address} (SNF_RAY_ADDRESS): {error}") from error
