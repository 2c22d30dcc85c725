from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.evaluations import Example, Gallery
from snf_models.evaluation.image_sets import ImageSet
from snf_models.evaluation.scored_sets import Extremes, ScoredSet
from snf_models.scorer import Scorer
from snf_runtime.images.preprocessing import FilePlacement, as_image

MAX_SIDE = 96
"""Largest side of a picture in pixels; larger images are reduced."""


def gallery(scorer: Scorer, raw: ScoredSet, images: ImageSet) -> Gallery:
    """Return base64 PNGs of the most and least anomalous images; those of a model of tiles have no reasons."""
    examples = _of_pictures if scorer.preprocessing.tiled else _examples
    return Gallery(most=examples(scorer, raw, raw.most, images), least=examples(scorer, raw, raw.least, images))


def _of_pictures(_scorer: Scorer, raw: ScoredSet, extremes: Extremes, images: ImageSet) -> list[Example]:
    names = images.names
    rows = np.searchsorted(raw.scored.kept, extremes.places)
    return [
        Example(
            name=names[place],
            p_value=float(raw.scored.p_values[row]),
            statistic=statistic,
            log_likelihood=float(raw.scored.log_likelihoods[row]),
            reason=None,
            png=_png(picture),
        )
        for picture, statistic, place, row in zip(
            extremes.images, extremes.statistics.tolist(), extremes.places.tolist(), rows, strict=True
        )
    ]


def _examples(scorer: Scorer, _raw: ScoredSet, extremes: Extremes, images: ImageSet) -> list[Example]:
    if not len(extremes.images):
        return []
    names, places = images.names, extremes.places.tolist()
    likelihoods = scorer.score(extremes.images)
    verdicts = [
        verdict.in_file(FilePlacement.of(images.preprocessing, images.file_size(place)))
        for verdict, place in zip(scorer.verdicts(likelihoods), places, strict=True)
    ]
    return [
        Example(
            name=names[place],
            p_value=verdict.p_value,
            statistic=verdict.statistic,
            log_likelihood=likelihood.log_likelihood,
            reason=verdict.reasons[0].text if verdict.reasons else None,
            box=verdict.reasons[0].box if verdict.reasons else None,
            png=_png(image),
        )
        for image, place, likelihood, verdict in zip(extremes.images, places, likelihoods, verdicts, strict=True)
    ]


def _png(pixels: NDArray[np.uint8]) -> str:
    image, file = as_image(pixels), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    image.save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
