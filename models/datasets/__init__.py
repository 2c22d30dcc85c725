"""Image datasets: built-in ones such as MNIST, and those that users upload."""

from __future__ import annotations

from models.datasets.catalogue import dataset_names, load_dataset, summarize
from models.datasets.dataset import Dataset, DatasetSummary, Images
from models.datasets.ingest.sources import Source
from models.datasets.store import DatasetStore

__all__ = [
    "Dataset",
    "DatasetStore",
    "DatasetSummary",
    "Images",
    "Source",
    "dataset_names",
    "load_dataset",
    "summarize",
]
