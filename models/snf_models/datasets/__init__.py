"""Image datasets: built-in ones such as MNIST, those that users upload, and those that they refer to."""

from __future__ import annotations

from snf_models.datasets.dataset import Dataset, DatasetSummary, Images
from snf_models.datasets.store import DatasetStore, count_images, dataset_names, load_dataset, summarize
from snf_models.datasets.uploads import Source

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
