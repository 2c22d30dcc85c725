"""The journal of a job and its curve: chunks, damaged lines, resumed attempts."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from snf_worker.jobs.events import FILE, EventLog, EventReader, read_chunk, read_chunks, read_curve, thin


def steps(path: Path, offset: int = 0) -> list[int]:
    return [event["step"] for chunk in read_chunks(path, offset) for _, event in chunk.entries]


def test_every_offset_is_a_place_to_go_on_from(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 1)
    for step in range(20):
        log.write({"event": "metrics", "step": step})
    path = tmp_path / FILE
    whole = read_chunk(path)
    assert (whole.end, whole.last) == (path.stat().st_size, True)
    for step, (end, event) in enumerate(whole.entries):
        assert event["step"] == step
        assert steps(path, end) == list(range(step + 1, 20))


@pytest.mark.parametrize("limit", [150, 151, 400, 10_000])
def test_pieces_are_bounded_and_together_the_whole(tmp_path: Path, limit: int) -> None:
    log = EventLog(tmp_path, 1)
    for step in range(50):
        log.write({"event": "metrics", "step": step})
    found, offset, last = [], 0, False
    while not last:
        chunk = read_chunk(tmp_path / FILE, offset, limit)
        assert chunk.end - offset <= limit
        found += [event["step"] for _, event in chunk.entries]
        offset, last = chunk.end, chunk.last
    assert found == list(range(50))


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert read_chunk(path) == ([], 0, True), "no file yet"
    path.write_bytes(b'{"event":"log","step":1}\n{"event":"log",')
    chunk = read_chunk(path)
    assert ([event["step"] for _, event in chunk.entries], chunk.end) == ([1], 25)
    with path.open("ab") as file:
        file.write(b'"step":2}\n')
    assert steps(path, chunk.end) == [2]


def test_damaged_lines_are_passed_by(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = ["{", "7", '{"step":1}', '{"event":7}', '{"event":"a\\nid: 9"}', "\x00" * 30, "é" * 300]
    good = [f'{{"event":"log","step":{n}}}' for n in range(len(damaged) + 1)]
    lines = [line for pair in zip(good, damaged, strict=False) for line in pair] + [good[-1]]
    (tmp_path / FILE).write_text("\n\n".join(lines) + "\n")
    assert steps(tmp_path / FILE) == list(range(len(good)))
    assert len(caplog.records) == len(damaged)
    # The long line is longer than these chunks are.
    found, offset, last = [], 0, False
    while not last:
        chunk = read_chunk(tmp_path / FILE, offset, 100)
        found += [event["step"] for _, event in chunk.entries]
        offset, last = chunk.end, chunk.last
    assert found == list(range(len(good)))


def test_numbers_that_json_has_no_word_for_are_missing(tmp_path: Path) -> None:
    EventLog(tmp_path, 1).write({"event": "metrics", "step": 1, "bits_per_dim": float("nan"), "all": [float("inf")]})
    ((_, event),) = read_chunk(tmp_path / FILE).entries
    assert (event["bits_per_dim"], event["all"]) == (None, [None])


def test_the_supervisor_reads_its_own_attempt_from_now_on(tmp_path: Path) -> None:
    EventLog(tmp_path, 1).write({"event": "log", "step": 1})
    reader = EventReader(tmp_path, 2)
    EventLog(tmp_path, 1).write({"event": "log", "step": 2})
    EventLog(tmp_path, 2).write({"event": "log", "step": 3})
    assert [event["step"] for event in reader.read()] == [3]
    assert reader.read() == []


def told(attempt: int, kind: str, step: int, **more: Any) -> str:
    return json.dumps({"event": kind, "attempt": attempt, "step": step, **more}) + "\n"


def test_a_resumed_attempt_tells_its_steps_anew(tmp_path: Path) -> None:
    first = [("started", 0), ("metrics", 1), ("metrics", 50), ("validation", 100), ("metrics", 100)]
    first += [("metrics", 130), ("validation", 150), ("metrics", 150)]
    second = [("started", 100), ("metrics", 101), ("metrics", 160), ("validation", 200), ("metrics", 200)]
    lines = [told(1, *one) for one in first] + [told(2, *one) for one in second]
    lines.insert(-2, told(1, "metrics", 170))  # an attempt that does not know yet that it lost its lease
    (tmp_path / FILE).write_text("".join(lines))
    curve = read_curve(tmp_path / FILE)
    points = [(one["attempt"], one["step"]) for one in curve.points]
    assert points == [(1, 1), (1, 50), (1, 100), (2, 101), (2, 160), (2, 200)]
    assert [(one["attempt"], one["step"]) for one in curve.validations] == [(1, 100), (2, 200)]


def test_a_resumed_attempt_without_any_report_drops_those_beyond_its_checkpoint(tmp_path: Path) -> None:
    events = [("started", 0), ("metrics", 10), ("metrics", 20)]
    (tmp_path / FILE).write_text("".join(told(1, *one) for one in events) + told(2, "started", 15))
    assert [one["step"] for one in read_curve(tmp_path / FILE).points] == [10]


@pytest.mark.parametrize("reports", [9, 17, 100, 101, 257])
def test_the_curve_of_a_long_training_is_thinned_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: int
) -> None:
    monkeypatch.setattr("snf_worker.jobs.events.MAX_EVENTS", 8)
    (tmp_path / FILE).write_text(told(1, "started", 0) + "".join(told(1, "metrics", n) for n in range(1, reports + 1)))
    kept = [event["step"] for event in read_curve(tmp_path / FILE).points]
    assert 4 <= len(kept) <= 9
    assert (kept[0], kept[-1]) == (1, reports)
    strides = {after - before for before, after in itertools.pairwise(kept[:-1])}
    assert len(strides) == 1, kept
    assert kept[-1] - kept[-2] <= strides.pop()
    # An attempt that goes on before the end drops what it repeats.
    with (tmp_path / FILE).open("a") as file:
        file.write(told(2, "started", reports - 3) + told(2, "metrics", reports - 1))
    resumed = [event["step"] for event in read_curve(tmp_path / FILE).points]
    assert resumed[-1] == reports - 1
    assert resumed == sorted(set(resumed))


def test_thinning_keeps_first_and_last() -> None:
    assert thin(range(5), 5) == [0, 1, 2, 3, 4]
    for most in range(2, 40):
        found = thin(range(1000), most)
        assert (len(found), found[0], found[-1]) == (most, 0, 999)
        gaps = [after - before for before, after in itertools.pairwise(found)]
        assert max(gaps) - min(gaps) <= 1


def test_an_event_that_a_full_disk_cuts_off_is_an_error_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path, 1)
    log.write({"event": "log", "step": 1})
    whole = log._file  # the disk takes the first bytes only, and says so by their number

    class Full:
        def write(self, data: bytes) -> int:
            return whole.write(data[:20])

    monkeypatch.setattr(log, "_file", Full())
    with pytest.raises(OSError, match="No space left"):
        log.write({"event": "log", "step": 2})
    monkeypatch.undo()
    log.write({"event": "log", "step": 3})
    assert steps(tmp_path / FILE) == [1, 3]
