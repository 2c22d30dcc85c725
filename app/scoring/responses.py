"""From likelihoods and verdicts to the JSON of a scoring request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.http import schemas
from app.http.errors import FieldProblem, Problem
from app.registry.model_pool import Loaded
from app.scoring.heat_map_answer import heat_map_answer
from app.scoring.request_images import FIELD, Item
from models.errors import ImageError, ModelsError, ScoreNotFinite
from models.images.codec import DecodedImage
from models.images.provenance import provenance_warning

if TYPE_CHECKING:
    from models.anomaly.judged import JudgedImage, Judgement


def answer_json(
    loaded: Loaded,
    items: Sequence[Item],
    scored: Mapping[int, Judgement],
    *,
    fdr: bool,
) -> bytes:
    """The answer to a scoring request, `schemas.Scores` as JSON; raises a 422 problem when no image was scored."""
    results = [one_result(index, item, scored.get(index), loaded) for index, item in enumerate(items)]
    verdicts = {index: one.verdict for index, one in scored.items() if not isinstance(one, ScoreNotFinite)}
    if not verdicts:
        raise _none_scored(results)
    content: dict[str, Any] = {
        "model": loaded.version.name,
        "version": loaded.version.version,
        "calibration": loaded.version.calibration,
        "count": len(results),
        "results": results,
    }
    if fdr:
        # Imported here: the client brings httpx, which would make every start of the service slower.
        from snf_client.fdr import q_values  # noqa: PLC0415

        found = q_values([verdict.p_value for verdict in verdicts.values()])
        by_index = dict(zip(verdicts, found, strict=True))
        content["fdr"] = schemas.Fdr(q_values=[by_index.get(index) for index in range(len(items))])
    return schemas.Scores(**content).model_dump_json(exclude_unset=True).encode()


def one_result(
    index: int, item: Item, found: Judgement | None, loaded: Loaded
) -> schemas.ScoredImage | schemas.FailedImage:
    """One image's place in `results`; `found` is absent for an image that could not be decoded."""
    if isinstance(item.image, ImageError):
        return _failed(index, item, item.image)
    assert found is not None
    if isinstance(found, ScoreNotFinite):
        return _failed(index, item, found)
    return _scored(index, item, item.image, found, loaded)


def _scored(index: int, item: Item, image: DecodedImage, found: JudgedImage, loaded: Loaded) -> schemas.ScoredImage:
    likelihood, verdict, heat_map = found.likelihood, found.verdict, found.heat_map
    content: dict[str, Any] = {
        "index": index,
        "filename": item.filename,
        "status": "ok",
        "log_likelihood": likelihood.log_likelihood,
        "bits_per_dim": likelihood.bits_per_dim,
        "kind": likelihood.kind,
    }
    anomaly: dict[str, Any] = {
        "p_value": verdict.p_value,
        "score": verdict.score,
        "is_anomaly": verdict.is_anomaly,
        "alpha": verdict.alpha,
        "statistic": verdict.statistic,
        "extrapolated": verdict.extrapolated,
        "smallest_p": verdict.smallest_p,
        "reasons": [
            schemas.Reason(feature=r.feature, z=r.z, share=r.share, text=r.text, box=r.box) for r in verdict.reasons
        ],
    }
    if likelihood.draws is not None:
        d = likelihood.draws
        content["draws"] = schemas.Draws(k=d.k, mean=d.mean, standard_error=d.standard_error, iw_bound=d.iw_bound)
    if heat_map is not None:
        content["heat_map"] = heat_map_answer(image.pixels, heat_map)
    content["terms"] = [schemas.Term(scale=t.scale, log_prior=t.log_prior, log_det=t.log_det) for t in likelihood.terms]
    content["preprocessing"] = schemas.PreprocessingNote(
        id=loaded.scorer.preprocessing.id,
        resized=image.resized,
        converted=image.converted,
        warning=provenance_warning(loaded.scorer.manifest.training.provenance, image),
    )
    return schemas.ScoredImage(**content, anomaly=schemas.Anomaly(**anomaly))


def _failed(index: int, item: Item, error: ModelsError) -> schemas.FailedImage:
    return schemas.FailedImage(
        index=index,
        filename=item.filename,
        status="error",
        error=schemas.ItemError(type=error.slug, title=error.title, status=error.status, detail=error.detail),
    )


def _none_scored(results: Sequence[schemas.ScoredImage | schemas.FailedImage]) -> Problem:
    failed = [one for one in results if isinstance(one, schemas.FailedImage)]
    return Problem(
        422,
        "no-image-scored",
        "None of the images can be scored",
        f"{len(failed)} of {len(failed)} images were refused; the first: {failed[0].error.detail}",
        errors=[FieldProblem(pointer=f"/body/{FIELD}/{one.index}", detail=one.error.detail) for one in failed],
        extensions={"results": [one.model_dump() for one in failed]},
    )
