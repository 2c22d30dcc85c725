"""Logging of every process: readable lines on the terminal, JSON lines in ``home/logs``."""

import logging
import logging.handlers
import sys
from typing import Any

import structlog

from worker.settings import Settings


def configure_logging(settings: Settings, part: str, terminal: bool = True) -> None:
    """Set up the logging of this process, as text to stderr and as JSON to a file.

    The file is ``<part>.jsonl`` in the log folder, with one JSON object per line.

    The file is rotated at 10 MB, and three old files are kept.

    Args:
        settings: Settings with the log folder and the log level.
        part: Name of the process, used as the name of the file.
        terminal: Whether to write to stderr as well.
    """
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
    root.handlers = [screen, file] if terminal else [file]
    root.setLevel(settings.log_level)


def _for_people() -> structlog.dev.ConsoleRenderer:
    # A plain traceback has no values of local variables: they may be keys or images.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _formatter(foreign: list[Any], renderer: Any) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=foreign,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
