"""Scoring of any number of images by concurrent requests, with results in the order of the images."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from threading import Thread
from typing import TypeAlias, Unpack

import httpx

from snf_client.errors import InvalidRequest, ModelChanged
from snf_client.images import ImageBatch, ImagesLike, UnreadableFile, batches
from snf_client.schemas.scores import FailedImage, Fdr, ItemError, ScoredImage, ScoreOptions, Scores, q_values
from snf_client.transport import AsyncTransport, Call, SyncTransport, path, query, read_json

ImageResult: TypeAlias = ScoredImage | FailedImage

REQUEST_IMAGES = 32  # images of a request: the service computes this many at once
DETAILED_REQUEST_IMAGES = 8  # images of a request if each result is large or takes long
UNREADABLE = (OSError, UnreadableFile)
"""Errors of files on this machine, which are results of the images; those of connections are other exceptions."""
IN_FLIGHT = 4  # requests in flight, so that the service never waits for the next one


class ScoreCallOptions(ScoreOptions, total=False):
    """Options for scoring images: those of ``ScoreQuery``, and how they are sent.

    ``alpha`` is the false-alarm rate of the verdicts (default: that of the model). ``draws`` is how often the image is
    scored, each time with other noise in [0, 1) added to every pixel (default 1). ``explain`` adds heat maps.
    ``source`` names the camera or lot of the images; the service tests each source for drift, and no images without
    one. ``in_flight`` is the number of requests at a time (default 4).
    """

    in_flight: int


def images_per_request(draws: int = 1, *, explain: bool = False) -> int:
    """Return 32 // ``draws``, or 8 // ``draws`` with heat maps, at least 1."""
    images = DETAILED_REQUEST_IMAGES if explain else REQUEST_IMAGES
    return max(1, images // max(1, draws))  # the service says what is wrong with other numbers of draws


class ScoreRequests:
    """Requests of one scoring call, which have the same model and options."""

    def __init__(self, model: str, images: ImagesLike, **options: Unpack[ScoreCallOptions]) -> None:
        self.in_flight = options.pop("in_flight", IN_FLIGHT)
        if self.in_flight < 1:
            raise ValueError(f"expected at least 1 request in flight, got {self.in_flight}")
        self._path = path("models", model, "score")
        self._params = query(**options)
        size = images_per_request(options.get("draws", 1), explain=options.get("explain", False))
        self._batches = batches(images, size)

    def next(self, in_flight: int) -> Iterator[ImageBatch]:
        """Return the next batches, as many as may be sent beside those ``in_flight``."""
        return islice(self._batches, self.in_flight - in_flight)

    def call(self, batch: ImageBatch) -> Call[ScorePart]:
        """Return the unsent request for a batch, whose files are read here."""
        body = batch.body()
        headers = body.pop("headers", {})
        parse = partial(_read_part, batch=batch)
        return Call("POST", self._path, parse, params=self._params, headers=headers, body=body)


@dataclass(frozen=True)
class ScorePart:
    """Scoring results of consecutive images, with the model version and calibration that gave them.

    A result is the scores or the error of an image.

    ``model`` is None if none of the images could be scored; ``refusal`` is then the reason of the first.
    """

    results: tuple[ImageResult, ...]
    model: str | None = None
    version: int | None = None
    calibration: int | None = None
    refusal: Exception | None = None

    @property
    def judge(self) -> str:
        """Label of the model version and calibration that gave the scores, such as ``digits:2 with calibration 1``."""
        return f"{self.model}:{self.version} with calibration {self.calibration}"

    def with_results(self, results: Iterable[ImageResult]) -> ScorePart:
        return replace(self, results=tuple(results))

    def starting_at(self, first: int) -> ScorePart:
        """Return a copy whose results have an ``index`` from ``first`` on."""
        return self.with_results(
            result.model_copy(update={"index": first + place}) for place, result in enumerate(self.results)
        )

    def __add__(self, other: ScorePart) -> ScorePart:
        judges = {part.judge for part in (self, other) if part.model is not None}
        if len(judges) > 1:
            raise ModelChanged(
                f"expected scores of one model, got those of {self.judge} and {other.judge}: another one was activated "
                "meanwhile; repeat the call, or name a version"
            )
        scored = self if self.model is not None else other
        refusal = self.refusal if self.refusal is not None else other.refusal
        return ScorePart(self.results + other.results, scored.model, scored.version, scored.calibration, refusal)


def combine(parts: Iterable[ScorePart], *, fdr: bool) -> Scores:
    """Join parts into ``Scores``; raise ``ModelChanged``, ``ValueError`` if empty, or the first error if all failed."""
    whole = sum(parts, ScorePart(()))
    if whole.model is None or whole.version is None or whole.calibration is None:
        if whole.refusal is None:
            raise ValueError("expected at least one image, got none")
        raise whole.refusal
    return Scores(
        model=whole.model,
        version=whole.version,
        calibration=whole.calibration,
        count=len(whole.results),
        results=list(whole.results),
        fdr=_fdr(whole.results) if fdr else None,
    )


def score_blocking(transport: SyncTransport, requests: ScoreRequests) -> Generator[ScorePart]:
    """Yield results in image order, with ``in_flight`` requests at a time by threads."""

    def score(batch: ImageBatch) -> ScorePart:
        try:
            return transport.send(requests.call(batch))
        except (InvalidRequest, *UNREADABLE) as error:
            if _may_be_split(error, batch):
                first, second = batch.halves()
                return score(first) + score(second)
            return _refused_part(error, batch)

    done = 0
    in_flight: deque[Future[ScorePart]] = deque()
    while True:
        in_flight += (_in_thread(score, batch) for batch in requests.next(len(in_flight)))
        if not in_flight:
            return
        part = in_flight.popleft().result().starting_at(done)
        done += len(part.results)
        yield part


def _in_thread(score: Callable[[ImageBatch], ScorePart], batch: ImageBatch) -> Future[ScorePart]:
    """Score in a thread for which, unlike an executor's, an interrupted program does not wait."""
    future: Future[ScorePart] = Future()

    def run() -> None:
        try:
            future.set_result(score(batch))
        except BaseException as error:  # raised where the result is taken
            future.set_exception(error)

    Thread(target=run, name="score", daemon=True).start()
    return future


async def score_async(transport: AsyncTransport, requests: ScoreRequests) -> AsyncGenerator[ScorePart]:
    """Yield results in image order, with ``in_flight`` requests at a time by tasks."""

    async def score(batch: ImageBatch) -> ScorePart:
        try:
            # Reading files and encoding images would block the event loop.
            return await transport.send(await asyncio.to_thread(requests.call, batch))
        except (InvalidRequest, *UNREADABLE) as error:
            if _may_be_split(error, batch):
                first, second = batch.halves()
                return await score(first) + await score(second)
            return _refused_part(error, batch)

    done = 0
    in_flight: deque[asyncio.Task[ScorePart]] = deque()
    try:
        while True:
            in_flight += (asyncio.create_task(score(batch)) for batch in requests.next(len(in_flight)))
            if not in_flight:
                return
            part = (await in_flight.popleft()).starting_at(done)
            done += len(part.results)
            yield part
    finally:
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)


