"""Calls about models: versions, aliases, model cards, audits, drift, uploads and downloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from snf_client.local_files import ByteCounter, CountedFile, Progress
from snf_client.request import Call, RetryWhen, all_pages, path, query, read_bytes, read_json, read_nothing, read_text
from snf_client.schemas.models import Aliases, Audit, DriftReport, ModelDetail, ModelPage
from snf_client.schemas.scores import Reference
from snf_client.transport import Resource, S, operation


class ModelsResource(Resource[S]):
    """Calls about models: list, show, upload, download and delete them, and set aliases.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self) -> Call[ModelPage]:
        """Return all models of the service, each with its versions, aliases and loading state."""
        return all_pages(path("models"), ModelPage, "models")

    @operation
    def get(self, ref: str) -> Call[ModelDetail]:
        """Return the details of a model version, such as its active calibration and whether it is loaded.

        Once the version is loaded, the result also says how it computes scores.
        """
        return Call("GET", path("models", ref), read_json(ModelDetail))

    @operation
    def reference(self, ref: str, *, bins: int | None = None) -> Call[Reference]:
        """Return a histogram of a model's anomaly statistic over the model's calibration images.

        The statistic is in nats; larger is more anomalous.
        """
        return Call("GET", path("models", ref, "reference"), read_json(Reference), params=query(bins=bins))

    @operation
    def audit(self, ref: str, *, n: int | None = None) -> Call[Audit]:
        """Audit a model: score ``n`` images as usual and in float64, and return both log-likelihoods of each.

        By default ``n`` is 4. The images are stored with the model or drawn from it.
        """
        return Call("GET", path("models", ref, "audit"), read_json(Audit), params=query(n=n))

    @operation
    def card(self, ref: str) -> Call[str]:
        """Return the model card (purpose, quality, training and limits of a model version) as Markdown text."""
        return Call("GET", path("models", ref, "card"), read_text("text/markdown"))

    @operation
    def card_html(self, ref: str) -> Call[str]:
        """Return the model card (purpose, quality, training, limits) as an HTML fragment without its images."""
        return Call("GET", path("models", ref, "card"), read_text("text/html"), params={"format": "html"})

    @operation
    def card_samples(self, ref: str) -> Call[bytes]:
        """Return the sample images of a model card as the bytes of one PNG file.

        It is a grid of images that were drawn from the model version.
        """
        return Call("GET", path("models", ref, "card", "samples"), read_bytes("image/png"))

    @operation
    def drift(self, ref: str) -> Call[DriftReport]:
        """Return drift test results: whether images scored with a model differ from its calibration images.

        Only images that were scored with a ``source`` count. The first result is for all sources together.
        """
        return Call("GET", path("models", ref, "drift"), read_json(DriftReport))

    @operation
    def acknowledge_drift(self, ref: str, source: str | None = None) -> Call[None]:
        """Acknowledge a drift alarm of a model, which ends the alarm and restarts the drift test.

        The alarm is that of a source of images, or of all sources together for None. The test starts anew at the next
        image.

        Raises:
            NotFound: If no image of the source was scored since the last acknowledgement.
        """
        place = path("models", ref, "drift", *([] if source is None else [source]))
        return Call("DELETE", place, read_nothing, retry_when=RetryWhen.REFUSED)

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[Aliases]:
        """Point an alias at a model version, and return all aliases of the model.

        The alias, such as ``champion``, is created if it is new.

        ``live`` can point at an unfit version; ``unfit`` of the returned object then has the reasons.
        """
        body = {"json": {"version": version}}
        return Call("PUT", path("models", name, "aliases", alias), read_json(Aliases), body=body)

    @operation
    def delete_alias(self, name: str, alias: str) -> Call[None]:
        """Delete an alias of a model, such as ``champion``; the version that it names stays.

        Raises:
            Conflict: If the alias is ``live`` of a fit version, or no version is live.
        """
        return Call("DELETE", path("models", name, "aliases", alias), read_nothing)

    @operation
    def delete_version(self, name: str, version: int) -> Call[None]:
        """Delete a version of a model with its calibrations; its number is never used again.

        Raises:
            Conflict: If an alias points at the version, an unfinished job uses it, or it ships with the product.
        """
        return Call("DELETE", path("models", name, "versions", version), read_nothing)

    @operation
    def delete(self, name: str) -> Call[None]:
        """Delete a model with all its versions, their calibrations and its aliases.

        Raises:
            Conflict: If an unfinished job uses the model, or the model ships with the product.
        """
        return Call("DELETE", path("models", name), read_nothing)

    @operation
    def download(self, ref: str, target: str | Path) -> Call[Path]:
        """Download a model version as a tar file to ``target``, replacing any file there; return that path."""
        target = Path(target)
        return Call("GET", path("models", ref, "artifact"), lambda _response: target, save_to=target)

    @operation
    def upload(
        self, name: str, tar: str | Path, *, promote: bool = False, progress: Progress | None = None
    ) -> Call[ModelDetail]:
        """Upload a tar file as the next version of the model ``name``; return its details once it is verified.

        The service verifies the model first. The file is streamed. An upload that was cut off is not repeated.

        Args:
            name: Name of the model.
            tar: File that ``download`` or ``snf models export`` wrote.
            promote: Point the alias ``live`` at the new version, fit or not.
            progress: Function that is called with the bytes sent and the bytes in all.

        Raises:
            FilesProblem: If the file became shorter while it was sent.
        """
        size = Path(tar).stat().st_size
        return Call(
            "POST",
            path("models"),
            read_json(ModelDetail),
            params=query(name=name, promote=promote),
            headers={"Content-Type": "application/x-tar", "Content-Length": str(size)},
            open_body=partial(_open_tar, Path(tar), size, progress),
            retry_when=RetryWhen.UNSENT,
            read_timeout_s=None,
        )


@contextmanager
def _open_tar(path: Path, size: int, progress: Progress | None) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        yield {"content": iter(CountedFile(file, ByteCounter(progress, size), size))}
