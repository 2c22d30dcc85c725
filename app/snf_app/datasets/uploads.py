"""Creation of datasets from uploads, limited in size and number, and from storage locations."""

from __future__ import annotations

import logging
import threading
from contextlib import closing

from starlette.requests import Request

from snf_app.datasets.form import DatasetForm
from snf_app.http.admission import FairShares
from snf_app.http.uploads import UploadBody, UploadFolders, UploadWatch, note_target, upload_slot
from snf_client.schemas.datasets import ReferenceRequest
from snf_models.datasets import DatasetStore
from snf_models.datasets.upload_items import DiskQuota
from snf_models.disk import make_folder
from snf_models.locations.location import allowed_location
from snf_worker.sandbox.datasets import ingest, refer
from snf_worker.settings import Settings

log = logging.getLogger(__name__)


class DatasetUploads:
    """Service that creates datasets; it limits how many each caller may create at once."""

    def __init__(self, settings: Settings, store: DatasetStore, draining: threading.Event) -> None:
        self._settings = settings
        self._store = store
        self._folders = UploadFolders(settings.uploads_dir, store.root)
        self._slots = FairShares(settings.max_dataset_uploads)
        self._draining = draining
        self._stopping = threading.Event()

    def start(self) -> None:
        """Delete uploads that a killed process left; a failure is only logged."""
        try:
            self._folders.sweep()
        except OSError as error:
            # Scoring works without the folder.
            log.error("leftovers of uploads cannot be removed: %s", error)

    def stop(self) -> None:
        """Abort validation and indexing with 503; transfers end when the service starts to drain."""
        self._stopping.set()

    def receive(self, request: Request) -> str:
        """Store a multipart upload as a dataset and return its name, in a thread of the framework."""
        with upload_slot(self._slots, request), self._folders.new() as folder:
            make_folder(self._store.root)
            room = DiskQuota(self._store.root, self._settings.dataset_quota_bytes)
            body = UploadBody(request, self._settings.max_dataset_bytes, self._draining)
            room.require(body.declared)
            kind = request.headers.get("content-type")
            # The name is checked again at the end; this check spares a long upload in vain.
            with closing(DatasetForm(kind, folder, self._store.check_free, room.take)) as form:
                for chunk in body.chunks():
                    form.write(chunk)
                name, sources, near_duplicates = form.finish()
            note_target(folder, name)
            ingest(self._store, name, sources, self._settings, UploadWatch(request, self._stopping), near_duplicates)
        return name

    def refer(self, request: Request, reference: ReferenceRequest) -> None:
        """Create a dataset of images at a location, without copying, in a thread of the framework."""
        location = allowed_location(reference.location, self._settings.allowed_locations, self._settings.home)
        self._store.check_free(reference.name)
        with upload_slot(self._slots, request), self._folders.new() as folder:
            note_target(folder, reference.name)
            refer(
                self._store,
                reference.name,
                location,
                self._settings,
                UploadWatch(request, self._stopping),
                column=reference.column,
                inspect=reference.inspect,
                by_request=True,
            )
