"""The Python client against a real service, which goes away and comes back meanwhile."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from snf_client import (
    AsyncClient,
    Client,
    Conflict,
    EndEvent,
    Event,
    InvalidRequest,
    NotFound,
    Retries,
    heat_map_array,
)
from snf_client.errors import ClientError, ServiceUnavailable
from snf_client.images import ImagesLike
from snf_client.scores import ImageResult
from tests.end_to_end.support.jobs import ENDLESS
from tests.end_to_end.support.processes import halted_training, kill, pid_of
from tests.end_to_end.support.service import answers, running, score_one
from tests.support.paths import DIGITS
from tests.worker.support.helpers import until

ARRAY = np.stack([np.asarray(Image.open(path)) for path in DIGITS])
MODEL = "digits"
STEPS = 40


@pytest.fixture(scope="module")
def house(module_home: Path) -> Iterator[httpx.Client]:
    """Everything that `snf up` starts, which the tests here may kill parts of."""
    with running(
        "tests.support.forking_house", home=module_home, forked=True, shipped=False, train_threads=1
    ) as client:
        yield client


@pytest.fixture(scope="module")
def client(house: httpx.Client) -> Iterator[Client]:
    with Client(str(house.base_url), retries=Retries(attempts=40, seconds=120, longest_pause=1.0)) as found:
        yield found


def likelihoods(client: Client, images: ImagesLike) -> list[float]:
    return [one.log_likelihood for one in client.score(MODEL, images).results if one.status == "ok"]


def test_images_of_every_kind_get_the_same_scores(client: Client, house: httpx.Client) -> None:
    wanted = [score_one(house, MODEL, path.read_bytes()) for path in DIGITS]
    kinds: list[ImagesLike] = [
        DIGITS,
        [str(path) for path in DIGITS],
        [path.read_bytes() for path in DIGITS],
        [Image.open(path) for path in DIGITS],
        ARRAY,
        ARRAY[..., None],
        list(ARRAY),
        [DIGITS[0], ARRAY[1], Image.open(DIGITS[2]), DIGITS[3].read_bytes(), *ARRAY[4:]],
    ]
    for images in kinds:
        assert likelihoods(client, images) == pytest.approx(wanted, abs=1e-4)
    for one in (DIGITS[0], ARRAY[0], Image.open(DIGITS[0])):
        assert likelihoods(client, one) == pytest.approx(wanted[:1], abs=1e-4)


def test_many_images_come_in_their_order(client: Client) -> None:
    places = np.arange(300) % len(ARRAY)
    wanted = np.array(likelihoods(client, ARRAY))[places]
    found = list(client.score_each(MODEL, ARRAY[places]))
    assert [one.index for one in found] == list(range(300))
    assert [one.log_likelihood for one in found if one.status == "ok"] == pytest.approx(wanted, abs=1e-4)
    parts = list(client.score_parts(MODEL, [DIGITS[place] for place in places[:40]]))
    assert [len(part.results) for part in parts] == [32, 8]
    assert [one.filename for part in parts for one in part.results] == [str(DIGITS[place]) for place in places[:40]]


def test_bad_images_fail_alone(client: Client) -> None:
    scores = client.score(MODEL, [DIGITS[0], b"no image", ARRAY[0], *[b"nor this"] * 40, DIGITS[1]], fdr=True)
    assert (scores.model, scores.version, scores.count) == (MODEL, 1, 44)
    assert [one.index for one in scores.results if one.status == "ok"] == [0, 2, 43]
    assert scores.results[1].status == "error"
    assert scores.fdr is not None
    whole = client.score(MODEL, [DIGITS[0], ARRAY[0], DIGITS[1]], fdr=True)
    assert whole.fdr is not None
    assert [value for value in scores.fdr.q_values if value is not None] == whole.fdr.q_values
    with pytest.raises(InvalidRequest) as raised:
        client.score(MODEL, [b"no image"] * 3)
    assert raised.value.type == "no-image-scored"
    with pytest.raises(InvalidRequest, match="shape"):
        client.score(MODEL, np.zeros((2, 7, 7), np.uint8))
    with pytest.raises(InvalidRequest) as unattainable:
        client.score(MODEL, ARRAY, alpha=1e-9)
    assert unattainable.value.type == "alpha-unattainable"


def test_heat_maps_and_draws(client: Client) -> None:
    scores = client.score(MODEL, ARRAY[:10], explain=True, draws=2, alpha=0.05)
    for one in scores.results:
        assert one.status == "ok"
        assert one.draws is not None
        assert (one.draws.k, one.anomaly.alpha) == (2, 0.05)
        assert one.heat_map is not None
        assert heat_map_array(one.heat_map).shape == (3, 28, 28)
    first = client.score(MODEL, ARRAY[0], explain=True).results[0]
    assert first.status == "ok"
    assert first.heat_map is not None
    assert heat_map_array(first.heat_map)[0].sum() == pytest.approx(first.log_likelihood, abs=1e-3)


def test_an_event_loop_gets_the_same(client: Client, house: httpx.Client) -> None:
    async def ask() -> tuple[list[float], list[int], np.ndarray[Any, Any], list[str]]:
        async with AsyncClient(str(house.base_url)) as other:
            scores, drawn, models = await asyncio.gather(
                other.score(MODEL, DIGITS), other.samples.draw(MODEL, 3, seed=4), other.models.list()
            )
            places = [one.index async for one in other.score_each(MODEL, ARRAY[np.arange(100) % len(ARRAY)])]
            with pytest.raises(NotFound):
                await other.models.get("nobody")
            values = [one.log_likelihood for one in scores.results if one.status == "ok"]
            return values, places, drawn.pixels, [one.name for one in models.models]

    values, places, pixels, names = asyncio.run(ask())
    assert values == pytest.approx(likelihoods(client, DIGITS), abs=1e-4)
    assert places == list(range(100))
    assert (pixels == client.samples.draw(MODEL, 3, seed=4).pixels).all()
    assert MODEL in names


def test_a_stream_of_scores_that_is_left_ends_its_requests(client: Client) -> None:
    found = client.score_each(MODEL, (ARRAY[i % 36] for i in range(10**9)))
    assert next(found).index == 0
    began = time.monotonic()
    found.close()
    assert time.monotonic() - began < 5


def test_samples(client: Client) -> None:
    drawn = client.samples.draw(MODEL, 5, seed=3)
    assert (drawn.pixels.shape, drawn.pixels.dtype, drawn.seed) == ((5, 28, 28), np.uint8, 3)
    scored = client.samples.scored(MODEL, 5, seed=3)
    own = likelihoods(client, drawn.pixels)
    assert [one.log_likelihood for one in scored.samples] == pytest.approx(own, abs=1e-4)
    assert client.samples.file(MODEL, 5).content.startswith(b"\x89PNG")


def test_datasets_from_upload_to_deletion(client: Client, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = client.datasets.upload("own", DIGITS, progress=lambda done, total: told.append((done, total)))
    size = sum(path.stat().st_size for path in DIGITS)
    assert (found.images, told[-1]) == (len(DIGITS), (size, size))
    with pytest.raises(Conflict):
        client.datasets.upload("own", DIGITS)
    without = client.datasets.upload("without-near-duplicates", DIGITS, near_duplicates="drop")
    assert found.report is not None
    assert without.report is not None
    assert found.report.near_duplicates.images
    assert without.report.near_duplicates.images == 0
    assert without.report.rejected_by == {"near-duplicate": found.images - without.images}
    assert "own" in {one.name for one in client.datasets.list().datasets}
    assert client.datasets.get("own").report == found.report
    assert client.datasets.contact_sheet("own").startswith(b"\x89PNG")

    job = client.jobs.score("own", MODEL)
    assert client.jobs.wait(job.id, timeout=120).status == "succeeded"
    table = parquet.read_table(client.jobs.download(job.id, tmp_path / "scores.parquet"))
    assert table.num_rows == len(DIGITS)
    client.datasets.delete("own")
    with pytest.raises(NotFound):
        client.datasets.get("own")


def test_models_their_aliases_and_calibrations(client: Client) -> None:
    assert client.models.get(MODEL).manifest["training"]["preset"] == "snf-glow-tiny"
    assert sum(client.models.reference(MODEL, bins=20).counts) == client.models.reference(MODEL).count
    assert client.models.set_alias(MODEL, "champion", 1).aliases["champion"] == 1
    assert likelihoods(client, ARRAY[:2]) == likelihoods(client, ARRAY[:2])
    client.models.delete_alias(MODEL, "champion")
    with pytest.raises(Conflict):
        client.models.delete_alias(MODEL, "live")
    with pytest.raises(Conflict):
        client.models.delete_version(MODEL, 1)
    audit = client.models.audit(MODEL, n=2)
    assert (audit.agrees, len(audit.images)) == (True, 2)
    assert client.models.card(MODEL).startswith("# ")
    assert client.models.card_html(MODEL).startswith("<h1>")
    assert client.models.card_samples(MODEL).startswith(b"\x89PNG")
    assert client.calibrations.list(MODEL).active == client.calibrations.choose(MODEL, 0).active == 0
    assert client.calibrations.get(MODEL, 0).number == 0
    assert client.presets().default in {one.name for one in client.presets().presets}
    assert client.readiness().status == "ready"
    assert [worker.device for worker in client.workers().workers]


def test_a_model_goes_from_one_service_to_another(client: Client, house: httpx.Client, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tar = client.models.download(MODEL, tmp_path / "digits.tar")
    found = client.models.upload("brought", tar, progress=lambda done, total: told.append((done, total)))
    assert (found.name, found.version, told[-1]) == ("brought", 1, (tar.stat().st_size, tar.stat().st_size))
    scores = client.score("brought", ARRAY[:3]).results
    assert [one.log_likelihood for one in scores if one.status == "ok"] == pytest.approx(likelihoods(client, ARRAY[:3]))

    async def again() -> int:
        async with AsyncClient(str(house.base_url)) as other:
            return (await other.models.upload("brought", await other.models.download(MODEL, tar), promote=True)).version

    assert asyncio.run(again()) == 2
    client.models.delete_version("brought", 1)
    assert client.models.list().models[0].name == "brought"
    client.models.delete("brought")
    assert "brought" not in {one.name for one in client.models.list().models}


def test_jobs_are_steered(client: Client) -> None:
    job = client.jobs.train("mnist-mini", "steered", preset="snf-glow-tiny", parameters=ENDLESS, device="cuda")
    assert client.jobs.pause(job.id).status == "paused"
    assert client.jobs.resume(job.id).status == "queued"
    with pytest.raises(TimeoutError):
        client.jobs.wait(job.id, timeout=0.5)
    with pytest.raises(Conflict) as raised:
        client.jobs.result(job.id)
    assert raised.value.extensions["job_status"] == "queued"
    assert client.jobs.cancel(job.id).status == "cancelled"
    assert client.jobs.retry(job.id).retry_of == job.id
    assert client.jobs.cancel(client.jobs.retry(job.id).id).status == "cancelled"


def check_results_and_record_until_deleted(client: Client, job: str) -> None:
    """Result, metrics, preview, log and record of a training that has made a model."""
    result = client.jobs.result(job)
    assert getattr(result, "ref", None) == "made:1"
    assert client.jobs.metrics(job).points
    assert client.jobs.metrics_csv(job).startswith("step,")
    [*_, preview] = client.jobs.previews(job).samples
    assert client.jobs.preview(job, preview.step).startswith(b"\x89PNG")
    assert isinstance(client.jobs.log(job), str)
    assert job in {one.id for one in client.jobs.list(status="succeeded", type="train").jobs}
    with pytest.raises(Conflict):
        client.jobs.cancel(job)

    record = client.runs.get(job)
    assert (record.run.origin, record.run.state, record.run.parameters["max_steps"]) == ("job", "finished", STEPS)
    assert record.run.result is not None
    assert record.run.result.ref == "made:1"
    assert [(point.step, point.bits_per_dim) for point in record.points] == [
        (point.step, point.bits_per_dim) for point in client.jobs.metrics(job).points
    ]
    client.jobs.delete(job)
    assert job in {run.id for run in client.runs.list().runs}
    client.runs.delete(job)
    with pytest.raises(NotFound):
        client.runs.get(job)


def scored_across_a_kill(url: str, home: Path, places: NDArray[np.int64]) -> list[ImageResult]:
    """Scores of images, in the middle of which the service is killed; it starts again by itself."""
    repeated = threading.Event()
    before = pid_of(home)

    def images() -> Iterator[np.ndarray[Any, Any]]:
        """Requests take a few hundred images ahead: those after the kill are sent to a service that is not there."""
        for count, place in enumerate(places):
            if count == len(places) // 2:
                kill(home, "snf_app.server")
            yield ARRAY[place]

    def noted(error: ClientError, _seconds: float) -> None:
        if isinstance(error, ServiceUnavailable):
            repeated.set()

    retries = Retries(attempts=200, seconds=240, longest_pause=1.0, on_retry=noted)
    with Client(url, retries=retries) as client:
        found = list(client.score_each(MODEL, images()))
    assert repeated.is_set()
    assert pid_of(home) != before
    return found


def test_training_and_scoring_go_on_across_a_restart_of_the_service(
    client: Client, house: httpx.Client, module_home: Path
) -> None:
    """The service is killed while events are followed and images are left to score."""
    parameters = {"batch_size": 8, "validation_images": 20, "max_steps": STEPS, "validations": 2}
    job, same = (
        client.jobs.train("mnist-mini", "made", preset="snf-glow-tiny", parameters=parameters, key="once")
        for _ in range(2)
    )
    assert same.id == job.id
    seen: list[Event] = []
    async_seen: list[Event] = []

    def follow() -> None:
        seen.extend(client.jobs.events(job.id))

    async def follow_async() -> None:
        async with AsyncClient(str(house.base_url)) as other:
            async for event in other.jobs.events(job.id):
                async_seen.append(event)

    readers = [threading.Thread(target=follow), threading.Thread(target=lambda: asyncio.run(follow_async()))]
    for reader in readers:
        reader.start()
    until(lambda: any(event.event == "metrics" for event in async_seen))
    places = np.arange(1000) % len(ARRAY)
    with halted_training(module_home):  # it lasts longer than the service is away
        scored = scored_across_a_kill(str(house.base_url), module_home, places)
    assert client.jobs.get(job.id).id == job.id
    alone = np.array(likelihoods(client, ARRAY))
    assert [one.index for one in scored] == list(range(len(places)))
    assert [one.log_likelihood for one in scored if one.status == "ok"] == pytest.approx(alone[places], abs=1e-4)
    done = client.jobs.wait(job.id, timeout=240)
    assert (done.status, done.result and done.result["ref"]) == ("succeeded", "made:1")
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()
    until(lambda: answers(house))
    replay = list(client.jobs.events(job.id))
    assert seen == async_seen == replay
    assert isinstance(replay[-1], EndEvent)
    assert list(client.jobs.events(job.id, after=replay[-1].id)) == []
    check_results_and_record_until_deleted(client, job.id)
