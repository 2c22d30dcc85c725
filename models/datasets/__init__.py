"""Image datasets: built-in ones such as MNIST, those that users upload, and those that they refer to."""

from __future__ import annotations

from models.datasets.catalogue import count_images, dataset_names, load_dataset, summarize
from models.datasets.dataset import Dataset, DatasetSummary, Images
from models.datasets.ingest.uploaded_files import Source
from models.datasets.store import DatasetStore

__all__ = [
    "Dataset",
    "DatasetStore",
    "DatasetSummary",
    "Images",
    "Source",
    "count_images",
    "dataset_names",
    "load_dataset",
    "summarize",
]
