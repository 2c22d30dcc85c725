from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response

from snf_app.access.permissions import MayRead, caller_of
from snf_app.http.errors import draining, pattern, responses
from snf_app.http.router import Router
from snf_app.jobs.dependencies import FollowedJob, folder_of
from snf_app.jobs.event_streams import EventStream
from snf_app.jobs.timeline import EVENT_ID, Cursor
from snf_app.state import DrainingDep, EventStreamsDep, SettingsDep

router = Router(prefix="/v1/jobs", tags=["jobs"], dependencies=[MayRead])

EXAMPLE = """retry: 2000

event: state
data: {"status": "running", "attempt": 1, "time": "2026-07-01T12:00:02.125+00:00", "worker": "host:17"}
id: 1234.1782907202125-0

event: metrics
data: {"event": "metrics", "step": 40, "steps": 200, "bits_per_dim": 2.41, "time": "...", "attempt": 1}
id: 1502.1782907202125-0

event: end
data: {"status": "succeeded"}
id: 9876.1782907260500-0.end

"""
EVENT = {
    "type": "object",
    "required": ["event", "data", "id"],
    "properties": {
        "event": {"type": "string", "description": "Kind of the event.", "examples": ["state"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "object"},
            "description": "The event itself.",
        },
        "id": {"type": "string", "description": "Value of `Last-Event-ID` after which the rest follows."},
    },
}
STREAM = {
    "description": "The events. Each has an id, after which a client can continue.",
    "content": {"text/event-stream": {"itemSchema": EVENT, "example": EXAMPLE}},
}
AFTER = pattern(rf"^({EVENT_ID})?$", "the id of an event, such as 1234.1764012345678-0")
OVER = {"description": "The job has ended and all its events were sent: do not reconnect."}


async def stream_slot(request: Request, streams: EventStreamsDep) -> AsyncIterator[None]:
    """Count the stream of this request until it ends; raise 429 if the caller or all callers have too many."""
    with streams.slot(caller_of(request.scope).name):
        yield


def cursor(
    header: Annotated[
        str | None,
        Header(alias="Last-Event-ID", pattern=AFTER, description="Id of the last event received; the rest follows."),
    ] = None,
    query: Annotated[
        str | None,
        Query(alias="last_event_id", pattern=AFTER, description="The same, for clients that cannot set headers."),
    ] = None,
) -> Cursor:
    """Return the position after the event id that the client sent, or the start."""
    # Browsers repeat the query of their first request, so their header is newer.
    given = header or query
    return Cursor.parse(given) if given else Cursor()


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    summary="Follow a job",
    response_class=Response,
    responses={**responses(401, 404, 422, 429, 500, 503), 200: STREAM, 204: OVER},
)
async def follow_job(
    job_id: FollowedJob,
    after: Annotated[Cursor, Depends(cursor)],
    streams: EventStreamsDep,
    settings: SettingsDep,
    stopping: DrainingDep,
    _slot: Annotated[None, Depends(stream_slot)],
    brief: Annotated[
        bool, Query(description="Leave out past `metrics` events, which `/metrics` has in fewer points.")
    ] = False,
) -> Response:
    """Stream the events of a job as server-sent events until the job ends.

    Events are changes of the job's status and reports of its worker.

    Reports are `started`, `metrics`, `validation`, `samples`, `checkpoint`, `scoring`, `evaluation`, `log`, `error`,
    `published`, `scored`, `calibrated`, `evaluated`, `limited` and `recommended`. The stream begins with the first
    event, or after the given id, and continues until `end`. A client that reconnects with its last id misses no event
    and gets none twice.
    """
    if after.ended:
        return Response(status_code=204)
    if stopping.is_set():
        raise draining()
    return EventStream(streams.follow(job_id, folder_of(job_id, settings), after, brief=brief))
