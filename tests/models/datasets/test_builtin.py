"""Splits that everyone uses, disjoint and the same at every loading."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from snf_models.datasets import DatasetSummary, dataset_names, load_dataset, summarize
from snf_models.errors import DatasetNotFound, DatasetUnfit
from tests.models.datasets.upload_files import npy, npz
from tests.models.helpers import real_images

DATA_DIR = Path(os.environ.get("SNF_DATA_DIR") or "no-such-folder")
NEEDS_DATA = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA_DIR / "mnist.npz").is_file(), reason="SNF_DATA_DIR has no mnist.npz"),
]


def test_the_built_in_set_is_always_there_and_the_same_with_disjoint_parts() -> None:
    assert dataset_names(None) == ["mnist-mini"]
    digits, again = (load_dataset("mnist-mini", None) for _ in range(2))
    assert digits.image_shape == (1, 28, 28) == summarize("mnist-mini", None).image_shape
    parts = (digits.train, digits.statistics, digits.calibration, digits.test)
    assert [(len(part), part.dtype) for part in parts] == [(size, np.uint8) for size in (400, 50, 50, 100)]
    assert len({image.tobytes() for part in parts for image in part}) == 600
    assert digits.digest == again.digest
    assert np.array_equal(digits.train, again.train)
    assert np.array_equal(digits.calibration, again.calibration)


def write(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(folder / "mnist.npz", **arrays)
    return folder


def test_colour_images_become_channels_first(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 12, 3), dtype=np.uint8)
    dataset = load_dataset("mnist", write(tmp_path, x_train=images))
    assert dataset.image_shape == (3, 8, 12) == summarize("mnist", tmp_path).image_shape
    assert len(dataset.test) == 0
    assert (len(dataset.train), len(dataset.statistics), len(dataset.calibration)) == (24, 3, 3)
    assert summarize("mnist", tmp_path) == DatasetSummary((3, 8, 12), 24, 3, 3, 0)
    known = {image.tobytes() for image in np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    assert {image.tobytes() for image in dataset.train} < known


def test_the_digest_is_of_the_pixels(tmp_path: Path) -> None:
    images = real_images(40)[:, 0]
    digest = load_dataset("mnist", write(tmp_path, x_train=images)).digest
    changed = images.copy()
    changed[7, 3, 3] ^= 1
    assert load_dataset("mnist", write(tmp_path, x_train=changed)).digest != digest
    assert load_dataset("mnist", write(tmp_path, x_train=images[:30], x_test=images[30:])).digest != digest


@pytest.mark.parametrize("data_dir", [None, Path("no-such-folder")])
def test_unknown_names(data_dir: Path | None) -> None:
    for name in ("letters", "mnist", "../mnist-mini"):
        with pytest.raises(DatasetNotFound, match=r"[Tt]here are: mnist-mini"):
            load_dataset(name, data_dir)
        with pytest.raises(DatasetNotFound, match=r"[Tt]here are: mnist-mini"):
            summarize(name, data_dir)


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnfit, match="has 9 images, at least 10 are needed"):
        load_dataset("mnist", write(tmp_path, x_train=real_images(9)[:, 0]))


@pytest.mark.parametrize("images", [np.zeros((20, 8, 8)), np.zeros((20, 64), np.uint8)], ids=["float", "flat"])
def test_arrays_that_are_no_images(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(DatasetUnfit, match="expected uint8 images"):
        load_dataset("mnist", write(tmp_path, x_train=images))


def zip_without_arrays() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    return content.getvalue()


PICKLED = np.array([{"a": 1}] * 20, dtype=object)
FOREIGN = {"empty": b"", "text": b"no zip", "zip without arrays": zip_without_arrays(),
           "bare array": npy(real_images(20)[:, 0]), "pickled": npz(x_train=PICKLED)}  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN.values(), ids=list(FOREIGN))
def test_files_that_are_no_datasets(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(DatasetUnfit, match=r"mnist\.npz"):
        load_dataset("mnist", tmp_path)
    if content != FOREIGN["pickled"]:  # whose header is sound
        with pytest.raises(DatasetUnfit, match=r"mnist\.npz"):
            summarize("mnist", tmp_path)


class TestOfficialFiles:
    """Where the full sets are there: the published splits, in the order of the files."""

    pytestmark = NEEDS_DATA

    @pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
    def test_splits(self, name: str) -> None:
        assert name in dataset_names(DATA_DIR)
        dataset = load_dataset(name, DATA_DIR)
        sizes = [len(part) for part in (dataset.train, dataset.statistics, dataset.calibration, dataset.test)]
        assert sizes == [50_000, 5_000, 5_000, 10_000]
        with np.load(DATA_DIR / f"{name.replace('-', '_')}.npz") as arrays:
            assert np.array_equal(dataset.train[:, 0], arrays["x_train"][:50_000])
            assert np.array_equal(dataset.calibration[-1, 0], arrays["x_train"][-1])
            assert np.array_equal(dataset.test[:, 0], arrays["x_test"])

    def test_mnist_mini_is_of_mnist(self) -> None:
        mini, whole = load_dataset("mnist-mini", None), load_dataset("mnist", DATA_DIR)
        train = {image.tobytes() for part in (whole.train, whole.statistics, whole.calibration) for image in part}
        assert {image.tobytes() for image in mini.train} < train
        assert {image.tobytes() for image in mini.test} < {image.tobytes() for image in whole.test}
