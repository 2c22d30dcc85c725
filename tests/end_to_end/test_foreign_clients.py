"""Clients of the Open Inference Protocol that others wrote, unmodified and in an environment of their own."""

from __future__ import annotations

import io
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from snf_models.registry.registry import Registry
from tests.end_to_end.support.service import environment, serving
from tests.support.documents import Block, blocks
from tests.support.paths import DIGITS, ROOT
from tests.support.trained import feature_artifact

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
PROGRAMS = Path(__file__).parent / "foreign_clients"
PAGE = ROOT / "docs" / "inference-protocol.md"
MODELS = ("digits", "parts")
"""A model of pixels, and one of features."""
KEY = "foreign-clients-0123456789abcdef"
PIXELS = np.stack([np.asarray(Image.open(path)) for path in DIGITS])[:, None]

HAS_KSERVE = any((ROOT / ".venv-clients").glob("lib/python*/site-packages/kserve"))
needs_kserve = pytest.mark.skipif(not HAS_KSERVE, reason="needs kserve, which Python 3.14 does not have yet")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv-clients" / "installed").exists(), reason="needs the clients of `make .venv-clients/installed`"
)


@pytest.fixture(scope="module")
def client(artifact: Path, tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Iterator[httpx.Client]:
    """A service with a model of pixels and one of features."""
    home = Path(tempfile.mkdtemp(prefix="snf-home-", dir=tmp_path_factory.mktemp("foreign")))
    registry = Registry(home / "registry")
    for model, folder in zip(MODELS, (artifact, feature_artifact(tmp_path_factory)), strict=True):
        registry.publish(folder, model, promote=True)
    with serving(home, shipped=False, measured=True, backbones=backbones, api_keys=KEY) as service:
        service.headers["x-api-key"] = KEY
        yield service


@pytest.fixture(scope="module")
def native(client: httpx.Client) -> dict[str, dict[str, list[str]]]:
    """The numbers of the native call for the same images, by model and output; exact, as texts."""
    file = io.BytesIO()
    np.save(file, PIXELS[:, 0])
    found = {}
    for model in MODELS:
        answer = client.post(
            f"/v1/models/{model}/score", content=file.getvalue(), headers={"content-type": "application/x-npy"}
        ).raise_for_status()
        results = answer.json()["results"]
        bits = [result["bits_per_dim"] for result in results]
        found[model] = {
            "log_likelihood": [result["log_likelihood"].hex() for result in results],
            "bits_per_dim": ["nan" if value is None else value.hex() for value in bits],
            "p_value": [result["anomaly"]["p_value"].hex() for result in results],
        }
    assert set(found["parts"]["bits_per_dim"]) == {"nan"}
    return found


def run(program: str, port: int | None, folder: Path) -> dict[str, Any]:
    """Run a program of a foreign client against a port of this machine, and return what it printed."""
    images = folder / "images.npy"
    np.save(images, PIXELS)
    address = f"127.0.0.1:{port}"
    done = subprocess.run(
        [PYTHON, "-I", PROGRAMS / program, address, KEY, *(f"{model}={images}" for model in MODELS)],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "block", [block for block in blocks(PAGE) if block.language == "python"], ids=lambda block: f"line {block.line}"
)
def test_the_examples_of_the_page_run(
    block: Block, client: httpx.Client, native: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    if "kserve" in block.text and not HAS_KSERVE:
        pytest.skip("needs kserve, which Python 3.14 does not have yet")
    np.save(tmp_path / "digits.npy", PIXELS[:3])
    text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{client.base_url.port}").replace("mnist-snf-glow", "digits")
    variables = environment(tmp_path, api_key=KEY)
    done = subprocess.run(
        [PYTHON, "-I", "-c", f"import numpy\nnumpy.set_printoptions(floatmode='unique')\n{text}"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for value in native["digits"]["log_likelihood"][:3]:
        assert repr(float.fromhex(value)) in done.stdout


def test_tritonclient_reads_what_native_calls_answer(
    client: httpx.Client, native: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    found = run("triton_client.py", client.base_url.port, tmp_path)
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, [True, True, False])
    assert found["server"]["extensions"] == ["binary_tensor_data"]
    for model in MODELS:
        assert [tensor["name"] for tensor in found["models"][model]["inputs"]] == ["image"]
        forms = found["answers"][model]
        assert len(forms) == 6
        assert forms == dict.fromkeys(forms, native[model])
    assert found["id"] == "lot-7"
    refused = found["refused"]
    assert {name: status for name, (status, _) in refused.items()} == {
        "no key": "401",
        "no model": "404",
        "wrong size": "422",
        "deadline": "504",
        "compressed": "415",
    }
    assert "no model" in refused["no model"][1]
    assert "expected [-1, 1, 28, 28]" in refused["wrong size"][1]


@needs_kserve
def test_kserve_reads_what_native_calls_answer(
    client: httpx.Client, native: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    found = run("kserve_client.py", client.base_url.port, tmp_path)
    assert (found["live"], found["ready"], found["model ready"]) == (True, True, [True, True, False])
    for model in MODELS:
        forms = found["answers"][model]
        assert len(forms) == 3
        assert forms == dict.fromkeys(forms, native[model])
    refused = found["refused"]
    assert {name: status for name, (status, _) in refused.items()} == {
        "no key": "401",
        "no model": "404",
        "wrong size": "422",
    }
    assert "expected [-1, 1, 28, 28]" in refused["wrong size"][1]
