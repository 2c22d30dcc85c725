"""All datasets that can be trained on here, by name: built-in ones first, then those of a store."""

from __future__ import annotations

from pathlib import Path

from models.datasets.builtin import NAMES, builtin_file, load_builtin, summarize_builtin
from models.datasets.dataset import Dataset, DatasetSummary
from models.datasets.prepared import Progress, no_progress
from models.datasets.store import DatasetStore
from models.errors import DatasetNotFound
from models.training.config import TrainingConfig


def dataset_names(data_dir: Path | None, store: DatasetStore | None = None) -> list[str]:
    """List the datasets that can be loaded here: built-in ones with their files in ``data_dir``, then the store's."""
    found = [name for name in NAMES if builtin_file(name, data_dir) is not None]
    return found + (store.names() if store is not None else [])


def summarize(
    name: str, data_dir: Path | None, store: DatasetStore | None = None, config: TrainingConfig | None = None
) -> DatasetSummary:
    """Return what a run with ``config`` would get, without decoding. Raises ``DatasetNotFound``, ``DatasetUnfit``."""
    config = config or TrainingConfig()
    path = builtin_file(name, data_dir)
    if path is not None:
        return summarize_builtin(name, path, config)
    return _stored(name, data_dir, store).summarize(name, config)


def load_dataset(
    name: str,
    data_dir: Path | None,
    store: DatasetStore | None = None,
    config: TrainingConfig | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Load a dataset as ``config`` (size, fit, colour) asks for it. ``progress`` is told images that are prepared.

    Raises ``DatasetNotFound``, ``DatasetUnfit``, ``StorageFull``.
    """
    config = config or TrainingConfig()
    path = builtin_file(name, data_dir)
    if path is not None:
        return load_builtin(name, path, config)
    return _stored(name, data_dir, store).load(name, config, progress)


def _stored(name: str, data_dir: Path | None, store: DatasetStore | None) -> DatasetStore:
    if store is None or name in NAMES or name not in store.names():
        hint = "" if data_dir else "; set SNF_DATA_DIR to a folder with mnist.npz, fashion_mnist.npz or cifar10.npz"
        raise DatasetNotFound(f"no dataset {name!r} here, there are: {', '.join(dataset_names(data_dir, store))}{hint}")
    return store
