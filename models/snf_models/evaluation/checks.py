"""Checks that datasets can serve an evaluation, without decoding images. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from snf_client.schemas.datasets import ImageFacts
from snf_models.datasets.builtin import builtin_file, summarize_builtin
from snf_models.datasets.store import DatasetStore, dataset_names
from snf_models.errors import DatasetNotFound, DatasetUnfit
from snf_models.texts import choices
from snf_models.training.config import TrainingConfig
from snf_runtime.images.preprocessing import Colour, Preprocessing

MIN_NORMAL_IMAGES = 40
MIN_ANOMALOUS_IMAGES = 2


def check_normals(
    name: str,
    used: Sequence[str],
    preprocessing: Preprocessing,
    adapt: bool,
    data_dir: Path | None,
    store: DatasetStore | None,
) -> None:
    """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for images that are too few, do not fit or were used before."""
    if not adapt:
        check_shape(name, preprocessing, data_dir, store)
    path = builtin_file(name, data_dir)
    if path is not None:
        if not summarize_builtin(name, path, TrainingConfig()).test:
            raise DatasetUnfit(f"{name} has no test images; upload held-out images as a dataset of their own")
        return
    if store is None or not store.has(name):
        raise not_found(name, data_dir, store)
    if name in used:
        raise DatasetUnfit(
            f"the model was trained or calibrated on {name}: its p-values come from these images, so false alarms on "
            "them would mean nothing; upload held-out images as a dataset of their own"
        )
    images = store.report(name).images
    if images < MIN_NORMAL_IMAGES:
        raise DatasetUnfit(f"{name} has {images} images; at least {MIN_NORMAL_IMAGES} normal images are needed")


def check_anomalous(
    name: str,
    normal: str,
    preprocessing: Preprocessing,
    adapt: bool,
    data_dir: Path | None,
    store: DatasetStore | None,
) -> None:
    """Raise ``DatasetNotFound``, or ``DatasetUnfit`` for the normal dataset or one that does not fit."""
    if name == normal:
        raise DatasetUnfit(f"{name} is the dataset of normal images")
    if not adapt:
        check_shape(name, preprocessing, data_dir, store)
    path = builtin_file(name, data_dir)
    if path is not None:
        if summarize_builtin(name, path, TrainingConfig()).test < MIN_ANOMALOUS_IMAGES:
            raise DatasetUnfit(f"{name} has no test images")
    elif store is None or not store.has(name):
        raise not_found(name, data_dir, store)
    else:
        store.require_inspected(name)


def check_shape(name: str, preprocessing: Preprocessing, data_dir: Path | None, store: DatasetStore | None) -> None:
    """Raise ``DatasetUnfit`` if the model does not accept the size or colour mode of an image."""
    path = builtin_file(name, data_dir)
    if path is not None:
        channels, height, width = summarize_builtin(name, path, TrainingConfig()).image_shape
        size, colour = (width, height), channels > 1
        facts = ImageFacts(
            smallest=size, largest=size, median_shorter_side=min(size), coloured=colour, channels=channels
        )
    elif store is not None and store.has(name):
        facts = store.report(name).facts
    else:
        raise not_found(name, data_dir, store)
    problems = []
    if preprocessing.fit == "exact" and (facts.smallest, facts.largest) != (preprocessing.size,) * 2:
        width, height = preprocessing.size
        (low_w, low_h), (high_w, high_h) = facts.smallest, facts.largest
        problems.append(f"they are {low_w}x{low_h} to {high_w}x{high_h}, the model takes {width}x{height}")
    if preprocessing.colour == "exact" and facts.channels != preprocessing.channels:
        have = "partly in colour" if facts.channels is None else "in colour" if facts.coloured else "grey"
        problems.append(f"they are {have}, the model takes {preprocessing.channels} channel(s)")
    if problems:
        raise DatasetUnfit(f"{name}: {'; '.join(problems)}; the option adapt converts size and colour")


def adapted(preprocessing: Preprocessing, adapt: bool) -> Preprocessing:
    """Return a preprocessing that, with ``adapt``, converts images that it would refuse."""
    if not adapt:
        return preprocessing
    colours: dict[int, Colour] = {1: "grey", 3: "rgb"}
    colour = colours.get(preprocessing.channels, "exact")
    return replace(
        preprocessing,
        fit="stretch" if preprocessing.fit == "exact" else preprocessing.fit,
        colour=colour if preprocessing.colour == "exact" else preprocessing.colour,
    )


def not_found(name: str, data_dir: Path | None, store: DatasetStore | None) -> DatasetNotFound:
    return DatasetNotFound(f"{name!r} does not exist; {choices(name, dataset_names(data_dir, store))}")
