"""Results of an exported model for an image: its score and verdict, or the reason why it has none."""

from __future__ import annotations

from dataclasses import dataclass

from snf_runtime.anomaly.regions import MapRegions
from snf_runtime.anomaly.verdict_reason import VerdictReason


@dataclass(frozen=True)
class FileVerdict:
    """Result for one image judged by an exported model: its log-likelihood and anomaly verdict.

    Attributes:
        name: Path of the file; "image" and its number from 0 for other sources.
        log_likelihood: Exact log-density of the pixels plus uniform noise, or of the features, in nats.
        bits_per_dim: The same in bits for each pixel value; None for a density of features.
        p_value: The conformal p-value.
        score: -log10 of the p-value.
        statistic: The statistic that the p-value is the rank of, in nats.
        is_anomaly: Whether the p-value is at most ``alpha``.
        alpha: The false-alarm rate of the verdict.
        threshold: The smallest statistic in nats that is flagged at ``alpha``; None for a calibration of several folds.
        reasons: What contributed most, the strongest first. Boxes are in pixels of the upright file.
        regions: The regions of the anomaly map in pixels of the upright file; None where they were not asked for, or
            the calibration has no threshold for them.
        notes: What was done to the file, in words.
    """

    name: str
    log_likelihood: float
    bits_per_dim: float | None
    p_value: float
    score: float
    statistic: float
    is_anomaly: bool
    alpha: float
    threshold: float | None
    reasons: tuple[VerdictReason, ...]
    regions: MapRegions | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class NotJudged:
    """An image that could not be judged, with the error that explains why.

    Attributes:
        name: Path of the file; "image" and its number from 0 for other sources.
        error: What is wrong with it, such as ``undecodable-image``; the codes of the service.
        detail: The same in words.
    """

    name: str
    error: str
    detail: str
