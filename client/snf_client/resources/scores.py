"""Scoring any number of images: cut into requests, several of them in flight, answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias

import httpx

from app.scoring.fdr import q_values
from app.scoring.schemas import FailedImage, Fdr, ScoredImage, Scores
from snf_client.errors import InvalidRequest, ProblemError
from snf_client.images import Batch, Pictures, batches
from snf_client.request import Call, given, model, path
from snf_client.transport import AsyncSender, SyncSender

Result: TypeAlias = ScoredImage | FailedImage

IMAGES = 32
"""Images of a request: what the service computes at once."""
EXPLAINED = 8
"""The same where each image's answer is large or takes long."""
IN_FLIGHT = 4
"""Requests under way: the service always has the next one while an answer is read."""


@dataclass(frozen=True)
class Question:
    """What shall be known of every image, see `Client.score`."""

    model: str
    alpha: float | None = None
    draws: int = 1
    explain: bool = False
    detail: Literal["basic", "full"] = "basic"
    source: str | None = None

    @property
    def size(self) -> int:
        """Images of a request, each of which is as many passes as it has draws."""
        most = EXPLAINED if self.explain or self.detail == "full" else IMAGES
        return max(1, most // self.draws)

    def call(self, batch: Batch) -> Call[Part]:
        """The request for a batch; reads its files."""
        body = batch.body()
        return Call(
            "POST",
            path("models", self.model, "score"),
            lambda response: _part(response, batch),
            params=given(
                alpha=self.alpha,
                draws=self.draws if self.draws != 1 else None,
                explain=self.explain or None,
                detail=self.detail if self.detail != "basic" else None,
                source=self.source,
            ),
            headers=body.pop("headers", {}),
            body=body,
        )


@dataclass(frozen=True)
class Part:
    """Results of some images that follow each other; which model gave them is not known where none was scored."""

    results: tuple[Result, ...]
    model: str | None = None
    version: int | None = None
    calibration: int | None = None
    refusal: ProblemError | None = None
    """What the service said where it could score none of a request's images."""

    def with_results(self, results: Iterable[Result]) -> Part:
        """The same with other results."""
        return replace(self, results=tuple(results))

    def moved(self, first: int) -> Part:
        """The same, where its images begin at `first`."""
        return self.with_results(
            one.model_copy(update={"index": first + place}) for place, one in enumerate(self.results)
        )

    def __add__(self, other: Part) -> Part:
        known = self if self.model is not None else other
        refusal = self.refusal if self.refusal is not None else other.refusal
        return Part(self.results + other.results, known.model, known.version, known.calibration, refusal)


def part_of(error: InvalidRequest, batch: Batch) -> Part:
    """The results of a request of which no image could be scored; raises the error where it says something else."""
    if error.type != "no-image-scored":
        raise error
    failed = tuple(FailedImage.model_validate(one) for one in error.extensions["results"])
    return Part(_named(failed, batch), refusal=error)


def too_large(error: InvalidRequest, batch: Batch) -> bool:
    """Whether the same images may come through as two requests: a service takes so many images, draws and bytes."""
    # Files are refused by a status, an array by what it holds.
    return len(batch.pictures) > 1 and (error.status == 413 or error.type == "image-too-large")


def whole(parts: Iterable[Part], *, fdr: bool) -> Scores:
    """All results as one answer; raises the first refusal where no image at all was scored."""
    found = sum(parts, Part(()))
    if found.model is None or found.version is None or found.calibration is None:
        if found.refusal is None:
            raise ValueError("expected at least one image, got none")
        raise found.refusal
    return Scores(
        model=found.model,
        version=found.version,
        calibration=found.calibration,
        count=len(found.results),
        results=list(found.results),
        fdr=_fdr(found.results) if fdr else None,
    )


def _fdr(results: Sequence[Result]) -> Fdr:
    # Over all images that were asked for, however many requests they took.
    p_values = {one.index: one.anomaly.p_value for one in results if isinstance(one, ScoredImage)}
    found = dict(zip(p_values, q_values(list(p_values.values())), strict=True))
    return Fdr(q_values=[found.get(one.index) for one in results])


def _named(results: Sequence[Result], batch: Batch) -> tuple[Result, ...]:
    pairs = zip(results, batch.names, strict=True)
    return tuple(one.model_copy(update={"filename": name}) for one, name in pairs)


def _part(response: httpx.Response, batch: Batch) -> Part:
    scores = model(Scores)(response)
    return Part(_named(scores.results, batch), scores.model, scores.version, scores.calibration)


def parts(sender: SyncSender, question: Question, pictures: Pictures, in_flight: int) -> Generator[Part]:
    """The results of all images in their order, as they come."""

    def scored(batch: Batch) -> Part:
        try:
            return sender.send(question.call(batch))
        except InvalidRequest as error:
            if too_large(error, batch):
                first, second = batch.halves()
                return scored(first) + scored(second)
            return part_of(error, batch)

    todo = batches(pictures, question.size)
    done = 0
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="score")
    try:
        pending: deque[Future[Part]] = deque()
        while True:
            pending += (pool.submit(scored, batch) for batch in islice(todo, in_flight - len(pending)))
            if not pending:
                return
            part = pending.popleft().result().moved(done)
            done += len(part.results)
            yield part
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def async_parts(
    sender: AsyncSender, question: Question, pictures: Pictures, in_flight: int
) -> AsyncGenerator[Part]:
    """The results of all images in their order, as they come."""

    async def scored(batch: Batch) -> Part:
        try:
            # Files are read and images encoded here.
            return await sender.send(await asyncio.to_thread(question.call, batch))
        except InvalidRequest as error:
            if too_large(error, batch):
                first, second = batch.halves()
                return await scored(first) + await scored(second)
            return part_of(error, batch)

    todo = batches(pictures, question.size)
    done = 0
    pending: deque[asyncio.Task[Part]] = deque()
    try:
        while True:
            pending += (asyncio.create_task(scored(batch)) for batch in islice(todo, in_flight - len(pending)))
            if not pending:
                return
            part = (await pending.popleft()).moved(done)
            done += len(part.results)
            yield part
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
