"""Built-in datasets such as MNIST and CIFAR-10, read from their usual files with their usual splits."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np

from snf_client.schemas.datasets import ImageFacts, Split
from snf_client.schemas.training import ImageOptions
from snf_models.datasets.dataset import HELD_OUT_SHARE, MIN_IMAGES, Dataset, DatasetSummary, digest_of
from snf_models.errors import DatasetUnfit, ImageError
from snf_models.images import ARRAY, Provenance
from snf_runtime.images.codec import npy_header
from snf_runtime.images.preprocessing import CHANNELS, MAX_LEVELS, Colour, Pixels, Preprocessing, conform_pixels

FILES = {"mnist": "mnist.npz", "fashion-mnist": "fashion_mnist.npz", "cifar10": "cifar10.npz"}
MINI = "mnist-mini"
NAMES = (MINI, *FILES)
LICENCES = {
    MINI: "CC BY-SA 3.0, those of MNIST",
    "mnist": "CC BY-SA 3.0",
    "fashion-mnist": "MIT",
    "cifar10": "no formal licence; its author asks for a citation of Krizhevsky, Learning Multiple Layers of Features "
    "from Tiny Images, 2009",
}
"""Licences of the images, as their publishers state them."""
LARGE_SPLITS = {60_000: (50_000, 5_000, 5_000), 50_000: (45_000, 2_500, 2_500)}
"""Sizes of train, statistics and calibration by the number of official training images, in the order of the file."""
SEED = 0


def builtin_file(name: str, data_dir: Path | None) -> Path | None:
    """Return the file path of a built-in dataset such as ``mnist``, or None if this machine lacks the file."""
    if name == MINI:
        return Path(str(resources.files("snf_models") / "data" / MINI / "images.npz"))
    if data_dir is None or name not in FILES or not (data_dir / FILES[name]).is_file():
        return None
    return data_dir / FILES[name]


def summarize_builtin(name: str, path: Path, config: ImageOptions) -> DatasetSummary:
    """Return a built-in dataset's shape and counts without reading pixels; raise ``DatasetUnfit`` if it is damaged."""
    with _named(path), zipfile.ZipFile(path) as arrays:
        count, height, width, *channels = _shape(arrays, "x_train")
        tested = _shape(arrays, "x_test")[0] if "x_test.npy" in arrays.namelist() else 0
    train, statistics, calibration = _split_sizes(name, count)
    shape = (channels[0] if channels else 1, height, width)
    chosen = _choice(config, shape, name)
    return DatasetSummary(chosen.shape if chosen else shape, train, statistics, calibration, tested)


def load_builtin(name: str, path: Path, config: ImageOptions) -> Dataset:
    """Split official training files in their own order, other datasets 80/10/10 by a seeded permutation."""
    with _named(path), np.load(path, allow_pickle=False) as arrays:
        images = _channels_first(arrays["x_train"])
        test = _channels_first(arrays["x_test"]) if "x_test" in arrays else images[:0]
    sizes = _split_sizes(name, len(images))
    size = (images.shape[3], images.shape[2])
    chosen = _choice(config, images.shape[1:], name)
    resized = len(images) if chosen and chosen.size != size and not chosen.tiled else 0
    if chosen and chosen.shape != images.shape[1:]:
        images, test = _conformed(images, chosen, name), _conformed(test, chosen, name)
    official = len(images) in LARGE_SPLITS
    order = np.arange(len(images)) if official else np.random.default_rng(SEED).permutation(len(images))
    train, statistics, calibration = (images[part] for part in np.split(order, np.cumsum(sizes)[:2]))
    split = Split(
        rule="in-order" if official else "by-image",
        reason="the published split" if official else "the images are in no groups",
        seed=None if official else SEED,
        **dict(zip(("train", "statistics", "calibration"), sizes, strict=True)),
    )
    provenance = Provenance(formats={ARRAY: len(images)}, smallest=size, largest=size, resized=resized)
    digest = digest_of(images, test)
    return Dataset(name, train, statistics, calibration, test, digest, chosen, provenance, split)


