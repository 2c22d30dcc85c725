from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request

from snf_app.access.permissions import caller_of
from snf_app.http.admission import TimeoutMs, deadline
from snf_app.http.router import Router
from snf_app.registry.model_pool import ServedModel
from snf_app.state import FairQueueDep, ModelPoolDep, SettingsDep
from snf_client.schemas.models import Audit, AuditedImage, AuditedLayer, AuditedTotal
from snf_models.loading.verification import exact_tolerance
from snf_runtime.parallelism import Steps

if TYPE_CHECKING:
    from snf_models.audit import Audited
    from snf_models.scorer import Scorer


def audit_view(loaded: ServedModel, audited: Sequence[Audited]) -> Audit:
    """Convert an audit to an answer, with whether all differences are within tolerance."""
    scorer = loaded.scorer
    images = [
        AuditedImage(
            index=index,
            source=image.source,
            log_likelihood=image.log_likelihood,
            recomputed=image.recomputed,
            difference=image.log_likelihood - image.recomputed,
            tolerance=scorer.tolerance(image.recomputed),
        )
        for index, image in enumerate(audited)
    ]
    cached, recomputed = scorer.manifest.log_dets.layers, audited[0].log_dets
    layers = [
        AuditedLayer(layer=name, cached=cached[name], recomputed=value, difference=cached[name] - value)
        for name, value in recomputed.items()
    ]
    used, recomputed_total = scorer.density.constant_log_det, audited[0].log_det_total
    total = AuditedTotal(
        cached=used,
        recomputed=recomputed_total,
        difference=used - recomputed_total,
        tolerance=exact_tolerance(scorer.density.dimensions, 0.0),
    )
    differences = [total.difference, *(layer.difference for layer in layers)]
    return Audit(
        model=loaded.version.name,
        version=loaded.version.version,
        engine=scorer.density.engine_name,
        precision=scorer.density.precision,
        images=images,
        log_dets=layers,
        total=total,
        tolerance=max(image.tolerance for image in images),
        agrees=all(abs(difference) <= total.tolerance for difference in differences)
        and all(abs(image.difference) <= image.tolerance for image in images),
        seconds=sum(image.seconds for image in audited),
    )


COST = 16
"""Images that an audited image counts in the queue: a float64 pass, layer by layer, takes that many times as long."""

router = Router("/v1/models/{ref}/audit", "models", role="score")

Count = Annotated[
    int,
    Query(
        ge=1,
        le=16,
        description="Number of images; each is a pass in float64. For a model of features alone at most those that are "
        "stored with it.",
    ),
]


@router.get("", "Compute scores again without cached values", errors=(404, 409, 504))
async def audit_model(
    ref: str,
    request: Request,
    settings: SettingsDep,
    pool: ModelPoolDep,
    queue: FairQueueDep,
    n: Count = 4,
    timeout_ms: TimeoutMs = None,
) -> Audit:
    """Compare a model's log-likelihoods of up to 16 images with a recomputation in float64.

    Images that are stored with the model are scored twice: as served, and in float64 without cached values. The answer
    has the differences.

    The second pass uses no cached or frozen value: each layer computes its log-determinant again, and features are
    extracted in float64. If fewer than `n` images are stored with the model, the rest are samples, the same at every
    audit.
    """
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        caller, cost = caller_of(request.scope).name, min(n * COST, queue.largest)
        queue.check(caller, cost)  # before seconds of loading
        await pool.load_trained(loaded)
        return audit_view(loaded, await queue.run(caller, _audit(loaded.scorer, n), cost))


def _audit(scorer: Scorer, count: int) -> Steps[list[Audited]]:
    """Return the audits of ``count`` images, one per step."""
    from snf_models.audit import audit, count_images  # noqa: PLC0415 - it imports torch, which is loaded by now

    audited = []
    for index in range(count_images(scorer, count)):
        if index:
            yield
        audited.append(audit(scorer, index))
    return audited
