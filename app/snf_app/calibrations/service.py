"""API answers about the calibrations of a model version, read from the registry on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from snf_app.http.errors import problem_of
from snf_client.schemas.calibrations import (
    CalibrationComparison,
    CalibrationList,
    CalibrationView,
    ComparedCalibration,
    ComparedVerdicts,
    Threshold,
)
from snf_models.anomaly.exchangeability import images_needed, safe_threshold
from snf_models.artifacts.manifest import CalibrationSummary
from snf_models.errors import ArtifactError, CalibrationNotFound
from snf_models.naming import parse_ref
from snf_models.registry.calibrations import OWN, attainable, gradient_warning
from snf_models.registry.registry import Registry
from snf_runtime.anomaly.calibration import USUAL_ALPHAS, threshold
from snf_runtime.anomaly.detection import StoredEvidence, rejudge

if TYPE_CHECKING:
    from snf_models.artifacts.manifest import Precision
    from snf_models.registry.registry import ModelVersion
    from snf_runtime.anomaly.calibration import Calibration


FROM_SUMMARY = (
    "dataset",
    "statistics_images",
    "calibration_images",
    "copies",
    "tiles",
    "folds",
    "precision",
    "deviation",
    "smallest_p",
)
"""Members of a ``CalibrationView`` that come from the summary of the calibration."""


def listing(registry: Registry, ref: str) -> CalibrationList:
    """Return all calibrations of a version; raise ``ModelNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    active, numbers = calibrations.active(), calibrations.numbers()
    # An active calibration that was deleted is listed as missing.
    views = [view_of(registry, name, version, number, active=number == active) for number in sorted({*numbers, active})]
    return CalibrationList(model=name, version=version, active=active, calibrations=views)


def show(registry: Registry, ref: str, number: int) -> CalibrationView:
    """Return a calibration; raise ``ModelNotFound``, ``CalibrationNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    if number != OWN:
        calibrations.record(number)
    return view_of(registry, name, version, number, active=number == calibrations.active())


def choose(registry: Registry, ref: str, number: int) -> CalibrationList:
    """Activate a calibration and return all; raise ``ModelNotFound``, ``CalibrationNotFound`` or ``ArtifactError``."""
    name, version = registry.locate(parse_ref(ref))
    weights = registry.with_calibration(name, version, OWN).manifest.log_dets.weights_sha256
    registry.calibrations(name, version).choose(number, weights)
    return listing(registry, f"{name}:{version}")


def view_of(registry: Registry, name: str, version: int, number: int, *, active: bool = True) -> CalibrationView:
    """Return a calibration, by default the one in use; a damaged one has its ``problem`` and no data."""
    try:
        if number == OWN:
            own = registry.with_calibration(name, version, OWN)
            manifest, warning = own.manifest, gradient_warning(own.path)
            return _sound(number, active, manifest.created, manifest.training.job, manifest.calibration, warning)
        calibrations = registry.calibrations(name, version)
        record, problem = calibrations.record(number), calibrations.foreign(number)
        warning = gradient_warning(calibrations.folder / str(number))
    except (ArtifactError, CalibrationNotFound) as error:
        unknown = dict.fromkeys(("created", "job", *FROM_SUMMARY))
        return CalibrationView(number=number, active=active, thresholds=[], problem=error.detail, **unknown)
    # Why it did not become active is no longer of interest where it was chosen since.
    made = record.activation
    reason = None if made is None or (active and not made.active) else made.reason
    return _sound(number, active, record.created, record.job, record.summary, warning, reason, problem)


def _sound(
    number: int,
    active: bool,
    created: datetime,
    job: str | None,
    summary: CalibrationSummary,
    warning: str | None,
    reason: str | None = None,
    problem: str | None = None,
) -> CalibrationView:
    # The bound does not hold for several folds, nor where an earlier version left strange images out of the ranks.
    exact = summary.folds == 1 and (summary.suspects_ranked or summary.suspect_share == 0)
    return CalibrationView(
        number=number,
        active=active,
        created=created,
        job=job,
        thresholds=list(advice(summary.calibration_images)) if exact else [],
        problem=problem,
        warning=warning,
        reason=reason,
        **{name: getattr(summary, name) for name in FROM_SUMMARY},
    )


@lru_cache(maxsize=256)
def advice(images: int) -> tuple[Threshold, ...]:
    """Return thresholds for six rates with 95 % confidence, from the images of a single fold."""
    return tuple(
        Threshold(alpha=alpha, threshold=safe_threshold(images, alpha), images_needed=images_needed(alpha))
        for alpha in USUAL_ALPHAS
    )


MAX_IMAGES = 200  # most images of a model version
MAX_BYTES = 8 * 2**20  # most bytes of a model version; more images than fit drop the oldest
MAX_VERSIONS = 16  # most model versions; that whose last image is oldest is dropped first


@dataclass(eq=False)
class VersionEvidence:
    """Evidence of the last images of a model version under one digest of weights."""

    weights: str
    images: deque[StoredEvidence] = field(default_factory=deque)
    nbytes: int = 0

    def add(self, image: StoredEvidence) -> None:
        """Keep evidence, and drop the oldest beyond 200 images or 8 MiB."""
        self.images.append(image)
        self.nbytes += image.nbytes
        while len(self.images) > MAX_IMAGES or self.nbytes > MAX_BYTES:
            self.nbytes -= self.images.popleft().nbytes


class RecentEvidence:
    """Evidence of the last images of the 16 versions that scored last. A restart forgets it. Thread-safe."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, int], VersionEvidence] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, name: str, version: int, weights: str, images: Sequence[StoredEvidence]) -> None:
        """Keep the evidence of images that a version with the digest ``weights`` has scored."""
        if not images:
            return
        with self._lock:
            known = self._versions.get((name, version))
            if known is None or known.weights != weights:
                known = self._versions[name, version] = VersionEvidence(weights)
            self._versions.move_to_end((name, version))
            for image in images:
                known.add(image)
            while len(self._versions) > MAX_VERSIONS:
                self._versions.popitem(last=False)

    def of(self, name: str, version: int, weights: str) -> list[StoredEvidence]:
        """Return the evidence under the digest ``weights``, in the order of scoring."""
        with self._lock:
            known = self._versions.get((name, version))
            return [] if known is None or known.weights != weights else list(known.images)


