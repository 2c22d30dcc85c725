"""Uploads of datasets: streamed to disk within limits, made into a dataset; nothing is left of one that fails."""

from __future__ import annotations

import logging
import threading
from contextlib import closing

from starlette.requests import Request

from app.datasets.form import DatasetForm
from app.http.shares import Shares
from app.http.upload_folders import UploadFolders, note_target
from app.http.upload_watch import UploadWatch
from app.http.uploads import UploadBody, place, upload_problems
from models.datasets import DatasetStore
from models.datasets.ingest.limits import DiskQuota
from models.datasets.report import DatasetReport
from models.datasets.store import RESERVE
from worker.sandbox.ingest import ingest
from worker.settings import Settings

log = logging.getLogger(__name__)


class DatasetUploads:
    """Takes a few uploads at once, each in the thread of its route, which waits for disk and network."""

    def __init__(self, settings: Settings, store: DatasetStore, draining: threading.Event) -> None:
        self._settings = settings
        self._store = store
        self._folders = UploadFolders(settings.uploads_dir, store.root)
        self._places = Shares(settings.max_dataset_uploads)
        self._draining = draining
        self._stopping = threading.Event()

    def start(self) -> None:
        """Removes what a killed service left behind."""
        try:
            self._folders.sweep()
        except OSError as error:
            # Scoring needs no such folder.
            log.error("leftovers of uploads cannot be removed: %s", error)

    def stop(self) -> None:
        """Ends what has arrived and is still being looked through; what has not ended as soon as the service drains."""
        self._stopping.set()

    def receive(self, request: Request) -> DatasetReport:
        """The report of the dataset that a request's form becomes; to be called in a thread of the framework.

        Raises problems of the form, `BodyTooLarge`, and what `ingest` raises.
        """
        with place(self._places, request), upload_problems(), self._folders.new() as folder:
            self._store.root.mkdir(parents=True, exist_ok=True)
            room = DiskQuota(self._store.root, self._settings.dataset_quota_bytes, RESERVE)
            body = UploadBody(request, self._settings.max_dataset_bytes, self._draining)
            room.require(body.declared)
            kind = request.headers.get("content-type")
            # The name is looked at again when all has arrived; here it spares a long upload in vain.
            with closing(DatasetForm(kind, folder, self._store.check_free, room.take)) as form:
                for piece in body.pieces():
                    form.write(piece)
                name, sources = form.finish()
            note_target(folder, name)
            return ingest(self._store, name, sources, self._settings, UploadWatch(request, self._stopping))
