# ruff: noqa: PLC0415 - MLflow and TensorBoard are extras
"""Export of training runs to local files of MLflow and TensorBoard. Nothing is sent anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from app.cli.common import fail
from models.atomic_files import new_folder
from snf_runtime.judged_counts import USAGE

if TYPE_CHECKING:
    from snf_client.schemas import RunDetail

EXPERIMENT = "snf-density"
FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"
"""Environment variable without which MLflow 3.7 and later use no plain files."""
MAX_CHARACTERS = 6000
"""Longest value of a parameter in MLflow, which would cut longer ones without a word."""
BATCH = 1000
"""Most figures that MLflow takes at once."""
STATUS = {"finished": "FINISHED", "failed": "FAILED"}
OF_STEP = ("bits_per_dim", "reconstruction_error", "learning_rate", "images_per_second")
OF_RESULT = ("test_bits_per_dim", "validation_bits_per_dim", "test_nats", "reconstruction_error")


class Figure(NamedTuple):
    """One number measured in a training run at one training step, such as bits/dim.

    It has a name, the step, the time of the measurement in seconds since 1970, and the value.
    """

    name: str
    step: int
    seconds: float
    value: float


def figures(detail: RunDetail) -> Iterator[Figure]:
    """Yield the measured values of a training run's learning curve, each with its name, step and time.

    They have names such as ``training/bits_per_dim``. Those of training come first, then those of validation, each in
    order of their steps. Unknown values are left out.
    """
    for kind, points in (("training", detail.points), ("validation", detail.validations)):
        for point in points:
            for name in OF_STEP:
                if (value := getattr(point, name, None)) is not None:
                    yield Figure(f"{kind}/{name}", point.step, point.time.timestamp(), value)


def results(detail: RunDetail) -> dict[str, float]:
    """Return the results of a training run's model, such as test bits/dim, as a dictionary by name.

    A name is, for example, ``result/test_bits_per_dim``. Unknown results are left out.
    """
    result = detail.run.result
    values = {} if result is None else {f"result/{name}": getattr(result, name) for name in OF_RESULT}
    return {name: value for name, value in values.items() if value is not None}


def settings(detail: RunDetail) -> dict[str, str]:
    """Return a training run's settings, such as the dataset and the preset, as a dictionary of strings.

    They are model, dataset, preset, device and parameters.
    """
    run = detail.run
    return {"model": run.model, "dataset": run.dataset, "preset": run.preset, "device": run.device} | {
        name: str(value) for name, value in run.parameters.items()
    }


def to_tensorboard(detail: RunDetail, folder: Path) -> str:
    """Write a training run as TensorBoard files, and return the shell command that displays it.

    The files lie in a new folder below ``folder``, which is named by the id of the run. The command exits with code 2
    if that folder exists, or if TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("TensorBoard", "tensorboard") from error
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


def to_mlflow(detail: RunDetail, folder: Path) -> str:
    """Add a training run to a local MLflow store, and return the shell command that opens the store in MLflow.

    The store consists of the files below ``folder``. The command exits with code 2 if the store has the run already, if
    MLflow refuses the run, or if MLflow is not installed.

    After an error MLflow has the run in its bin, so that the next export of it is not refused.
    """
    # Before its import, which would report the use of MLflow to its makers. Its other stores need a database.
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", FILE_STORE: "true"}
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise _missing("MLflow", "mlflow") from error
    run, client = detail.run, MlflowClient(tracking_uri=folder.as_uri())
    known = client.get_experiment_by_name(EXPERIMENT)
    experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
    if client.search_runs([experiment], f"tags.snf_run = '{run.id}'"):
        raise fail(f"expected a store without this run, got {folder}; delete it there to write it anew", USAGE)
    tags = {"snf_run": run.id, "origin": run.origin, "mlflow.note.content": run.error or ""}
    tags |= {} if run.result is None else {"model_version": run.result.ref, "layers": run.result.architecture}
    written = client.create_run(experiment, _milliseconds(run.started.timestamp()), tags, run_name=run.model)
    identity = written.info.run_id
    end = run.ended or run.started
    asked = settings(detail)
    last = [Figure(name, run.steps or 0, end.timestamp(), value) for name, value in results(detail).items()]
    metrics = [
        Metric(figure.name, figure.value, _milliseconds(figure.seconds), figure.step)
        for figure in (*figures(detail), *last)
    ]
    try:
        client.log_batch(identity, params=[Param(name, _shortened(name, value)) for name, value in asked.items()])
        for start in range(0, len(metrics), BATCH):
            client.log_batch(identity, metrics=metrics[start : start + BATCH])
        if run.state != "unfinished":
            client.set_terminated(identity, STATUS[run.state], _milliseconds(end.timestamp()))
    except BaseException as error:
        client.delete_run(identity)
        if isinstance(error, MlflowException):
            raise fail(f"MLflow does not take run {run.id}: {error.message}", USAGE) from error
        raise
    return f"{FILE_STORE}=true mlflow ui --backend-store-uri {folder}"


EXPORTS: dict[str, Callable[[Any, Path], str]] = {"mlflow": to_mlflow, "tensorboard": to_tensorboard}


def _shortened(name: str, value: str) -> str:
    """Return a value at most as long as MLflow takes it; say so if a part is left out."""
    if len(value) > MAX_CHARACTERS:
        typer.echo(f"snf: MLflow takes {MAX_CHARACTERS} characters; of {name} {len(value)} are cut to these", err=True)
    return value[:MAX_CHARACTERS]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _missing(program: str, extra: str) -> typer.Exit:
    return fail(f"{program} is not installed (pip install 'snf-density[{extra}]')", USAGE)
