"""The calibration images of a model over HTTP: where a score lies among them."""

import httpx

from tests.end_to_end.support.service import files
from tests.support.paths import DIGITS

PATH = "/v1/models/digits/reference"


def test_a_verdict_is_a_rank_in_the_histogram(house: httpx.Client) -> None:
    found = house.get(PATH).raise_for_status().json()
    assert (found["model"], found["version"], found["calibration"]) == ("digits", 1, 0)
    assert (len(found["edges"]), len(found["counts"])) == (61, 60)
    assert sum(found["counts"]) == found["count"]
    assert found["edges"] == sorted(found["edges"])
    assert found["smallest_p"] == 1 / (found["count"] + 1)
    model = house.get("/v1/models/digits").json()
    assert found["count"] == model["calibration"]["calibration_images"]

    scored = house.post("/v1/models/digits/score", files=files(*DIGITS)).json()["results"]
    verdicts = [one["anomaly"] for one in scored]
    assert model["calibration"]["folds"] == 1
    for one in found["quantiles"]:
        assert one["alpha"] >= found["smallest_p"]
        for verdict in verdicts:
            assert (verdict["p_value"] <= one["alpha"]) == (verdict["statistic"] >= one["statistic"])
    # The images at least as strange are those of all bins above an edge.
    for index in (10, 30, 59):
        above = sum(found["counts"][index:])
        expected = (1 + above) / (found["count"] + 1)
        stranger = [one["p_value"] for one in verdicts if one["statistic"] >= found["edges"][index]]
        assert all(p <= expected for p in stranger)


def test_bins_are_those_asked_for(house: httpx.Client) -> None:
    assert len(house.get(PATH, params={"bins": 200}).json()["counts"]) == 200
    for bins in (9, 201, "many"):
        answer = house.get(PATH, params={"bins": bins})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/bins")
