"""JSON answers to scoring requests, made from likelihoods, anomaly verdicts and heat maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snf_app.http.errors import FieldProblem, Problem, status_of
from snf_app.registry.model_pool import ServedModel
from snf_app.scoring.request_images import FIELD, Item, Pixels
from snf_client.schemas.scores import (
    FailedImage,
    Fdr,
    HeatMap,
    ItemError,
    PreprocessingNote,
    ScoredImage,
    ScoreQuery,
    Scores,
    q_values,
)
from snf_models.errors import ImageError, ModelsError
from snf_models.images import provenance_warning
from snf_runtime.images.codec import DecodedImage, encode_png
from snf_runtime.images.preprocessing import FilePlacement

if TYPE_CHECKING:
    from snf_runtime.anomaly.detection import Detection
    from snf_runtime.anomaly.maps import MapRegions, PixelMaps


def answer_json(
    loaded: ServedModel, items: Sequence[Item], judged: Mapping[int, Detection | ImageError], query: ScoreQuery
) -> bytes:
    """Return the answer for all items; raise ``Problem`` 422 if no image has a score."""
    results = image_results(loaded, items, judged, query)
    verdicts = {index: image.verdict for index, image in judged.items() if not isinstance(image, ImageError)}
    if not verdicts:
        raise _none_scored(results)
    content: dict[str, Any] = {
        "model": loaded.version.name,
        "version": loaded.version.version,
        "calibration": loaded.version.calibration,
        "count": len(results),
        "results": results,
    }
    if loaded.warning is not None:
        content["warning"] = loaded.warning
    if query.fdr:
        rates = q_values([verdict.p_value for verdict in verdicts.values()])
        by_index = dict(zip(verdicts, rates, strict=True))
        content["fdr"] = Fdr(q_values=[by_index.get(index) for index in range(len(items))])
    return Scores(**content).model_dump_json(exclude_unset=True).encode()


def image_results(
    loaded: ServedModel,
    items: Sequence[Item],
    judged: Mapping[int, Detection | ImageError],
    query: ScoreQuery,
    first: int = 0,
) -> list[ScoredImage | FailedImage]:
    """Return the answers for images, of which those that could be decoded are ``judged`` by their places.

    ``first`` is the index of the first answer.
    """
    results: list[ScoredImage | FailedImage] = []
    for place, item in enumerate(items):
        image, detection = item.image, judged.get(place)
        if isinstance(image, ImageError):
            results.append(_failed(first + place, item, image))
        elif isinstance(detection, ImageError):
            results.append(_failed(first + place, item, detection))
        else:
            assert detection is not None
            results.append(_scored(first + place, item, image, detection, loaded, query))
    return results


def _scored(
    index: int, item: Item, image: DecodedImage, judged: Detection, loaded: ServedModel, query: ScoreQuery
) -> ScoredImage:
    placement = FilePlacement.of(loaded.scorer.preprocessing, image.file_size)
    in_file, likelihood = judged.in_file(placement), judged.likelihood
    trained = loaded.scorer.manifest.training.provenance
    # Members that are not set are left out of the JSON.
    optional: dict[str, Any] = {}
    if likelihood.draws is not None:
        optional["draws"] = likelihood.draws
    if query.explain and judged.heat_map is not None:
        optional["heat_map"] = heat_map_answer(image.pixels, judged.heat_map, in_file.regions)
    changes: dict[str, Any] = {"notes": list(image.notes)} if image.notes else {}
    if image.resized:
        changes["fit"] = loaded.scorer.preprocessing.fit
    return ScoredImage(
        index=index,
        filename=item.filename,
        status="ok",
        log_likelihood=likelihood.log_likelihood,
        bits_per_dim=likelihood.bits_per_dim,
        kind=likelihood.kind,
        terms=likelihood.terms,
        anomaly=in_file.verdict,
        preprocessing=PreprocessingNote(
            id=loaded.scorer.preprocessing.id,
            resized=image.resized,
            converted=image.converted,
            size=placement.size,
            warning=None if trained is None else provenance_warning(trained, image),
            **changes,
        ),
        **optional,
    )


def heat_map_answer(pixels: Pixels, heat_map: PixelMaps, regions: MapRegions | None = None) -> HeatMap:
    """Return a heat map as overlay, colours and array in base64, reduced for large images of tiles."""
    from snf_models.anomaly.heat_map_picture import colours, overlay  # noqa: PLC0415 - SciPy takes time to load

    channels = heat_map.channels
    threshold = None if regions is None else regions.threshold
    layer = encode_png(colours(heat_map.anomaly, threshold).transpose(2, 0, 1))
    buffer = io.BytesIO()
    np.save(buffer, np.stack(list(channels.values())), allow_pickle=False)
    return HeatMap(
        png=base64.b64encode(overlay(pixels, heat_map.anomaly, threshold, heat_map.scale)).decode(),
        layer=base64.b64encode(layer).decode(),
        npy=base64.b64encode(buffer.getvalue()).decode(),
        channels=list(channels),
        scale=heat_map.scale,
        lowest_z=float(heat_map.z.min()),
        highest_z=float(heat_map.z.max()),
        threshold=threshold,
        regions=None if regions is None else regions.regions,
        region_count=None if regions is None else regions.count,
    )


def _failed(index: int, item: Item, error: ModelsError) -> FailedImage:
    return FailedImage(
        index=index,
        filename=item.filename,
        status="error",
        error=ItemError(type=error.slug, title=error.title, status=status_of(error), detail=error.detail),
    )


def _none_scored(results: Sequence[ScoredImage | FailedImage]) -> Problem:
    failed = [result for result in results if isinstance(result, FailedImage)]
    return Problem(
        "no-image-scored",
        f"{len(failed)} of {len(failed)} images were refused; the first: {failed[0].error.detail}",
        errors=[FieldProblem(pointer=f"/body/{FIELD}/{result.index}", detail=result.error.detail) for result in failed],
        extensions={"results": [result.model_dump() for result in failed]},
    )
