"""Optional gRPC server of the Open Inference Protocol.

It needs the package extra ``grpc`` and a port in the settings.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp

from app.state import AppState
from worker.settings import Settings

MESSAGE_BYTES = 8 * 2**20
"""Largest message. gRPC keeps a message in memory before its call is handled, so large tensors are for HTTP."""
COPIES = 4
"""Times that a call holds its tensor: in the message, in the body of the HTTP call and where the body is read."""
TICK_S = 0.2
"""Seconds between two checks whether the service has been asked to stop."""

PACKAGES = ("grpc", "google.protobuf")

log = logging.getLogger(__name__)


def lacks_packages(settings: Settings) -> bool:
    """Return whether gRPC is turned on, but its packages are not installed.

    It is turned on if the settings name a port of gRPC. The packages are those of the extra ``grpc``.
    """
    if settings.grpc_port is None:
        return False
    try:
        return None in map(importlib.util.find_spec, PACKAGES)
    except ModuleNotFoundError:  # a package above one of them is missing
        return True


@asynccontextmanager
async def grpc_server(
    app: ASGIApp, settings: Settings, state: AppState, draining: threading.Event
) -> AsyncIterator[None]:
    """Context manager that runs the service's gRPC server while the block runs.

    The server answers at ``SNF_GRPC_PORT``. Without a port nothing is done.

    Args:
        app: The HTTP application, which answers the calls.
        settings: Settings, of which host, port and limits are used.
        state: State of the application.
        draining: Set when the service has been asked to stop. Then new calls are refused, and those in progress finish.

    Raises:
        RuntimeError: The port is taken.
    """
    if settings.grpc_port is None:
        yield
        return
    import grpc  # noqa: PLC0415 - an optional package

    from app.inference_protocol.grpc_calls import METHODS, GrpcCalls  # noqa: PLC0415 - imports it
    from app.inference_protocol.grpc_messages import CLASSES, SERVICE  # noqa: PLC0415 - imports protobuf

    calls = GrpcCalls(app, state, settings.request_timeout_s)
    handlers = {
        # On the wire the same as a single message, but the handler decides when it is read.
        name: grpc.stream_unary_rpc_method_handler(
            calls.handler(name),
            response_serializer=CLASSES[f"{name}Response"].SerializeToString,
        )
        for name in METHODS
    }
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # Some versions decompress first, and compare with the largest message then.
            ("grpc.per_message_decompression", 0),
        ],
        # So that the messages of all calls together are no larger than the bodies of all requests may be.
        maximum_concurrent_rpcs=max(1, settings.max_bytes_in_flight // (COPIES * MESSAGE_BYTES)),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    log.info("gRPC calls are answered at %s:%d", host, settings.grpc_port)
    stopping = asyncio.create_task(_stop(server, draining, settings.drain_seconds))
    try:
        yield
    finally:
        draining.set()
        await stopping


async def _stop(server: Any, draining: threading.Event, seconds: float) -> None:
    while not draining.is_set():
        await asyncio.sleep(TICK_S)
    await server.stop(seconds)
