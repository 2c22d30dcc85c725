"""The two clients of the service: `Client` waits for answers, `AsyncClient` awaits them."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from app.access.schemas import CallerView
from app.health.schemas import Readiness
from app.jobs.schemas import WorkerList
from app.presets.schemas import PresetList
from app.scoring.schemas import Scores
from snf_client.images import Pictures
from snf_client.request import Call, model, path
from snf_client.resources.datasets import AsyncDatasets, Datasets
from snf_client.resources.jobs import AsyncJobs, Jobs
from snf_client.resources.models import AsyncModels, Calibrations, Models
from snf_client.resources.samples import Samples
from snf_client.resources.scores import IN_FLIGHT, Part, Question, Result, async_parts, parts, whole
from snf_client.retries import Retries
from snf_client.transport import AsyncSender, Group, S, SyncSender, operation

URL = "http://127.0.0.1:8000"
TIMEOUT_S = 120.0
MAX_DEADLINE_MS = 600_000

Detail = Literal["basic", "full"]


class _Client(Group[S]):
    """Calls that belong to no group."""

    @operation
    def readiness(self) -> Call[Readiness]:
        """What the service can do now, also where it is not ready."""
        return Call("GET", "/readyz", model(Readiness), accept=(503,))

    @operation
    def presets(self) -> Call[PresetList]:
        """The architectures that can be trained, and the schema of their parameters."""
        return Call("GET", path("presets"), model(PresetList))

    @operation
    def workers(self) -> Call[WorkerList]:
        """Which workers are running, on which device, on which job."""
        return Call("GET", path("workers"), model(WorkerList))

    @operation
    def caller(self) -> Call[CallerView]:
        """The name and the role of the key in use."""
        return Call("GET", path("me"), model(CallerView))


class Client(_Client[SyncSender]):
    """A running service.

    `url` is `SNF_URL` where it is not given, else the service of this machine; `key` is `SNF_API_KEY`. `timeout` is the
    longest silence in seconds, and the deadline that scoring and sampling are given. Calls raise `ClientError`.

    >>> from snf_client import Client
    >>> def look(path: str) -> float:
    ...     with Client("http://127.0.0.1:8000") as client:
    ...         [image] = client.score("mnist-snf-glow", path).results
    ...     assert image.status == "ok"
    ...     return image.anomaly.p_value
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        self._http = httpx.Client(**_options(url, key, timeout))
        super().__init__(SyncSender(self._http, timeout, retries or Retries()))
        self.models = Models(self._sender)
        self.calibrations: Calibrations[SyncSender] = Calibrations(self._sender)
        self.samples: Samples[SyncSender] = Samples(self._sender)
        self.datasets = Datasets(self._sender)
        self.jobs = Jobs(self._sender)

    def score(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        fdr: bool = False,
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> Scores:
        """Scores one image or many with a model; results keep their order, and one bad image fails alone.

        Images are paths, bytes of files, PIL images, uint8 arrays (H, W) or (H, W, C), or one array of many,
        (N, H, W) or (N, H, W, C). Many are cut into requests, `in_flight` of them at a time. `fdr` adds q-values over
        all of them. Raises `InvalidRequest` where none could be scored.
        """
        question = Question(ref, alpha, draws, explain, detail, source)
        with closing(parts(self._sender, question, images, in_flight)) as found:
            return whole(found, fdr=fdr)

    def score_parts(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> Generator[Part]:
        """As `score`, request by request, in the order of the images; `images` may be endless."""
        return parts(self._sender, Question(ref, alpha, draws, explain, detail, source), images, in_flight)

    def score_each(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> Generator[Result]:
        """As `score`, image by image as answers come, in the order of the images; `images` may be endless.

        >>> from pathlib import Path
        >>> from snf_client import Client
        >>> def anomalies(folder: Path) -> list[str | None]:
        ...     with Client() as client:
        ...         found = client.score_each("mnist-snf-glow", folder.glob("*.png"))
        ...         return [one.filename for one in found if one.status == "ok" and one.anomaly.is_anomaly]
        """
        with closing(
            self.score_parts(
                ref,
                images,
                alpha=alpha,
                draws=draws,
                explain=explain,
                detail=detail,
                source=source,
                in_flight=in_flight,
            )
        ) as found:
            for part in found:
                yield from part.results

    def close(self) -> None:
        """Closes all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Client[AsyncSender]):
    """The same on an event loop; every call is awaited, and `async for` goes over what comes bit by bit.

    >>> from snf_client import AsyncClient
    >>> async def look(path: str) -> float:
    ...     async with AsyncClient() as client:
    ...         [image] = (await client.score("mnist-snf-glow", path)).results
    ...     assert image.status == "ok"
    ...     return image.anomaly.p_value
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, key, timeout))
        super().__init__(AsyncSender(self._http, timeout, retries or Retries()))
        self.models = AsyncModels(self._sender)
        self.calibrations: Calibrations[AsyncSender] = Calibrations(self._sender)
        self.samples: Samples[AsyncSender] = Samples(self._sender)
        self.datasets = AsyncDatasets(self._sender)
        self.jobs = AsyncJobs(self._sender)

    async def score(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        fdr: bool = False,
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> Scores:
        """Scores one image or many; see `Client.score`."""
        question = Question(ref, alpha, draws, explain, detail, source)
        async with aclosing(async_parts(self._sender, question, images, in_flight)) as found:
            return whole([part async for part in found], fdr=fdr)

    def score_parts(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> AsyncGenerator[Part]:
        """As `score`, request by request; see `Client.score_parts`."""
        return async_parts(self._sender, Question(ref, alpha, draws, explain, detail, source), images, in_flight)

    async def score_each(
        self,
        ref: str,
        images: Pictures,
        *,
        alpha: float | None = None,
        draws: int = 1,
        explain: bool = False,
        detail: Detail = "basic",
        source: str | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> AsyncGenerator[Result]:
        """As `score`, image by image as answers come; see `Client.score_each`."""
        question = Question(ref, alpha, draws, explain, detail, source)
        async with aclosing(async_parts(self._sender, question, images, in_flight)) as found:
            async for part in found:
                for one in part.results:
                    yield one

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _options(url: str | None, key: str | None, timeout: float) -> dict[str, Any]:
    """Keywords of both clients of httpx; raises `ValueError` for what is no address."""
    given = url or os.environ.get("SNF_URL") or URL
    address = httpx.URL(given.rstrip("/"))
    if address.scheme not in {"http", "https"} or not address.host:
        raise ValueError(f"expected an address such as {URL}, got {given!r}")
    key = key or os.environ.get("SNF_API_KEY")
    headers = {"X-Timeout-Ms": str(min(MAX_DEADLINE_MS, max(1, int(1000 * timeout))))}
    return {"base_url": address, "headers": headers | ({"Authorization": f"Bearer {key}"} if key else {})}
