"""Bulk scoring by ``snf bulk``, into a folder of parts, and by ``snf score --out``, into one table."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    DEFAULT_MODEL,
    EXIT_CODES,
    FailOnAnomaly,
    Json,
    error_messages,
    fail,
    interruptible,
    print_json,
    read_settings,
    require_local,
)
from snf_app.cli.job_tables import job_counts
from snf_app.cli.model_files import is_url, open_at_location
from snf_app.cli.output import ADVICE, ENDINGS, bytes_bar, check_new, duration, images_bar, labelled_bar, print_facts
from snf_app.cli.score_output import JudgingModel, Remarks, judging_model, preprocessing_note, print_notes, registry
from snf_app.cli.service import Session
from snf_client import Client
from snf_client.schemas.jobs import JobView
from snf_client.scores import ImageResult
from snf_models.artifacts.manifest import read_manifest
from snf_models.bulk.executors import Callbacks, ThisProcess, executor
from snf_models.bulk.output import Output, complete, open_output, open_scratch, plan_at, stored_output
from snf_models.bulk.plan import FILES, BulkPlan
from snf_models.bulk.tables import PartSummary, convert_table, read_warnings, table_of
from snf_models.bulk.work import BulkModel, BulkWork, Images, choose_engine
from snf_models.datasets import DatasetStore, dataset_names
from snf_models.datasets.image_source import DatasetImages, ImageFiles, ImageSource, index_location
from snf_models.disk import make_folder
from snf_models.errors import DatasetNotFound, ImageError, Interrupted, PlanDiffers
from snf_models.loading.verification import ModelFiles
from snf_models.locations.location import Location
from snf_models.score_rows import Row, failed_row, scored_row
from snf_models.texts import choices
from snf_runtime.anomaly.calibration import attainable_alpha
from snf_runtime.errors import USAGE, JudgedCounts
from snf_runtime.images.batch import BATCH, batches_of
from snf_runtime.images.files import path_text
from snf_worker.process_setup import user_umask

CONTINUES = "repeat the command to continue"
Run = Callable[[list[int], Callbacks], None]

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog=EXIT_CODES)
def bulk(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of image files, tar files or Parquet files: a path, or a URL such as s3://bucket/folder. Or "
            "the name of a dataset of this machine.",
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
    alpha: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="False-alarm rate.")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="On this machine, or on the Ray cluster at SNF_RAY_ADDRESS.")
    ] = "local",
    processes: Annotated[int, typer.Option(min=1, max=1024, help="Processes of the local engine.")] = 1,
    fail_on_anomaly: FailOnAnomaly = False,
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
    settings = read_settings(writes=True)
    with error_messages(), interruptible(CONTINUES) as stop:
        runner = executor(engine, processes, settings.ray_address)
        judging, chosen = find_model(model)
        place = Location.parse(out)
        label, source = find_images(images, place, stop.is_set)
        opened = source.open(chosen.manifest.preprocessing)
        plan, files, scorer = choose_engine(chosen.plan(label, opened, alpha), chosen.files, plan_at(place))
        if runner == ThisProcess():
            runner = ThisProcess(scorer)
        _require_suitable(opened, plan.model)
        make_folder(settings.home / "cache")  # before the umask changes: what is compiled there stays private
        with user_umask():
            try:
                output = open_output(place, plan, force=force)
            except PlanDiffers as error:
                raise fail(f"--out: {error.detail}; {ADVICE}", USAGE) from error

            def finish() -> PartSummary:
                with labelled_bar() as bar:
                    return output.finish(stop.is_set, partial(bar, "checking the parts"))

            summary, seconds = _score(output, partial(runner.run, BulkWork(output, files, source)), stop.is_set, finish)
    counts = _report(summary, seconds, plan.model, output.location.url, judging.warnings, as_json=as_json)
    typer.echo(counts.text, err=True)
    raise typer.Exit(counts.exit_code(fail_on_anomaly=fail_on_anomaly))


@dataclass(frozen=True)
class TableRequest:
    """Options of a run of ``snf score --out``."""

    files: list[Path]
    out: Path
    model: str
    alpha: float | None  # false-alarm rate; None for that of the model
    source: str | None  # source of the images, for a service
    force: bool  # whether parts of another command are deleted


def score_to_table(session: Session, request: TableRequest) -> JudgedCounts:
    """Write a table of scores of image files, and print the counts; the same command continues an interrupted run."""
    out, folder = request.out, request.out.absolute().parent / f".{request.out.name}.parts"
    with interruptible(CONTINUES) as stop:
        remote = bool(session.url)
        scorer: LocalScorer | ServiceScorer = ServiceScorer(request, session.client) if remote else LocalScorer(request)
        stored = plan_at(Location.parse(str(folder)))
        plan = scorer.plan(stored)
        if stored not in (None, plan) and any(folder.glob("part-*.parquet")) and not request.force:
            raise fail(
                f"--out: an interrupted command left {stored.label} for {out}, and this is another command, or a file "
                f"has changed; repeat the former one, {ADVICE}",
                USAGE,
            )
        output = open_scratch(folder, plan)

        def finish() -> PartSummary:
            output.finish()
            with user_umask():
                return output.merge(out)

        summary, seconds = _score(output, partial(scorer.run, output), stop.is_set, finish)
        remarks = Remarks()
        for file in output.files():
            for name, text in read_warnings(file):
                remarks.add(text, name)
        shutil.rmtree(folder)
    notes = [*scorer.judging.warnings, *remarks.lines]
    return _report(summary, seconds, plan.model, str(out), notes, as_json=session.as_json)


class LocalScorer:
    """Scorer of image files in this process."""

    def __init__(self, request: TableRequest) -> None:
        self.judging, self._chosen = find_model(request.model)
        self._images = ImageFiles(tuple(request.files))
        self._alpha = request.alpha

    def plan(self, stored: BulkPlan | None) -> BulkPlan:
        source = self._images.open(self._chosen.manifest.preprocessing)
        plan = self._chosen.plan(FILES, source, self._alpha)
        plan, self._files, self._scorer = choose_engine(plan, self._chosen.files, stored)
        return plan

    def run(self, output: Output, missing: list[int], callbacks: Callbacks) -> None:
        ThisProcess(self._scorer).run(BulkWork(output, self._files, self._images), missing, callbacks)


class ServiceScorer:
    """Scorer by a service, several requests at a time."""

    def __init__(self, request: TableRequest, client: Client) -> None:
        self._request, self._client = request, client
        self._detail = client.models.get(request.model)
        self.judging = JudgingModel.of_detail(self._detail)

    def plan(self, stored: BulkPlan | None) -> BulkPlan:
        """Return the plan; exit with code 2 if the model's calibration cannot judge images."""
        detail, images = self._detail, ImageFiles(tuple(self._request.files))
        if detail.calibration.smallest_p is None:
            raise fail(f"{self.judging.label} cannot judge: {detail.calibration.problem}", USAGE)
        plan = BulkPlan(
            model=self.judging.ref,
            weights_sha256=str(detail.manifest["log_dets"]["weights_sha256"]),
            kind=detail.kind,
            calibration=self.judging.calibration,
            dataset=FILES,
            source_digest=images.digest,
            alpha=attainable_alpha(self._request.alpha, detail.calibration.smallest_p),
            count=len(images.paths),
            engine=detail.serving and detail.serving.engine,
            precision=detail.serving and detail.serving.precision,
        )
        return plan.resumed(stored)

    def run(self, output: Output, missing: list[int], callbacks: Callbacks) -> None:
        """Score parts; exit with code 3 if the calibration has changed."""
        request = self._request
        for index in missing:
            paths = request.files[slice(*output.plan.range(index))]
            rows: list[Row] = []
            # The rate as it was asked for: the default stays the default where the service compares calibrations.
            scores = self._client.score_parts(output.plan.model, paths, alpha=request.alpha, source=request.source)
            with closing(scores) as answers:
                for answer in answers:
                    self.judging.check_scores(answer)
                    rows += map(_row, paths[len(rows) :], answer.results)
                    callbacks.advance(len(answer.results))
                    if callbacks.should_stop():
                        raise Interrupted("asked to stop")
            output.write(index, table_of(rows))


