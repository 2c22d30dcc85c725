"""A service whose models were opened on this machine before scores without torch, and imports it for what needs it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from snf_models.registry.registry import Registry
from snf_models.scorer import load_model
from snf_worker.settings import Settings
from tests.end_to_end.support.processes import pid_of
from tests.end_to_end.support.service import MODEL, files, running, score_one
from tests.support.compiled_cache import share_compiled
from tests.support.paths import DIGITS

THREADS = 1


def has_torch(pid: int) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_torch_is_imported_for_samples_but_not_for_scores(home: Path) -> None:
    share_compiled(home)
    path = Registry(home / "registry").resolve(MODEL).path
    scorer = load_model(path, options=replace(Settings(home=home).engine_options, threads=THREADS))
    png = DIGITS[0].read_bytes()
    with running("snf_app.server", home=home, shipped=False, measured=False, threads=THREADS) as client:
        pid = pid_of(home)
        score = score_one(client, MODEL, png)
        heat_map = client.post(f"/v1/models/{MODEL}/score", files=files(*DIGITS[:3]), params={"explain": True})
        assert heat_map.status_code == 200
        assert client.get(f"/v1/models/{MODEL}").json()["serving"]["engine"] == "openvino"
        for call in ("/v1/models", "/v1/presets", "/metrics", "/readyz", "/v1/workers"):
            client.get(call)
        assert not has_torch(pid)
        samples = client.get(f"/v1/models/{MODEL}/samples", params={"n": 2, "seed": 3, "format": "npy"})
        assert samples.status_code == 200
        assert has_torch(pid)
        assert scorer.sample(2, seed=3).tobytes() in samples.content
        assert score_one(client, MODEL, png) == score
        assert client.get(f"/v1/models/{MODEL}/audit", params={"n": 1}).json()["agrees"]
    assert (home / "snf_app.server.log").read_text().count("digits/1 loaded in") == 1
