"""Native answers against those of the Open Inference Protocol: ``python -m benchmarks.inference_protocol``.

The first test images of two built-in sets are scored by the native call, as one array, and then by every form of the
protocol: JSON, binary tensors, one image a request, in reverse order, and by Triton's and KServe's own clients, where
``make .venv-clients/installed`` has installed them. Numbers are compared by their bits.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.installation import PatientClient, machine, running, temporary_home, write_results
from benchmarks.needs import data_dir
from tests.end_to_end.support.service import free_port
from tests.support.paths import ROOT

RESULTS = Path(__file__).parent / "results"
MODELS = {"mnist-snf-glow": "mnist", "cifar10-snf-glow": "cifar10"}
OUTPUTS = ("log_likelihood", "bits_per_dim", "p_value")
PART = 250
"""Images of a request: in JSON, those of CIFAR-10 take 3 MB."""
HEADER = "Inference-Header-Content-Length"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
PROGRAMS = ROOT / "tests" / "end_to_end" / "foreign_clients"
CLIENTS = {"tritonclient": "triton_client.py", "kserve": "kserve_client.py"}

Numbers = dict[str, list[float]]
Pixels = NDArray[np.uint8]


def first_images(dataset: str, count: int) -> Pixels:
    """Return test images of a built-in set, uint8 ``(N, C, H, W)``."""
    with np.load(data_dir(dataset) / f"{dataset}.npz", allow_pickle=False) as arrays:
        images = arrays["x_test"][:count]
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))


def native(client: PatientClient, model: str, pixels: Pixels) -> Numbers:
    """Return the numbers of the native call."""
    file = io.BytesIO()
    np.save(file, pixels.transpose(0, 2, 3, 1))
    headers = {"content-type": "application/x-npy"}
    answer = client.post(f"/v1/models/{model}/score", content=file.getvalue(), headers=headers)
    results = answer.raise_for_status().json()["results"]
    numbers = {name: [result[name] for result in results] for name in OUTPUTS[:2]}
    return numbers | {"p_value": [result["anomaly"]["p_value"] for result in results]}


def infer(client: PatientClient, model: str, pixels: Pixels, *, binary: bool) -> Numbers:
    """Return the numbers of one request of the protocol, in JSON or as binary tensors both ways."""
    tensor: dict[str, Any] = {"name": "image", "shape": pixels.shape, "datatype": "UINT8"}
    tensor |= {"parameters": {"binary_data_size": pixels.size}} if binary else {"data": pixels.ravel().tolist()}
    described = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
    headers = {HEADER: str(len(described))} if binary else {}
    content = described + pixels.tobytes() if binary else described
    answer = client.post(f"/v2/models/{model}/infer", content=content, headers=headers).raise_for_status()
    if not binary:
        return {output["name"]: output["data"] for output in answer.json()["outputs"]}
    tensors = np.frombuffer(answer.content[int(answer.headers[HEADER]) :], "<f8").reshape(len(OUTPUTS), -1)
    return dict(zip(OUTPUTS, tensors.tolist(), strict=True))


def in_parts(call: Callable[[Pixels], Numbers], pixels: Pixels, size: int) -> Numbers:
    """Return the numbers of several requests, in the order of the images."""
    parts = [call(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    return {name: [value for part in parts for value in part[name]] for name in OUTPUTS}


def by_program(address: str, program: str, pixels: Pixels, model: str, folder: Path) -> dict[str, Numbers]:
    """Return the numbers that a foreign client read, by the form in which it asked."""
    images = folder / "images.npy"
    np.save(images, pixels)
    command = [PYTHON, "-I", PROGRAMS / program, address, "no-key", f"{model}={images}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    forms = json.loads(done.stdout.splitlines()[-1])["answers"][model]
    return {
        form: {name: [float.fromhex(value) for value in values] for name, values in numbers.items()}
        for form, numbers in forms.items()
    }


def compare(numbers: Numbers, wanted: Numbers) -> dict[str, Any]:
    """Return how many numbers there are, how many differ in a bit, and the largest difference."""
    pairs = [pair for name in OUTPUTS for pair in zip(numbers[name], wanted[name], strict=True)]
    different = sum(np.float64(found).tobytes() != np.float64(right).tobytes() for found, right in pairs)
    return {
        "numbers": len(pairs),
        "different": different,
        "largest_difference": max(abs(found - right) for found, right in pairs),
    }


def measure(client: PatientClient, model: str, pixels: Pixels, folder: Path) -> dict[str, Any]:
    """Return the comparison of each way in with the native call."""
    wanted = native(client, model, pixels)
    assert all(math.isfinite(value) for values in wanted.values() for value in values)

    def by_json(images: Pixels) -> Numbers:
        return infer(client, model, images, binary=False)

    def by_tensors(images: Pixels) -> Numbers:
        return infer(client, model, images, binary=True)

    reverse = in_parts(by_tensors, pixels[::-1], PART)
    rows = {
        "native, one image a request": in_parts(lambda images: native(client, model, images), pixels, 1),
        "JSON": in_parts(by_json, pixels, PART),
        "binary": in_parts(by_tensors, pixels, len(pixels)),
        "binary, one image a request": in_parts(by_tensors, pixels, 1),
        "binary, in reverse order": {name: values[::-1] for name, values in reverse.items()},
    }
    for name, program in CLIENTS.items() if PYTHON.exists() else ():
        parts = [
            by_program(f"127.0.0.1:{client.base_url.port}", program, pixels[start : start + PART], model, folder)
            for start in range(0, len(pixels), PART)
        ]
        for form in parts[0]:
            rows[f"{name}, {form}"] = {
                output: [value for part in parts for value in part[form][output]] for output in OUTPUTS
            }
    return {name: compare(numbers, wanted) for name, numbers in rows.items()}


def versions() -> dict[str, str]:
    """Return the versions of the foreign clients; empty where they are not installed."""
    if not PYTHON.exists():
        return {}
    program = f"import importlib.metadata as m; print({{name: m.version(name) for name in {list(CLIENTS)}}})"
    done = subprocess.run([PYTHON, "-I", "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout.replace("'", '"'))
    return found


def text_of(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    clients = ", ".join(f"{name} {version}" for name, version in found["clients"].items()) or "not installed"
    lines = [
        f"# Native answers against those of the Open Inference Protocol, {found['images']} images each",
        "",
        f"Numbers of `/v1/models/{{ref}}/score` for one array, and those of other ways in, compared by their bits. "
        f"Foreign clients: {clients}.",
        "",
        "| model | way in | numbers | that differ in a bit | largest difference |",
        "|---|---|---:|---:|---:|",
    ]
    for model, rows in found["models"].items():
        for name, row in rows.items():
            numbers = f"{row['numbers']} | {row['different']} | {row['largest_difference']:g}"
            lines.append(f"| {model} | {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare, print and store the results; 1 where a number differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference_protocol", description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    images = {model: first_images(dataset, arguments.images) for model, dataset in MODELS.items()}
    found: dict[str, Any] = {"machine": machine(), "images": arguments.images, "clients": versions(), "models": {}}
    with temporary_home("protocol") as home:
        port = free_port()
        with running("app.server", home=home, port=port) as service, PatientClient(port) as client:
            client.await_ready(service)
            for model, pixels in images.items():
                found["models"][model] = measure(client, model, pixels, home)
    text = text_of(found)
    print(text)
    write_results(arguments.out, "inference_protocol", found, text)
    return int(any(row["different"] for rows in found["models"].values() for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
