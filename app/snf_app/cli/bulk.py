# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    DEFAULT_MODEL,
    INTERRUPTED,
    Json,
    error_messages,
    fail,
    read_settings,
    registry,
    require_local,
    stop_on_signals,
)
from snf_app.cli.judging_model import JudgingModel
from snf_app.cli.model_locations import is_url, open_at_location
from snf_app.cli.out_file import ADVICE
from snf_app.cli.progress import bytes_bar, images_bar, labelled_bar
from snf_app.cli.remarks import print_notes
from snf_app.cli.score import Alpha
from snf_app.cli.score_to_file import ScoringRate, print_summary
from snf_runtime.judged_counts import USAGE, JudgedCounts
from snf_worker.process_setup import user_umask

if TYPE_CHECKING:
    from snf_models.artifacts.manifest import CalibrationSummary, Manifest
    from snf_models.bulk.engines import BulkEngine
    from snf_models.bulk.part_tables import PartSummary
    from snf_models.bulk.work import BulkWork, Images
    from snf_models.datasets.image_source import ImageSource
    from snf_models.loading.model_files import ModelFiles
    from snf_models.locations.location import Location


@dataclass(frozen=True)
class BulkModel:
    """Model of ``snf bulk``, from the registry of this machine or from a location."""

    judging: JudgingModel  # name and calibration
    files: ModelFiles  # on this machine
    manifest: Manifest
    summary: CalibrationSummary  # of its calibration


