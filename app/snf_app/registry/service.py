"""Answers about models, and the models that are uploaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request

from snf_app.http.admission import FairShares
from snf_app.http.uploads import UploadBody, UploadFolders, UploadWatch, upload_slot
from snf_app.registry.model_pool import ModelListing, ModelState, PoolEntry
from snf_client.schemas.calibrations import CalibrationView
from snf_client.schemas.models import Drift, ModelDetail, ModelSummary, Serving, UnfitReason
from snf_models.artifacts.files import unpack
from snf_models.artifacts.manifest import FILE, FitnessCheck, Manifest, read_manifest
from snf_models.disk import DiskQuota, folder_bytes, write_atomically
from snf_models.naming import check_name
from snf_models.pipeline.presets import PRESETS
from snf_models.registry.registry import ModelVersion, Registry
from snf_worker.sandbox.uploads import verify_upload
from snf_worker.settings import Settings

if TYPE_CHECKING:
    from snf_app.drift.service import DriftMonitor


def summary(model: ModelListing, drift: DriftMonitor | None = None) -> ModelSummary:
    """Return the summary of a model, with facts about the live version, or the newest one while none is live."""
    shown = model.live or model.newest
    manifest = shown.manifest if shown else None
    return ModelSummary(
        name=model.name,
        versions=list(model.versions),
        aliases=model.aliases,
        state=model.state.value,
        reason=model.reason,
        unfit=unfit_reasons(manifest.unfit) if manifest else [],
        read_only=shown.read_only if shown else None,
        architecture=_architecture_of(manifest) if manifest else None,
        kind=manifest.architecture.kind if manifest else None,
        image_shape=list(manifest.preprocessing.shape) if manifest else None,
        fit=manifest.preprocessing.fit if manifest else None,
        test_bits_per_dim=manifest.evaluation.test_bits_per_dim if manifest else None,
        size_bytes=folder_bytes(shown.path) if shown else None,
        drift_alarms=drift.alarms(shown) if drift and shown else 0,
    )


def _architecture_of(manifest: Manifest) -> str:
    """Return the name of a model's preset, or its own name and the number of its layers if it has no preset."""
    preset = manifest.training.preset
    return preset if preset in PRESETS else f"{preset}: {manifest.architecture.summary().partition(':')[0]}"


def detail(
    version: ModelVersion, calibration: CalibrationView, entry: PoolEntry | None, drift: Sequence[Drift] = ()
) -> ModelDetail:
    """Return the details of a version; ``drift`` has an entry for all sources and one for each source."""
    serving = None
    if entry is not None and entry.state is ModelState.READY:
        scorer = entry.future.result().scorer
        serving = Serving(
            engine=scorer.density.engine_name,
            precision=scorer.density.precision,
            tile=scorer.density.micro_batch,
            log_det_total=scorer.density.constant_log_det,
            log_det_digest=scorer.log_det_digest,
            has_learned_inverse=scorer.has_learned_inverse,
            smallest_p=scorer.calibration.smallest_p,
            default_alpha=scorer.calibration.default_alpha,
        )
    return ModelDetail(
        name=version.name,
        version=version.version,
        read_only=version.read_only,
        kind=version.manifest.architecture.kind,
        state=(entry.state if entry else ModelState.IDLE).value,
        reason=entry.reason if entry else None,
        unfit=unfit_reasons(version.manifest.unfit),
        size_bytes=folder_bytes(version.path),
        manifest=version.manifest.model_dump(mode="json"),
        calibration=calibration,
        serving=serving,
        drift=list(drift),
    )


def unfit_reasons(failed: Sequence[FitnessCheck]) -> list[UnfitReason]:
    return [UnfitReason(code=check.code, detail=check.sentence) for check in failed]


SLOTS = 2  # uploads at once, of which a caller gets one: each model is loaded once for its verification


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
            verify_upload(artifact, self._settings.backbones_dir, watch)
            _forget_job(artifact)
            return self._registry.publish(artifact, name, promote=promote)


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
