"""What does not come into the audit log, and how long a record may be."""

import errno
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snf_app.http.request_log import REFUSED_RATE, WAITING, BackgroundLog, JsonLines, _bounded
from snf_worker.keys import KeyFile
from snf_worker.log_setup import configure_logging
from tests.support.service_settings import client_of, service_settings

pytestmark = pytest.mark.usefixtures("no_shipped_models")


def records_of(home: Path) -> list[str]:
    path = home / "logs" / "audit.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_method_that_a_path_does_not_have_changes_nothing(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    keys.create("boss", "admin")
    reading = {"x-api-key": keys.create("reader", "read")[1]}
    settings = service_settings(tmp_path)
    with client_of(settings) as client:
        assert client.delete("/healthz?a=1").status_code == 405
        assert client.delete("/v1/jobs", headers=reading).status_code == 405
        assert client.delete("/v1/models/none", headers=reading).status_code == 403
    assert records_of(tmp_path) == []


def test_what_a_record_shows_is_short() -> None:
    assert len(_bounded({str(number): "" for number in range(8000)})) < 2100


def test_refused_changes_have_no_body_and_a_rate_so_that_changes_stay(tmp_path: Path) -> None:
    with client_of(service_settings(tmp_path)) as client:
        for _ in range(REFUSED_RATE.amount + 15):
            refused = client.put("/v1/models/none/aliases/live", json={"version": 3})
            assert refused.status_code == 404
        job = {"type": "train", "dataset": "mnist-mini", "preset": "snf-glow-tiny", "model": "m"}
        assert client.post("/v1/jobs", json=job).status_code == 503
    *refusals, change = map(json.loads, records_of(tmp_path))
    assert [(record["status"], "body" in record) for record in refusals] == [(404, False)] * REFUSED_RATE.amount
    assert (change["body"]["model"], change["refusals_left_out"]) == ("m", 15)


def test_an_answer_and_all_log_lines_have_the_id_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = service_settings(tmp_path, access_log=True)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers)  # which are those of pytest again at the end
    monkeypatch.setattr(root, "level", root.level)

    def fail() -> str:
        raise RuntimeError("the test wants it")

    monkeypatch.setattr("snf_app.health.endpoints.package_version", fail)
    configure_logging(settings, "service", terminal=False)
    given = {"X-Request-Id": "line-1:42"}
    with client_of(settings, raise_server_exceptions=False) as client:
        assert client.get("/v1/presets", headers=given).headers["x-request-id"] == "line-1:42"
        failed = client.get("/healthz", headers=given)
        assert (failed.status_code, failed.headers["x-request-id"]) == (500, "line-1:42")
        client.delete("/v1/datasets/none", headers=given)
    [warning] = [
        json.loads(line)
        for line in (tmp_path / "logs/service.jsonl").read_text().splitlines()
        if "the test wants it" in line
    ]
    assert warning["request_id"] == "line-1:42"
    accesses = [json.loads(line)["request_id"] for line in (tmp_path / "logs/access.jsonl").read_text().splitlines()]
    assert accesses == ["line-1:42"] * 3
    assert [json.loads(line)["request_id"] for line in records_of(tmp_path)] == ["line-1:42"]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'a"', "a\x1b[2J", "\u00e9", "a,b"])
def test_an_id_that_cannot_be_trusted_is_replaced(tmp_path: Path, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode()}
    with client_of(service_settings(tmp_path)) as client:
        answers = [client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert all(re.fullmatch("[0-9a-f]{32}", answer) for answer in answers)
    assert answers[0] != answers[1]


def test_no_key_within_a_url_is_recorded(tmp_path: Path) -> None:
    with client_of(service_settings(tmp_path)) as client:
        for location in ("s3://AKIA:hush@bucket/lots", "https://hush@host/lots"):
            body = {"name": "lots", "location": location}
            assert client.post("/v1/datasets/references", json=body).status_code == 422
    assert "hush" not in "".join(records_of(tmp_path))
    recorded = _bounded({"a": ["s3://AKIA:hush@bucket/lots", "no URL: a@b"], "b": 1})
    assert recorded == {"a": ["s3://***@bucket/lots", "no URL: a@b"], "b": 1}


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


def test_the_query_of_a_refused_change_is_not_recorded(tmp_path: Path) -> None:
    with client_of(service_settings(tmp_path)) as client:
        client.delete("/v1/datasets/none?token=snf_hush&api_key=snf_hush")
    [line] = records_of(tmp_path)
    assert "hush" not in line
    assert json.loads(line)["operation"] == "delete_dataset"
