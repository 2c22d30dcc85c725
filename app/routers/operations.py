"""Health, readiness, and a plain page that says what runs here."""

from __future__ import annotations

import asyncio
import html
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import HTMLResponse

from app import schemas
from app.access import MayLook
from app.house import House, InHouse
from app.problems import responses
from app.serving import Listed, ModelState

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="health", summary="Is the process alive?")
async def health() -> schemas.Health:
    """Answers while the event loop runs."""
    return schemas.Health(status="alive")


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Can it score?",
    responses={503: {"model": schemas.Readiness, "description": "Loading, draining, or without any model."}},
)
async def readiness(house: InHouse, response: Response) -> schemas.Readiness:
    """200 once the shipped models are loaded, until the service stops; says which parts are degraded."""
    listing = await asyncio.to_thread(house.serving.listing)
    failed = {
        f"{one.name}:{one.version}": reason or "unknown"
        for one, (state, reason) in house.serving.states().items()
        if state is ModelState.FAILED
    }
    failed |= {one.name: one.reason or "unknown" for one in listing if one.live is None}
    status = _status(house, listing)
    response.status_code = 200 if status == "ready" else 503
    return schemas.Readiness(
        status=status,
        models={one.name: one.state.value for one in listing},
        failed=failed,
        jobs="ok" if house.jobs_watch.answers else "degraded",
        queue={"images": house.lane.images, "capacity": house.lane.capacity},
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    dependencies=[MayLook],
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **responses(401, 500)},
)
async def metrics(house: InHouse) -> Response:
    """Requests, images, queues, models and drift in Prometheus' text format; never waits for the job store."""
    text = await asyncio.to_thread(house.metrics.render, house.serving.registered)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _status(house: House, listing: list[Listed]) -> Literal["ready", "loading", "draining", "failed"]:
    if house.draining.is_set():
        return "draining"
    if not house.serving.started:
        return "loading"
    if listing and all(one.state is ModelState.FAILED for one in listing):
        return "failed"
    return "ready"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Exact image density scoring</title>
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; background: Canvas }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} th, td {{ text-align: left; padding: .25rem 1rem .25rem 0 }}
pre {{ overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: .4rem }}
</style>
</head>
<body>
<main>
<h1>Exact image density scoring</h1>
<p>Scores images by their exact log-likelihood under Self Normalizing Flows. The calls are described in
<a href="/docs">the documentation</a>; <a href="/readyz">/readyz</a> tells what is ready.</p>
<h2>Models</h2>
{models}
<h2>Three calls to try</h2>
<pre tabindex="0">{calls}</pre>
</main>
</body>
</html>
"""


@router.get("/", include_in_schema=False)
async def landing(request: Request, house: InHouse) -> HTMLResponse:
    """A page for people who open the address in a browser."""
    listing = await asyncio.to_thread(house.serving.listing)
    base = str(request.base_url).rstrip("/")
    usable = next((one.name for one in listing if one.live is not None), "MODEL")
    key = " -H 'Authorization: Bearer KEY'" if house.settings.api_keys else ""
    body = '{"type": "train", "dataset": "mnist-mini", "model": "my-digits", "preset": "snf-glow-tiny"}'
    calls = [
        f"curl{key} -F images=@digit.png {base}/v1/models/{usable}/score",
        f"curl{key} -o samples.png '{base}/v1/models/{usable}/samples?n=16&seed=1'",
        f"curl{key} -H 'Content-Type: application/json' -d '{body}' {base}/v1/jobs",
    ]
    return HTMLResponse(PAGE.format(models=_table(listing), calls=html.escape("\n".join(calls))))


def _table(listing: list[Listed]) -> str:
    if not listing:
        return "<p>There is no model yet.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}</td><td>{', '.join(map(str, one.versions))}</td>"
        f"<td>{one.state.value}{': ' + html.escape(one.reason) if one.reason else ''}</td></tr>"
        for one in listing
    )
    head = "<tr><th>name</th><th>versions</th><th>state</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
