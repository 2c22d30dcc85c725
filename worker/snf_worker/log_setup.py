"""Logging of every process: readable lines on the terminal, JSON lines in ``home/logs``."""

import io
import logging
import logging.handlers
import sys
import time
from typing import Any, TextIO

import structlog

from snf_models.naming import printable
from snf_worker.settings import Settings

MAX_LIKE, PERIOD_S = 30, 60.0  # most log lines with the same text before its values are filled in, in so many seconds
MAX_TEXTS = 1000


def configure_logging(settings: Settings, part: str, terminal: bool = True) -> None:
    """Log to ``<part>.jsonl``, rotated at 10 MB with three old files, and as text to stderr."""
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _escape_event,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(_formatter(shared, _for_people()))
    file = logging.handlers.RotatingFileHandler(
        settings.logs_dir / f"{part}.jsonl", maxBytes=10_000_000, backupCount=3, encoding="utf-8"
    )
    file.setFormatter(_formatter([*shared, structlog.processors.format_exc_info], structlog.processors.JSONRenderer()))
    root = logging.getLogger()
    for handler in (screen, file):
        handler.addFilter(RepeatFilter())
    root.handlers = [screen, file] if terminal else [file]
    root.setLevel(settings.log_level)


class RepeatFilter(logging.Filter):
    """Filter that passes 30 lines a minute of the same text, so that requests do not push out all other lines."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written; a handler calls this under its lock."""
        key, now = (record.name, str(record.msg)), time.monotonic()
        began, count = self._counts.get(key, (now, 0))
        if now - began >= PERIOD_S:
            if count > MAX_LIKE:
                record.left_out = count - MAX_LIKE
            began, count = now, 0
        if len(self._counts) >= MAX_TEXTS:
            self._counts.clear()
        self._counts[key] = began, count + 1
        return count < MAX_LIKE


def _escape_event(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Escape what would forge lines or move the cursor: messages contain paths, names and texts of callers."""
    event["event"] = printable(str(event["event"]).rstrip("\n"))
    return event


def _plain_traceback(file: TextIO, exc_info: Any) -> None:
    # It has no values of local variables: they may be keys or images.
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    file.write("\n".join(map(printable, text.getvalue().split("\n"))))


def _for_people() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback)


def _formatter(foreign: list[Any], renderer: Any) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=foreign,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
