"""Images of every kind become requests, in their order."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from snf_client.images import ImageBatch, batches, iter_images

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