def _row(path: Path, result: ImageResult) -> Row:
    if result.status != "ok":
        return failed_row(path_text(path), result.error.type, result.error.detail)
    note = preprocessing_note(result) or None
    return scored_row(path_text(path), result.log_likelihood, result.bits_per_dim, result.anomaly, note)


def find_model(model: str) -> tuple[JudgingModel, BulkModel]:
    """Return the model of a reference in this machine's registry or of a folder's URL; raise ``ModelsError``."""
    options = read_settings().engine_options
    if is_url(model):
        path = open_at_location(model)
        manifest = read_manifest(path)
        files = ModelFiles(path, None, options, Location(model))
        return JudgingModel(model, 0), BulkModel(model, 0, files, manifest, manifest.calibration)
    version = registry().resolve(model)
    return JudgingModel.of_version(version), BulkModel.of_version(version, options)


def find_images(text: str, out: Location, should_stop: Callable[[], bool]) -> tuple[str, Images]:
    """Return the name or URL of the images, and their reader; ``out`` must not be among them; raise ``Interrupted``."""
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
                raise Interrupted("indexing was stopped")
            update(done, total)

        return location.url, index_location(location, settings.home / "cache" / "references", progress)


def _require_suitable(images: ImageSource, model: str) -> None:
    """Exit with code 2 if the model takes none of the first images, for their size or colour."""
    first = [image for _, image in next(batches_of(images.read(0, min(BATCH, images.count))), [])]
    errors = [image for image in first if isinstance(image, ImageError) and image.slug == "wrong-image-shape"]
    if errors and len(errors) == len(first):
        raise fail(f"{model} takes none of the first {len(first)} images: {errors[0].detail}", USAGE)


