"""Trainings, evaluations, detection limits and recommendations that are computed in this process."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import typer

from snf_app.cli.common import fail, interruptible, read_settings
from snf_app.cli.job_tables import print_outcome
from snf_app.cli.live import live_view
from snf_app.cli.output import ADVICE, events_bar, labelled_bar, spinner
from snf_app.cli.service import Session
from snf_client.schemas.evaluations import EvaluationParameters, EvaluationReport
from snf_client.schemas.limits import LimitParameters, LimitRecord
from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters
from snf_client.schemas.training import ImageOptions
from snf_models.datasets import DatasetStore, load_dataset
from snf_models.errors import ArtifactError, FolderTaken, Interrupted
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.exports import export_model, require_export
from snf_models.limits.good_images import good_images
from snf_models.limits.measure import measure_limits
from snf_models.pipeline.presets import TrainingRecipe
from snf_models.pipeline.run import begun_config
from snf_models.pipeline.run import train as run
from snf_models.recommendation.compare import compare_families
from snf_models.registry.registry import ModelVersion, Registry
from snf_models.scorer import Scorer, load_model
from snf_models.training.distributed import Ranks, ranks_of_torchrun
from snf_runtime.errors import USAGE
from snf_worker.jobs.record import new_job
from snf_worker.jobs.runs import recorded_run
from snf_worker.process_setup import user_umask
from snf_worker.settings import Settings


def train_here(
    session: Session,
    data: str,
    name: str,
    recipe: TrainingRecipe,
    parameters: dict[str, Any],
    folder: Path | None,
    device: str,
    *,
    promote: bool,
    restart: bool,
) -> None:
    """Train and register a model, and print what was registered; Ctrl-C leaves a checkpoint."""
    settings = read_settings(writes=True)
    given, folder = folder, folder or settings.home / "runs" / name
    advice = f"the checkpoint is in {folder}"
    with output_of_first_process(), interruptible(advice) as stop, ranks_of_torchrun(device) as ranks:
        if restart:
            _set_aside(folder, ranks)
        config = begun_config(folder, recipe, parameters)
        dataset = load_dataset(data, settings.data_dir, _datasets(settings), config)
        job = new_job(
            origin="command",
            model=name,
            dataset=data,
            preset=recipe.name,
            parameters=config.model_dump(mode="json", include=set(recipe.parameters)),
            device=device,
        )
        try:
            with recorded_run(job, settings, folder, write=ranks.first) as record:
                with nullcontext() if given is None else user_umask(), live_view(session.as_json) as show:
                    artifact = run(
                        dataset,
                        recipe,
                        config,
                        folder,
                        observe=record.passing_on(show),
                        should_stop=stop.is_set,
                        threads=settings.train_threads,
                        device=device,
                        ranks=ranks,
                        engine=settings.job_engine_options,
                    )
                if not ranks.first:
                    return
                models = Registry(settings.registry_dir)
                version = models.publish(artifact, name, promote=promote)
                live = models.live_version(name)
                if problem := record.published(version, live=live == version.version):
                    typer.echo(f"snf: {problem}", err=True)
        except FolderTaken as error:
            advice = "Give the same settings to continue it, --restart to begin anew, or another --folder"
            raise fail(f"{error.detail}. {advice}", USAGE) from error
        if given is None:
            # With these checkpoints the next training of this name would end at once.
            shutil.rmtree(folder)
    print_version(session, version, live)


def print_version(session: Session, version: ModelVersion, live: int | None) -> None:
    """Print a new version and the ``live`` one, as a line of text or an event ``published``."""
    published: dict[str, Any] = {
        "model": version.name,
        "version": version.version,
        "ref": f"{version.name}:{version.version}",
    }
    published |= {"live": live == version.version, "live_version": live}
    published["smallest_p"] = version.manifest.calibration.smallest_p
    published["unfit"] = [{"code": check.code, "detail": check.sentence} for check in version.manifest.unfit]
    if session.as_json:
        typer.echo(json.dumps({"event": "published", **published}))
    else:
        print_outcome(published, session.option)


def _set_aside(folder: Path, ranks: Ranks) -> None:
    """Rename the folder of an earlier run, if there is one, to the first free name with ``~`` and a number."""
    if ranks.first and folder.exists():
        folder = folder.absolute()
        number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}~{n}").exists())
        aside = folder.rename(folder.with_name(f"{folder.name}~{number}"))
        typer.echo(f"the earlier run is now in {aside}", err=True)
    ranks.value_of_first(0.0)  # the others wait


@contextmanager
def output_of_first_process() -> Iterator[None]:
    """Discard stdout and stderr in every ``torchrun`` process but the first."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def evaluate_here(model: str, normal: str, parameters: EvaluationParameters) -> EvaluationReport:
    settings = read_settings()
    version, scorer = _load(model, settings)
    subject = Subject(
        scorer=scorer,
        model=f"{version.name}:{version.version}",
        dataset=normal,
        parameters=parameters,
        data_dir=settings.data_dir,
        store=_datasets(settings),
        calibration=version.calibration,
    )
    with _progress("the evaluation") as progress:
        return evaluate(subject, progress)


