"""Scores, statistics, p-values and verdicts of 200 real images, as they were when they were stored.

They are equal to the bit on the CPU and with the libraries that the file names. Elsewhere kernels for other vector
instructions add in another order: log-likelihoods differ by rounding errors, so do statistics, which are sums over
them, and a p-value is the rank of a statistic, which may pass a few neighbours. There ``check_near`` has tolerances.

``pytest tests/test_stored_scores.py --write-docs`` writes them anew.
"""

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from safetensors import safe_open

from snf_app.cli.model_tables import print_calibrations, print_model
from snf_app.cli.score_output import JudgingModel
from snf_client.schemas.calibrations import CalibrationList
from snf_client.schemas.models import ModelDetail
from snf_models.datasets import load_dataset
from snf_models.registry.calibrations import GRADIENTS_IGNORED
from snf_models.registry.registry import Registry
from tests.support.paths import DATA
from tests.support.service_settings import client_of, service_settings
from tests.support.stored_home import unpack
from tests.support.stored_json import dumps, is_writing
from tests.worker.support.helpers import until

STORED = DATA / "scores.json"
IMAGES = 200


def digits() -> NDArray[np.uint8]:
    """Return the digits of mnist-mini that no stored model was trained on: test, statistics, calibration."""
    found = load_dataset("mnist-mini", None)
    return np.concatenate([found.test, found.statistics, found.calibration])


def coloured() -> NDArray[np.uint8]:
    """Return images whose channels are three digits, with a black frame."""
    return np.pad(digits()[:198].reshape(66, 3, 28, 28), ((0, 0), (0, 0), (2, 2), (2, 2)))


def full(file: str) -> NDArray[np.uint8]:
    """Return test images of a full image set ``(n, C, H, W)``; skip the test where it is absent."""
    folder = os.environ.get("SNF_DATA_DIR")
    if not folder or not (Path(folder) / file).exists():
        pytest.skip(f"SNF_DATA_DIR has no {file}")
    with np.load(Path(folder) / file) as arrays:
        images = arrays["x_test"][:IMAGES]
    return images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]


CASES: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "mnist-snf-glow openvino": digits,
    "mnist-snf-glow torch": digits,
    "fashion-snf-glow openvino": digits,
    "cifar10-snf-glow openvino": coloured,
    "fashion-snf-glow openvino own": partial(full, "fashion_mnist.npz"),
    "cifar10-snf-glow openvino own": partial(full, "cifar10.npz"),
    "tiny openvino": lambda: digits()[:, :, 10:18, 10:18],
}


def machine() -> dict[str, str]:
    """Return what the bits of a score depend on: vector instructions and their kernels."""
    cpu = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", cpu.read_text(), re.MULTILINE) if cpu.exists() else None
    level = sorted(flag for flag in flags[1].split() if re.match("amx|avx|fma", flag)) if flags else []
    return {
        "cpu": openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"),
        "instructions": " ".join(level),
        "torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        "openvino": openvino.__version__,
        "numpy": np.__version__,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("2026-12.tar.xz", tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def services(home: Path) -> Iterator[Callable[[str], TestClient]]:
    """Return a function that gives a service by the name of its engine."""
    with ExitStack() as stack:

        @cache
        def service(engine: str) -> TestClient:
            return stack.enter_context(client_of(service_settings(home, engine=engine, threads=1)))

        yield service


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.data if case.endswith("own") else ()) for case in CASES]
)
def test_images_have_the_stored_scores_and_verdicts(
    case: str, services: Callable[[str], TestClient], request: pytest.FixtureRequest
) -> None:
    model, engine, *_ = case.split()
    images = CASES[case]()
    now = scored(services(engine), model, images)
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"cases": {}}
    if is_writing(request.config):
        STORED.write_text(dumps({"made_with": machine(), "cases": stored["cases"] | {case: now}}) + "\n")
    elif stored["made_with"] == machine():
        assert now == stored["cases"][case]
    else:
        check_near(now, stored["cases"][case], images[0].size)


