"""Images are decoded in threads in fair turns of the callers, except those that take less time than a thread would."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest

from snf_app.http.errors import Problem
from snf_app.metrics.registry import ServiceMetrics
from snf_app.scoring.fair_queue import SMALL_BYTES, SMALL_PIXELS, FairQueue
from snf_app.scoring.request_images import TINY, ImageUploads, Upload, decode_batch, source_pixels
from snf_models.errors import ImageError
from snf_runtime.images.codec import DecodedImage, Preprocessing, encode_png
from snf_runtime.images.untrusted import DecodingAbandoned

pytestmark = pytest.mark.anyio

Item = TypeVar("Item")
T = TypeVar("T")
SMALL = Preprocessing(channels=1, height=28, width=28)
ME, OTHER = "address:127.0.0.1", "address:127.0.0.2"


class Noting(FairQueue):
    """A queue that counts the images that it decodes, and notes the pixels of the last ones."""

    given = 0
    pixels: Sequence[int] = ()

    async def decode(
        self,
        caller: str,
        function: Callable[[Item], T],
        items: Sequence[Item],
        sizes: Sequence[int],
        pixels: Sequence[int] = (),
    ) -> list[T]:
        self.given += len(items)
        self.pixels = pixels
        return await super().decode(caller, function, items, sizes, pixels)


class Held:
    """A function that notes its items, waits at the first for `go`, and fails at an item that is text."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, item: Any) -> Any:
        self.begun.set()
        assert self.go.wait(60)
        self.done.append(item)
        if isinstance(item, str):
            raise ValueError(item)
        return item


@contextmanager
def running(decoders: int, max_pixels: int = 10**8) -> Iterator[Noting]:
    made = Noting(1, 1, ServiceMetrics(), max_pixels=max_pixels, decoders=decoders)
    made.start()
    yield made
    made.close()


@pytest.fixture
def decoders() -> Iterator[Noting]:
    with running(2) as made:
        yield made


@pytest.fixture
def one_thread() -> Iterator[Noting]:
    with running(1) as made:
        yield made


def png(value: int, side: int = 28) -> bytes:
    return encode_png(np.full((1, side, side), value, np.uint8))


def decode(uploads: list[bytes], preprocessing: Preprocessing, decoders: FairQueue, *, many: bool = True) -> list[Any]:
    batch = ImageUploads(tuple(Upload(str(number), data) for number, data in enumerate(uploads)), many=many)
    return [item.image for item in asyncio.run(decode_batch(batch, preprocessing, decoders, ME, 1000, []))]


def test_a_tiny_image_needs_no_thread(decoders: Noting) -> None:
    [image] = decode([png(7)], SMALL, decoders)
    assert isinstance(image, DecodedImage)
    assert (image.pixels == 7).all()
    with pytest.raises(ImageError, match="expected one of"):
        decode([b"no image"], SMALL, decoders, many=False)
    assert decoders.given == 0


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
def test_what_may_take_long_goes_to_a_thread(data: bytes, preprocessing: Preprocessing, decoders: Noting) -> None:
    [image] = decode([data], preprocessing, decoders)
    assert isinstance(image, DecodedImage)
    assert decoders.given == 1


def test_many_images_go_to_threads_and_keep_their_order(decoders: Noting) -> None:
    uploads = [png(number) for number in range(17)]
    uploads[3] = b"no image"
    images = decode(uploads, SMALL, decoders)
    assert decoders.given == 17
    assert isinstance(images.pop(3), ImageError)
    assert [int(image.pixels[0, 0, 0]) for image in images] == [n for n in range(17) if n != 3]


def test_all_threads_decode_one_request(decoders: Noting) -> None:
    both = threading.Barrier(2, timeout=60)
    assert len(asyncio.run(decoders.decode(ME, lambda _: both.wait(), range(4), [0]))) == 4


async def test_an_image_does_not_wait_for_the_requests_of_another_caller(decoders: Noting, monkeypatch: Any) -> None:
    decoded: list[str | None] = []

    def slow(data: bytes, _: Preprocessing, is_abandoned: Callable[[], bool]) -> DecodedImage:
        time.sleep(0.002)
        decoded.append(None)
        return DecodedImage(pixels=np.zeros((1, 28, 28), np.uint8), converted=None, resized=False)

    monkeypatch.setattr("snf_app.scoring.request_images.decode_image", slow)
    many = ImageUploads((Upload(None, png(7)),) * 64, many=True)
    single = ImageUploads((Upload(None, png(7) + bytes(TINY)),))
    greedy = [asyncio.create_task(decode_batch(many, SMALL, decoders, OTHER, 1000, [])) for _ in range(30)]
    await asyncio.sleep(0.02)
    before = len(decoded)
    await decode_batch(single, SMALL, decoders, ME, 1, [])
    between = len(decoded) - before
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    # One in hand of each thread, one more of each, the image itself, and what ends before the event loop goes on.
    assert between <= 16, "images that were decoded before the single one"


