"""What callers send neither forges log lines nor pushes others out of the log."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from snf_worker import log_setup
from snf_worker.log_setup import MAX_LIKE, PERIOD_S, configure_logging
from tests.support.service_settings import service_settings

FORGED = "/v1/models/x\n2026-01-01 [info] all is well\x1b[2J\u202egnp.exe\u2028\x85"


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root, shown = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", root.handlers)  # which are those of pytest again at the end
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("sys.stderr", shown)
    configure_logging(service_settings(tmp_path), "service")
    yield shown
    for handler in root.handlers:
        handler.close()


def test_a_path_forges_no_line(screen: io.StringIO) -> None:
    log = logging.getLogger("app.test")
    log.info("refused %s", FORGED)
    try:
        raise RuntimeError(FORGED)
    except RuntimeError:
        log.exception("failed")
    text = screen.getvalue()
    assert "/v1/models/x\\x0a2026-01-01 [info] all is well\\x1b[2J\\u202egnp.exe\\u2028\\x85" in text
    assert not set(text) & set("\x1b\u202e\u2028\x85")
    # In a traceback lines are as they are.
    assert sum(line.startswith("2026-01-01 [info]") for line in text.splitlines()) <= 1


def test_equal_lines_are_bounded_and_counted(
    screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now = logging.getLogger("app.test"), 1000.0
    monkeypatch.setattr(log_setup.time, "monotonic", lambda: now)
    for number in range(5 * MAX_LIKE):
        log.info("refused %d", number)
    log.info("another line")
    now += PERIOD_S
    log.info("refused %d", -1)
    for lines in (
        screen.getvalue().splitlines(),
        (tmp_path / "logs" / "service.jsonl").read_text().splitlines(),
    ):
        assert sum("refused" in line for line in lines) == MAX_LIKE + 1
        assert sum("another line" in line for line in lines) == 1
    last = json.loads((tmp_path / "logs" / "service.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["left_out"]) == ("refused -1", 4 * MAX_LIKE)