def bulk(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of image files, tar files or Parquet files: a path, or a URL such as s3://bucket/folder. Or "
            "the name of a dataset of this machine.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the scores, one Parquet file for each part of the images: a path or a URL such as "
            "s3://bucket/scores. An interrupted command goes on when it is repeated.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Model as NAME, NAME:VERSION or NAME@ALIAS, or URL of the folder that `snf models export` wrote.",
            autocompletion=completion.models,
        ),
    ] = DEFAULT_MODEL,
    alpha: Alpha = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="On this machine, or on the Ray cluster at SNF_RAY_ADDRESS."),
    ] = "local",
    processes: Annotated[int, typer.Option("--processes", min=1, max=1024, help="Processes of the local engine.")] = 1,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option(
            "--fail-on-anomaly", help="Exit with code 1 if an image is an anomaly and every image was judged."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Delete scores of another model or of other images in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score any number of images into a folder of Parquet files, without a service.

    Images are read where they are.
    """
    require_local("snf bulk", "a service does this by a job of type score with the parameter `output`")
    if engine == "ray" and processes != 1:
        raise fail("--processes: of the engine local; a Ray cluster has an actor for each core or GPU", USAGE)
    settings = read_settings(writes=True)  # before the imports of the work, in which an invalid setting has no message
    with error_messages(), _interruptible(), stop_on_signals() as stop:
        from snf_models.bulk.engine_choice import choose_engine
        from snf_models.bulk.engines import bulk_engine
        from snf_models.bulk.output import open_output, plan_at
        from snf_models.bulk.plan import BulkPlan
        from snf_models.bulk.sources import chosen_part_size
        from snf_models.bulk.work import BulkWork
        from snf_models.disk import make_folder
        from snf_models.errors import PlanDiffers
        from snf_models.loading.model_files import content_digest
        from snf_models.locations.location import Location
        from snf_runtime.anomaly.conformal import attainable_alpha

        runner = bulk_engine(engine, processes, settings.ray_address)
        chosen = find_model(model)
        place = Location.parse(out)
        label, source = find_images(images, place, stop.is_set)
        opened = source.open(chosen.manifest.preprocessing)
        plan = BulkPlan(
            model=chosen.judging.ref,
            weights_sha256=chosen.manifest.log_dets.weights_sha256,
            kind=chosen.manifest.architecture.kind,
            calibration=chosen.judging.calibration,
            dataset=label,
            source_digest=opened.digest,
            alpha=attainable_alpha(alpha, chosen.summary.smallest_p),
            count=opened.count,
            images_per_part=chosen_part_size(opened),
            model_sha256=content_digest(chosen.files.path, chosen.files.calibration),
            precision=chosen.files.options.precision or chosen.summary.precision,
        )
        plan, files = choose_engine(plan, chosen.files, plan_at(place))
        _require_suitable(opened, plan.model)
        make_folder(settings.home / "cache")  # before the umask changes: what is compiled there stays private
        with user_umask():
            try:
                output = open_output(place, plan, force=force)
            except PlanDiffers as error:
                raise fail(f"--out: {error.detail}; {ADVICE}", USAGE) from error
            summary, rate = _score(BulkWork(output, files, source), runner, stop.is_set)
    print_summary(summary, rate, plan.model, output.location.url, as_json=as_json)
    print_notes(chosen.judging.warnings, to_stderr=True)
    counts = JudgedCounts(summary.images - summary.errors, summary.anomalies, summary.errors)
    typer.echo(counts.text, err=True)
    raise typer.Exit(counts.exit_code(fail_on_anomaly=fail_on_anomaly))


def find_model(model: str) -> BulkModel:
    """Return the model of a reference in this machine's registry or of a folder's URL; raise ``ModelsError``."""
    from snf_models.artifacts.manifest import read_manifest
    from snf_models.loading.model_files import ModelFiles
    from snf_models.locations.location import Location

    options = read_settings().engine_options
    if is_url(model):
        path = open_at_location(model)
        manifest = read_manifest(path)
        files = ModelFiles(path, None, options, Location(model))
        return BulkModel(JudgingModel(model, 0), files, manifest, manifest.calibration)
    version = registry().resolve(model)
    files = ModelFiles(version.path, version.calibration_path, options)
    return BulkModel(JudgingModel.of_version(version), files, version.manifest, version.calibration_summary)


def find_images(text: str, out: Location, should_stop: Callable[[], bool]) -> tuple[str, Images]:
    """Return the name or URL of the images, and their reader; ``out`` must not be among them; raise ``Stopped``."""
    from snf_models.bulk.part import Stopped
    from snf_models.bulk.sources import DatasetImages, index_location
    from snf_models.datasets import DatasetStore, dataset_names
    from snf_models.errors import DatasetNotFound
    from snf_models.locations.location import Location
    from snf_models.texts import choices

    settings = read_settings()
    names = dataset_names(settings.data_dir, DatasetStore(settings.datasets_dir))
    if text in names:
        if Path(text).is_dir():
            raise fail(f"{text} is a dataset and a folder: the folder is ./{text}", USAGE)
        return text, DatasetImages(text, settings.data_dir, settings.datasets_dir)
    if not is_url(text) and not Path(text).exists():
        raise DatasetNotFound(f"expected a path, a URL or a dataset, got {text!r}; {choices(text, names)}")
    location = Location.parse(text)
    if f"{out}/".startswith(f"{location}/"):
        raise fail(f"--out: expected a folder outside of the images at {location}, got {out}", USAGE)
    with bytes_bar("indexing the images", "indexing the images") as update:

        def progress(done: int, total: int) -> None:
            if should_stop():
                raise Stopped("indexing was stopped")
            update(done, total)

        return location.url, index_location(location, settings.home / "cache" / "references", progress)


def _require_suitable(images: ImageSource, model: str) -> None:
    """Exit with code 2 if the model takes none of the first images, for their size or colour."""
    from snf_models.errors import ImageError
    from snf_models.score_rows.judged_rows import BATCH, batches_of

    first = [image for _, image in next(batches_of(images.read(0, min(BATCH, images.count))), [])]
    errors = [image for image in first if isinstance(image, ImageError) and image.slug == "wrong-image-shape"]
    if errors and len(errors) == len(first):
        raise fail(f"{model} takes none of the first {len(first)} images: {errors[0].detail}", USAGE)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Exit with code 130 where the work was stopped."""
    from snf_models.bulk.part import Stopped

    try:
        yield
    except Stopped as error:
        raise fail("interrupted; repeat the command to continue", INTERRUPTED) from error


def _score(work: BulkWork, engine: BulkEngine, should_stop: Callable[[], bool]) -> tuple[PartSummary, ScoringRate]:
    from snf_models.bulk.callbacks import Callbacks
    from snf_models.bulk.completion import complete

    plan, began = work.output.plan, time.monotonic()
    notice = partial(typer.echo, err=True)
    scored = 0

    def score(missing: list[int]) -> None:
        nonlocal scored
        images = plan.images_in(missing)
        with images_bar("scoring", plan.count, done=plan.count - images) as advance:
            engine.run(work, missing, Callbacks(should_stop, advance, notice=notice))
        scored += images

    def finish() -> PartSummary:
        with labelled_bar() as bar:
            return work.output.finish(should_stop, partial(bar, "checking the parts"))

    summary = complete(work.output.missing, score, finish, notice)
    return summary, ScoringRate(scored, time.monotonic() - began)
