"""Uploads of models: streamed to disk, verified in a separate process, and registered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from starlette.requests import Request

from snf_app.http.admission import FairShares
from snf_app.http.uploads import UploadBody, UploadFolders, UploadWatch, upload_slot
from snf_models.artifacts.files import unpack
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.datasets.upload_items import DiskQuota
from snf_models.disk import write_atomically
from snf_models.naming import check_name
from snf_models.registry.registry import ModelVersion, Registry
from snf_worker.sandbox.uploads import verify_upload
from snf_worker.settings import Settings

SLOTS = 2
"""Uploads at once, of which a caller gets one: each model is loaded once for its verification."""


class ModelUploads:
    def __init__(self, settings: Settings, registry: Registry, draining: threading.Event) -> None:
        self._settings = settings
        self._registry = registry
        self._folders = UploadFolders(settings.uploads_dir, settings.datasets_dir)
        self._slots = FairShares(SLOTS)
        self._draining = draining

    def receive(self, request: Request, name: str, promote: bool) -> ModelVersion:
        """Receive an archive in a thread of the framework, verify it, and register it as the next version."""
        check_name(name)
        with upload_slot(self._slots, request), self._folders.new() as folder:
            body = UploadBody(request, self._settings.max_model_bytes, self._draining)
            # For a moment the files exist twice, here and in the registry.
            room = DiskQuota(folder, None)
            room.require(2 * body.declared)
            # Error texts show the last parts of a file's path, so they begin with the name.
            artifact = folder / "artifact" / name / "upload"
            artifact.mkdir(parents=True)
            unpack(_counted(body.chunks(), room), artifact)
            watch = UploadWatch(request, self._draining)
            return register_artifact(artifact, name, self._registry, self._settings.backbones_dir, watch, promote)


def register_artifact(
    artifact: Path,
    name: str,
    registry: Registry,
    backbones: Path,
    progress: Callable[[int, int], None],
    promote: bool,
) -> ModelVersion:
    """Verify unpacked files and register them; their manifest loses the id of the training job."""
    verify_upload(artifact, backbones, progress)
    _forget_job(artifact)
    return registry.publish(artifact, name, promote=promote)


def _counted(chunks: Iterator[bytes], room: DiskQuota) -> Iterator[bytes]:
    for chunk in chunks:
        room.take(len(chunk))
        yield chunk


def _forget_job(artifact: Path) -> None:
    """Remove the job id from the manifest of an uploaded model, because it may be the id of a job here."""
    manifest = read_manifest(artifact)
    if manifest.training.job is not None:
        training = manifest.training.model_copy(update={"job": None})
        write_atomically(
            artifact / FILE, manifest.model_copy(update={"training": training}).model_dump_json(indent=1).encode()
        )
