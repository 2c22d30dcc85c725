"""The runner of exported models in an empty environment, beside the service: ``python -m benchmarks.edge``.

A model of pixels (``mnist-snf-glow``), one of features and a hybrid one are exported. pip installs ``./runtime`` into
a new environment, whose size is measured. There the runner judges test images of MNIST as PNG files, and the service
judges the same files over HTTP. Log-likelihoods and p-values are compared by their bits.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.installation import PatientClient, machine, running, temporary_home, write_results
from benchmarks.needs import data_dir, extra
from tests.end_to_end.support.service import environment, free_port
from tests.support.paths import ROOT

with extra("onnx"):
    import onnx  # noqa: F401 - `snf export` needs it

RESULTS = Path(__file__).parent / "results"
PART = 100
"""Images of a request."""
FEW_STEPS = ("--max-steps", "20", "--set", "validations=1", "--set", "validation_images=50", "--set", "batch_size=16")
TRAININGS = {
    "features": ("--preset", "snf-features", "--set", "feature_side=64"),
    "hybrid": ("--preset", "snf-hybrid", "--set", "feature_side=64", *FEW_STEPS, "--promote"),
}
MODELS = ("mnist-snf-glow", *TRAININGS)
STARTS = 5
MEGABYTES = 300
"""Most megabytes that the environment may have."""


def command(home: Path, *arguments: str) -> None:
    """Run a command of ``snf``; raises ``RuntimeError`` where it fails."""
    words = [sys.executable, "-m", "snf_app.cli.main", *arguments]
    done = subprocess.run(words, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"snf {' '.join(arguments)}:\n{done.stderr}")


def empty_environment(folder: Path) -> Path:
    """Install the runner alone into a new environment, and return its Python."""
    source, python = folder / "runtime", folder / "venv" / "bin" / "python"
    shutil.copytree(ROOT / "runtime", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-compile", source], check=True)
    return python


def size_of(folder: Path) -> float:
    """Return the megabytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def packages(python: Path) -> dict[str, str]:
    """Return the packages of an environment with their versions."""
    program = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return dict(sorted(found.items()))


def seconds_of(words: list[Any]) -> float:
    """Return the median time of a program that is started several times."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def by_runner(python: Path, folder: Path, images: Path) -> tuple[list[dict[str, Any]], float]:
    """Return the results of the runner, and its images a second, start included."""
    began = time.perf_counter()
    words = [python, "-I", "-m", "snf_runtime", folder, images, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return results, len(results) / (time.perf_counter() - began)


def by_service(client: PatientClient, model: str, paths: list[Path]) -> list[dict[str, Any]]:
    """Return the results of the service."""
    results = []
    for start in range(0, len(paths), PART):
        files = [("images", (path.name, path.read_bytes(), "image/png")) for path in paths[start : start + PART]]
        answer = client.post(f"/v1/models/{model}/score", files=files)
        results += answer.raise_for_status().json()["results"]
    return results


def compare(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> dict[str, int]:
    """Return the images whose values differ, by the value."""
    differing = dict.fromkeys(("log_likelihood", "p_value", "is_anomaly", "reasons"), 0)
    for got, want in zip(found, wanted, strict=True):
        anomaly = want["anomaly"]
        differing["log_likelihood"] += got["log_likelihood"] != want["log_likelihood"]
        differing["p_value"] += got["p_value"] != anomaly["p_value"]
        differing["is_anomaly"] += got["is_anomaly"] != anomaly["is_anomaly"]
        differing["reasons"] += [one["text"] for one in got["reasons"]] != [one["text"] for one in anomaly["reasons"]]
    return differing


def text_of(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    installed = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    lines = [
        f"# The runner of exported models beside the service, {found['images']} images each",
        "",
        f"An environment with the runner alone has {found['megabytes']:.0f} MB: {installed}. `import torch` takes "
        f"{found['import_torch_s']:.2f} s in the environment of the service. The start is of the runner for one image.",
        "",
        "Differing values are counted in the last four columns, log-likelihoods and p-values by their bits.",
        "",
        "| model | graphs | folder | start | images a second | log-likelihoods | p-values | verdicts | reasons |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        differing = " | ".join(str(row["differing"][name]) for name in row["differing"])
        lines.append(
            f"| {row['model']} | {row['format']} | {row['megabytes']:.1f} MB | {row['start_s']:.2f} s | "
            f"{row['images_per_second']:.0f} | {differing} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare, print and store the results; 1 where a value of OpenVINO differs, or the environment is too large."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge", description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with np.load(data_dir("mnist") / "mnist.npz", allow_pickle=False) as arrays:
        digits = arrays["x_test"][: arguments.images]
    found: dict[str, Any] = {"machine": machine(), "images": len(digits), "rows": []}
    with temporary_home("edge") as home:
        images, exports = home / "images", home / "exports"
        images.mkdir()
        exports.mkdir()
        for number, digit in enumerate(digits):
            # Every third image is inverted, so that there are anomalies.
            Image.fromarray(255 - digit if number % 3 == 0 else digit).save(images / f"{number:05d}.png")
        paths = sorted(images.iterdir())
        command(home, "backbones", "add", "efficientnet-lite0")
        for name, options in TRAININGS.items():
            command(home, "train", "--data", "mnist-mini", "--name", name, *options)
        python = empty_environment(home)
        found |= {"packages": packages(python), "megabytes": size_of(home / "venv" / "lib")}
        found["import_torch_s"] = seconds_of([sys.executable, "-c", "import torch"])
        port = free_port()
        with running("snf_app.server", home=home, port=port) as service, PatientClient(port) as client:
            client.await_ready(service)
            wanted = {model: by_service(client, model, paths) for model in MODELS}
        for model in MODELS:
            for form in ("openvino", "onnx"):
                folder = exports / f"{model}-{form}"
                command(home, "export", model, str(folder), "--format", form)
                results, rate = by_runner(python, folder, images)
                row = {"model": model, "format": form, "megabytes": size_of(folder), "images_per_second": rate}
                row["start_s"] = seconds_of([python, "-I", "-m", "snf_runtime", folder, paths[0]])
                found["rows"].append(row | {"differing": compare(results, wanted[model])})
    text = text_of(found)
    print(text)
    write_results(arguments.out, "edge", found, text)
    unequal = any(any(row["differing"].values()) for row in found["rows"] if row["format"] == "openvino")
    return int(unequal or found["megabytes"] > MEGABYTES)


if __name__ == "__main__":
    raise SystemExit(main())
