"""API answers about datasets, read from disk, and checks before a dataset is deleted."""

from __future__ import annotations

from pathlib import Path

from app.datasets.schemas import DatasetDetail, DatasetEntry
from app.http.errors import Problem
from app.jobs.in_use import refuse_in_use
from models.datasets import DatasetStore, DatasetSummary, dataset_names, summarize
from models.datasets.builtin import NAMES, builtin_file
from models.datasets.references.index import ReferenceRecord
from models.errors import ModelsError
from worker.jobs.store import JobStore


def entries(store: DatasetStore, data_dir: Path | None) -> list[DatasetEntry]:
    """Return summaries of all datasets, each with origin, image sizes and image counts.

    The summary of a dataset that cannot be used has zero counts and the reason in ``problem``.
    """
    result = []
    for name in dataset_names(data_dir, store):
        try:
            result.append(entry(name, store, data_dir))
        except ModelsError as error:
            result.append(_unusable(name, error.detail))
    return result


def entry(name: str, store: DatasetStore, data_dir: Path | None) -> DatasetEntry:
    """Return a summary of a dataset: its origin, image sizes and image counts.

    Raises ``DatasetNotFound`` if it is missing, and ``DatasetUnfit`` if it cannot be used.
    """
    path = builtin_file(name, data_dir)
    record = None if path is not None or not store.has(name) else store.reference(name)
    if record is not None and not store.is_inspected(name):
        return _uninspected(name, record)
    summary = summarize(name, data_dir, store)
    if path is None:
        report = store.report(name)
        facts = report.facts
        return _entry(
            name,
            summary,
            origin="stored" if record is None else "reference",
            location=None if record is None else record.location,
            smallest=list(facts.smallest),
            largest=list(facts.largest),
            bytes=report.bytes,
            created=report.created,
        )
    size = list(summary.image_shape[:0:-1])
    return _entry(
        name, summary, origin="built-in", smallest=size, largest=size, bytes=path.stat().st_size, created=None
    )


def detail(name: str, store: DatasetStore, data_dir: Path | None) -> DatasetDetail:
    """Return a dataset's summary, with its validation report and URL paths of related resources.

    Raises ``DatasetNotFound`` if it is missing, and ``DatasetUnfit`` if it cannot be used.
    """
    dataset = entry(name, store, data_dir)
    links = {"self": f"/v1/datasets/{name}"}
    if dataset.origin == "built-in":
        return DatasetDetail(**dataset.model_dump(), report=None, links=links)
    report = store.report(name) if store.is_inspected(name) else None
    if report is not None:
        links["contact_sheet"] = f"/v1/datasets/{name}/contact-sheet"
    return DatasetDetail(**dataset.model_dump(), report=report, reference=store.reference(name), links=links)


def refuse_builtin(name: str) -> None:
    """Raise a 409 error if a dataset is built in: such datasets cannot be deleted."""
    if name in NAMES:
        raise Problem(
            409, "dataset-built-in", "The dataset is built in", f"{name} came with the product or lies in SNF_DATA_DIR"
        )


def refuse_used(name: str, jobs: JobStore) -> None:
    """Raise a 409 error if an unfinished job uses a dataset, which then cannot be deleted.

    Raises ``BrokerDown`` if the job store does not answer.
    """
    refuse_in_use(
        jobs,
        lambda job: (
            name in (job.dataset, *job.parameters.get("against", ()), *job.parameters.get("masks", {}).values())
        ),
        "dataset-in-use",
        "The dataset is in use",
        name,
    )


def _entry(name: str, summary: DatasetSummary, **more: object) -> DatasetEntry:
    parts = {part: getattr(summary, part) for part in ("train", "statistics", "calibration", "test")}
    return DatasetEntry.model_validate(
        {
            "name": name,
            "images": sum(parts.values()),
            "image_shape": list(summary.image_shape),
            **parts,
            "folds": summary.folds,
            **more,
        }
    )


def _uninspected(name: str, record: ReferenceRecord) -> DatasetEntry:
    """Return the summary of a dataset by reference whose images were not read."""
    return DatasetEntry(
        name=name,
        origin="reference",
        images=record.images,
        image_shape=[],
        smallest=[],
        largest=[],
        bytes=record.bytes,
        created=record.created,
        location=record.location,
        **dict.fromkeys(("train", "statistics", "calibration", "test", "folds"), 0),
    )


def _unusable(name: str, reason: str) -> DatasetEntry:
    counts = dict.fromkeys(("images", "train", "statistics", "calibration", "test", "folds", "bytes"), 0)
    return DatasetEntry(
        name=name,
        origin="built-in" if name in NAMES else "stored",
        image_shape=[],
        smallest=[],
        largest=[],
        created=None,
        problem=reason,
        **counts,
    )
