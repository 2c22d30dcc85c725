"""Images are decoded in threads, except those that take less time than a thread would."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from app.intake import AT_ONCE, TINY, Batch, Upload, decode_batch
from models.images import DecodedImage, Preprocessing, encode_png
from models.problems import ImageError

SMALL = Preprocessing(channels=1, height=28, width=28)


class Noting(ThreadPoolExecutor):
    """A pool that counts what it is given."""

    given = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        self.given += 1
        return super().submit(function, *arguments, **named)


@pytest.fixture
def pool() -> Iterator[Noting]:
    with Noting(2) as made:
        yield made


def png(value: int, side: int = 28) -> bytes:
    return encode_png(np.full((1, side, side), value, np.uint8))


def decode(uploads: list[bytes], preprocessing: Preprocessing, pool: Noting, *, many: bool = True) -> list[Any]:
    batch = Batch(tuple(Upload(str(number), data) for number, data in enumerate(uploads)), many=many)
    return [item.image for item in asyncio.run(decode_batch(batch, preprocessing, pool, 1000))]


def test_a_tiny_image_needs_no_thread(pool: Noting) -> None:
    [image] = decode([png(7)], SMALL, pool)
    assert isinstance(image, DecodedImage)
    assert (image.pixels == 7).all()
    with pytest.raises(ImageError, match="expected one of"):
        decode([b"no image"], SMALL, pool, many=False)
    assert pool.given == 0


@pytest.mark.parametrize(
    ("data", "preprocessing"),
    [
        pytest.param(png(7) + bytes(TINY), SMALL, id="a large file"),
        pytest.param(png(7, 65), Preprocessing(channels=1, height=65, width=65), id="a large image"),
        pytest.param(
            png(7), Preprocessing(channels=1, height=28, width=28, fit="stretch"), id="a small file of any size"
        ),
    ],
)
def test_what_may_take_long_goes_to_a_thread(data: bytes, preprocessing: Preprocessing, pool: Noting) -> None:
    [image] = decode([data], preprocessing, pool)
    assert isinstance(image, DecodedImage)
    assert pool.given == 1


def test_many_images_go_to_threads_several_at_once_and_keep_their_order(pool: Noting) -> None:
    uploads = [png(number) for number in range(2 * AT_ONCE + 1)]
    uploads[3] = b"no image"
    images = decode(uploads, SMALL, pool)
    assert pool.given == 3
    assert isinstance(images.pop(3), ImageError)
    assert [int(image.pixels[0, 0, 0]) for image in images] == [n for n in range(2 * AT_ONCE + 1) if n != 3]


def test_an_image_does_not_wait_for_all_of_a_large_request(pool: Noting) -> None:
    many = Batch(tuple(Upload(None, png(7)) for _ in range(100 * AT_ONCE)), many=True)

    async def main() -> int:
        large = asyncio.create_task(decode_batch(many, SMALL, pool, 1000))
        await asyncio.sleep(0)
        await decode_batch(Batch((Upload(None, png(7) + bytes(TINY)),)), SMALL, pool, 1)
        given = pool.given
        assert not large.done()
        assert len(await large) == 100 * AT_ONCE
        return given

    assert asyncio.run(main()) <= 10, "parts that were decoded before the single image"
