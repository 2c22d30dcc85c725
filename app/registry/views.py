"""What the API tells about a model version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.calibrations.schemas import CalibrationView
from app.drift.schemas import Drift
from app.drift.windows import Seen
from app.registry import schemas
from app.registry.model_pool import ModelListing, ModelState, PoolEntry
from models.registry.registry import ModelVersion


def summary(one: ModelListing) -> schemas.ModelSummary:
    """One line of the list of models; blocks on the disk."""
    manifest = one.live.manifest if one.live else None
    return schemas.ModelSummary(
        name=one.name,
        versions=list(one.versions),
        aliases=one.aliases,
        state=one.state.value,
        reason=one.reason,
        read_only=one.live.read_only if one.live else None,
        architecture=manifest.training.preset if manifest else None,
        image_shape=list(manifest.preprocessing.shape) if manifest else None,
        test_bits_per_dim=manifest.evaluation.test_bits_per_dim if manifest else None,
        size_bytes=folder_size(one.live.path) if one.live else None,
    )


def detail(
    version: ModelVersion, calibration: CalibrationView, entry: PoolEntry | None, drift: Sequence[Seen] = ()
) -> schemas.ModelDetail:
    """One version in full; blocks on the disk."""
    serving = None
    if entry is not None and entry.state is ModelState.READY:
        scorer = entry.future.result().scorer
        serving = schemas.Serving(
            engine=scorer.engine_name,
            precision=scorer.precision,
            tile=scorer.tile,
            log_det_total=scorer.log_det_total,
            log_det_digest=scorer.log_det_digest,
            has_learned_inverse=scorer.has_learned_inverse,
            smallest_p=scorer.smallest_p,
            default_alpha=scorer.default_alpha,
        )
    return schemas.ModelDetail(
        name=version.name,
        version=version.version,
        read_only=version.read_only,
        state=(entry.state if entry else ModelState.IDLE).value,
        reason=entry.reason if entry else None,
        size_bytes=folder_size(version.path),
        manifest=version.manifest.model_dump(mode="json"),
        calibration=calibration,
        serving=serving,
        drift=[Drift.model_validate(window) for window in drift],
    )


def folder_size(path: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
