# ruff: noqa: PLC0415 - heavy imports wait until their command runs
from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snf_app.cli import completion
from snf_app.cli.common import (
    INTERRUPTED,
    Json,
    Key,
    Url,
    error_messages,
    fail,
    fail_validation,
    print_response,
    read_settings,
    stop_on_signals,
)
from snf_app.cli.job_submission import parse_pairs
from snf_app.cli.progress import events_bar
from snf_app.cli.remote import follow_job, service
from snf_runtime.errors import FAILED

if TYPE_CHECKING:
    from snf_client.schemas.recommendations import RecommendationRecord, RecommendParameters


def recommend(
    dataset: Annotated[str, typer.Argument(help="Dataset, see `snf datasets`.", autocompletion=completion.datasets)],
    minutes: Annotated[float, typer.Option(help="About the time of the whole comparison.")] = 10.0,
    alpha: Annotated[
        float, typer.Option(help="False-alarm rate; the smallest p-value is taken where that is larger.")
    ] = 0.01,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other parameter as NAME=VALUE, such as image_size=64; repeatable."),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Compare three model families (pixels, features, both) on a subset of a dataset, and propose one.

    Each family is trained on images of the train part. Small defects are drawn into others of them. The family that
    finds the smallest ones is proposed. Ctrl-C keeps what is finished; the same command continues.
    """
    from snf_app.cli.recommend_tables import print_recommendation

    parameters = _parameters({"minutes": minutes, "alpha": alpha}, set_ or [])
    if url:
        record = _remote(dataset, parameters, url, key, quiet=as_json)
    else:
        with error_messages():
            record = _local(dataset, parameters)
    if as_json:
        print_response(record)
    else:
        print_recommendation(record)


def _parameters(given: dict[str, Any], pairs: list[str]) -> RecommendParameters:
    from pydantic import ValidationError

    from snf_client.schemas.recommendations import RecommendParameters

    try:
        return RecommendParameters.model_validate(given | parse_pairs(pairs, "--set"))
    except ValidationError as error:
        raise fail_validation(error, "--set", RecommendParameters.model_fields) from error


def _local(name: str, parameters: RecommendParameters) -> RecommendationRecord:
    from snf_client.schemas.training import ImageOptions
    from snf_models.datasets import DatasetStore, load_dataset
    from snf_models.errors import Interrupted
    from snf_models.recommendation.compare import compare_families

    settings = read_settings(writes=True)
    store = DatasetStore(settings.datasets_dir, quota=settings.dataset_quota_bytes)
    images = ImageOptions.model_validate(parameters.image_settings)
    data = load_dataset(name, settings.data_dir, store, images)
    folder = settings.home / "recommendations" / name
    with stop_on_signals() as stop, events_bar() as observe:
        try:
            record = compare_families(
                data,
                parameters,
                folder,
                observe=observe,
                should_stop=stop.is_set,
                options=settings.job_engine_options,
                threads=settings.train_threads,
            )
        except Interrupted as error:
            raise fail("interrupted; the same command continues the comparison", INTERRUPTED) from error
    shutil.rmtree(folder)
    return record


def _remote(
    dataset: str, parameters: RecommendParameters, url: str, key: str | None, *, quiet: bool
) -> RecommendationRecord:
    from snf_client.schemas.recommendations import RecommendationRecord
    from snf_client.schemas.recommendations import RecommendationRecord as Result

    with service(url, key) as client, events_bar() as observe:
        given: Any = parameters.model_dump(mode="json", exclude_unset=True)
        job = client.jobs.recommend(dataset, parameters=given)
        if not quiet:
            typer.echo(f"job {job.id}; Ctrl-C stops watching, not the job")
        follow_job(client, job.id, observe)
        result = client.jobs.result(job.id)
        if not isinstance(result, Result):
            kind = type(result).__name__
            raise fail(f"expected a recommendation as the result of job {job.id}, got a {kind}", FAILED)
    return RecommendationRecord.model_validate(result.model_dump())
