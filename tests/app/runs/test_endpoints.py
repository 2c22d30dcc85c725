"""Records of training runs over HTTP: pages, one with its curve, and deletion."""

from __future__ import annotations

from pathlib import Path

import pytest

from snf_worker.jobs.runs import RunStore
from tests.support.runs import SHIPPED, recorded
from tests.support.service_settings import client_of, service_settings

pytestmark = pytest.mark.usefixtures("no_shipped_models")


def test_runs_are_listed_shown_and_deleted_without_a_job_store(tmp_path: Path) -> None:
    settings = service_settings(tmp_path / "home")
    with client_of(settings) as client:
        assert client.get("/v1/runs").json() == {"runs": [], "next": None}
        first = recorded(settings.run_records_dir, finished=False)
        second = recorded(settings.run_records_dir, origin="job", bits=2.5)
        page = client.get("/v1/runs", params={"limit": 1}).json()
        assert ([run["id"] for run in page["runs"]], page["next"]) == ([second], second)
        page = client.get("/v1/runs", params={"limit": 1, "after": second}).json()
        assert ([run["id"] for run in page["runs"]], page["next"]) == ([first], None)

        shown = client.get(f"/v1/runs/{second}", params={"points": 5}).json()
        assert shown["run"]["result"]["ref"] == SHIPPED
        assert [point["step"] for point in shown["points"]] == [1, 11, 21, 30, 40]
        assert [point["bits_per_dim"] for point in shown["validations"]] == pytest.approx([2.01, 1.51])
        assert shown["links"] == {
            "self": f"/v1/runs/{second}",
            "job": f"/v1/jobs/{second}",
            "model": f"/v1/models/{SHIPPED}",
        }
        assert len(client.get(f"/v1/runs/{first}").json()["points"]) == 40

        with RunStore(settings.run_records_dir).in_use(second):
            refused = client.delete(f"/v1/runs/{second}")
        assert (refused.status_code, refused.json()["type"]) == (409, "job-state-conflict")
        assert client.delete(f"/v1/runs/{second}").status_code == 204
        for gone in (client.get(f"/v1/runs/{second}"), client.delete("/v1/runs/.hidden"), client.get("/v1/runs/x")):
            assert (gone.status_code, gone.json()["type"]) == (404, "run-not-found")
        assert client.get("/v1/runs", params={"after": "x"}).status_code == 422
