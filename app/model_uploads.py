"""Models from elsewhere: streamed to disk, looked at by a process of its own, and registered or gone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from app.problems import draining
from app.shares import Shares
from app.upload_body import LOOK_S, UploadBody, place, upload_problems
from app.upload_folders import UploadFolders
from models.artifact_tar import unpack
from models.datasets.limits import Room
from models.datasets.store import RESERVE
from models.files import write_atomically
from models.manifest import FILE, read_manifest
from models.problems import ArtifactRefused
from models.registry import ModelVersion, Registry, check_name
from worker.admission import SECONDS
from worker.settings import Settings

PLACES = 2
"""Models that are taken at once, of which one caller gets one: each is loaded once to be looked at."""
ROOT = Path(__file__).resolve().parents[1]

log = logging.getLogger(__name__)


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
            room = Room(folder, None, RESERVE)
            room.require(2 * body.declared)
            # What is told of a file begins with the last names of its path.
            artifact = folder / name / "upload"
            artifact.mkdir(parents=True)
            unpack(_counted(body.pieces(), room), artifact)
            self._check(artifact, request)
            _forget_job(artifact)
            return self._registry.publish(artifact, name, promote=promote)

    def _check(self, artifact: Path, request: Request) -> None:
        command = [sys.executable, "-m", "worker.admission", str(artifact)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        ) as process:
            try:
                while True:
                    try:
                        output, errors = process.communicate(timeout=LOOK_S)
                        break
                    except subprocess.TimeoutExpired:
                        if self._draining.is_set():
                            raise draining() from None
                        if anyio.from_thread.run(request.is_disconnected):
                            raise ClientDisconnect from None
                        if time.monotonic() - began > SECONDS:
                            raise ArtifactRefused(f"loading it takes longer than {SECONDS} s") from None
            finally:
                process.kill()
        if process.returncode:
            log.warning("the check of a model ended with %d: %s", process.returncode, errors[-2000:])
            raise ArtifactRefused("it cannot be loaded: the process that looked at it ended")
        problem = json.loads(output.splitlines()[-1])["problem"]
        if problem is not None:
            raise ArtifactRefused(problem)


def _counted(pieces: Iterator[bytes], room: Room) -> Iterator[bytes]:
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
