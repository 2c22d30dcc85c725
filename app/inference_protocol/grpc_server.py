"""The gRPC server of the Open Inference Protocol, which is optional: it needs the extra ``grpc`` and a port."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from app.state import AppState
from worker.settings import Settings

MESSAGE_BYTES = 8 * 2**20
"""Largest message. gRPC keeps a message in memory before anyone looks at it, so large tensors are for HTTP."""

PACKAGES = ("grpc", "google.protobuf")

log = logging.getLogger(__name__)


def lacks_packages(settings: Settings) -> bool:
    """Return whether the settings name a port of gRPC, but the packages of the extra ``grpc`` are not installed."""
    return settings.grpc_port is not None and None in map(importlib.util.find_spec, PACKAGES)


@asynccontextmanager
async def grpc_server(app: ASGIApp, settings: Settings, state: AppState) -> AsyncIterator[None]:
    """Context manager that answers gRPC calls at ``SNF_GRPC_PORT`` during its block; without a port it does nothing.

    Args:
        app: The HTTP application, which answers the calls.
        settings: Settings, of which host, port and limits are used.
        state: State of the application.

    Raises:
        RuntimeError: The port is taken.
    """
    if settings.grpc_port is None:
        yield
        return
    import grpc  # noqa: PLC0415 - an optional package

    from app.inference_protocol.grpc_calls import METHODS, GrpcCalls  # noqa: PLC0415 - imports it
    from app.inference_protocol.grpc_messages import CLASSES, SERVICE  # noqa: PLC0415 - imports protobuf

    calls = GrpcCalls(app, state)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(calls, name),
            request_deserializer=CLASSES[f"{name}Request"].FromString,
            response_serializer=CLASSES[f"{name}Response"].SerializeToString,
        )
        for name in METHODS
    }
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        # So that the messages of all calls together are no larger than the bodies of all requests may be.
        maximum_concurrent_rpcs=max(1, settings.max_bytes_in_flight // MESSAGE_BYTES),
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    server.add_insecure_port(f"{host}:{settings.grpc_port}")
    await server.start()
    log.info("gRPC calls are answered at %s:%d", host, settings.grpc_port)
    try:
        yield
    finally:
        await server.stop(settings.drain_seconds)
