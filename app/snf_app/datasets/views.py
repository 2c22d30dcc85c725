from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from snf_app.http.errors import Problem
from snf_app.jobs.in_use import refuse_in_use
from snf_client.schemas.datasets import DatasetDetail, DatasetEntry
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import DatasetStore, DatasetSummary, dataset_names, summarize
from snf_models.datasets.builtin import NAMES, builtin_file
from snf_models.datasets.store import check_stored, summarize_report
from snf_models.errors import ModelsError
from snf_worker.jobs.store import JobStore

NOTHING_KNOWN: dict[str, object] = {
    "image_shape": [],
    "smallest": [],
    "largest": [],
    **dict.fromkeys(("images", "bytes", "train", "statistics", "calibration", "test", "folds"), 0),
    "created": None,
    "report": None,
    "reference": None,
}
"""Fields of a dataset of which nothing is known yet."""


def entries(store: DatasetStore, data_dir: Path | None, names: Sequence[str] | None = None) -> list[DatasetEntry]:
    """Return summaries, by default of all; of an unusable dataset with zero counts and the reason in ``problem``."""
    result = []
    for name in dataset_names(data_dir, store) if names is None else names:
        try:
            fields = _fields(name, store, data_dir)
        except ModelsError as error:
            origin = "built-in" if name in NAMES else "stored"
            fields = NOTHING_KNOWN | {"name": name, "origin": origin, "problem": error.detail}
        result.append(DatasetEntry.model_validate(fields))
    return result


def detail(name: str, store: DatasetStore, data_dir: Path | None) -> DatasetDetail:
    """Return a dataset with its report; raise ``DatasetNotFound`` or ``DatasetUnfit``."""
    fields = _fields(name, store, data_dir)
    links = {"self": f"/v1/datasets/{name}"}
    if fields["report"] is not None:
        links["contact_sheet"] = f"/v1/datasets/{name}/contact-sheet"
    return DatasetDetail.model_validate(fields | {"links": links})


def refuse_builtin(name: str) -> None:
    """Raise a 409 error if a dataset is built in: such datasets cannot be deleted."""
    if name in NAMES:
        raise Problem(
            409, "dataset-built-in", "The dataset is built in", f"{name} came with the product or lies in SNF_DATA_DIR"
        )


def refuse_used(name: str, jobs: JobStore) -> None:
    """Raise a 409 error if an unfinished job uses a dataset."""
    refuse_in_use(
        jobs,
        lambda job: (
            name in (job.dataset, *job.parameters.get("against", ()), *job.parameters.get("masks", {}).values())
        ),
        "dataset-in-use",
        "The dataset is in use",
        name,
    )


def _fields(name: str, store: DatasetStore, data_dir: Path | None) -> dict[str, object]:
    """Return what ``DatasetDetail`` has beside its links; ``DatasetEntry`` takes its own part of it."""
    path = builtin_file(name, data_dir)
    fields = NOTHING_KNOWN | {"name": name, "origin": "built-in"}
    if path is not None:
        summary = summarize(name, data_dir, store)
        size = list(summary.image_shape[:0:-1])
        return fields | _counts(summary) | {"smallest": size, "largest": size, "bytes": path.stat().st_size}
    check_stored(name, data_dir, store)
    record = store.reference(name)
    fields["origin"] = "stored" if record is None else "reference"
    if record is not None:
        known = record.model_dump(include={"images", "bytes", "created", "location"})
        fields |= {"reference": record, **known}
        if not store.is_inspected(name):
            return fields
    report = store.report(name)
    return (
        fields
        | _counts(summarize_report(report, ImageOptions()))
        | {
            "report": report,
            "smallest": list(report.facts.smallest),
            "largest": list(report.facts.largest),
            "bytes": report.bytes,
            "created": report.created,
        }
    )


def _counts(summary: DatasetSummary) -> dict[str, object]:
    parts = {part: getattr(summary, part) for part in ("train", "statistics", "calibration", "test")}
    return {
        "images": sum(parts.values()),
        "image_shape": list(summary.image_shape),
        "folds": summary.folds,
        **parts,
    }