def _choice(config: ImageOptions, shape: tuple[int, ...], name: str) -> Preprocessing | None:
    if (config.image_size, config.fit, config.colour) == (None, None, None):
        return None
    return choose_preprocessing(config, shape_facts(shape), name)


def shape_facts(shape: tuple[int, ...]) -> ImageFacts:
    """Return the facts of images of one shape ``(C, H, W)``."""
    channels, height, width = shape
    size, shorter = (width, height), min(width, height)
    return ImageFacts(
        smallest=size, largest=size, median_shorter_side=shorter, coloured=channels > 1, channels=channels
    )


MAX_MODEL_SIDE = 1024
TILE_SIDE = 256  # side of the tiles of a model with fit tiles, where image_size is unset


def choose_preprocessing(config: ImageOptions, facts: ImageFacts, name: str) -> Preprocessing:
    """Choose what the configuration leaves open to suit the images; the default size is theirs where all have one.

    >>> facts = ImageFacts(smallest=(40, 50), largest=(640, 480), median_shorter_side=51, coloured=True, channels=3)
    >>> choose_preprocessing(ImageOptions(), facts, "photos")
    Preprocessing(channels=3, height=48, width=48, fit='crop', colour='exact', levels=65536)
    """
    width, height = _size(config, facts)
    as_they_are = facts.smallest == facts.largest == (width, height)
    fit = config.fit or ("exact" if as_they_are else "crop")
    if fit == "tiles" and width != height:
        raise DatasetUnfit(f"fit tiles takes square tiles, got image_size {height}x{width}; set image_size to one side")
    if fit == "exact" and not as_they_are:
        sizes = " to ".join(dict.fromkeys("{}x{}".format(*size) for size in (facts.smallest, facts.largest)))
        raise DatasetUnfit(
            f"the images of {name} are {sizes} (width x height), fit exact takes {width}x{height} alone; "
            "set fit to crop, stretch or pad"
        )
    colour: Colour = config.colour or ("rgb" if facts.channels is None else "exact")
    channels = facts.channels if colour == "exact" else CHANNELS[colour]
    if channels is None:
        raise DatasetUnfit(f"some images of {name} are grey and some have colour; set colour to rgb or grey")
    levels = config.levels or MAX_LEVELS
    return Preprocessing(channels=channels, height=height, width=width, fit=fit, colour=colour, levels=levels)


def _size(config: ImageOptions, facts: ImageFacts) -> tuple[int, int]:
    if config.image_size is not None:
        return config.image_size[1], config.image_size[0]
    if config.fit == "tiles":
        return TILE_SIDE, TILE_SIDE
    if facts.smallest == facts.largest and max(facts.largest) <= MAX_MODEL_SIDE:
        return facts.largest
    side = min(config.automatic_side, max(4, facts.median_shorter_side // 4 * 4))
    return side, side


def _conformed(images: Pixels, preprocessing: Preprocessing, name: str) -> Pixels:
    size = images.shape[2:] if preprocessing.tiled else preprocessing.shape[1:]
    conformed = np.empty((len(images), preprocessing.channels, *size), dtype=np.uint8)
    try:
        for index, image in enumerate(images):
            conformed[index] = conform_pixels(image, preprocessing).pixels
    except ImageError as error:
        raise DatasetUnfit(f"{name}: {error.detail}") from error
    return conformed


def _split_sizes(name: str, count: int) -> tuple[int, int, int]:
    held_out = count // HELD_OUT_SHARE
    sizes = LARGE_SPLITS.get(count, (count - 2 * held_out, held_out, held_out))
    if min(sizes) < 1:
        raise DatasetUnfit(f"{name} has {count} images, at least {MIN_IMAGES} are needed")
    return sizes


def _shape(arrays: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    with arrays.open(f"{name}.npy") as header:
        return npy_header(header)[0]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        # The text of an OSError has the whole path, which must not reach a caller.
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetUnfit(f"{path.name} is not an .npz file with images in x_train: {reason}") from error


def _channels_first(images: Pixels) -> Pixels:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DatasetUnfit(f"expected uint8 images (N, H, W) or (N, H, W, C), got {images.dtype} {images.shape}")
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
