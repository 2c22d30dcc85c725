from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snf_app.registry.served_model import ModelListing, ModelState, PoolEntry
from snf_client.schemas.calibrations import CalibrationView
from snf_client.schemas.models import Drift, ModelDetail, ModelSummary, Serving, UnfitReason
from snf_models.artifacts.manifest import FitnessCheck, Manifest
from snf_models.disk import folder_bytes
from snf_models.pipeline.presets import PRESETS
from snf_models.registry.registry import ModelVersion

if TYPE_CHECKING:
    from snf_app.drift.monitor import DriftMonitor


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
