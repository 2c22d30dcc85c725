"""The file of a job's events, one JSON object per line, read in chunks of bounded size."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

FILE = "events.jsonl"
CHUNK_BYTES = 256 * 1024
"""Number of bytes read at once; a line is far shorter."""

Event = dict[str, Any]


class Entry(NamedTuple):
    """An event of a job, and the byte offset in the file at which the next line begins."""

    end: int
    event: Event


class JournalChunk(NamedTuple):
    """Consecutive events of a job, and the byte offset at which the next chunk begins."""

    entries: list[Entry]
    end: int
    last: bool  # whether the chunk reaches the end of the file


def read_chunk(path: Path, offset: int = 0, limit: int = CHUNK_BYTES) -> JournalChunk:
    """Return the events of the complete lines in a chunk; damaged lines are skipped, NaN and infinities become None."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return JournalChunk([], offset, True)
    last = len(data) < limit
    complete = data[: data.rfind(b"\n") + 1]
    if not complete and not last:
        # No event is that long: the line is skipped, and its rest counts as a damaged line.
        log.warning("skipping %d bytes of %s without the end of a line", limit, path)
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
    """Yield chunks of up to 256 KiB of events, from byte ``offset`` to the end of the file."""
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
    # The kind becomes the name of a server-sent event, where the end of a line would start another field.
    if isinstance(event, dict) and isinstance(event.get("event"), str) and event["event"].isidentifier():
        return event
    return None
