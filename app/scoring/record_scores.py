"""What is remembered of a scoring request once its images are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.registry.model_pool import Loaded
from app.scoring.request_images import Item
from app.state import House
from models.errors import ImageError, ScoreNotFinite

if TYPE_CHECKING:
    from models.anomaly.judged import Judgement


def note_scores(
    house: House,
    loaded: Loaded,
    source: str | None,
    items: Sequence[Item],
    scored: Mapping[int, Judgement],
    *,
    drifts: bool,
) -> None:
    """Counts the images; with `drifts` takes the p-values of those that were scored into the windows of drift."""
    verdicts = [one.verdict for one in scored.values() if not isinstance(one, ScoreNotFinite)]
    errors = [one.slug for one in scored.values() if isinstance(one, ScoreNotFinite)]
    errors += [item.image.slug for item in items if isinstance(item.image, ImageError)]
    flagged = sum(verdict.is_anomaly for verdict in verdicts)
    house.metrics.count_images(loaded.version.name, loaded.version.version, len(verdicts), flagged)
    house.metrics.count_image_errors(errors)
    # Verdicts with gradient evidence rest on fewer calibration images, and would look like drift among the others.
    if drifts:
        house.drift.record(loaded, source, [verdict.p_value for verdict in verdicts])
