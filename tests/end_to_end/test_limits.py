"""A detection limit as a job, by the client and on the command line: the same numbers, beside the model."""

import json
from pathlib import Path

import httpx

from snf_client import Client
from tests.end_to_end.support.service import snf

MODEL = "digits"
ARGUMENTS = ["limit", MODEL, "--data", "mnist-mini", "--images", "32", "--shapes", "missing-part", "--seed", "5"]


def test_the_limit_is_the_same_here_and_there_and_stands_in_the_card(home: Path, house: httpx.Client) -> None:
    picture = home / "limit.svg"
    here = snf(home, *ARGUMENTS, "--json", "--out", str(picture))
    assert here.returncode == 0, here.stderr
    there = snf(home, *ARGUMENTS, "--json", "--url", str(house.base_url))
    assert there.returncode == 0, there.stderr
    local, remote = (json.loads(one.stdout) for one in (here, there))
    changes = {"created", "job", "seconds"}
    assert {key: local[key] for key in local if key not in changes} == {
        key: remote[key] for key in remote if key not in changes
    }
    assert (local["job"], local["seed"], local["images"]) == (None, 5, 32)

    with Client(str(house.base_url)) as client:
        listed = client.limits.list(MODEL)
        newest = listed.limits[0]
        assert (newest.limit.job, newest.in_use) == (remote["job"], listed.active == 0)
        assert client.limits.get(MODEL, newest.number) == newest
        chart = client.limits.chart(MODEL, newest.number)
        assert client.jobs.list(type="limit").jobs[0].id == remote["job"]
    answer = house.get(f"/v1/models/{MODEL}/limits/{newest.number}/chart")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert answer.text == chart == picture.read_text()
    limit = remote["curves"][0]["limit"]
    for card in (house.get(f"/v1/models/{MODEL}/card").text, snf(home, "models", "card", MODEL).stdout):
        assert f"| missing part | {limit} pixels | " in card
        assert "seed 5" in card
    table = snf(home, *ARGUMENTS)
    assert table.returncode == 0, table.stderr
    assert f"{limit} pixels" in table.stdout
    for wrong in (
        ["--alpha", "1e-9"],
        ["--shapes", "crater"],
        ["--data", "nothing"],
        ["--out", str(home / "no" / "l")],
    ):
        assert snf(home, *ARGUMENTS, *wrong).returncode == 2
