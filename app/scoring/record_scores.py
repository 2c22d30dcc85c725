"""Metrics of a scoring request whose images were scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.metrics.registry import Metrics
from app.registry.model_pool import Loaded
from app.scoring.request_images import Item
from app.scoring.responses import Outcome
from models.errors import ImageError, ScoreNotFinite


def record_scores(metrics: Metrics, loaded: Loaded, items: Sequence[Item], scored: Mapping[int, Outcome]) -> None:
    """Count the images of a request: scored, flagged as anomalies, and failed by type of error."""
    verdicts = [one.verdict for one in scored.values() if not isinstance(one, ScoreNotFinite)]
    errors = [one.slug for one in scored.values() if isinstance(one, ScoreNotFinite)]
    errors += [item.image.slug for item in items if isinstance(item.image, ImageError)]
    flagged = sum(verdict.is_anomaly for verdict in verdicts)
    metrics.count_images(loaded.version.name, loaded.version.version, len(verdicts), flagged)
    metrics.count_image_errors(errors)
