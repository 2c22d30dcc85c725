"""Streaming responses that release their resources, even if the client disconnects early."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class ClosableChunks(Protocol):
    """Interface of an iterator over the bytes of a response that keeps a file or the like until it is closed."""

    def __iter__(self) -> ClosableChunks: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Release the source of the bytes, such as an open file, even if not all chunks were read."""


class ClosedStream(StreamingResponse):
    """Streaming response that closes the iterator of its bytes, even if the client disconnects early."""

    def __init__(
        self,
        content: AsyncGenerator[bytes] | ClosableChunks,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The answer to a client that left is cancelled, and closing must finish even then.
            with anyio.CancelScope(shield=True):
                if isinstance(self._content, AsyncGenerator):
                    await self._content.aclose()
                else:
                    await anyio.to_thread.run_sync(self._content.close)
