from __future__ import annotations

from collections.abc import Iterable

import typer

MAX_LINES = 5
MAX_NAMES = 3


class Remarks:
    """Collection of remarks about scored files, such as conversions and warnings, grouped by text."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, text: str | None, name: str) -> None:
        """Add a remark on the file ``name``; ignore a ``text`` that is None or empty."""
        if not text:
            return
        self._counts[text] = self._counts.get(text, 0) + 1
        names = self._files.setdefault(text, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    @property
    def lines(self) -> list[str]:
        """The five most frequent remarks, each with up to three files, and the number of further ones."""
        frequent = sorted(self._counts, key=lambda text: -self._counts[text])
        lines = [self._line(text) for text in frequent[:MAX_LINES]]
        if len(frequent) > MAX_LINES:
            lines.append(f"and {len(frequent) - MAX_LINES} other remarks; --json and --out have those of each file")
        return lines

    def _line(self, text: str) -> str:
        count, names = self._counts[text], self._files[text]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        return f"{text}: {', '.join(names)}{more}"


def print_notes(notes: Iterable[str], *, to_stderr: bool) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=to_stderr)
