"""Whether false alarms are as many as promised: random resplits of images that the flow was not trained on.

    SNF_DATA_DIR=... python -m benchmarks.false_alarms [--resplits 200] [MODEL ...]

Statistics, calibration and test images are drawn anew each time, everything is fitted anew, and the share of flagged
test images is compared with the 99 % Beta-binomial interval. Of exchangeable images 1 % of the runs leave it. Beside
it: the official split, for which MNIST's test digits are not exchangeable with its training digits, as they were
written by other people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.common import RESULTS, parser_of, read_results, table, write_results
from benchmarks.needs import data_dir
from snf_models.anomaly.exchangeability import false_alarm_interval
from snf_models.anomaly.statistic_densities import fit_statistic
from snf_models.datasets import Images, load_dataset
from snf_models.datasets.store import FILES
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer, load_model
from snf_runtime.anomaly.calibration import p_values
from snf_runtime.scoring.evidence import Evidence, grid_shape

ALPHAS = (0.01, 0.05)
BATCH = 250


def measure(name: str, resplits: int, data_dir: Path) -> dict[str, Any]:
    """Return what one model's held-out images give."""
    scorer = load_model(Registry(Path("var/registry")).resolve(f"{name}:1").path)
    dataset = load_dataset(scorer.manifest.training.dataset, data_dir)
    parts = [evidence_of(scorer, part, name) for part in (dataset.statistics, dataset.calibration, dataset.test)]
    together, sizes = Evidence.join(parts), [len(part) for part in parts]
    official = judged(scorer, parts)
    random = np.random.default_rng(0)
    runs = []
    for _ in track(range(resplits), f"{name}: resplits", console=Console(stderr=True)):
        order = random.permutation(len(together))
        runs.append(judged(scorer, [together[rows] for rows in np.split(order, np.cumsum(sizes)[:-1])]))
    return {
        "model": name,
        "images": dict(zip(("statistics", "calibration", "test"), sizes, strict=True)),
        "resplits": resplits,
        "intervals_99": {str(alpha): false_alarm_interval(sizes[1], sizes[2], alpha) for alpha in ALPHAS},
        "official_split": {str(alpha): float((official <= alpha).mean()) for alpha in ALPHAS},
        "mean_false_alarms": {str(a): float(np.mean([(p <= a).mean() for p in runs])) for a in ALPHAS},
        "outside_share": {str(a): float(np.mean([outside(p, sizes, a) for p in runs])) for a in ALPHAS},
    }


def evidence_of(scorer: Scorer, images: Images, label: str) -> Evidence:
    starts = track(range(0, len(images), BATCH), label, console=Console(stderr=True))
    found = [scorer.score(np.ascontiguousarray(images[start : start + BATCH])) for start in starts]
    return Evidence.join([one.evidence for batch in found for one in batch])


def judged(scorer: Scorer, parts: list[Evidence]) -> NDArray[np.float64]:
    """Fit to the first part, calibrate on the second, return the p-values of the third."""
    statistics, calibration, test = parts
    shape = scorer.preprocessing.shape
    fitted = fit_statistic(statistics, scorer.density.statistics, grid_shape(*shape[1:]))
    return p_values([np.sort(fitted(calibration))], [fitted(test)])


def outside(p: NDArray[np.float64], sizes: list[int], alpha: float) -> bool:
    low, high = false_alarm_interval(sizes[1], sizes[2], alpha)
    return not low <= float((p <= alpha).mean()) <= high


def report(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["model"],
            f"{alpha:.0%}",
            " - ".join(f"{end:.2%}" for end in row["intervals_99"][str(alpha)]),
            f"{row['mean_false_alarms'][str(alpha)]:.2%}",
            f"{row['outside_share'][str(alpha)]:.1%} of {row['resplits']}",
            f"{row['official_split'][str(alpha)]:.2%}",
        )
        for row in rows
        for alpha in ALPHAS
    ]
    heads = ("model", "alpha", "99 % interval", "mean of all runs", "runs outside", "official split")
    return "\n".join(["# False alarms over random resplits of held-out images", "", *table(heads, cells), ""])


def main() -> None:
    """Measure, print, write; a model's row replaces its earlier one."""
    parser = parser_of("false_alarms", __doc__)
    parser.add_argument("models", nargs="*", default=["fashion-snf-glow", "cifar10-snf-glow", "mnist-snf-glow"])
    parser.add_argument("--resplits", type=int, default=200)
    arguments = parser.parse_args()
    folder = data_dir(*FILES)
    known = {row["model"]: row for row in read_results(RESULTS / "false_alarms.json")}
    for name in arguments.models:
        known[name] = measure(name, arguments.resplits, folder)
        rows = [known[model] for model in sorted(known)]
        write_results(RESULTS, "false_alarms", rows, report(rows))
    print(report(list(known.values())))


if __name__ == "__main__":
    main()