NOT_KEPT = "images of bulk jobs are not among them"


def compare(
    registry: Registry, ref: str, number: int, recent: RecentEvidence, against: int | None = None
) -> CalibrationComparison:
    """Compare a calibration with ``against`` (None: the one in use), also by verdicts on ``recent`` evidence."""
    name, version = registry.locate(parse_ref(ref))
    calibrations = registry.calibrations(name, version)
    used = calibrations.active() if against is None else against
    for wanted in {used, number} - {OWN}:
        try:
            calibrations.record(wanted)
        except CalibrationNotFound as error:
            if wanted == number:
                raise
            raise problem_of(error, "/query/against") from error
    before, after = (registry.with_calibration(name, version, wanted) for wanted in (used, number))
    loaded = _load(before), _load(after)
    weights = after.manifest.log_dets.weights_sha256
    stored = recent.of(name, version, weights)
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
    stored: Sequence[StoredEvidence],
) -> ComparedVerdicts:
    precisions = {before.calibration_summary.precision, after.calibration_summary.precision}
    kept = [image for image in stored if precisions == {image.precision}]
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


def _note(stored: Sequence[StoredEvidence], kept: Sequence[StoredEvidence], precisions: set[Precision]) -> str:
    if len(precisions) > 1:
        return (
            "no image: one calibration scores in float32 and the other in bfloat16, so that the verdicts need another "
            "pass through the model"
        )
    if not kept and stored:
        return f"no image: the newest {len(stored)} images were scored in {stored[-1].precision}"
    if not kept:
        return (
            "no image: only a running service keeps the evidence of the images that it judged, and this process has "
            f"judged none by this model version since it started; {NOT_KEPT}"
        )
    return (
        f"the newest {len(kept)} images that this service process judged by this model version, each at the "
        f"false-alarm rate of its request; {NOT_KEPT}"
    )
