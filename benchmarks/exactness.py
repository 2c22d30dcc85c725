"""How exact the served numbers are: ``SNF_DATA_DIR=... python -m benchmarks.exactness``.

For each shipped model, over test images of its own dataset: the engine that serves it against the unfrozen flow in
float64, the round trip, and the same image in other company. Writes ``results/exactness.{json,md}`` after every model,
where rows of other models stay. With ``--patterns`` it compares patterns that no training set has, such as
checkerboards, and writes ``results/exactness_patterns.md``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common import RESULTS, parser_of, read_results, table, write_results
from benchmarks.needs import builtin_dir
from snf_models.datasets import load_dataset
from snf_models.flows.flow import Flow
from snf_models.loading.trained import load_artifact
from snf_models.registry.registry import ZOO
from snf_models.scorer import Scorer, load_model
from snf_models.scoring.frozen import freeze
from snf_models.scoring.open_density import open_engine
from snf_runtime.scoring.pixel_density import content_noise

CHUNK = 50
COMPANY = 256
ROUND_TRIP = 1000
Pixels = NDArray[np.uint8]


def measure(name: str, path: Path, count: int) -> dict[str, Any]:
    """Return the largest differences of a model, in nats but for the round trip, which is in pixel bins."""
    started = time.monotonic()
    scorer, reference = load_model(path), load_artifact(path).flow.double().requires_grad_(False)
    dataset = load_dataset(scorer.manifest.training.dataset, builtin_dir(scorer.manifest.training.dataset))
    images = dataset.test[:count]
    chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    engine = np.concatenate([scores(scorer, chunk) for chunk in chunks])
    differences = np.abs(engine - np.concatenate([float64(reference, scorer, chunk, name) for chunk in chunks]))
    company = images[:COMPANY]
    alone = np.concatenate([scores(scorer, image[None]) for image in company])
    order = np.random.default_rng(0).permutation(len(company))
    shuffled = np.empty(len(company))
    shuffled[order] = scores(scorer, company[order])
    elsewhere = np.stack([alone, shuffled]) - engine[: len(company)]
    return {
        "model": name,
        "dataset": dataset.name,
        "engine": scorer.density.engine_name,
        "images": len(images),
        "mean_log_likelihood": float(engine.mean()),
        "float64_max": float(differences.max()),
        "float64_median": float(np.median(differences)),
        "round_trip_max_bins": round_trip(path, scorer, images[:ROUND_TRIP]),
        "batch_mates_max": float(np.abs(elsewhere).max()),
        "batch_mates_bit_equal": int((elsewhere == 0).all(0).sum()),
        "seconds": time.monotonic() - started,
    }


def scores(scorer: Scorer, images: Pixels) -> NDArray[np.float64]:
    return np.array([result.log_likelihood for result in scorer.score(images)])


def dequantised(scorer: Scorer, images: Pixels) -> Tensor:
    noise = np.concatenate([content_noise(image, scorer.log_det_digest) for image in images])
    return torch.from_numpy(images + noise)


def float64(reference: Flow, scorer: Scorer, images: Pixels, name: str) -> NDArray[np.float64]:
    """Score by the unfrozen flow in float64; its log-dets come from slogdet at every call."""
    with torch.no_grad():
        found: NDArray[np.float64] = reference(dequantised(scorer, images)).log_likelihood.numpy()
    if not np.isfinite(found).all():
        raise ArithmeticError(f"{name}: the float64 reference is not finite")
    return found


def round_trip(path: Path, scorer: Scorer, images: Pixels) -> float:
    frozen = freeze(load_artifact(path).flow, scorer.preprocessing.shape)
    engine, largest = open_engine(frozen), 0.0
    for start in range(0, len(images), CHUNK):
        x = dequantised(scorer, images[start : start + CHUNK])
        scales = engine.forward(frozen.pixels(x)[0].numpy()).scales
        back = frozen.pixels.inverse(torch.from_numpy(engine.inverse(scales, "exact")))[0]
        largest = max(largest, float((back - x).abs().max()))
    return largest


def patterns(shape: tuple[int, int, int]) -> dict[str, Pixels]:
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
    rows = []
    for name, path in paths.items():
        scorer, reference = load_model(path), load_artifact(path).flow.double().requires_grad_(False)
        for pattern, image in patterns(scorer.preprocessing.shape).items():
            [exact], [score] = float64(reference, scorer, image[None], name), scores(scorer, image[None])
            difference = abs(score - exact)
            rows.append((name, pattern, f"{score:,.1f}", f"{difference:.2g}", f"{difference / abs(exact):.1g}"))
    heads = ("model", "pattern", "log-likelihood, nats", "from float64, nats", "of the score")
    return "\n".join(table(heads, rows)) + "\n"


def report(rows: list[dict[str, Any]]) -> str:
    """Return a table with a column a model."""
    names = [name for name in rows[0] if name != "model"]
    cells = [[name.replace("_", " "), *(shown(row.get(name)) for row in rows)] for name in names]
    return "\n".join(table(["", *(row["model"] for row in rows)], cells)) + "\n"


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)


def main() -> None:
    parser = parser_of("exactness", __doc__)
    parser.add_argument("--model", nargs="*", help="names of shipped models (default: all)")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--patterns", action="store_true", help="measure extreme patterns instead")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shipped = {path.parents[1].name: path.parent for path in sorted(ZOO.glob("*/1/manifest.json"))}
    paths = {name: shipped[name] for name in arguments.model or shipped}
    if arguments.patterns:
        text = pattern_table(paths)
        (RESULTS / "exactness_patterns.md").write_text(text)
        print(text)
        return
    rows = {row["model"]: row for row in read_results(RESULTS / "exactness.json")}
    for name, path in paths.items():
        rows[name] = measure(name, path, arguments.images)
        ordered = [rows[model] for model in sorted(rows)]
        write_results(RESULTS, "exactness", ordered, report(ordered))
        print(report([rows[name]]), flush=True)


if __name__ == "__main__":
    main()
