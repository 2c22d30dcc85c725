"""The application factory of the HTTP service."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from snf_app import package_version, pages
from snf_app.access.authentication import Authentication, KeyRing
from snf_app.access.origins import OriginCheck
from snf_app.access.permissions import SECURITY_SCHEMES, without_keys
from snf_app.audits import endpoints as audits
from snf_app.calibrations import endpoints as calibrations
from snf_app.datasets import endpoints as datasets
from snf_app.drift import endpoints as drift
from snf_app.health import endpoints as health
from snf_app.http import errors
from snf_app.http.admission import BodyLimit, MinUploadRate
from snf_app.http.openapi import add_schemas, complete_parameters
from snf_app.http.request_log import BackgroundLog, RequestLog
from snf_app.http.router import HeadAsGet, Router
from snf_app.inference_protocol import endpoints as inference
from snf_app.jobs import endpoints as jobs
from snf_app.jobs import result_endpoints as job_files
from snf_app.jobs.checks import PARAMETERS, add_rules
from snf_app.limits import endpoints as limits
from snf_app.registry import endpoints as models
from snf_app.runs import endpoints as runs
from snf_app.samples import endpoints as samples
from snf_app.scoring import endpoints as scores
from snf_app.state import AppState, open_state
from snf_client.schemas.inference import InferRequest
from snf_worker.settings import Settings

DESCRIPTION = """Scores images by their exact log-likelihood under Self Normalizing Flows, turns it into a
calibrated anomaly verdict, draws samples and trains new models.

A log-likelihood is a *density* over [0,256)^D in nats, never a probability. Every error is a problem of
RFC 9457 (`application/problem+json`), except below `/v2`, the Open Inference Protocol, which has `{"error": "..."}`.

Query parameters and members of a body that a call does not have are refused with 422, by name. HEAD is answered where
GET is.

Every answer has the header `X-Request-Id`: that of the request, or a new one. Answers to a key with limits have
`RateLimit-Policy` and `RateLimit`."""


ROUTERS: tuple[Router, ...] = (
    *(scores.router, samples.router),
    *(models.router, audits.router),
    *(calibrations.router, drift.router, limits.router, datasets.router, runs.presets_router),
    *(jobs.router, job_files.router, runs.router, jobs.workers_router),
    *(inference.router, health.router, pages.router),
)
"""Routers in the order of the API documentation."""

TAGS = {
    "scores": "Log-likelihoods, p-values and verdicts of images.",
    "samples": "Images drawn from a model.",
    "models": "Models, their versions, aliases, cards and files.",
    "calibrations": "P-values of a model from other normal images.",
    "drift": "Tests whether the images of a source still look like those of the calibration.",
    "limits": "Smallest defects that a model finds.",
    "datasets": "Images to train on, to calibrate with and to score.",
    "jobs": "Trainings, bulk scorings and other work in the background, its records and the workers.",
    "open inference protocol": "Scores for clients of Triton, KServe and others.",
    "operations": "Health, metrics and the key of the caller.",
}


class Service(FastAPI):
    """The FastAPI application of the service that scores images and trains models.

    Attributes:
        draining: Set when the service has been asked to stop.
        keys: The API keys that the service accepts.
    """

    draining: threading.Event
    keys: KeyRing
    _making = threading.Lock()
    _documents: dict[bool, pages.Document]

    def openapi_document(self) -> pages.Document:
        """Return the OpenAPI document as it is sent, made at the first call."""
        with self._making:
            needed = self.keys.needed
            if needed not in self._documents:
                content = json.dumps(self.openapi(), ensure_ascii=False, separators=(",", ":")).encode()
                self._documents[needed] = pages.Document(content, "application/json")
            return self._documents[needed]

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of the service.

        It lists the errors and the required role of each operation.

        Keys are optional in it while the service has none.
        """
        if self.openapi_schema is None:
            document = super().openapi()
            complete_parameters(document)
            add_schemas(document, (errors.ProblemDetails, errors.InferenceError, InferRequest, *PARAMETERS.values()))
            add_rules(document)
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
        assert self.openapi_schema is not None
        return self.openapi_schema if self.keys.needed else without_keys(self.openapi_schema)


def create_app(settings: Settings) -> Service:
    """Create the FastAPI application of the service from its settings.

    Its threads and queues start when it is served.
    """
    draining = threading.Event()
    writer = BackgroundLog()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        try:
            async with open_state(settings, draining) as state:
                yield state
        finally:
            writer.close()

    app = Service(
        title="Exact image density scoring",
        version=package_version(),
        description=DESCRIPTION,
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "The service that gave this document."}],
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.draining = draining
    app.keys = KeyRing(settings)
    app._documents = {}
    # Added first, so it is the innermost: the others see the method of the request.
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        BodyLimit,
        limit=settings.max_upload_bytes,
        in_flight=settings.max_bytes_in_flight,
        pace=MinUploadRate(settings.body_timeout_s, settings.min_body_rate),
        streamed=frozenset({("POST", datasets.PATH), ("POST", "/v1/models")}),
    )
    app.add_middleware(Authentication, keys=app.keys, settings=settings, writer=writer)
    app.add_middleware(OriginCheck, settings=settings, keys=app.keys)
    # Added last, so it is the outermost: requests that the others refuse are recorded too.
    app.add_middleware(RequestLog, settings=settings, writer=writer)
    errors.install(app)
    app.router.routes.extend(route for router in ROUTERS for route in router.routes)
    app.mount(pages.DOCS_PATH, pages.api_docs_files(), name="docs-files")
    app.mount(pages.CONSOLE_PATH, pages.console_files, name="console")
    app.mount(pages.GUIDE_PATH, pages.guide_files, name="guide")
    return app
