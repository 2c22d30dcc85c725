"""CSV file of scores with exactly one row for every state of a file, even if the program is interrupted.

``watch_folder.py`` uses this module.
"""

from __future__ import annotations

import csv
import fcntl
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from snf_client.images import images_in
from snf_client.scores import ScorePart

END = b"\r\n"
"""End of a CSV row (RFC 4180); a line feed alone may be part of a file name."""


class FileState(NamedTuple):
    """State of a file: its path in the folder, its size in bytes, and its time of change in nanoseconds."""

    file: str
    bytes: int
    modified_ns: int


def states_in(folder: Path) -> set[FileState]:
    """Return the states of the files in a folder, but for texts, hidden files and those of systems."""
    states = set()
    for path in images_in(folder):
        try:
            status = path.stat()
        except FileNotFoundError:
            if not path.is_symlink():
                continue  # moved away since the folder was read
            status = path.lstat()  # a link that leads nowhere
        states.add(FileState(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return states


@dataclass(frozen=True)
class Row:
    """Scores of a state of a file; empty if it could not be scored, with the reason in ``why``."""

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
    def failed(cls, state: FileState, why: str) -> Self:
        """Return the row of a file that cannot be scored."""
        return cls(*state, _now(), why=why)

    @classmethod
    def of(cls, state: FileState, part: ScorePart) -> Self:
        """Return the row of a file that was scored alone."""
        [result] = part.results
        if result.status == "error":
            return cls.failed(state, f"{result.error.title}: {result.error.detail}")
        done = result.preprocessing
        changes = list(done.notes or []) if done else []
        changes += [f"converted {done.converted}"] if done and done.converted else []
        return cls(
            *state,
            _now(),
            is_anomaly=result.anomaly.is_anomaly,
            p_value=result.anomaly.p_value,
            log_likelihood=result.log_likelihood,
            bits_per_dim=result.bits_per_dim,
            model=part.model,
            version=part.version,
            calibration=part.calibration,
            why="; ".join([*(reason.text for reason in result.anomaly.reasons or []), *changes]),
        )

    @property
    def state(self) -> FileState:
        """The state of the file."""
        return FileState(self.file, self.bytes, self.modified_ns)

    def line(self) -> str:
        """Return the row as a line of text for the terminal."""
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
    """Table of scores in a CSV file, whose rows are on disk once ``append`` returns.

    An existing file is continued, after a row that was written in part is removed.

    Raises:
        ValueError: If the file has other columns, or another program writes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", newline="", encoding="utf-8", errors="surrogateescape")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the file is closed
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"another program writes {path}: name another table with --table") from error
        content = path.read_bytes()
        # A file of another kind is not touched; the header may have been written in part, too.
        if not content.startswith(HEADER) and not HEADER.startswith(content):
            self._file.close()
            raise ValueError(f"{path} has other columns than {', '.join(COLUMNS)}")
        whole, end, _torn = content.rpartition(END)
        self._file.truncate(len(whole) + len(end))
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            self.states = {FileState(row["file"], int(row["bytes"]), int(row["modified_ns"])) for row in rows}
        self._rows = csv.DictWriter(self._file, COLUMNS)
        if path.stat().st_size == 0:
            self._rows.writeheader()

    def append(self, row: Row) -> None:
        """Append a row."""
        self._rows.writerow(asdict(row))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.states.add(row.state)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
