"""Logs of JSON lines: complete with several writers, renamed when full, and no reason to fail."""

import errno
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from snf_app.http.request_log import WAITING, BackgroundLog, JsonLines


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_full_files_are_renamed_and_the_oldest_goes(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "logs" / "a.jsonl", max_bytes=100, kept=2)
    for number in range(40):
        file.write([{"number": number}])
    kept = [file.path.with_name(name) for name in ("a.jsonl.2", "a.jsonl.1", "a.jsonl")]
    assert {path.name for path in file.path.parent.glob("a.jsonl*")} == {path.name for path in kept}
    numbers = [line["number"] for path in kept for line in lines(path)]
    assert numbers == list(range(40 - len(numbers), 40))
    assert all(path.stat().st_size <= 100 for path in kept)
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_several_processes_lose_no_line(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from snf_app.http.request_log import JsonLines\n"
    program += "file = JsonLines(Path(sys.argv[1]), max_bytes=4000, kept=100)\n"
    program += "for n in range(200): file.write([{'who': sys.argv[2], 'n': n, 'padding': 'x' * 50}])"
    path = tmp_path / "a.jsonl"
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    found = [(line["who"], line["n"]) for one in tmp_path.glob("a.jsonl*") for line in lines(one)]
    assert sorted(found) == [(who, n) for who in "ab" for n in range(200)]  # type: ignore[type-var]


def test_text_from_outside_stays_in_its_line(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "a.jsonl")
    file.write([{"agent": 'x"\n{"forged": 1}\u2028', "path": "/\udcff"}])
    [line] = lines(file.path)
    assert line["agent"] == 'x"\n{"forged": 1}\u2028'


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    writer, file = BackgroundLog(), JsonLines(tmp_path / "a.jsonl")
    for number in range(WAITING // 2):
        writer.put(file, {"number": number})
    writer.close()
    assert [line["number"] for line in lines(file.path)] == list(range(WAITING // 2))
    writer.put(file, {"number": -1})
    writer.close()
    assert lines(file.path)[-1] == {"number": -1}


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer, file = BackgroundLog(), JsonLines(tmp_path / "logs" / "a.jsonl")
    file.path.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            writer.put(file, {})
            writer.close()
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            f"{file.path} cannot be written; requests are still answered"
        ]
        file.path.parent.unlink()
        writer.put(file, {"back": True})
        writer.close()
    assert caplog.records[-1].getMessage() == f"{file.path} can be written again; 5 records were lost"
    assert lines(file.path) == [{"back": True}]


def test_a_disk_that_fills_leaves_no_half_line(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from snf_app.http.request_log import JsonLines
file = JsonLines(Path(sys.argv[1]))
file.write([{"number": 1}])
size = file.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, resource.RLIM_INFINITY))
try:
    file.write([{"number": 2}, {"number": 3}])
except OSError as error:
    print(error.errno, file.path.stat().st_size - size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.write([{"number": 4}])
"""
    path = tmp_path / "audit.jsonl"
    ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert ended.stdout == f"{errno.ENOSPC} 0\n"
    assert lines(path) == [{"number": 1}, {"number": 4}]
