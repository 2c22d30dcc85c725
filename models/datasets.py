"""Named image datasets and their splits."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.npy import npy_header
from models.problems import DatasetNotFound, DatasetUnfit

Images = NDArray[np.uint8]
"""Images ``(N, C, H, W)``, uint8."""

FILES = {
    "mnist": "mnist.npz",
    "fashion-mnist": "fashion_mnist.npz",
    "cifar10": "cifar10.npz",
}
MINI = "mnist-mini"
LARGE_SPLITS = {60_000: (50_000, 5_000, 5_000), 50_000: (45_000, 2_500, 2_500)}
"""Official training files and their published split: train, statistics, calibration, in the file's order."""


@dataclass(frozen=True)
class Dataset:
    """Images in four disjoint parts.

    ``train`` fits the flow, ``statistics`` selects the model and fits the anomaly statistics, ``calibration`` gives
    p-values and nothing else, ``test`` is touched by evaluation alone and may be empty.
    """

    name: str
    train: Images
    statistics: Images
    calibration: Images
    test: Images
    digest: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width


@dataclass(frozen=True)
class DatasetSummary:
    """The shape ``(C, H, W)`` of a dataset's images and how many each of its parts has."""

    image_shape: tuple[int, int, int]
    train: int
    statistics: int
    calibration: int
    test: int


def dataset_names(data_dir: Path | None) -> list[str]:
    """List the datasets that can be loaded here: the built-in one, and those with a file in ``data_dir``."""
    found = [name for name, file in FILES.items() if data_dir is not None and (data_dir / file).is_file()]
    return [MINI, *found]


def summarize(name: str, data_dir: Path | None) -> DatasetSummary:
    """Return what can be told of a dataset without reading its pixels. Raises ``DatasetNotFound``, ``DatasetUnfit``."""
    path = _file(name, data_dir)
    with _named(path), zipfile.ZipFile(path) as arrays:
        count, height, width, *channels = _shape(arrays, "x_train")
        tested = _shape(arrays, "x_test")[0] if "x_test.npy" in arrays.namelist() else 0
    train, statistics, calibration = _split_sizes(name, count)
    return DatasetSummary((channels[0] if channels else 1, height, width), train, statistics, calibration, tested)


def load_dataset(name: str, data_dir: Path | None) -> Dataset:
    """Load a dataset with the splits everyone uses. Raises ``DatasetNotFound`` or ``DatasetUnfit``.

    The official training files are split in their own order; other datasets by a seeded 80/10/10 permutation.
    """
    path = _file(name, data_dir)
    with _named(path), np.load(path, allow_pickle=False) as arrays:
        images = _channels_first(arrays["x_train"])
        test = _channels_first(arrays["x_test"]) if "x_test" in arrays else images[:0]
    sizes = _split_sizes(name, len(images))
    official = len(images) in LARGE_SPLITS
    order = np.arange(len(images)) if official else np.random.default_rng(0).permutation(len(images))
    train, statistics, calibration = (images[part] for part in np.split(order, np.cumsum(sizes)[:2]))
    return Dataset(name, train, statistics, calibration, test, _digest(images, test))


def _split_sizes(name: str, count: int) -> tuple[int, int, int]:
    """Return the sizes of train, statistics and calibration. Raises ``DatasetUnfit`` where one would be empty."""
    held_out = count // 10
    sizes = LARGE_SPLITS.get(count, (count - 2 * held_out, held_out, held_out))
    if min(sizes) < 1:
        raise DatasetUnfit(f"{name} has {count} images, at least 10 are needed")
    return sizes


def _shape(arrays: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with arrays.open(f"{name}.npy") as header:
        return npy_header(header)[0]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what a damaged or foreign file raises into ``DatasetUnfit`` with its name."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # The text of an OSError holds the whole path, which is nobody else's business.
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetUnfit(f"{path.name} is not an .npz file with images in x_train: {reason}") from error


def _file(name: str, data_dir: Path | None) -> Path:
    if name == MINI:
        return Path(str(resources.files("models") / "data" / MINI / "images.npz"))
    known = dataset_names(data_dir)
    if name not in known:
        hint = "" if data_dir else "; set SNF_DATA_DIR to a folder with mnist.npz, fashion_mnist.npz or cifar10.npz"
        raise DatasetNotFound(f"no dataset {name!r} here, there are: {', '.join(known)}{hint}")
    assert data_dir is not None
    return data_dir / FILES[name]


def _channels_first(images: NDArray[np.uint8]) -> Images:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DatasetUnfit(f"expected uint8 images (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _digest(*arrays: Images) -> str:
    content = hashlib.sha256()
    for array in arrays:
        content.update(repr(array.shape).encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
