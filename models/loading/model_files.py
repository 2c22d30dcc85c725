"""Paths and digest of a model's files on this machine, to be sent to other processes.

Free of torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from models.artifacts.at_location import cached_artifact
from models.artifacts.manifest import FILE, file_label
from models.errors import ArtifactError
from models.locations.location import Location
from models.registry.calibrations import RECORD
from models.scoring.options import EngineOptions

MAX_FETCHED_BYTES = 8 * 2**30
"""Most bytes of the files of a model that a process fetches. The process that began the scoring has verified them."""


@dataclass(frozen=True)
class ModelFiles:
    """File paths and engine options that let another process load a scorer's model and calibration.

    A scorer is pickled as this object alone.

    Attributes:
        path: The folder of the artifact.
        calibration: The folder of a later calibration; None for that of the artifact.
        options: Options of the engine.
        location: Where another machine fetches the artifact from, into a folder of the same path. None if all machines
            have ``path``.
        digest: The :func:`content_digest` that the files must have; None for any.
    """

    path: Path
    calibration: Path | None
    options: EngineOptions
    location: Location | None = None
    digest: str | None = None

    @classmethod
    def as_they_are(cls, path: Path, calibration: Path | None, options: EngineOptions) -> Self:
        """Return the paths of a model's files, together with a digest of their current content.

        Files that change later are refused by their digest. Raises ``ArtifactError`` if the manifest or the record of
        the calibration cannot be read.
        """
        # A process that unpickles it may run in another folder.
        path, calibration = path.absolute(), calibration and calibration.absolute()
        return cls(path, calibration, options, digest=content_digest(path, calibration))

    def with_threads(self, threads: int | None) -> Self:
        """Return the same file paths and engine options, but with another number of CPU threads.

        None keeps the number in the options.
        """
        return self if threads is None else replace(self, options=replace(self.options, threads=threads))

    def fetch(self) -> None:
        """Fetch missing model files from ``location``, and check that the files have the expected ``digest``.

        Raises:
            ArtifactError: A file is missing or damaged, or the model is another one.
        """
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
    """Return one SHA-256 digest, as hexadecimal text, for the content of all files of a model.

    It is computed from the manifest and, if there is a later calibration, from its record. These contain the digests of
    all other files.

    Args:
        path: The folder of the artifact.
        calibration: The folder of a later calibration; None for that of the artifact.

    Raises:
        ArtifactError: One of them is missing.
    """
    content = hashlib.sha256()
    for described in [path / FILE] + ([] if calibration is None else [calibration / RECORD]):
        try:
            content.update(hashlib.sha256(described.read_bytes()).digest())
        except OSError as error:
            raise ArtifactError(f"{file_label(described)} cannot be read: {error.strerror}") from error
    return content.hexdigest()
