"""Models from elsewhere: streamed to disk, looked at by a process of its own, and registered or gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request

from app.http.shares import Shares
from app.http.upload_folders import UploadFolders
from app.http.upload_watch import UploadWatch
from app.http.uploads import UploadBody, place, upload_problems
from models.artifacts.manifest import FILE, read_manifest
from models.artifacts.tar import unpack
from models.atomic_files import write_atomically
from models.datasets.ingest.limits import DiskQuota
from models.datasets.store import RESERVE
from models.naming import check_name
from models.registry.registry import Registry
from models.registry.version import ModelVersion
from worker.sandbox.verify_upload import verify_upload
from worker.settings import Settings

PLACES = 2
"""Models that are taken at once, of which one caller gets one: each is loaded once to be looked at."""


class ModelUploads:
    """Takes a few models at once, each in the thread of its route, which waits for disk, network and the check."""

    def __init__(self, settings: Settings, registry: Registry, draining: threading.Event) -> None:
        self._settings = settings
        self._registry = registry
        self._folders = UploadFolders(settings.uploads_dir, settings.datasets_dir)
        self._places = Shares(PLACES)
        self._draining = draining

    def receive(self, request: Request, name: str, promote: bool) -> ModelVersion:
        """The version that a request's tar becomes; to be called in a thread of the framework.

        Raises `ArtifactRefused`, `InvalidName`, `StorageFull`, `BodyTooLarge`, problems of the body.
        """
        check_name(name)
        with place(self._places, request), upload_problems(), self._folders.new() as folder:
            body = UploadBody(request, self._settings.max_model_bytes, self._draining)
            # It lies on the disk twice for a moment, here and in the registry.
            room = DiskQuota(folder, None, RESERVE)
            room.require(2 * body.declared)
            # What is told of a file begins with the last names of its path.
            artifact = folder / name / "upload"
            artifact.mkdir(parents=True)
            unpack(_counted(body.pieces(), room), artifact)
            verify_upload(artifact, UploadWatch(request, self._draining))
            _forget_job(artifact)
            return self._registry.publish(artifact, name, promote=promote)


def _counted(pieces: Iterator[bytes], room: DiskQuota) -> Iterator[bytes]:
    for piece in pieces:
        room.take(len(piece))
        yield piece


def _forget_job(artifact: Path) -> None:
    """Takes the job out of the manifest: here it might be another's, and a version is published once a job."""
    manifest = read_manifest(artifact)
    if manifest.training.job is not None:
        training = manifest.training.model_copy(update={"job": None})
        write_atomically(
            artifact / FILE, manifest.model_copy(update={"training": training}).model_dump_json(indent=1).encode()
        )
