"""Images of every kind become requests, in their order."""

import asyncio
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from PIL import Image

from snf_client import AsyncClient, Client, InvalidRequest, ModelChanged, UnexpectedAnswer
from snf_client.images import (
    MAX_FILE_BYTES,
    FilesProblem,
    ImageBatch,
    Progress,
    UnreadableFile,
    batches,
    files_in,
    iter_images,
    split_paths,
)
from snf_client.schemas.base import examples_of
from snf_client.schemas.scores import FailedImage, Scores
from tests.client.scripted_server import QUICK, Answer, problem, scripted
from tests.support.image_files import exif
from tests.support.paths import DIGITS

SCORED_DIGIT = examples_of(Scores)[0]
GREY = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
COLOUR = np.arange(2 * 8 * 6 * 3, dtype=np.uint8).reshape(2, 8, 6, 3)


def pixels(batch: ImageBatch) -> np.ndarray:
    content: bytes = batch.body()["content"]
    found: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    return found


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (GREY, GREY),
        (GREY[..., None], GREY),
        (GREY[0], GREY[:1]),
        (GREY[0][..., None], GREY[:1]),
        (list(GREY), GREY),
        (iter(GREY), GREY),
        (COLOUR, COLOUR),
        (COLOUR[0], COLOUR[:1]),
    ],
    ids=["stack", "stack-1", "one", "one-1", "list", "iterator", "colours", "colour"],
)
def test_arrays(given: np.ndarray, wanted: np.ndarray) -> None:
    [batch] = batches(given, 32)
    assert (pixels(batch) == wanted).all()
    assert batch.names == [None] * len(wanted)


def test_arrays_are_cut_into_requests() -> None:
    many = np.arange(70 * 4 * 5, dtype=np.uint8).reshape(70, 4, 5)
    found = list(batches(many, 32))
    assert [len(batch.images) for batch in found] == [32, 32, 6]
    assert (np.concatenate([pixels(batch) for batch in found]) == many).all()
    first, second = found[2].halves()
    assert (np.concatenate([pixels(first), pixels(second)]) == many[64:]).all()


def test_a_mixture_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY[0]).save(path)
    picture = Image.fromarray(COLOUR[1])
    found = list(batches([path, path.read_bytes(), picture, GREY[0], GREY[1], COLOUR[0], str(path)], 32))
    assert [len(batch.images) for batch in found] == [3, 2, 1, 1]
    assert found[0].names == [str(path), None, None]
    files = [data for _, (_, data) in found[0].body()["files"]]
    assert files[:2] == [path.read_bytes()] * 2
    assert (np.asarray(Image.open(io.BytesIO(files[2]))) == COLOUR[1]).all()
    assert (pixels(found[1]) == GREY[:2]).all()
    assert (pixels(found[2]) == COLOUR[:1]).all()


def test_files_are_read_when_their_request_is_made(tmp_path: Path) -> None:
    late = tmp_path / "late.png"
    [batch] = batches([late], 32)
    late.write_bytes(b"here")
    assert batch.body()["files"] == [("images", (str(late), b"here"))]


@pytest.mark.parametrize("bad", [GREY.astype(np.float32), 7, [7], None, GREY[0].astype(np.int64)], ids=str)
def test_what_is_no_image(bad: object) -> None:
    with pytest.raises(TypeError):
        list(iter_images(bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (2, 3, 4, 5, 3)])
def test_shapes_that_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected an image of shape"):
        list(iter_images(np.zeros(shape, np.uint8)))


FAILED = {"type": "undecodable-image", "title": "No image", "status": 422, "detail": "so it is"}


def refused(count: int) -> Answer:
    """The answer of a service to files none of which it can score."""
    results = [{"index": n, "filename": "x", "status": "error", "error": FAILED} for n in range(count)]
    return problem(422, "no-image-scored", results=results)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "lot"
    (place / "deep" / ".cache").mkdir(parents=True)
    for name in ("b.png", "a.TIFF", "deep/without-suffix", "deep/clip.mp4", "notes.txt", ".a.png", "deep/.cache/c.png"):
        (place / name).write_bytes(DIGITS[0].read_bytes())
    (place / "link.png").symlink_to("nowhere.png")
    (place / "deep" / "elsewhere").symlink_to(DIGITS[0].parent)
    os.mkfifo(place / "pipe.png")
    return place


