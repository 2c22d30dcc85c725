from __future__ import annotations

import asyncio
import base64
import io
import secrets
import zipfile
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from fastapi import Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from snf_app.access.authentication import take_images
from snf_app.access.permissions import caller_of
from snf_app.http.admission import TimeoutMs, deadline
from snf_app.http.errors import invalid
from snf_app.http.openapi import sends
from snf_app.http.router import Router
from snf_app.registry.model_pool import ServedModel
from snf_app.scoring.request_images import NPY, Pixels
from snf_app.state import FairQueueDep, ModelPoolDep, SettingsDep
from snf_client.schemas.scores import Sample, Samples
from snf_models.errors import NoLearnedInverse
from snf_runtime.images.codec import encode_png, image_grid
from snf_runtime.parallelism import Steps

if TYPE_CHECKING:
    from snf_models.scorer import Scorer
    from snf_runtime.scoring.likelihood import Likelihood


MAX_SEED = 2**53 - 1  # largest seed that every JSON reader represents exactly


def encode(form: str, pixels: Pixels) -> tuple[bytes, str]:
    """Encode uint8 images ``(N, C, H, W)`` as ``png``, ``npy`` or ``zip``; return the bytes and their media type."""
    if form == "png":
        return encode_png(image_grid(pixels)), "image/png"
    buffer = io.BytesIO()
    if form == "npy":
        # The layout that scoring accepts: (N, H, W) for one channel, else (N, H, W, C).
        np.save(buffer, pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1))
        return buffer.getvalue(), NPY
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for index, image in enumerate(pixels):
            # ZipInfo's fixed date keeps the bytes the same for the same seed.
            archive.writestr(zipfile.ZipInfo(f"sample-{index:03d}.png"), encode_png(image))
    return buffer.getvalue(), "application/zip"


router = Router(tag="samples", role="score")


class SampleQuery(BaseModel):
    n: int = Field(16, ge=1, le=256, description="Number of images.")
    temperature: float = Field(1.0, ge=0, le=2, description="Factor on the base distribution's standard deviation.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Equal seeds give equal bytes. Default: random.")
    inverse: Literal["exact", "learned"] = Field("exact", description="Inverse that makes the images.")
    format: Literal["png", "npy", "zip", "json"] = Field(
        "png", description="One PNG grid, one array (N,H,W[,C]), a zip of PNGs, or JSON with likelihoods."
    )


_SEED = {"X-Seed": {"description": "The seed that was used.", "schema": {"type": "integer"}}}


@router.get(
    "/v1/models/{ref}/samples",
    "Draw samples",
    errors=(404, 409, 504),
    **sends("The images.", "image/png", NPY, "application/zip", headers=_SEED, model=Samples),
)
async def sample_images(
    ref: str,
    request: Request,
    settings: SettingsDep,
    pool: ModelPoolDep,
    queue: FairQueueDep,
    query: Annotated[SampleQuery, Query()],
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Draw random images from a model; return them as PNG, NumPy array, zip archive or JSON.

    With `format=json`, each image has the exact log-likelihood of its 8-bit pixels, in nats.

    A model of features alone has no samples (422 `samples-unsupported`), because features have no way back to pixels.
    """
    seed = secrets.randbelow(MAX_SEED + 1) if query.seed is None else query.seed
    scored = query.format == "json"
    passes = 2 if scored else 1
    limit = queue.largest // passes
    if query.n > limit:
        raise invalid("/query/n", f"this service draws at most {limit} images of this format at once")
    async with deadline(timeout_ms, settings.request_timeout_s):
        loaded = await pool.acquire(ref)
        loaded.scorer.require_pixels()
        if query.inverse == "learned" and not loaded.scorer.has_learned_inverse:
            raise NoLearnedInverse(f"{loaded.version.name} was trained without learned inverses")
        caller = caller_of(request.scope).name
        queue.check(caller, query.n * passes)  # before seconds of loading
        take_images(request.scope, query.n)
        await pool.load_trained(loaded)
        pixels, likelihoods = await queue.run(caller, _draw(loaded.scorer, query, seed), query.n * passes)
        if scored:
            content = await asyncio.to_thread(_json, loaded, query, seed, pixels, likelihoods)
            media_type = "application/json"
        else:
            content, media_type = await asyncio.to_thread(encode, query.format, pixels)
    return Response(content, media_type=media_type, headers={"X-Seed": str(seed)})


def _draw(scorer: Scorer, query: SampleQuery, seed: int) -> Steps[tuple[Pixels, list[Likelihood]]]:
    """Return sampled images, and their likelihoods if the answer contains them."""
    pixels = yield from scorer.sample_steps(query.n, query.temperature, seed, query.inverse)
    if query.format != "json":
        return pixels, []
    from snf_runtime.scoring.likelihood import require_finite  # noqa: PLC0415 - not needed before the first answer

    yield
    scores = yield from scorer.score_steps(pixels)
    return pixels, require_finite(scores)


def _json(loaded: ServedModel, query: SampleQuery, seed: int, pixels: Pixels, likelihoods: list[Likelihood]) -> bytes:
    samples = []
    for index, (image, likelihood) in enumerate(zip(pixels, likelihoods, strict=True)):
        assert likelihood.bits_per_dim is not None
        samples.append(
            Sample(
                index=index,
                png=base64.b64encode(encode_png(image)).decode(),
                log_likelihood=likelihood.log_likelihood,
                bits_per_dim=likelihood.bits_per_dim,
                kind=likelihood.kind,
            )
        )
    answer = Samples(
        model=loaded.version.name,
        version=loaded.version.version,
        seed=seed,
        temperature=query.temperature,
        inverse=query.inverse,
        count=len(pixels),
        samples=samples,
    )
    return answer.model_dump_json().encode()