def _score(
    output: Output, run: Run, should_stop: Callable[[], bool], finish: Callable[[], PartSummary]
) -> tuple[PartSummary, tuple[int, float]]:
    """Score all missing parts; return the counts, and the number and seconds of the images that this run scored."""
    plan, began = output.plan, time.monotonic()
    notice = partial(typer.echo, err=True)
    scored = 0

    def score(missing: list[int]) -> None:
        nonlocal scored
        images = plan.images_in(missing)
        with images_bar("scoring", plan.count, done=plan.count - images) as advance:
            run(missing, Callbacks(should_stop, advance, notice=notice))
        scored += images

    summary = complete(output, score, finish, notice)
    return summary, (scored, time.monotonic() - began)


def _report(
    summary: PartSummary, scored: tuple[int, float], model: str, out: str, notes: Iterable[str], *, as_json: bool
) -> JudgedCounts:
    images, seconds = scored
    rate = images / max(seconds, 1e-9)
    if as_json:
        counts = {"images": summary.images, "anomalies": summary.anomalies, "errors": summary.errors}
        numbers = {"seconds": round(seconds, 3), "images_per_second": round(rate, 1)}
        print_json({"model": model, "out": out, **counts, **numbers})
    else:
        facts = {
            "images": str(summary.images),
            "anomalies": str(summary.anomalies),
            "not judged": str(summary.errors),
            "time": duration(seconds),
            "images/s": f"{rate:.1f}" if images else "all were scored before",
        }
        print_facts(facts, f"{model} -> {out}")
    print_notes(notes, to_stderr=True)
    return JudgedCounts(summary.images - summary.errors, summary.anomalies, summary.errors)


def score_dataset(session: Session, dataset: str, out: Path, model: str, alpha: float | None) -> JudgedCounts:
    """Score a dataset by a job of a service, save the table, and return the counts."""
    session.in_process = False  # a job needs a service, without --url that of this machine
    client = session.client
    judging = judging_model(model, session)
    # The same version and calibration as those that the warnings are about.
    parameters: dict[str, Any] = {"calibration": judging.calibration} | ({} if alpha is None else {"alpha": alpha})
    job = client.jobs.score(dataset, judging.ref, parameters=parameters)
    download = f"snf jobs download {job.id}{session.option}"
    typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job: `{download}` fetches its table", err=True)
    with labelled_bar() as bar:

        def observe(event: dict[str, Any]) -> None:
            if event["event"] == "metrics":
                bar(f"scoring {dataset}", event["step"], event["steps"])

        job = session.follow(job.id, observe)
        fetch_table(client, job.id, out)
    result = {"job": job.id, "model": job.model, "out": str(out), **(job.result or {})}
    session.print(result, lambda _: typer.echo(f"the table is in {out}"))
    print_notes(judging.warnings, to_stderr=True)
    return job_counts(job.result or {})


def download_table(client: Client, job: JobView, out: Path, *, force: bool) -> None:
    """Save a job's table; exit with code 2 for other jobs, a wrong ``out`` or, without ``force``, one that exists."""
    if job.type != "score":
        raise fail(f"expected a job of type score, which has a table; {job.id} is of type {job.type}", USAGE)
    check_new(out, ENDINGS, force=force)
    result = job.result or {}
    if "output" not in result:
        fetch_table(client, job.id, out)
        return
    # Join the Parquet files that the job wrote to a location into one table, read from this machine.
    counts = PartSummary(result["images"], result["errors"], result["anomalies"])
    with error_messages(), user_umask():
        stored_output(Location(result["output"]), result["plan"]).merge(out.absolute(), counts)


def fetch_table(client: Client, job_id: str, out: Path) -> None:
    """Download a job's Parquet table, and convert it to the format of the ending of ``out``."""
    with user_umask():
        if out.suffix == ".parquet":
            client.jobs.download(job_id, out)
            return
        with tempfile.TemporaryDirectory(prefix="snf-table-") as folder:
            convert_table(client.jobs.download(job_id, Path(folder) / "scores.parquet"), out)