def test_every_file_of_a_folder_is_named_or_counted(folder: Path) -> None:
    found = files_in(folder)
    names = ["a.TIFF", "b.png", "deep/clip.mp4", "deep/elsewhere", "deep/without-suffix", "link.png", "pipe.png"]
    assert [path.relative_to(folder).as_posix() for path in found.files] == names
    assert [path.name for path in found.skipped] == [".a.png", "c.png", "notes.txt"]
    assert found.note == (
        "3 files were skipped, as hidden files, files of systems and texts are: .a.png, c.png, notes.txt"
    )
    (folder / "readme.txt").touch()
    assert str(files_in(folder).note).endswith(": .a.png, c.png, notes.txt, ...")


def test_files_are_in_natural_order(tmp_path: Path) -> None:
    names = ["2.png", "10.png", "B.png", "a.png", "lot-2/1.png", "lot-10/1.png", "lot-10/9a1.png", "lot-10/9a.png"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path).files] == names


def test_an_upload_names_the_files_whose_content_it_leaves_out(folder: Path) -> None:
    with pytest.raises(FilesProblem, match="elsewhere cannot be read: it is no plain file"):
        split_paths([folder])
    for name in ("link.png", "pipe.png", "deep/elsewhere"):
        (folder / name).unlink()
    images, others = split_paths([folder])
    left_out = {name for name, path in images.items() if path == Path(os.devnull)}
    assert left_out == {"notes.txt", ".a.png", "deep/.cache/c.png"}
    assert images.keys() - left_out == {"a.TIFF", "b.png", "deep/clip.mp4", "deep/without-suffix"}
    assert others == []


