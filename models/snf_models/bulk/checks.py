"""Check that a model can score images of a dataset. The module does not import torch."""

from __future__ import annotations

from pathlib import Path

from snf_client.schemas.datasets import DatasetReport
from snf_models.datasets.builtin import builtin_file, summarize_builtin
from snf_models.datasets.store import DatasetStore
from snf_models.errors import DatasetUnfit
from snf_models.training.config import TrainingConfig
from snf_runtime.images.preprocessing import GREY_MODES, Preprocessing


def require_scorable(name: str, preprocessing: Preprocessing, data_dir: Path | None, store: DatasetStore) -> None:
    """Raise ``DatasetUnfit`` unless one size and one colour mode of the dataset, as far as known, fit the model."""
    path = builtin_file(name, data_dir)
    if path is not None:
        channels, height, width = summarize_builtin(name, path, TrainingConfig()).image_shape
        sizes, colours = {(width, height)}, {channels}
    elif not store.is_inspected(name):
        return  # sizes and colours are not known before the images are read
    else:
        report = store.report(name)
        sizes, colours = _sizes(report), _colours(report)
    problems = []
    if preprocessing.fit == "exact" and sizes and preprocessing.size not in sizes:
        problems.append(f"the model takes {_text({preprocessing.size})} pixels alone, the images have {_text(sizes)}")
    if preprocessing.colour == "exact" and preprocessing.channels not in colours:
        found = " or ".join(map(str, sorted(colours)))
        problems.append(f"the model takes {preprocessing.channels} channel(s) alone, the images have {found}")
    if problems:
        raise DatasetUnfit(f"{name} has no image that the model can score: {'; '.join(problems)}")


def _sizes(report: DatasetReport) -> set[tuple[int, int]]:
    """Return the sizes of a dataset's images; an empty set if there are more than its report lists."""
    sizes = {(size.width, size.height) for size in report.sizes}
    return sizes if len(sizes) == report.different_sizes else set()


def _colours(report: DatasetReport) -> set[int]:
    """Return the numbers of channels of models without conversion that take at least one of a dataset's images."""
    colours = {4} if "RGBA" in report.modes else set()
    if report.modes.keys() - GREY_MODES:
        colours.add(3)
    return colours | ({1} if report.coloured < report.images else set())


def _text(sizes: set[tuple[int, int]]) -> str:
    shown = [f"{width}x{height}" for width, height in sorted(sizes)]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} other sizes" if len(shown) > 5 else "")