def limit_here(model: str, data: str | None, parameters: LimitParameters) -> tuple[int, LimitRecord]:
    """Measure detection limits; return the number and the record of the stored measurement."""
    settings = read_settings(writes=True)
    version, scorer = _load(model, settings)
    # Refused before images are loaded.
    scorer.calibration.check_alpha(parameters.alpha)
    summary = scorer.calibration_summary
    good = good_images(
        data or summary.dataset, scorer.manifest, summary, parameters.images, settings.data_dir, _datasets(settings)
    )
    with _progress("the measurement") as progress:
        record = measure_limits(scorer, good, parameters, progress=progress, calibration=version.calibration)
    limits = Registry(settings.registry_dir).limits(version.name, version.version)
    return limits.publish(record), record


def recommend_here(name: str, parameters: RecommendParameters) -> RecommendationRecord:
    settings = read_settings(writes=True)
    images = ImageOptions.model_validate(parameters.image_settings)
    data = load_dataset(name, settings.data_dir, _datasets(settings), images)
    folder = settings.home / "recommendations" / name
    with interruptible("the same command continues the comparison") as stop, events_bar() as observe:
        record = compare_families(
            data,
            parameters,
            folder,
            observe=observe,
            should_stop=stop.is_set,
            options=settings.job_engine_options,
            threads=settings.train_threads,
        )
    shutil.rmtree(folder)
    return record


def _load(model: str, settings: Settings) -> tuple[ModelVersion, Scorer]:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    version = Registry(settings.registry_dir).resolve(model)
    return version, load_model(version.path, version.calibration_path, settings.engine_options)


def _datasets(settings: Settings) -> DatasetStore:
    return DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a progress bar's function, which ends the command with code 130 after Ctrl-C."""
    with interruptible(f"{what} starts anew when it is repeated") as stop, labelled_bar() as update:

        def progress(label: str, done: int, total: int) -> None:
            if stop.is_set():
                raise Interrupted("asked to stop")
            update(label, done, total)

        yield progress


def export_here(model: str, folder: Path, form: Literal["openvino", "onnx"], *, force: bool) -> None:
    """Export a model for the runner, and print its size."""
    _check_folder(folder, force=force)
    settings = read_settings()
    version = Registry(settings.registry_dir).resolve(model)
    with spinner(f"exporting {model}"), user_umask():
        # The stored image is scored by the engine of the runner, whatever the engine of the service is.
        options = replace(settings.engine_options, name="openvino", device="cpu")
        scorer = load_model(version.path, version.calibration_path, options)
        manifest = export_model(version, scorer, folder.absolute(), form, overwrite=force)
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    calibration = f"calibration {manifest.calibration.number} of {manifest.calibration.images} images"
    typer.echo(f"{version.name}:{version.version} with {calibration} is in {folder}, {size:.1f} MB")


def _check_folder(folder: Path, *, force: bool) -> None:
    if not folder.absolute().parent.is_dir():
        raise fail(f"expected a folder below one that exists, got {folder}; create {folder.parent} first", USAGE)
    if not (folder.exists() or folder.is_symlink()):
        return
    if not force:
        raise fail(f"{folder} exists already; {ADVICE}", USAGE)
    try:
        require_export(folder)
    except ArtifactError as error:
        raise fail(f"{folder} is no exported model, and is not written over: {error.detail}", USAGE) from error
