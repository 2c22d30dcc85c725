from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from snf_app.cli.common import fail
from snf_models.disk import new_folder
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from snf_client.schemas.training import RunDetail

OF_STEP = ("bits_per_dim", "reconstruction_error", "learning_rate", "images_per_second")
OF_RESULT = ("test_bits_per_dim", "validation_bits_per_dim", "test_nats", "reconstruction_error")


class Figure(NamedTuple):
    """One number of a training run at a step, measured at a time in seconds since 1970."""

    name: str
    step: int
    seconds: float
    value: float


def figures(detail: RunDetail) -> Iterator[Figure]:
    """Yield known values such as ``training/bits_per_dim``, training before validation, by step."""
    for kind, points in (("training", detail.points), ("validation", detail.validations)):
        for point in points:
            for name in OF_STEP:
                if (value := getattr(point, name, None)) is not None:
                    yield Figure(f"{kind}/{name}", point.step, point.time.timestamp(), value)


def results(detail: RunDetail) -> dict[str, float]:
    """Return the known results by name, such as ``result/test_bits_per_dim``."""
    result = detail.run.result
    values = {} if result is None else {f"result/{name}": getattr(result, name) for name in OF_RESULT}
    return {name: value for name, value in values.items() if value is not None}


def settings(detail: RunDetail) -> dict[str, str]:
    """Return model, dataset, preset, device and parameters of a run as texts."""
    run = detail.run
    return {"model": run.model, "dataset": run.dataset, "preset": run.preset, "device": run.device} | {
        name: str(value) for name, value in run.parameters.items()
    }


def to_tensorboard(detail: RunDetail, folder: Path) -> str:
    """Write a run to a new folder; return the command that shows it; exit with code 2 if the folder exists."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise fail("TensorBoard is not installed (pip install 'snf-density[tensorboard]')", USAGE) from error
    # By its id alone: the name of a model comes from a service, and may be a path to elsewhere.
    target = folder / detail.run.id
    if target.exists():
        raise fail(f"expected a folder without this run, got {target}; delete it to write it anew", USAGE)
    with new_folder(target) as unfinished, SummaryWriter(str(unfinished)) as writer:
        for figure in figures(detail):
            writer.add_scalar(figure.name, figure.value, figure.step, figure.seconds)
        # The name of a run within this one: its own folder.
        writer.add_hparams(settings(detail), results(detail), run_name=".")
    return f"tensorboard --logdir {folder}"
