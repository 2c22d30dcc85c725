"""Connections to a Ray cluster, or to a Ray of this machine alone, which listens on the loopback interface alone."""

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

LOCAL = "local"
"""Address that means: start a Ray of this machine alone, for the time of the scoring."""
LOOPBACK = "127.0.0.1"
CONNECT_S = 5.0
STORE_BYTES = 100 * 2**20
"""Memory for objects of a Ray of this machine alone, where only numbers of parts go."""


@contextmanager
def ray_at(address: str) -> Iterator[Any]:
    """Yield the module of Ray, connected to a cluster; all actors of this process end with the block.

    Args:
        address: ``HOST:PORT`` of the cluster that this machine is a part of, or ``local`` to start one of this machine.

    Raises:
        RayUnavailable: The cluster cannot be reached.
    """
    is_local = address == LOCAL
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a call after the end of a connection starts no other Ray
    if is_local:
        # Ray reads this when it is imported. Then its servers listen on the loopback interface alone.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    else:
        _check_reachable(address)
    ray: Any = import_module("ray")  # an extra, and after its settings
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if is_local else {}
    try:
        with _signal_handlers_kept():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RayUnavailable(f"cannot connect to Ray at {address}: {error}") from error
    try:
        if is_local and any(node["NodeManagerAddress"] != LOOPBACK for node in ray.nodes()):
            raise RayUnavailable("Ray was imported before, and listens on more than the loopback interface")
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
