"""The journal of a job: one JSON event a line, read from any place on in bounded pieces."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

FILE = "events.jsonl"
PIECE = 256 * 1024
"""Bytes read at once; a line is far shorter."""

Event = dict[str, Any]


class Entry(NamedTuple):
    """An event, and the offset of the byte after its line."""

    end: int
    event: Event


class Piece(NamedTuple):
    """The events of some complete lines, and where the next piece begins."""

    entries: list[Entry]
    end: int
    last: bool  # whether it reaches the end of what was written


def read_piece(path: Path, offset: int = 0, limit: int = PIECE) -> Piece:
    """The events of the complete lines in the `limit` bytes from `offset` on; damaged lines are skipped.

    A number that JSON has no word for (NaN) is None. A file that is not there yet is an empty one.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return Piece([], offset, True)
    last = len(data) < limit
    complete = data[: data.rfind(b"\n") + 1]
    if not complete and not last:
        # No event is as long: the line is passed by, and what is left of it then counts as a damaged one.
        log.warning("skipping %d bytes of %s without a line's end", limit, path)
        return Piece([], offset + limit, False)
    entries = []
    end = offset
    for line in complete.splitlines(keepends=True):
        end += len(line)
        event = _parse(line)
        if event is not None:
            entries.append(Entry(end, event))
        elif line.strip():
            log.warning("skipping a damaged line of %s: %r", path, line[:80])
    return Piece(entries, end, last)


def read_pieces(path: Path, offset: int = 0) -> Iterator[Piece]:
    """All pieces from `offset` to the end of what was written."""
    while True:
        piece = read_piece(path, offset)
        yield piece
        if piece.last:
            return
        offset = piece.end


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line, parse_constant=lambda _name: None)
    except ValueError:
        return None
    # The kind becomes a name in other formats (a server-sent event's), where a line's end would break out of it.
    if isinstance(event, dict) and isinstance(event.get("event"), str) and event["event"].isidentifier():
        return event
    return None
