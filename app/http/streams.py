"""Streamed answers that leave nothing open."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Pieces(Protocol):
    """Pieces of an answer that hold something open; they are taken and closed in threads."""

    def __iter__(self) -> Pieces: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Close what the pieces hold open, whether any or all of them were taken or not."""


class ClosedStream(StreamingResponse):
    """A streamed answer that closes its content at the end, also where the client leaves before it."""

    def __init__(
        self,
        content: AsyncGenerator[bytes] | Pieces,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # The answer to a client that left is cancelled, and closing must finish even then.
            with anyio.CancelScope(shield=True):
                if isinstance(self._content, AsyncGenerator):
                    await self._content.aclose()
                else:
                    await anyio.to_thread.run_sync(self._content.close)
