"""Deletion of jobs that have ended: over HTTP, by the client and on the command line; and what forbids it."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.end_to_end.support.jobs import submit


def test_a_job_is_deleted_with_its_files_once_it_has_ended(house: httpx.Client, house_home: Path) -> None:
    waiting = submit(house, model="to-delete", device="cuda")["id"]
    refused = house.delete(f"/v1/jobs/{waiting}")
    assert (refused.status_code, refused.json()["type"]) == (409, "job-state-conflict")
    assert refused.json()["detail"] == f"job {waiting} is queued; cancel it first or wait for its end"
    ended = house.post(f"/v1/jobs/{waiting}/cancel").json()
    assert ended["links"]["delete"] == f"/v1/jobs/{waiting}"
    folder = house_home / "jobs" / waiting
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer.log").write_text("a line\n")
    assert house.get(f"/v1/jobs/{waiting}/log").text == "a line\n"

    deleted = house.delete(f"/v1/jobs/{waiting}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert not folder.exists()
    for call in (house.get(f"/v1/jobs/{waiting}"), house.get(f"/v1/jobs/{waiting}/log")):
        assert (call.status_code, call.json()["type"]) == (404, "job-not-found")
    assert waiting not in {job["id"] for job in house.get("/v1/jobs").json()["jobs"]}
    assert house.delete(f"/v1/jobs/{waiting}").status_code == 404
    assert house.delete("/v1/jobs/..%2fdatasets").status_code == 404
    audit = (house_home / "logs" / "audit.jsonl").read_text()
    assert f'"method": "DELETE", "path": "/v1/jobs/{waiting}", "operation": "delete_job"' in audit


def test_head_of_events_and_files_has_no_body(house: httpx.Client) -> None:
    waiting = submit(house, model="to-delete", device="cuda")["id"]  # whose events do not end
    for path in (f"/v1/jobs/{waiting}/events", f"/v1/jobs/{waiting}", "/v1/models/digits/artifact", "/"):
        head = house.head(path, timeout=20)
        assert (head.status_code, head.content) == (200, b""), path
    assert house.head(f"/v1/jobs/{waiting}/events").headers["content-type"].startswith("text/event-stream")
    assert int(house.head("/").headers["content-length"]) == len(house.get("/").content)
    house.post(f"/v1/jobs/{waiting}/cancel")
