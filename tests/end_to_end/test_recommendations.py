"""A recommendation on the command line, by a service and by the client: the same limits and the same proposal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from snf_client import Client, ProblemError
from snf_client.schemas.recommendations import RecommendationRecord
from tests.end_to_end.support.service import snf

SETTINGS = ("image_size=27", "feature_side=64", "shapes=missing-part")
"""27 pixels are a size that no pixel flow takes: a comparison of seconds."""
ARGUMENTS = ["recommend", "mnist-mini", *(word for setting in SETTINGS for word in ("--set", setting))]


def test_the_proposal_is_the_same_here_and_there(
    home: Path, house: httpx.Client, house_home: Path, backbones: Path
) -> None:
    for folder in (home, house_home):
        shutil.copytree(backbones, folder / "backbones", dirs_exist_ok=True)
    there = snf(home, *ARGUMENTS, "--json", "--url", str(house.base_url))
    assert there.returncode == 0, there.stderr
    remote = json.loads(there.stdout)
    table = snf(home, *ARGUMENTS)
    assert table.returncode == 0, table.stderr
    limit = remote["families"][0]["curves"][0]["limit"]
    limits = table.stdout.partition("detection limits in pixels")[2]
    shown = next(line for line in limits.splitlines() if "missing part" in line)
    assert (str(limit) if limit is not None else "none") in shown
    assert "- pixels: snf-glow-small halves both sides" in " ".join(table.stdout.split())
    assert "proposal: features (snf-features)" in table.stdout
    command = " ".join(table.stdout.split()).partition("go on with: ")[2]
    assert command == "snf train --data mnist-mini --preset snf-features --set 'image_size=[27, 27]'"
    assert not (home / "recommendations" / "mnist-mini").exists()

    with Client(str(house.base_url)) as client:
        job = client.jobs.list(type="recommend").jobs[0]
        assert (job.id, job.model, job.queue) == (remote["job"], "", "train-cpu")
        result = client.jobs.result(job.id)
        assert isinstance(result, RecommendationRecord)
        assert result.model_dump(mode="json") == remote
        assert (result.proposal, result.parameters) == ("features", {"image_size": [27, 27]})
        with pytest.raises(ProblemError) as refused:
            client.jobs.recommend("mnist-mini", parameters={"minutes": 0})
        assert refused.value.status == 422
    outcome = snf(home, "jobs", "show", remote["job"], "--url", str(house.base_url)).stdout
    assert "proposes features (snf-features)" in " ".join(outcome.split())
    for wrong in (["--minutes", "0"], ["--set", "shapes=crater"], ["--set", "nonsense"]):
        assert snf(home, *ARGUMENTS, *wrong).returncode == 2
