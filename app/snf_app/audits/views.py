from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from snf_app.registry.served_model import ServedModel
from snf_client.schemas.models import Audit, AuditedImage, AuditedLayer, AuditedTotal
from snf_models.loading.verification import exact_tolerance

if TYPE_CHECKING:
    from snf_models.audit import Audited


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
