from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from snf_app.access.rate_limits import take_images
from snf_app.http.disconnects import while_connected
from snf_app.http.errors import invalid
from snf_app.inference_protocol.image_tensor import image_input, pixels_of
from snf_app.inference_protocol.output_tensors import EncodedAnswer, check_outputs, encode
from snf_app.inference_protocol.request_body import InferBody, parse_request, read_infer_body
from snf_app.inference_protocol.schemas import InferParameters, InferRequest
from snf_app.scoring.decoders import DecodingLanes
from snf_app.scoring.judging_pipeline import Admission, Judging
from snf_app.scoring.request_images import Pixels
from snf_app.scoring.schemas import ScoreQuery
from snf_models.errors import ImageError

if TYPE_CHECKING:
    from snf_runtime.anomaly.judged import JudgedImage, Judgement

MAX_PARSED = 64 * 1024
"""Largest JSON object that is parsed on the event loop; a larger one waits for its turn among those of all callers."""
MAX_NAMED = 10
"""Most images without a score that an error names."""


@dataclass(frozen=True)
class InferenceService:
    """Service that answers inference requests with scores that are computed as in all other endpoints."""

    judging: Judging
    decoders: DecodingLanes

    async def infer(self, ref: str, request: Request, timeout_ms: int | None) -> EncodedAnswer:
        """Score the tensor in a request's body; raise ``Problem``, or ``ImageError`` if an image has no score."""
        async with self.judging.admit(request.scope, ref, ScoreQuery(), timeout_ms) as admission:
            body = await read_infer_body(request, admission.loaded.scorer.preprocessing, admission.limit)
            await admission.held.enter_async_context(while_connected(request))
            asked, images = await self._parsed(admission, body, ref)
            parameters = asked.parameters or InferParameters()
            if parameters.timeout:
                admission.time.ask(parameters.timeout / 1e6)
            query = ScoreQuery(source=parameters.source)
            if admission.loaded.scorer.preprocessing.tiled:
                self.judging.hold_large(admission, query, images.shape[0] * images.shape[2] * images.shape[3])
            take_images(request.scope, len(images))
            judgements = await self.judging.judge(admission, list(images), query)
        judged = _all_scored(judgements)
        self.judging.record(admission.loaded, query, judgements)
        return encode(asked, judged, admission.loaded)

    async def _parsed(self, admission: Admission, body: InferBody, ref: str) -> tuple[InferRequest, Pixels]:
        """Return the JSON object of a request, and its images, uint8 ``(N, C, H, W)``."""
        preprocessing, name = admission.loaded.scorer.preprocessing, admission.loaded.version.name

        def parse(body: InferBody) -> tuple[InferRequest, Pixels]:
            asked = parse_request(body)
            check_outputs(asked.outputs or ())
            if asked.model_name not in (None, name, ref):
                raise invalid("/body/model_name", f"expected {name!r}, the model of the path, or none")
            given = image_input(asked.inputs, preprocessing, admission.limit)
            return asked, pixels_of(given, body.binary)

        if len(body.json) <= MAX_PARSED:
            return parse(body)
        lane = self.decoders.lane([body.json])
        [parsed] = await lane.map(admission.caller, parse, [body])
        return parsed


def _all_scored(judgements: Sequence[Judgement]) -> list[JudgedImage]:
    """Return the results of all images; raise the first error where one has none, as a tensor cannot say so."""
    judged = [image for image in judgements if not isinstance(image, ImageError)]
    errors = {str(index): image for index, image in enumerate(judgements) if isinstance(image, ImageError)}
    if errors:
        first, numbers = next(iter(errors.values())), list(errors)
        more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
        raise ImageError(
            first.slug,
            first.title,
            f"image {', '.join(numbers[:MAX_NAMED])}{more} of {len(judgements)} (counted from 0): {first.detail}; send "
            "the others without it",
        )
    return judged
