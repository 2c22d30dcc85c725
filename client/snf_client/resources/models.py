"""Calls about models and their calibrations."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from app.audits.schemas import Audit
from app.calibrations.schemas import CalibrationChoice, CalibrationList, CalibrationRequest, CalibrationView
from app.jobs.schemas import JobView
from app.registry.schemas import Aliases, AliasTarget, ModelDetail, ModelPage
from app.scoring.schemas import Reference
from snf_client.request import Call, Repeat, content, given, model, nothing, path, text
from snf_client.transport import AsyncSender, Group, S, SyncSender, operation
from snf_client.upload_progress import Count, Counted, Progress, size_of

CHUNK = 2**16


class _Models(Group[S]):
    """Models; `ref` is `name`, `name:3` or `name@champion`."""

    @operation
    def list(self) -> Call[ModelPage]:
        """Every model name with its versions, aliases and state."""
        return Call("GET", path("models"), model(ModelPage))

    @operation
    def get(self, ref: str) -> Call[ModelDetail]:
        """One version: its manifest, its calibration in use and how it is served."""
        return Call("GET", path("models", ref), model(ModelDetail))

    @operation
    def reference(self, ref: str, *, bins: int | None = None) -> Call[Reference]:
        """How strange the calibration images are: a histogram of the statistic in nats."""
        return Call("GET", path("models", ref, "reference"), model(Reference), params=given(bins=bins))

    @operation
    def audit(self, ref: str, *, n: int | None = None) -> Call[Audit]:
        """Scores `n` images again in float64 with nothing cached: both numbers, and whether they agree."""
        return Call("GET", path("models", ref, "audit"), model(Audit), params=given(n=n))

    @operation
    def card(self, ref: str) -> Call[str]:
        """The model card, Markdown."""
        return Call("GET", path("models", ref, "card"), text)

    @operation
    def card_html(self, ref: str) -> Call[str]:
        """The model card as an HTML fragment without images."""
        return Call("GET", path("models", ref, "card"), text, params={"format": "html"})

    @operation
    def card_samples(self, ref: str) -> Call[bytes]:
        """The samples that the card shows, a PNG."""
        return Call("GET", path("models", ref, "card", "samples"), content)

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[Aliases]:
        """Moves an alias, or makes it; going back to an earlier version is the same call."""
        body = {"json": AliasTarget(version=version).model_dump()}
        return Call("PUT", path("models", name, "aliases", alias), model(Aliases), body=body)

    @operation
    def delete_alias(self, name: str, alias: str) -> Call[None]:
        """Takes an alias away; raises `Conflict` for `live`."""
        return Call("DELETE", path("models", name, "aliases", alias), nothing)

    @operation
    def delete_version(self, name: str, version: int) -> Call[None]:
        """Deletes a version with its calibrations; raises `Conflict` while an alias points at it."""
        return Call("DELETE", path("models", name, "versions", version), nothing)

    @operation
    def delete(self, name: str) -> Call[None]:
        """Deletes a model: all versions, the live one too, with their calibrations and aliases."""
        return Call("DELETE", path("models", name), nothing)


class Models(_Models[SyncSender]):
    """Models; `ref` is `name`, `name:3` or `name@champion`."""

    def download(self, ref: str, target: str | Path) -> Path:
        """Writes a version as a tar that `upload` takes."""
        return self._sender.download(_export(ref), Path(target))

    def upload(
        self, name: str, tar: str | Path, *, promote: bool = False, progress: Progress | None = None
    ) -> ModelDetail:
        """Registers the model in a tar as the next version of `name`, once the service has verified it.

        The tar is streamed, and sent once: an upload that was cut off is not repeated.
        """
        with Path(tar).open("rb") as file:
            return self._sender.send(_import(name, file, _pieces(file, progress), promote))


class AsyncModels(_Models[AsyncSender]):
    """Models; `ref` is `name`, `name:3` or `name@champion`."""

    async def download(self, ref: str, target: str | Path) -> Path:
        """Writes a version as a tar that `upload` takes."""
        return await self._sender.download(_export(ref), Path(target))

    async def upload(
        self, name: str, tar: str | Path, *, promote: bool = False, progress: Progress | None = None
    ) -> ModelDetail:
        """Registers the model in a tar as the next version of `name`; see `Models.upload`."""
        with Path(tar).open("rb") as file:

            async def pieces() -> AsyncIterator[bytes]:
                for piece in _pieces(file, progress):
                    yield piece

            return await self._sender.send(_import(name, file, pieces(), promote))


def _export(ref: str) -> Call[bytes]:
    return Call("GET", path("models", ref, "artifact"), content)


def _import(
    name: str, file: BinaryIO, pieces: Iterator[bytes] | AsyncIterator[bytes], promote: bool
) -> Call[ModelDetail]:
    return Call(
        "POST",
        path("models"),
        model(ModelDetail),
        params=given(name=name, promote=promote),
        headers={"Content-Type": "application/x-tar", "Content-Length": str(size_of(file))},
        body={"content": pieces},
        repeat=Repeat.UNSENT,
        read_s=None,
    )


def _pieces(file: BinaryIO, progress: Progress | None) -> Iterator[bytes]:
    counted = Counted(file, Count(progress, size_of(file)))
    while piece := counted.read(CHUNK):
        yield piece


class Calibrations(Group[S]):
    """Calibrations of models: which images p-values are ranks among."""

    @operation
    def list(self, ref: str) -> Call[CalibrationList]:
        """All calibrations of a version, and which is in use."""
        return Call("GET", path("models", ref, "calibrations"), model(CalibrationList))

    @operation
    def get(self, ref: str, number: int) -> Call[CalibrationView]:
        """One calibration; 0 is the one that the model came with."""
        return Call("GET", path("models", ref, "calibrations", number), model(CalibrationView))

    @operation
    def choose(self, ref: str, number: int) -> Call[CalibrationList]:
        """Makes a calibration the one in use, an earlier one too."""
        body = {"json": CalibrationChoice(calibration=number).model_dump()}
        return Call("PUT", path("models", ref, "calibrations", "active"), model(CalibrationList), body=body)

    @operation
    def create(
        self,
        ref: str,
        dataset: str,
        *,
        activate: bool = True,
        precision: Literal["float32", "bfloat16"] = "float32",
        key: str | None = None,
    ) -> Call[JobView]:
        """Queues a job that calibrates a version on the images of a dataset; `key` as in `jobs.submit`."""
        asked = CalibrationRequest(dataset=dataset, activate=activate, precision=precision)
        return Call(
            "POST",
            path("models", ref, "calibrations"),
            model(JobView),
            headers={"Idempotency-Key": key or uuid.uuid4().hex},
            body={"json": asked.model_dump()},
        )