def _may_be_split(error: Exception, batch: ImageBatch) -> bool:
    """Return whether only some images of a batch may be the cause of an error, so that halves of it may succeed."""
    if len(batch.images) == 1:
        return False
    # The service refuses a large body by its status, and a large array by its number of images.
    return not isinstance(error, InvalidRequest) or error.status == 413 or error.type == "image-too-large"


def _refused_part(error: InvalidRequest | OSError | UnreadableFile, batch: ImageBatch) -> ScorePart:
    """Return the errors of images none of which could be scored: refused, unreadable or too large. Raise others."""
    if isinstance(error, UnreadableFile):
        item = ItemError(type=error.type, title=error.title, status=422, detail=error.detail)
    elif isinstance(error, OSError):
        detail = error.strerror or str(error)
        item = ItemError(type="unreadable-image", title="The file cannot be read", status=422, detail=detail)
    elif error.type == "no-image-scored":
        failed = tuple(FailedImage.model_validate(result) for result in error.extensions["results"])
        return ScorePart(_with_names(failed, batch), refusal=error)
    elif error.status == 413 and len(batch.images) == 1:
        item = ItemError(type=error.type, title=error.title, status=error.status, detail=error.detail)
    else:
        raise error
    return ScorePart((FailedImage(index=0, filename=batch.names[0], status="error", error=item),), refusal=error)


def _read_part(response: httpx.Response, batch: ImageBatch) -> ScorePart:
    scores = read_json(Scores)(response)
    return ScorePart(_with_names(scores.results, batch), scores.model, scores.version, scores.calibration)


def _with_names(results: Sequence[ImageResult], batch: ImageBatch) -> tuple[ImageResult, ...]:
    pairs = zip(results, batch.names, strict=True)
    return tuple(result.model_copy(update={"filename": name}) for result, name in pairs)


def _fdr(results: Sequence[ImageResult]) -> Fdr:
    p_values = {result.index: result.anomaly.p_value for result in results if isinstance(result, ScoredImage)}
    by_index = dict(zip(p_values, q_values(list(p_values.values())), strict=True))
    return Fdr(q_values=[by_index.get(result.index) for result in results])
