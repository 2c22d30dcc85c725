"""A CSV file of scores in which every state of a file has one row, whatever ends the program that writes it.

`watch_folder.py` writes it.
"""

from __future__ import annotations

import csv
import fcntl
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from snf_client.image_files import images_in
from snf_client.resources.scores import Part

END = b"\r\n"
"""What ends a row of CSV (RFC 4180); a line feed alone may be part of a name."""


class State(NamedTuple):
    """A file as it stands: its path from the folder, its size in bytes, its time of change in nanoseconds."""

    file: str
    bytes: int
    modified_ns: int


def states_in(folder: Path) -> set[State]:
    """The images of a folder as they stand."""
    found = set()
    for path in images_in(folder):
        try:
            seen = path.stat()
        except FileNotFoundError:
            continue  # it was moved away meanwhile
        found.add(State(path.relative_to(folder).as_posix(), seen.st_size, seen.st_mtime_ns))
    return found


@dataclass(frozen=True)
class Row:
    """What is known of one state of a file; empty where it could not be scored, and `why` says the reason."""

    file: str
    bytes: int
    modified_ns: int
    scored_at: str
    is_anomaly: bool | None = None
    p_value: float | None = None
    log_likelihood: float | None = None
    bits_per_dim: float | None = None
    model: str | None = None
    version: int | None = None
    calibration: int | None = None
    why: str = ""

    @classmethod
    def failed(cls, state: State, why: str) -> Self:
        """The row of a file that cannot be scored."""
        return cls(*state, _now(), why=why)

    @classmethod
    def of(cls, state: State, part: Part) -> Self:
        """The row of a file that was sent alone."""
        [found] = part.results
        if found.status == "error":
            return cls.failed(state, f"{found.error.title}: {found.error.detail}")
        return cls(
            *state,
            _now(),
            is_anomaly=found.anomaly.is_anomaly,
            p_value=found.anomaly.p_value,
            log_likelihood=found.log_likelihood,
            bits_per_dim=found.bits_per_dim,
            model=part.model,
            version=part.version,
            calibration=part.calibration,
            why="; ".join(reason.text for reason in found.anomaly.reasons or []),
        )

    @property
    def state(self) -> State:
        """The state of the file that was scored."""
        return State(self.file, self.bytes, self.modified_ns)

    def line(self) -> str:
        """The row for people."""
        if self.p_value is None:
            return f"{self.scored_at}  not scored  {self.file}  {self.why}"
        if not self.is_anomaly:
            return f"{self.scored_at}  normal  p={self.p_value:.4f}  {self.file}"
        return f"{self.scored_at}  ANOMALY  p={self.p_value:.4f}  {self.file}  {self.why}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


COLUMNS = [field.name for field in fields(Row)]
HEADER = ",".join(COLUMNS).encode() + END


class ScoreTable:
    """Rows that are on the disk once `append` returns.

    Takes up a file where it ends, without a row that was written in part. Raises `ValueError` where it has other
    columns, or another program has it open: both would write a row of the same state.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"another program writes {path}: name another table with --table") from error
        content = path.read_bytes()
        # Nothing is cut off a file that is not one of these; the header may have been written in part, too.
        if not content.startswith(HEADER) and not HEADER.startswith(content):
            self._file.close()
            raise ValueError(f"{path} has other columns than {', '.join(COLUMNS)}")
        whole, end, _torn = content.rpartition(END)
        self._file.truncate(len(whole) + len(end))
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            self.states = {State(row["file"], int(row["bytes"]), int(row["modified_ns"])) for row in rows}
        self._rows = csv.DictWriter(self._file, COLUMNS)
        if path.stat().st_size == 0:
            self._rows.writeheader()

    def append(self, row: Row) -> None:
        """Adds a row."""
        self._rows.writerow(asdict(row))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.states.add(row.state)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