def test_calibrations_with_evidence_of_gradients_say_that_it_is_ignored(
    home: Path, services: Callable[[str], TestClient], capsys: pytest.CaptureFixture[str]
) -> None:
    """What verdicts they give is compared above."""
    with safe_open(home / "registry/tiny/1/calibration.safetensors", "numpy") as arrays:
        assert {"fisher", "folds.0.thorough.ordered"} <= set(arrays.keys())
    service = services("openvino")
    until(lambda: service.get("/readyz").status_code == 200)
    listed = CalibrationList.model_validate(service.get("/v1/models/tiny/calibrations").json())
    shown = ModelDetail.model_validate(service.get("/v1/models/tiny").json())
    assert [one.warning for one in [*listed.calibrations, shown.calibration]] == [GRADIENTS_IGNORED] * 3
    print_calibrations(listed)
    print_model(shown)
    assert capsys.readouterr().out.count("gradient-evidence-ignored") == 3
    assert service.get("/v1/models/mnist-snf-glow").json()["calibration"]["warning"] is None
    here = JudgingModel.of_version(Registry(home / "registry").resolve("tiny"))
    for judging in (here, JudgingModel.of_detail(shown)):
        assert judging.warnings == (f"calibration 1 of tiny:1: {GRADIENTS_IGNORED}",)
    assert answered(service, "tiny", CASES["tiny openvino"]()[:1])["warning"] == GRADIENTS_IGNORED
    assert "warning" not in answered(service, "mnist-snf-glow", digits()[:1])
    refused = service.post("/v1/models/tiny/score", params={"detail": "full"}, content=b"")
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["pointer"]) == (422, "/query/detail")
    assert "gradients have been removed" in error["detail"]


def test_engines_differ_by_no_more_than_machines_may() -> None:
    cases = json.loads(STORED.read_text())["cases"]
    torch_scores, openvino_scores = cases["mnist-snf-glow torch"], cases["mnist-snf-glow openvino"]
    assert torch_scores != openvino_scores
    check_near(torch_scores, openvino_scores, 28 * 28)


def answered(client: TestClient, model: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the answer to a request that scores images."""
    body = io.BytesIO()
    np.save(body, images.transpose(0, 2, 3, 1))
    headers = {"content-type": "application/x-npy"}
    answer = client.post(f"/v1/models/{model}/score", content=body.getvalue(), headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def scored(client: TestClient, model: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the numbers of images by name, and which are anomalies."""
    results = answered(client, model, images)["results"]
    verdicts = [one["anomaly"] for one in results]
    return {
        "log_likelihood": [one["log_likelihood"] for one in results],
        "statistic": [verdict["statistic"] for verdict in verdicts],
        "p_value": [verdict["p_value"] for verdict in verdicts],
        "alpha": verdicts[0]["alpha"],
        "smallest_p": verdicts[0]["smallest_p"],
        "anomalies": [number for number, verdict in enumerate(verdicts) if verdict["is_anomaly"]],
    }


def check_near(now: dict[str, Any], stored: dict[str, Any], pixels: int) -> None:
    """Check numbers of another machine."""
    nats = pytest.approx(stored["log_likelihood"], abs=max(1e-3, 1e-5 * pixels), rel=1e-6)
    assert now["log_likelihood"] == nats
    assert now["statistic"] == pytest.approx(stored["statistic"], abs=1e-2, rel=1e-3)
    ranks = max(5e-3, 2.1 * stored["smallest_p"])
    assert now["p_value"] == pytest.approx(stored["p_value"], abs=ranks)
    assert (now["alpha"], now["smallest_p"]) == pytest.approx((stored["alpha"], stored["smallest_p"]))
    clear = {number for number, p in enumerate(stored["p_value"]) if abs(p - stored["alpha"]) > ranks}
    assert clear & {*now["anomalies"]} == clear & {*stored["anomalies"]}