async def test_callers_take_turns_by_time_and_the_requests_of_each_one_after_the_other(one_thread: FairQueue) -> None:
    held = Held()
    tasks = [asyncio.create_task(one_thread.decode(OTHER, held, [0], [0]))]
    await asyncio.to_thread(held.begun.wait, 60)
    tasks += [asyncio.create_task(one_thread.decode(OTHER, held, [number, number + 1], [0])) for number in (10, 20)]
    tasks += [asyncio.create_task(one_thread.decode(ME, held, [100], [0]))]
    await asyncio.sleep(0)
    held.go.set()
    assert await asyncio.gather(*tasks) == [[0], [10, 11], [20, 21], [100]]
    assert held.done == [0, 100, 10, 20, 11, 21]


async def test_what_is_cancelled_or_fails_is_not_decoded_further(one_thread: FairQueue) -> None:
    held = Held()
    left = asyncio.create_task(one_thread.decode(ME, held, range(5), [0]))
    await asyncio.to_thread(held.begun.wait, 60)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    held.go.set()
    with pytest.raises(ValueError, match="bad"):
        await one_thread.decode(ME, held, ["bad", 6], [0])
    assert await one_thread.decode(ME, held, [7], [0]) == [7]
    assert held.done == [0, "bad", 7]


async def test_errors_of_several_images_in_hand_end_no_thread(decoders: Noting) -> None:
    both = threading.Barrier(2, timeout=60)

    def fail(_: int) -> None:
        both.wait()
        raise ValueError("bad")

    for _ in range(20):
        with pytest.raises(ValueError, match="bad"):
            await decoders.decode(ME, fail, [0, 1], [0])
    await decoders.decode(ME, lambda _: both.wait(), [0, 1], [0])


async def test_closing_refuses_what_waits(one_thread: FairQueue) -> None:
    held = Held()
    waiting = asyncio.create_task(one_thread.decode(ME, held, range(5), [0]))
    await asyncio.to_thread(held.begun.wait, 60)
    closing = asyncio.create_task(asyncio.to_thread(one_thread.close))
    with pytest.raises(Problem) as caught:
        await waiting
    assert (caught.value.status, caught.value.slug) == (503, "draining")
    held.go.set()
    await closing
    assert held.done == [0]


@pytest.mark.parametrize(("sizes", "pixels"), [([0, SMALL_BYTES + 1], []), ([0, 0], [1, SMALL_PIXELS + 1])])
async def test_large_images_have_threads_of_their_own(
    one_thread: FairQueue, sizes: Sequence[int], pixels: Sequence[int]
) -> None:
    held = Held()
    large = asyncio.create_task(one_thread.decode(ME, held, [0, 1], sizes, pixels))
    await asyncio.to_thread(held.begun.wait, 60)
    small = one_thread.decode(ME, lambda item: item, [1, 2], [0, SMALL_BYTES], [1920 * 1080, SMALL_PIXELS])
    assert await small == [1, 2]
    assert not large.done()
    held.go.set()
    await large


async def test_images_are_decoded_at_once_only_while_their_pixels_fit() -> None:
    """Two WebP files of 100 megapixels at once take more memory than a container has; small ones do not pass one."""
    begun: list[int] = []
    go = {pixels: threading.Event() for pixels in (50, 60, 200, 30)}

    def decode(pixels: int) -> int:
        begun.append(pixels)
        assert go[pixels].wait(60)
        return pixels

    with running(2, max_pixels=100) as queue:

        async def decoded(pixels: int) -> asyncio.Task[list[int]]:
            task = asyncio.create_task(queue.decode(ME, decode, [pixels], [SMALL_BYTES + 1], [pixels]))
            await asyncio.sleep(0.1)
            return task

        tasks = [await decoded(pixels) for pixels in (50, 60, 30)]
        assert begun == [50], "30 fits, but does not pass 60"
        go[50].set()
        assert await tasks[0] == [50]
        await asyncio.sleep(0.1)
        assert begun == [50, 60, 30], "both fit"
        go[30].set()
        tasks += [await decoded(200)]
        assert begun == [50, 60, 30], "an image that is larger than all room is decoded alone"
        for event in go.values():
            event.set()
        assert await asyncio.gather(*tasks) == [[50], [60], [30], [200]]


async def test_a_request_names_the_pixels_of_its_large_images(decoders: Noting) -> None:
    batch = ImageUploads((Upload(None, png(7) + bytes(TINY)),))
    sizes = await source_pixels(batch, SMALL, decoders, ME)
    await decode_batch(batch, SMALL, decoders, ME, 1, sizes)
    assert decoders.pixels == sizes
    assert sizes[0] > 0


async def test_cancelling_ends_the_decoding_that_has_begun(one_thread: FairQueue, monkeypatch: Any) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(data: bytes, _: Preprocessing, is_abandoned: Callable[[], bool]) -> DecodedImage:
        begun.set()
        while not is_abandoned():
            time.sleep(0.001)
        ended.set()
        raise DecodingAbandoned

    monkeypatch.setattr("snf_app.scoring.request_images.decode_image", slow)
    batch = ImageUploads((Upload(None, png(7) + bytes(TINY)),))
    task = asyncio.create_task(decode_batch(batch, SMALL, one_thread, ME, 1, []))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 60)
    assert await one_thread.decode(ME, lambda item: item, [1], [0]) == [1]
