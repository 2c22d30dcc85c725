"""How exact the served numbers are: ``SNF_DATA_DIR=... python -m benchmarks.exactness [--url http://127.0.0.1:8000]``.

For each shipped model, over test images of its own dataset: the engine that serves it against the unfrozen flow in
float64, and for some images against the whole Jacobian; the round trip; the same image in other company. Writes
``results/exactness.{json,md}`` after every model, where rows of other models stay. With ``--patterns`` it compares
patterns that no training set has, such as checkerboards, and writes ``results/exactness_patterns.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.needs import builtin_dir
from snf_models.datasets import load_dataset
from snf_models.disk import write_atomically
from snf_models.flows.flow import Flow
from snf_models.loading.trained import load_artifact
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.frozen import FlowEngine, FrozenFlow, freeze
from snf_models.scoring.open_density import open_engine
from snf_runtime.images.codec import encode_png
from snf_runtime.scoring.pixel_density import content_noise

RESULTS = Path(__file__).parent / "results" / "exactness.json"
CHUNK = 50
ROWS = 112
"""Rows of a Jacobian computed at once, one copy of the image each."""


@dataclass(frozen=True)
class Exactness:
    """Largest differences of one model, in nats but for the round trip, which is in pixel bins."""

    model: str
    dataset: str
    engine: str
    images: int
    mean_log_likelihood: float
    float64_max: float
    float64_median: float
    jacobian_images: int
    jacobian_max: float | None
    service_max: float | None
    round_trip_max_bins: float
    batch_mates_max: float
    batch_mates_bit_equal: int
    seconds: float


def measure(name: str, path: Path, image_count: int, jacobian_count: int, url: str | None) -> Exactness:
    """Measure the artifact at ``path``."""
    started = time.monotonic()
    artifact = load_artifact(path)
    dataset = load_dataset(artifact.manifest.training.dataset, builtin_dir(artifact.manifest.training.dataset))
    scorer = load_model(path)
    reference = artifact.flow.double().requires_grad_(False)
    images = dataset.test[:image_count]

    engine = np.concatenate([_scores(scorer, images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)])
    float64 = np.concatenate(
        [_float64(reference, scorer, images[i : i + CHUNK], name) for i in range(0, len(images), CHUNK)]
    )
    differences = np.abs(engine - float64)

    chosen = images[:jacobian_count]
    jacobian = np.array([by_jacobian(reference, _dequantised(scorer, image[None])) for image in chosen])
    served = engine[: len(chosen)] if url is None else np.array([_over_http(url, name, image) for image in chosen])

    company = images[:256]
    alone = np.concatenate([_scores(scorer, image[None]) for image in company])
    order = np.random.default_rng(0).permutation(len(company))
    shuffled = np.empty(len(company))
    shuffled[order] = _scores(scorer, company[order])
    elsewhere = np.stack([alone, shuffled]) - engine[: len(company)]

    frozen = freeze(load_artifact(path).flow, scorer.preprocessing.shape)
    return Exactness(
        model=name,
        dataset=dataset.name,
        engine=scorer.density.engine_name,
        images=len(images),
        mean_log_likelihood=float(engine.mean()),
        float64_max=float(differences.max()),
        float64_median=float(np.median(differences)),
        jacobian_images=len(chosen),
        jacobian_max=float(np.abs(jacobian - engine[: len(chosen)]).max()) if len(chosen) else None,
        service_max=float(np.abs(jacobian - served).max()) if url and len(chosen) else None,
        round_trip_max_bins=_round_trip(open_engine(frozen), frozen, scorer, images[:1000]),
        batch_mates_max=float(np.abs(elsewhere).max()),
        batch_mates_bit_equal=int((elsewhere == 0).all(0).sum()),
        seconds=time.monotonic() - started,
    )


def _scores(scorer: Scorer, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.array([result.log_likelihood for result in scorer.score(images)])


def _dequantised(scorer: Scorer, images: NDArray[np.uint8]) -> Tensor:
    noise = np.concatenate([content_noise(image, scorer.log_det_digest) for image in images])
    return torch.from_numpy(images + noise)


def _float64(reference: Flow, scorer: Scorer, images: NDArray[np.uint8], name: str) -> NDArray[np.float64]:
    """Score by the unfrozen flow in float64; its log-dets come from slogdet at every call."""
    with torch.no_grad():
        scores: NDArray[np.float64] = reference(_dequantised(scorer, images)).log_likelihood.numpy()
    if not np.isfinite(scores).all():
        raise ArithmeticError(f"{name}: the float64 reference is not finite")
    return scores


def by_jacobian(reference: Flow, x: Tensor) -> float:
    """Return log N(z; 0, I) + log|det dz/dx| of one image ``(1, C, H, W)``, by its whole Jacobian in float64."""
    dimensions = x.numel()
    rows: list[Tensor] = []
    latent = torch.empty(0)
    for start in range(0, dimensions, ROWS):
        # Samples do not influence one another, so copy k gives row start + k in one backward pass.
        wanted = torch.arange(start, min(start + ROWS, dimensions))
        copies = x.expand(len(wanted), -1, -1, -1).clone().requires_grad_()
        z = torch.cat([scale.flatten(1) for scale in reference(copies).latents], dim=1)
        picked = z[torch.arange(len(wanted)), wanted].sum()
        rows.append(torch.autograd.grad(picked, copies)[0].flatten(1))
        latent = z[0].detach()
    log_det = torch.linalg.slogdet(torch.cat(rows)).logabsdet
    return float(-0.5 * latent.square().sum() - 0.5 * dimensions * math.log(2 * math.pi) + log_det)


def _over_http(url: str, name: str, image: NDArray[np.uint8]) -> float:
    answer = httpx.post(
        f"{url.rstrip('/')}/v1/models/{name}/score",
        content=encode_png(image),
        headers={"Content-Type": "image/png"} | _key(),
        timeout=60,
    )
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return float(document["results"][0]["log_likelihood"])


def _key() -> dict[str, str]:
    key = os.environ.get("SNF_API_KEY")
    return {"X-API-Key": key} if key else {}


def _round_trip(engine: FlowEngine, frozen: FrozenFlow, scorer: Scorer, images: NDArray[np.uint8]) -> float:
    largest = 0.0
    for start in range(0, len(images), CHUNK):
        x = _dequantised(scorer, images[start : start + CHUNK])
        scales = engine.forward(frozen.pixels(x)[0].numpy()).scales
        back = frozen.pixels.inverse(torch.from_numpy(engine.inverse(scales, "exact")))[0]
        largest = max(largest, float((back - x).abs().max()))
    return largest


def patterns(shape: tuple[int, int, int]) -> dict[str, NDArray[np.uint8]]:
    """Return images of extreme patterns, ``(C, H, W)`` each."""
    rows, columns = np.arange(shape[1])[:, None], np.arange(shape[2])[None]
    random = np.random.default_rng(0)
    drawn = {
        "checkerboard of 1 pixel": (rows + columns) % 2 * 255,
        "checkerboard of 2 pixels": (rows // 2 + columns // 2) % 2 * 255,
        "rows": rows % 2 * 255 + 0 * columns,
        "columns": columns % 2 * 255 + 0 * rows,
        "halves": (columns >= shape[2] // 2) * 255 + 0 * rows,
        **{f"level {level}": np.full(shape, level) for level in (0, 128, 255)},
        "noise": random.integers(0, 256, shape),
        "black and white noise": random.integers(0, 2, shape) * 255,
    }
    return {name: np.broadcast_to(pattern, shape).astype(np.uint8) for name, pattern in drawn.items()}


def pattern_table(paths: dict[str, Path]) -> str:
    """Return the differences of the scores of extreme patterns from float64, by model, as Markdown."""
    lines = ["| model | pattern | log-likelihood, nats | from float64, nats | of the score |", "|---|---|---|---|---|"]
    for name, path in paths.items():
        scorer, reference = load_model(path), load_artifact(path).flow.double().requires_grad_(False)
        for pattern, image in patterns(scorer.preprocessing.shape).items():
            [exact], [score] = _float64(reference, scorer, image[None], name), _scores(scorer, image[None])
            difference = abs(score - exact)
            lines.append(f"| {name} | {pattern} | {score:,.1f} | {difference:.2g} | {difference / abs(exact):.1g} |")
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table, a column a model. A figure that a row lacks was not measured."""
    lines = [f"| | {' | '.join(row['model'] for row in rows)} |", f"|---|{'---|' * len(rows)}"]
    for field in fields(Exactness)[1:]:
        values = [row.get(field.name) for row in rows]
        shown = ["" if value is None else _shown(value) for value in values]
        lines.append(f"| {field.name.replace('_', ' ')} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)


def main() -> None:
    """Measure the models named on the command line, or all shipped ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--model", nargs="*", help="names of shipped models (default: all)")
    parser.add_argument("--artifact", type=Path, help="measure this artifact instead")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--jacobian", type=int, default=20, help="images whose whole Jacobian is taken")
    parser.add_argument("--patterns", action="store_true", help="measure extreme patterns instead")
    parser.add_argument("--url", help="a running service that has the models, to be compared with the Jacobian")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shipped = {path.parents[1].name: path.parent for path in sorted(ZOO.glob("*/1/manifest.json"))}
    if arguments.artifact:
        paths = {(arguments.model or [arguments.artifact.name])[0]: arguments.artifact}
    else:
        paths = {name: shipped[name] for name in arguments.model or shipped}
    if not paths:
        parser.error(f"no model is shipped in {ZOO}; name one with --artifact")
    if arguments.patterns:
        text = pattern_table(paths)
        write_atomically(arguments.out.with_name("exactness_patterns.md"), (text + "\n").encode())
        print(text)
        return
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    rows: dict[str, dict[str, Any]] = {row["model"]: row for row in known}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        rows[name] = asdict(measure(name, path, arguments.images, arguments.jacobian, arguments.url))
        ordered = sorted(rows.values(), key=lambda row: row["model"])
        write_atomically(arguments.out, (json.dumps(ordered, indent=1) + "\n").encode())
        write_atomically(arguments.out.with_suffix(".md"), (table(ordered) + "\n").encode())
        print(table([rows[name]]), flush=True)


if __name__ == "__main__":
    main()
