"""A query parameter that a call does not have is refused by name, by every call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from snf_models.registry.registry import Registry
from tests.app.conftest import MODEL
from tests.end_to_end.support.uploads import upload
from tests.models.datasets.upload_files import pngs, zipped
from tests.support.service_settings import client_of, service_settings
from tests.support.trained import barely_trained

PARTS = {
    "ref": MODEL,
    "name": MODEL,
    "alias": "live",
    "version": "1",
    "number": "0",
    "job_id": "0" * 26,
    "run_id": "0" * 26,
    "step": "1",
    "source": "line-1",
}


def operations(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, calls in client.get("/openapi.json").json()["paths"].items():
        for method, operation in calls.items():
            yield method, path.format(**PARTS), operation


def test_every_call_refuses_an_unknown_parameter_and_lists_its_own(client: TestClient) -> None:
    calls = list(operations(client))
    assert len(calls) > 40
    for method, path, operation in calls:
        body = {"json": {"type": "train", "dataset": "d", "model": "m"}} if "requestBody" in operation else {}
        content = operation.get("requestBody", {}).get("content", {})
        if body and "application/json" not in content:
            body = {}
        answer = client.request(method, path, params={"sead": "1"}, **body)
        assert answer.status_code == 422, (method, path, answer.text)
        if path.startswith("/v2"):  # errors of another form
            assert answer.json()["error"].endswith("/query/sead: there is no such parameter; there are: none"), path
            continue
        pointers = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
        assert set(pointers) == {"/query/sead"}, path
        known = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
        assert pointers["/query/sead"].endswith(f"here are: {', '.join(known) or 'none'}"), path


def test_pages_and_their_files_take_any_query(client: TestClient) -> None:
    for path in ("/", "/docs", "/console/js/main.js", "/openapi.json"):
        assert client.get(path, params={"v": "2"}).status_code == 200


def test_an_answer_about_many_long_names_is_short(client: TestClient) -> None:
    names = [f"{number}/" + "x" * 300 for number in range(100)]
    answer = client.get("/v1/models", params=dict.fromkeys(names, "1"))
    assert len(answer.json()["errors"]) == 10
    assert answer.json()["errors"][0]["pointer"].startswith("/query/0~1xxx")
    assert len(answer.content) < 10_000


@pytest.mark.usefixtures("no_shipped_models")
def test_models_and_datasets_have_pages(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = service_settings(tmp_path, data_dir=None)
    for name in ("b", "c", "a"):
        Registry(settings.registry_dir).publish(barely_trained(tmp_path_factory), name)
    with client_of(settings) as service:
        for name in ("z", "a"):
            upload(service, name, ("own.zip", zipped(pngs(30)))).raise_for_status()
        for kind, names in (("models", ["a", "b", "c"]), ("datasets", ["mnist-mini", "a", "z"])):
            whole = service.get(f"/v1/{kind}").json()
            assert ([entry["name"] for entry in whole[kind]], whole["next"]) == (names, None)
            for size in (1, 2, 3):
                pages, after = [], None
                while not pages or after is not None:
                    query = {"limit": size} | ({"after": after} if after else {})
                    page = service.get(f"/v1/{kind}", params=query).json()
                    assert len(page[kind]) <= size
                    pages.append(page[kind])
                    after = page["next"]
                assert [entry for page in pages for entry in page] == whole[kind]
                assert len(pages) == -(-len(names) // size)
            # The entry that ended a page may have been deleted since.
            assert [entry["name"] for entry in service.get(f"/v1/{kind}?after=ab").json()[kind]] == names[
                -2 + (kind == "datasets") :
            ]
            for wrong in ("limit=0", "limit=201", "after=Not+A+Name"):
                assert service.get(f"/v1/{kind}?{wrong}").status_code == 422
