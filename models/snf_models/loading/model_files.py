"""Paths and digest of a model's files, to be sent to other processes. Free of torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from snf_models.artifacts.files import cached_artifact
from snf_models.artifacts.manifest import FILE, file_label
from snf_models.errors import ArtifactError
from snf_models.locations.location import Location
from snf_models.registry.calibrations import RECORD
from snf_models.scoring.options import EngineOptions

MAX_FETCHED_BYTES = 8 * 2**30
"""Most bytes of the files of a model that a process fetches. The process that began the scoring has verified them."""


@dataclass(frozen=True)
class ModelFiles:
    """Paths and options by which another process loads a model; a scorer is pickled as this alone."""

    path: Path
    calibration: Path | None  # folder of a later one; None for that of the artifact
    options: EngineOptions
    location: Location | None = None  # to fetch ``path`` from; None if all machines have it
    digest: str | None = None  # :func:`content_digest` that the files must have; None for any

    @classmethod
    def as_they_are(cls, path: Path, calibration: Path | None, options: EngineOptions) -> Self:
        """Return paths with the present digest, so that changed files are refused; raise ``ArtifactError``."""
        # A process that unpickles it may run in another folder.
        path, calibration = path.absolute(), calibration and calibration.absolute()
        return cls(path, calibration, options, digest=content_digest(path, calibration))

    def with_threads(self, threads: int | None) -> Self:
        return self if threads is None else replace(self, options=replace(self.options, threads=threads))

    def fetch(self) -> None:
        """Fetch missing files and check the digest; raise ``ArtifactError``."""
        if self.location is not None:
            cached = cached_artifact(self.location, self.path.parent, MAX_FETCHED_BYTES, check=lambda _folder: None)
            if cached != self.path:
                raise ArtifactError(f"{self.location} has another model than when the scoring began")
        if self.digest is None:
            return
        digest = content_digest(self.path, self.calibration)
        if digest != self.digest:
            raise ArtifactError(
                f"{file_label(self.path)} has changed: expected SHA-256 {self.digest} of its description, got {digest}"
            )


def content_digest(path: Path, calibration: Path | None) -> str:
    """Digest the manifest and the record of the calibration, which contain the digests of all other files."""
    content = hashlib.sha256()
    for described in [path / FILE] + ([] if calibration is None else [calibration / RECORD]):
        try:
            content.update(hashlib.sha256(described.read_bytes()).digest())
        except OSError as error:
            raise ArtifactError(f"{file_label(described)} cannot be read: {error.strerror}") from error
    return content.hexdigest()
