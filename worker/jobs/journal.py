"""The journal of a job: one JSON event a line, read from any place on in bounded chunks."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

FILE = "events.jsonl"
CHUNK_BYTES = 256 * 1024
"""Bytes read at once; a line is far shorter."""

Event = dict[str, Any]


class Entry(NamedTuple):
    """An event, and the offset of the byte after its line."""

    end: int
    event: Event


class JournalChunk(NamedTuple):
    """The events of some complete lines, and where the next chunk begins."""

    entries: list[Entry]
    end: int
    last: bool  # whether it reaches the end of what was written


def read_chunk(path: Path, offset: int = 0, limit: int = CHUNK_BYTES) -> JournalChunk:
    """The events of the complete lines in the `limit` bytes from `offset` on; damaged lines are skipped.

    A number that JSON has no word for (NaN) is None. A file that is not there yet is an empty one.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return JournalChunk([], offset, True)
    last = len(data) < limit
    complete = data[: data.rfind(b"\n") + 1]
    if not complete and not last:
        # No event is as long: the line is passed by, and what is left of it then counts as a damaged one.
        log.warning("skipping %d bytes of %s without a line's end", limit, path)
        return JournalChunk([], offset + limit, False)
    entries = []
    end = offset
    for line in complete.splitlines(keepends=True):
        end += len(line)
        event = _parse(line)
        if event is not None:
            entries.append(Entry(end, event))
        elif line.strip():
            log.warning("skipping a damaged line of %s: %r", path, line[:80])
    return JournalChunk(entries, end, last)


def read_chunks(path: Path, offset: int = 0) -> Iterator[JournalChunk]:
    """All chunks from `offset` to the end of what was written."""
    while True:
        chunk = read_chunk(path, offset)
        yield chunk
        if chunk.last:
            return
        offset = chunk.end


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line, parse_constant=lambda _name: None)
    except ValueError:
        return None
    # The kind becomes a name in other formats (a server-sent event's), where a line's end would break out of it.
    if isinstance(event, dict) and isinstance(event.get("event"), str) and event["event"].isidentifier():
        return event
    return None
