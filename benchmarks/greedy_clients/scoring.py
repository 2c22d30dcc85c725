"""Greedy clients that ask for all the scoring they can get."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from benchmarks.greedy_clients.sockets import Way, announce
from benchmarks.raw_http import Connections, request

ADDRESS = "127.0.0.1"
OTHER_ADDRESSES = ("127.0.0.11", "127.0.0.12")
AFTER_REFUSAL_S = 0.05
"""Pause after a 429: a loop that only collects refusals as fast as it can is another way than those meant here."""


async def take_all(port: int, content: bytes, at_once: int, addresses: Sequence[str] = (ADDRESS,)) -> None:
    """Send a request over and over, as many at once from each address."""
    announce()

    async def client(address: str) -> None:
        connections = Connections(port, address)
        while True:
            with suppress(OSError):
                if (await connections.ask(content)).status != 429:
                    continue
            await asyncio.sleep(AFTER_REFUSAL_S)

    await asyncio.gather(*(client(address) for address in addresses for _ in range(at_once)))


async def samples(port: int, model: str, count: int) -> NDArray[np.uint8]:
    """Return images that the model can score, some of them several times."""
    path = f"/v1/models/{model}/samples?n={min(count, 32)}&seed=1&format=npy"
    answer = await Connections(port, ADDRESS).ask(request("GET", path))
    images = np.load(io.BytesIO(answer.body))
    return np.concatenate([images] * -(-count // len(images)))[:count]


def scores(count: int, query: str, at_once: int, addresses: Sequence[str] = (ADDRESS,)) -> Way:
    """Return the way that has an array of so many images scored."""

    async def way(port: int, model: str) -> None:
        body = io.BytesIO()
        np.save(body, await samples(port, model, count))
        path = f"/v1/models/{model}/score{query}"
        content = request("POST", path, body.getvalue(), "application/x-npy")
        await take_all(port, content, at_once, addresses)

    return way


def gets(rest: str, at_once: int) -> Way:
    """Return the way that gets something of a model."""

    async def way(port: int, model: str) -> None:
        await take_all(port, request("GET", f"/v1/models/{model}/{rest}"), at_once)

    return way


WAYS: dict[str, Way] = {
    "256 samples with likelihoods": gets("samples?n=256&format=json", 2),
    "256 samples as a PNG grid": gets("samples?n=256&format=png", 4),
    "256 samples as a zip": gets("samples?n=256&format=zip", 4),
    "64 explanations": scores(64, "?explain=true", 4),
    "8 images of 256 draws": scores(8, "?draws=256", 2),
    "arrays of 1,024 images from three addresses": scores(1024, "", 2, (ADDRESS, *OTHER_ADDRESSES)),
    "arrays of 1,024 images from one address": scores(1024, "", 8),
    "audits of 16 images": gets("audit?n=16", 4),
    "64 single images at once": scores(1, "", 64),
}