def test_a_file_that_cannot_be_read_fails_alone(folder: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    paths = [folder / "b.png", folder / "link.png", folder / "pipe.png", folder, huge, folder / "a.TIFF"]
    expected = ["undecodable-image", *["unreadable-image"] * 3, "file-too-large", "undecodable-image"]

    async def awaited(url: str) -> list[Any]:
        async with AsyncClient(url, retries=QUICK) as client:
            return [result async for result in client.score_each("m", paths)]

    with scripted(refused(1), refused(1)) as server, Client(server.url, retries=QUICK) as client:
        blocking = list(client.score_each("m", paths, in_flight=1))
    with scripted(refused(1), refused(1)) as server:
        results = [blocking, asyncio.run(awaited(server.url))]
    for given in results:
        assert all(isinstance(result, FailedImage) for result in given)
        assert [result.error.type for result in given] == expected
        assert [result.index for result in given] == list(range(6))
        assert given[1].filename == str(folder / "link.png")


def test_a_file_that_the_service_finds_too_large_fails_alone(folder: Path) -> None:
    paths = [folder / "b.png", folder / "a.TIFF"]
    answers = problem(413, "body-too-large"), refused(1), problem(413, "body-too-large")
    with scripted(*answers) as server, Client(server.url, retries=QUICK) as client:
        given = list(client.score_each("m", paths, in_flight=1))
    assert [result.error.type for result in given if result.status == "error"] == [
        "undecodable-image",
        "body-too-large",
    ]


def test_a_call_without_a_score_raises_the_first_reason(folder: Path) -> None:
    with Client("http://127.0.0.1:1", retries=QUICK) as client:
        with pytest.raises(FileNotFoundError):
            client.score("m", folder / "link.png")
        with pytest.raises(UnreadableFile, match="expected a plain file"):
            client.score("m", folder / "pipe.png")
    with scripted(refused(1)) as server, Client(server.url, retries=QUICK) as client, pytest.raises(InvalidRequest):
        client.score("m", folder / "b.png")


@pytest.mark.parametrize(
    ("changed", "judge"),
    [
        ({"version": 2}, "mnist-snf-glow:2 with calibration 0"),
        ({"calibration": 7}, "mnist-snf-glow:1 with calibration 7"),
    ],
)
def test_a_call_is_not_answered_by_two_models(changed: dict[str, int], judge: str) -> None:
    answers = Answer(body=SCORED_DIGIT), refused(1), Answer(body=SCORED_DIGIT | changed)
    message = f"got those of mnist-snf-glow:1 with calibration 0 and {judge}: .*; repeat the call, or name a version"

    async def awaited(url: str) -> object:
        async with AsyncClient(url, retries=QUICK) as client:
            return await client.score("m", DIGITS[:3], fdr=True, draws=32, in_flight=1)

    with scripted(*answers) as server, pytest.raises(ModelChanged, match=message):
        asyncio.run(awaited(server.url))
    with (
        scripted(*answers) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(ModelChanged, match=message),
    ):
        client.score("m", DIGITS[:3], draws=32, in_flight=1)
    # A stream of results has no model of its own, so it goes on.
    with scripted(*answers) as server, Client(server.url, retries=QUICK) as client:
        assert len(list(client.score_each("m", DIGITS[:3], draws=32, in_flight=1))) == 3


def test_at_least_one_request_is_in_flight() -> None:
    async def awaited() -> object:
        async with AsyncClient("http://127.0.0.1:1", retries=QUICK) as client:
            return [result async for result in client.score_each("m", DIGITS[:1], in_flight=0)]

    with pytest.raises(ValueError, match="expected at least 1 request in flight, got 0"):
        asyncio.run(awaited())
    with Client("http://127.0.0.1:1", retries=QUICK) as client, pytest.raises(ValueError, match="request in flight"):
        client.score("m", DIGITS[:1], in_flight=0)


@pytest.mark.parametrize("draws", [0, -1])
def test_the_service_says_what_is_wrong_with_a_number_of_draws(draws: int) -> None:
    with (
        scripted(problem(422, "invalid-request")) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(InvalidRequest),
    ):
        client.score("m", DIGITS[:1], draws=draws)
    assert [request.path for request in server.requests] == [f"/v1/models/m/score?draws={draws}"]


def test_two_halves_of_a_request_are_not_answered_by_two_models() -> None:
    answers = problem(413, "body-too-large"), Answer(body=SCORED_DIGIT), Answer(body=SCORED_DIGIT | {"version": 2})
    with scripted(*answers) as server, Client(server.url, retries=QUICK) as client, pytest.raises(ModelChanged):
        list(client.score_parts("m", DIGITS[:2]))


Upload: TypeAlias = Callable[[Any, Path, Progress], Any]
UPLOADS: dict[str, Upload] = {
    "dataset": lambda client, file, progress: client.datasets.upload("lots", file, progress=progress),
    "model": lambda client, file, progress: client.models.upload("first", file, progress=progress),
}


def uploaded(url: str, upload: Upload, file: Path, progress: Progress) -> None:
    with Client(url, retries=QUICK) as client:
        upload(client, file, progress)


def uploaded_on_a_loop(url: str, upload: Upload, file: Path, progress: Progress) -> None:
    async def send() -> None:
        async with AsyncClient(url, retries=QUICK) as client:
            await upload(client, file, progress)

    asyncio.run(send())


@pytest.mark.parametrize("send", [uploaded, uploaded_on_a_loop])
@pytest.mark.parametrize("upload", UPLOADS.values(), ids=UPLOADS)
def test_an_archive_that_changes_while_it_is_sent(
    upload: Upload, send: Callable[[str, Upload, Path, Progress], None], tmp_path: Path
) -> None:
    file, size = tmp_path / "lots.tar", 300_000
    file.write_bytes(bytes(size))

    def grow(_done: int, _total: int) -> None:
        with file.open("ab") as end:
            end.write(bytes(1000))

    # The answer is none of the service, which reads the archive to its first end.
    with scripted(Answer(201)) as server:
        with pytest.raises(UnexpectedAnswer):
            send(server.url, upload, file, grow)
        [request] = server.requests
        assert request.body.count(0) == size
    with scripted() as server, pytest.raises(FilesProblem, match=r"lots\.tar became shorter while it was read"):
        send(server.url, upload, file, lambda _done, _total: os.truncate(file, 100_000))


def sent(image: Image.Image) -> Image.Image:
    """What the service gets of a PIL image."""
    [batch] = batches(image, 1)
    [(_, (_, data))] = batch.body()["files"]
    return Image.open(io.BytesIO(data))


def test_pil_images_are_sent_upright_and_in_their_mode() -> None:
    upright = Image.open(DIGITS[0]).crop((4, 0, 24, 28))
    stored = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif(6))
    turned = sent(Image.open(stored))
    assert turned.size == (20, 28)
    assert turned.getexif().get(274, 1) == 1
    assert turned.tobytes() == upright.tobytes()
    for mode, kind in {"L": "PNG", "RGB": "PNG", "I;16": "PNG", "CMYK": "TIFF", "F": "TIFF", "YCbCr": "TIFF"}.items():
        arrived = sent(Image.new(mode, (8, 8)))
        assert (arrived.mode, arrived.format) == (mode, kind)
