"""Clients of the image scoring service: ``Client`` is blocking, ``AsyncClient`` is for ``asyncio``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from types import TracebackType
from typing import Self, Unpack

import httpx

from snf_client.images import ImagesLike
from snf_client.jobs import AsyncJobsResource, JobsResource
from snf_client.resources import (
    CalibrationsResource,
    DatasetsResource,
    LimitsResource,
    ModelsResource,
    RunsResource,
    SamplesResource,
)
from snf_client.schemas.scores import Scores
from snf_client.schemas.service import CallerView, Health, Readiness, WorkerList
from snf_client.schemas.training import PresetList
from snf_client.scores import (
    ImageResult,
    ScoreCallOptions,
    ScorePart,
    ScoreRequests,
    combine,
    score_async,
    score_blocking,
)
from snf_client.transport import (
    TIMEOUT_S,
    AsyncTransport,
    Call,
    Resource,
    Retries,
    S,
    ServiceConnection,
    SyncTransport,
    operation,
    path,
    read_json,
)


class _Client(Resource[S]):
    """The calls that are the same for blocking and awaiting."""

    def __init__(self, transport: S) -> None:
        super().__init__(transport)
        self.models: ModelsResource[S] = ModelsResource(transport)
        self.calibrations: CalibrationsResource[S] = CalibrationsResource(transport)
        self.limits: LimitsResource[S] = LimitsResource(transport)
        self.samples: SamplesResource[S] = SamplesResource(transport)
        self.datasets: DatasetsResource[S] = DatasetsResource(transport)
        self.runs: RunsResource[S] = RunsResource(transport)

    @operation
    def health(self) -> Call[Health]:
        """Return the version of the service; an answer means that its process runs."""
        return Call("GET", "/healthz", read_json(Health))

    @operation
    def readiness(self) -> Call[Readiness]:
        """Return whether the service can score, and the state of its models; HTTP 503 (not ready) is not raised."""
        return Call("GET", "/readyz", read_json(Readiness), accept=(503,))

    @operation
    def presets(self) -> Call[PresetList]:
        """Return the presets (model architectures with training settings) and the JSON Schema of all settings."""
        return Call("GET", path("presets"), read_json(PresetList))

    @operation
    def workers(self) -> Call[WorkerList]:
        """Return the running worker processes, which carry out queued jobs, each with its device and current job."""
        return Call("GET", path("workers"), read_json(WorkerList))

    @operation
    def caller(self) -> Call[CallerView]:
        """Return the name and the role (read, score, train or admin) of the API key that this client sends."""
        return Call("GET", path("me"), read_json(CallerView))


class Client(_Client[SyncTransport]):
    """Blocking client of the image scoring service.

    The service computes log-likelihoods of images, flags anomalies and trains models.

    Every call raises ``ClientError`` if it fails. Calls that may be repeated without harm are, see ``Retries``.

    >>> from snf_client import Client
    >>> def p_value(path: str) -> float:
    ...     with Client("http://127.0.0.1:8000") as client:
    ...         [image] = client.score("mnist-snf-glow", path).results
    ...     assert image.status == "ok"
    ...     return image.anomaly.p_value

    Args:
        url: Address of the service. Default: the environment variable ``SNF_URL``, else the service of this machine.
        key: API key. Default: the environment variable ``SNF_API_KEY``.
        timeout: Longest wait for the next bytes of a response, and the deadline of scoring and sampling, seconds.
        retries: Limits on repeating failed calls.
        transport: How requests are sent, such as to an application in this process. Default: over HTTP.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(SyncTransport(ServiceConnection.to(url, key, timeout, retries), transport))
        self.jobs = JobsResource(self._transport)

    def score(self, ref: str, images: ImagesLike, *, fdr: bool = False, **options: Unpack[ScoreCallOptions]) -> Scores:
        """Score images with a model; return their log-likelihoods and anomaly verdicts.

        Log-likelihoods are in nats.

        Many images are sent in several requests. The results are in the order of the images; an image that cannot be
        scored gets an error as its result.

        Args:
            ref: Model: ``name``, ``name:3`` or ``name@champion``.
            images: Paths, bytes of files, PIL images, uint8 arrays of shape (H, W) or (H, W, C), or one array of shape
                (N, H, W) or (N, H, W, C).
            fdr: Add Benjamini-Hochberg q-values over all images.
            **options: See ``ScoreCallOptions``.

        Raises:
            InvalidRequest: If no image could be scored.
            ModelChanged: If another version or calibration of the model was activated during the call.
        """
        with closing(self.score_parts(ref, images, **options)) as parts:
            return combine(parts, fdr=fdr)

    def score_parts(self, ref: str, images: ImagesLike, **options: Unpack[ScoreCallOptions]) -> Generator[ScorePart]:
        """Score images with a model, and yield one ``ScorePart`` with the results of each batch, in order.

        ``images`` may be an endless iterator.
        """
        return score_blocking(self._transport, ScoreRequests(ref, images, **options))

    def score_each(self, ref: str, images: ImagesLike, **options: Unpack[ScoreCallOptions]) -> Generator[ImageResult]:
        """Score images with a model, and yield the scores or the error of each image, in order.

        ``images`` may be an endless iterator.

        >>> from pathlib import Path
        >>> from snf_client import Client
        >>> def anomalies(folder: Path) -> list[str | None]:
        ...     with Client() as client:
        ...         results = client.score_each("mnist-snf-glow", folder.glob("*.png"))
        ...         return [image.filename for image in results if image.status == "ok" and image.anomaly.is_anomaly]
        """
        with closing(self.score_parts(ref, images, **options)) as parts:
            for part in parts:
                yield from part.results

    def close(self) -> None:
        """Close the HTTP connections to the service; further calls of this client fail."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Client[AsyncTransport]):
    """Client of the image scoring service for ``asyncio``.

    It has the arguments and calls of ``Client``.

    Every call is awaited; events and scores that come one after the other are read by ``async for``.

    >>> from snf_client import AsyncClient
    >>> async def p_value(path: str) -> float:
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
        super().__init__(AsyncTransport(ServiceConnection.to(url, key, timeout, retries)))
        self.jobs = AsyncJobsResource(self._transport)

    async def score(
        self, ref: str, images: ImagesLike, *, fdr: bool = False, **options: Unpack[ScoreCallOptions]
    ) -> Scores:
        """Score images with a model; return their log-likelihoods and anomaly verdicts.

        Log-likelihoods are in nats. The arguments are those of ``Client.score``.
        """
        async with aclosing(self.score_parts(ref, images, **options)) as parts:
            return combine([part async for part in parts], fdr=fdr)

    def score_parts(
        self, ref: str, images: ImagesLike, **options: Unpack[ScoreCallOptions]
    ) -> AsyncGenerator[ScorePart]:
        """Score images with a model, and yield one ``ScorePart`` with the results of each batch, in order.

        ``images`` may be an endless iterator.
        """
        return score_async(self._transport, ScoreRequests(ref, images, **options))

    async def score_each(
        self, ref: str, images: ImagesLike, **options: Unpack[ScoreCallOptions]
    ) -> AsyncGenerator[ImageResult]:
        """Score images with a model, and yield the scores or the error of each image, in order.

        ``images`` may be an endless iterator.
        """
        async with aclosing(self.score_parts(ref, images, **options)) as parts:
            async for part in parts:
                for result in part.results:
                    yield result

    async def aclose(self) -> None:
        """Close the HTTP connections to the service; further calls of this client fail."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
