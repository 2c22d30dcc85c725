"""All datasets on this machine, by name: built-in ones, then those of users."""

from __future__ import annotations

from pathlib import Path

from snf_models.datasets.builtin import NAMES, builtin_file, load_builtin, summarize_builtin
from snf_models.datasets.dataset import Dataset, DatasetSummary
from snf_models.datasets.prepared import Progress, no_progress
from snf_models.datasets.store import DatasetStore, summarize_report
from snf_models.errors import DatasetNotFound
from snf_models.images.options import ImageOptions
from snf_models.texts.suggestions import choices


def dataset_names(data_dir: Path | None, store: DatasetStore | None = None) -> list[str]:
    builtin = [name for name in NAMES if builtin_file(name, data_dir) is not None]
    return builtin + (store.names() if store is not None else [])


def summarize(
    name: str, data_dir: Path | None, store: DatasetStore | None = None, config: ImageOptions | None = None
) -> DatasetSummary:
    """Summarize without decoding an image; raise ``DatasetNotFound``, ``DatasetUnfit``."""
    config = config or ImageOptions()
    path = builtin_file(name, data_dir)
    if path is not None:
        return summarize_builtin(name, path, config)
    return summarize_report(check_stored(name, data_dir, store).report(name), config)


def count_images(name: str, data_dir: Path | None, store: DatasetStore) -> int:
    """Count the images, in a dataset by reference also those that cannot be decoded."""
    record = None if builtin_file(name, data_dir) else check_stored(name, data_dir, store).reference(name)
    if record is not None:
        return record.images
    summary = summarize(name, data_dir, store)
    return summary.train + summary.statistics + summary.calibration + summary.test


def load_dataset(
    name: str,
    data_dir: Path | None,
    store: DatasetStore | None = None,
    config: ImageOptions | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Load the images of a built-in or user dataset, divided into parts such as training images.

    The parts are for training, statistics, calibration and testing. The images get the size and colour that ``config``
    sets.

    Args:
        name: The dataset.
        data_dir: The folder of built-in datasets.
        store: The datasets of users.
        config: Size, fit and colour of the images. Default: chosen to suit the images.
        progress: Called with the number of prepared images, and of all; what it raises ends the work.

    Raises:
        DatasetNotFound: There is no such dataset.
        DatasetUnfit: The configuration does not fit the images.
        StorageFull: There is no room for the prepared pixels.
    """
    config = config or ImageOptions()
    path = builtin_file(name, data_dir)
    if path is not None:
        return load_builtin(name, path, config)
    return check_stored(name, data_dir, store).load(name, config, progress)


def check_stored(name: str, data_dir: Path | None, store: DatasetStore | None) -> DatasetStore:
    """Return the store, or raise ``DatasetNotFound``, which suggests names of datasets."""
    if store is None or name in NAMES or not store.has(name):
        hint = "" if data_dir else "; set SNF_DATA_DIR to a folder with mnist.npz, fashion_mnist.npz or cifar10.npz"
        raise DatasetNotFound(f"there is no dataset {name!r}; {choices(name, dataset_names(data_dir, store))}{hint}")
    return store
