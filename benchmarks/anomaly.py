"""How well the anomaly score tells images apart, beside trivial baselines; the tables of the README.

    SNF_DATA_DIR=... python -m benchmarks.anomaly [--images 10000] [MODEL ...]

Each shipped model against another dataset and against graded faults of its own test images (``snf_models.evaluation``,
as ``snf evaluate`` does it).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.common import RESULTS, parser_of, read_results, table, write_results
from benchmarks.needs import data_dir
from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_models.datasets.store import FILES, DatasetStore
from snf_models.datasets.uploads import Source
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.registry.registry import Registry
from snf_models.scorer import load_model

AGAINST = {"mnist-snf-glow": "fashion-mnist", "fashion-snf-glow": "mnist", "cifar10-snf-glow": "svhn"}
SVHN = "svhn_test10k.npz"
WORK = Path("var/anomaly")


def with_svhn(folder: Path) -> DatasetStore:
    """Return a store that has the street numbers."""
    store = DatasetStore(WORK / "datasets")
    if "svhn" not in store.names():
        path = WORK / "svhn.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with np.load(folder / SVHN, allow_pickle=False) as arrays:
            np.save(path, arrays["x_test"])
        store.create("svhn", [Source(path, path.name)])
    return store


def compact(report: EvaluationReport) -> dict[str, Any]:
    """Return the figures of a report without its pictures and curves."""
    columns = {one.name: one for one in report.columns}
    main = [name for name, one in columns.items() if one.family in ("combined", "family", "baseline")]
    return {
        "model": report.model,
        "normal": {"name": report.normal.name, "test": report.normal.test.images},
        "false_alarms": {name: [one.model_dump() for one in columns[name].false_alarms] for name in main},
        "sets": {
            one.name: {
                "images": one.images.images,
                "best_baseline": one.best_baseline,
                "over_baseline": one.auroc_over_baseline,
                "scores": {
                    found.score: found.model_dump(exclude={"score"}) for found in one.results if found.score in main
                },
                "best_statistics": {
                    found.score: found.auroc
                    for found in sorted(one.results, key=lambda result: -result.auroc)[:5]
                    if found.score not in main
                },
            }
            for one in report.sets
        },
    }


def lines_of(name: str, row: dict[str, Any]) -> list[str]:
    """Return the section of a model: AUROC with intervals, detection, the best baseline."""
    combined, *others = next(iter(row["sets"].values()))["scores"]
    alarms = ", ".join(
        f"{one['share']:.2%} at alpha {one['alpha']:.0%} (99 % interval {one['interval'][0]:.2%} - "
        f"{one['interval'][1]:.2%})"
        for one in row["false_alarms"][combined]
        if one["share"] is not None
    )
    rows = []
    for of_set, one in row["sets"].items():
        first = one["scores"][combined]
        found = [f"{rate['share']:.1%}" if rate["share"] is not None else "-" for rate in first["detected"][:2]]
        interval = " - ".join(f"{end:.4f}" for end in first["auroc_interval"])
        rest = [f"{one['scores'][column]['auroc']:.3f}" for column in others]
        rows.append([of_set, f"{first['auroc']:.4f}", interval, *found, *rest])
    images = f"False alarms on {row['normal']['test']} images of {row['normal']['name']}: {alarms}."
    heads = ("set", "AUROC", "95 % interval", "found at 1 %", "found at 5 %", *others)
    return ["", f"## {name}", "", images, "", *table(heads, rows)]


def report(rows: dict[str, Any]) -> str:
    sections = [line for name, row in rows.items() for line in lines_of(name, row)]
    return "\n".join(["# The anomaly score: AUROC, detection, false alarms", *sections, ""])


def main() -> None:
    """Measure, print, write; a model's row replaces its earlier one."""
    parser = parser_of("anomaly", __doc__)
    parser.add_argument("models", nargs="*", default=list(AGAINST))
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    folder = data_dir(*FILES, SVHN)
    store = with_svhn(folder)
    rows = read_results(RESULTS / "anomaly.json")
    for name in arguments.models:
        scorer = load_model(Registry(Path("var/registry")).resolve(f"{name}:1").path)
        other, own = AGAINST[name], scorer.manifest.training.dataset
        plain = EvaluationParameters(against=[other], corruptions=True, images=arguments.images)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(name)

            def tell(what: str, done: int, total: int) -> None:
                progress.update(task, description=f"{name}: {what}", completed=done, total=total)  # noqa: B023

            rows[name] = compact(evaluate(Subject(scorer, name, own, plain, folder, store), tell))
        write_results(RESULTS, "anomaly", rows, report(rows))
    print(report(rows))


if __name__ == "__main__":
    main()
