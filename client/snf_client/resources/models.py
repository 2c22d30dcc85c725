"""Calls for models: versions, aliases, model cards, audits, and models as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from snf_client.local_files import ByteCounter, CountedStream, Progress, size_of
from snf_client.request import Call, RetryWhen, path, query, read_bytes, read_json, read_nothing, read_text
from snf_client.schemas import Aliases, AliasTarget, Audit, ModelDetail, ModelPage, Reference
from snf_client.transport import Resource, S, operation


class ModelsResource(Resource[S]):
    """Calls of the service that show, audit, alias, upload, download and delete models.

    ``ref`` is a model as ``name``, ``name:3`` or ``name@champion``.
    """

    @operation
    def list(self) -> Call[ModelPage]:
        """Return all models of the service with their versions, aliases and states."""
        return Call("GET", path("models"), read_json(ModelPage))

    @operation
    def get(self, ref: str) -> Call[ModelDetail]:
        """Return the details of a model version: manifest, active calibration and serving state."""
        return Call("GET", path("models", ref), read_json(ModelDetail))

    @operation
    def reference(self, ref: str, *, bins: int | None = None) -> Call[Reference]:
        """Return a histogram of the anomaly statistic over the calibration images of a model version."""
        return Call("GET", path("models", ref, "reference"), read_json(Reference), params=query(bins=bins))

    @operation
    def audit(self, ref: str, *, n: int | None = None) -> Call[Audit]:
        """Recompute the scores of ``n`` images in float64 on the service, and return old and new scores."""
        return Call("GET", path("models", ref, "audit"), read_json(Audit), params=query(n=n))

    @operation
    def card(self, ref: str) -> Call[str]:
        """Return the model card, a description of a model version, as Markdown."""
        return Call("GET", path("models", ref, "card"), read_text)

    @operation
    def card_html(self, ref: str) -> Call[str]:
        """Return the model card, a description of a model version, as an HTML fragment without images."""
        return Call("GET", path("models", ref, "card"), read_text, params={"format": "html"})

    @operation
    def card_samples(self, ref: str) -> Call[bytes]:
        """Return images drawn from a model version for its model card, as a PNG picture."""
        return Call("GET", path("models", ref, "card", "samples"), read_bytes)

    @operation
    def set_alias(self, name: str, alias: str, version: int) -> Call[Aliases]:
        """Create an alias of a model for a version, or move an existing alias to the version."""
        body = {"json": AliasTarget(version=version).model_dump()}
        return Call("PUT", path("models", name, "aliases", alias), read_json(Aliases), body=body)

    @operation
    def delete_alias(self, name: str, alias: str) -> Call[None]:
        """Delete an alias of a model. The version that the alias points at stays.

        Raises:
            Conflict: If the alias is ``live``.
        """
        return Call("DELETE", path("models", name, "aliases", alias), read_nothing)

    @operation
    def delete_version(self, name: str, version: int) -> Call[None]:
        """Delete a version of a model with its calibrations.

        Raises:
            Conflict: If an alias points at the version.
        """
        return Call("DELETE", path("models", name, "versions", version), read_nothing)

    @operation
    def delete(self, name: str) -> Call[None]:
        """Delete a model with all its versions, calibrations and aliases."""
        return Call("DELETE", path("models", name), read_nothing)

    @operation
    def download(self, ref: str, target: str | Path) -> Call[Path]:
        """Download a model version as a tar file, and return the path of the file."""
        target = Path(target)
        return Call("GET", path("models", ref, "artifact"), lambda _response: target, save_to=target)

    @operation
    def upload(
        self, name: str, tar: str | Path, *, promote: bool = False, progress: Progress | None = None
    ) -> Call[ModelDetail]:
        """Upload a model from a tar file, as the next version of the model ``name``.

        The service verifies the model first. The file is streamed. An upload that was cut off is not repeated.

        Args:
            name: Name of the model.
            tar: File that ``download`` or ``snf models export`` wrote.
            promote: Point the alias ``live`` at the new version.
            progress: Function that is called with the bytes sent and the bytes in all.
        """
        return Call(
            "POST",
            path("models"),
            read_json(ModelDetail),
            params=query(name=name, promote=promote),
            headers={"Content-Type": "application/x-tar", "Content-Length": str(Path(tar).stat().st_size)},
            open_body=partial(_open_tar, Path(tar), progress),
            retry_when=RetryWhen.UNSENT,
            read_timeout_s=None,
        )


@contextmanager
def _open_tar(path: Path, progress: Progress | None) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        yield {"content": iter(CountedStream(file, ByteCounter(progress, size_of(file))))}
