"""Comparison of two calibrations of a model version by thresholds and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from snf_app.calibrations.recent_evidence import RecentEvidence
from snf_client.schemas.calibrations import CalibrationComparison, ComparedCalibration, ComparedVerdicts
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN, attainable
from snf_models.registry.registry import Registry
from snf_runtime.anomaly.calibration import threshold

if TYPE_CHECKING:
    from snf_models.anomaly.rejudge import StoredEvidence
    from snf_models.artifacts.manifest import Precision
    from snf_models.registry.registry import ModelVersion
    from snf_runtime.anomaly.calibration import Calibration

NOT_KEPT = "images of bulk jobs are not among them"


def compare(
    registry: Registry, ref: str, number: int, recent: RecentEvidence | None = None, against: int | None = None
) -> CalibrationComparison:
    """Compare a calibration with ``against`` (None: the one in use), also by verdicts on ``recent`` evidence."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    used = calibrations.active() if against is None else against
    for wanted in {used, number} - {OWN}:
        calibrations.record(wanted)
    before, after = (registry.with_calibration(name, version, wanted) for wanted in (used, number))
    loaded = _load(before), _load(after)
    weights = after.manifest.log_dets.weights_sha256
    stored = None if recent is None else recent.of(name, version, weights)
    return CalibrationComparison(
        model=name,
        version=version,
        before=_described(before, loaded[0]),
        after=_described(after, loaded[1]),
        verdicts=_verdicts(before, after, loaded, stored),
    )


def _load(version: ModelVersion) -> Calibration:
    from snf_models.loading.verification import load_calibration_of  # noqa: PLC0415 - not needed before the first answer

    return load_calibration_of(version)


def _described(version: ModelVersion, calibration: Calibration) -> ComparedCalibration:
    summary, alpha = version.calibration_summary, calibration.default_alpha
    return ComparedCalibration(
        number=version.calibration,
        dataset=summary.dataset,
        calibration_images=calibration.images,
        precision=summary.precision,
        smallest_p=calibration.smallest_p,
        attainable_alphas=list(attainable(calibration.smallest_p)),
        default_alpha=alpha,
        threshold=threshold(np.sort(np.concatenate(calibration.ordered())), alpha),
    )


def _verdicts(
    before: ModelVersion,
    after: ModelVersion,
    loaded: tuple[Calibration, Calibration],
    stored: Sequence[StoredEvidence] | None,
) -> ComparedVerdicts:
    from snf_models.anomaly.rejudge import rejudge  # noqa: PLC0415 - not needed before the first answer

    precisions = {before.calibration_summary.precision, after.calibration_summary.precision}
    kept = [image for image in stored or () if precisions == {image.precision}]
    both = list(zip(*(rejudge(calibration, kept) for calibration in loaded), strict=True))
    known = [(old, new) for old, new in both if old is not None and new is not None]
    return ComparedVerdicts(
        images=len(known),
        anomalies_before=sum(old for old, _ in known),
        anomalies_after=sum(new for _, new in known),
        to_anomaly=sum(new and not old for old, new in known),
        to_normal=sum(old and not new for old, new in known),
        refused_before=sum(old is None for old, _ in both),
        refused_after=sum(new is None for _, new in both),
        note=_note(stored, kept, precisions),
    )


def _note(stored: Sequence[StoredEvidence] | None, kept: Sequence[StoredEvidence], precisions: set[Precision]) -> str:
    if stored is None:
        return "no image: only a running service keeps the evidence of the images that it judged"
    if len(precisions) > 1:
        return (
            "no image: one calibration scores in float32 and the other in bfloat16, so that the verdicts need another "
            "pass through the model"
        )
    if not kept and stored:
        return f"no image: the newest {len(stored)} images were scored in {stored[-1].precision}"
    if not kept:
        return f"no image: this service process has judged none by this model version since it started; {NOT_KEPT}"
    return (
        f"the newest {len(kept)} images that this service process judged by this model version, each at the "
        f"false-alarm rate of its request; {NOT_KEPT}"
    )
