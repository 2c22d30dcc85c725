"""What happens to a job, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from app.access.callers import caller_of
from app.access.permissions import MayRead
from app.http.dependencies import DrainingDep, EventStreamsDep, SettingsDep
from app.http.errors import draining, invalid, responses
from app.jobs.dependencies import FollowedJob, folder_of
from app.jobs.event_streams import EventStream
from app.jobs.timeline import Cursor

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[MayRead])

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
STREAM = {
    "description": "The events; each has an id to go on after.",
    "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
}
OVER = {"description": "The job is over and all its events were sent: do not come back."}


async def place(request: Request, streams: EventStreamsDep) -> AsyncIterator[None]:
    """Holds one of the streams for as long as the answer takes."""
    with streams.place(caller_of(request.scope).name):
        yield


def cursor(
    header: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Id of the last event received; all later ones follow.")
    ] = None,
    query: Annotated[
        str | None, Query(alias="last_event_id", description="The same, for clients that cannot set headers.")
    ] = None,
) -> Cursor:
    """Where the client stands: browsers keep the query of their first request, so their header is newer."""
    pointer, given = ("/header/Last-Event-ID", header) if header else ("/query/last_event_id", query)
    try:
        return Cursor.parse(given) if given else Cursor()
    except ValueError as error:
        raise invalid(pointer, str(error)) from error


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
    _place: Annotated[None, Depends(place)],
    brief: Annotated[
        bool, Query(description="Leave out `metrics` of the past, which `/metrics` has in fewer points.")
    ] = False,
) -> Response:
    """Streams `state` at each change of the job's state, and what its trainer reports under the report's own name:
    `started`, `metrics`, `validation`, `samples`, `checkpoint`, `scoring`, `evaluation`, `log`, `error`, `published`,
    `scored`, `evaluated`.

    It begins with the first event, or after the one whose id is given, and goes on until `end`. Nothing is missed or
    repeated by a client that comes back with its last id, whatever was restarted meanwhile.
    """
    if after.ended:
        return Response(status_code=204)
    if stopping.is_set():
        raise draining()
    return EventStream(streams.follow(job_id, folder_of(job_id, settings), after, brief=brief))
