"""Images are decoded in threads in fair turns of the callers, except those that take less time than a thread would."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from snf_app.scoring.decoders import SMALL_BYTES, SMALL_PIXELS, Decoders, DecodingLanes
from snf_app.scoring.decoding_room import DecodingRoom
from snf_app.scoring.request_images import TINY, ImageUploads, Upload, decode_batch, source_pixels
from snf_models.errors import ImageError
from snf_runtime.images.bounded_file import DecodingAbandoned
from snf_runtime.images.codec import DecodedImage, Preprocessing, encode_png

Item = TypeVar("Item")
T = TypeVar("T")
SMALL = Preprocessing(channels=1, height=28, width=28)
ME, OTHER = "address:127.0.0.1", "address:127.0.0.2"


class Noting(Decoders):
    """Decoders that count the images they are given."""

    given = 0

    async def map(
        self, caller: str, function: Callable[[Item], T], items: Sequence[Item], pixels: Sequence[int] = ()
    ) -> list[T]:
        self.given += len(items)
        return await super().map(caller, function, items, pixels)


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


@pytest.fixture
def decoders() -> Iterator[Noting]:
    made = Noting(2)
    yield made
    made.close()


@pytest.fixture
def one_thread() -> Iterator[Decoders]:
    made = Decoders(1)
    yield made
    made.close()


def png(value: int, side: int = 28) -> bytes:
    return encode_png(np.full((1, side, side), value, np.uint8))


def decode(uploads: list[bytes], preprocessing: Preprocessing, decoders: Decoders, *, many: bool = True) -> list[Any]:
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
    assert len(asyncio.run(decoders.map(ME, lambda _: both.wait(), range(4)))) == 4


def test_an_image_does_not_wait_for_the_requests_of_another_caller(decoders: Noting, monkeypatch: Any) -> None:
    decoded: list[str | None] = []

    def slow(data: bytes, _: Preprocessing, is_abandoned: Callable[[], bool]) -> DecodedImage:
        time.sleep(0.002)
        decoded.append(None)
        return DecodedImage(pixels=np.zeros((1, 28, 28), np.uint8), converted=None, resized=False)

    monkeypatch.setattr("snf_app.scoring.request_images.decode_image", slow)
    many = ImageUploads((Upload(None, png(7)),) * 64, many=True)
    single = ImageUploads((Upload(None, png(7) + bytes(TINY)),))

    async def main() -> int:
        greedy = [asyncio.create_task(decode_batch(many, SMALL, decoders, OTHER, 1000, [])) for _ in range(30)]
        await asyncio.sleep(0.02)
        before = len(decoded)
        await decode_batch(single, SMALL, decoders, ME, 1, [])
        between = len(decoded) - before
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)
        return between

    # One in hand of each thread, one more of each, the image itself, and what ends before the event loop goes on.
    assert asyncio.run(main()) <= 16, "images that were decoded before the single one"


def test_callers_take_turns_by_time_and_the_requests_of_each_one_after_the_other(one_thread: Decoders) -> None:
    held = Held()

    async def main() -> None:
        tasks = [asyncio.create_task(one_thread.map(OTHER, held, [0]))]
        await asyncio.to_thread(held.begun.wait, 60)
        tasks += [asyncio.create_task(one_thread.map(OTHER, held, [number, number + 1])) for number in (10, 20)]
        tasks += [asyncio.create_task(one_thread.map(ME, held, [100]))]
        await asyncio.sleep(0)
        held.go.set()
        assert await asyncio.gather(*tasks) == [[0], [10, 11], [20, 21], [100]]

    asyncio.run(main())
    assert held.done == [0, 100, 10, 20, 11, 21]


def test_what_is_cancelled_or_fails_is_not_decoded_further(one_thread: Decoders) -> None:
    held = Held()

    async def main() -> None:
        left = asyncio.create_task(one_thread.map(ME, held, range(5)))
        await asyncio.to_thread(held.begun.wait, 60)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        held.go.set()
        with pytest.raises(ValueError, match="bad"):
            await one_thread.map(ME, held, ["bad", 6])
        assert await one_thread.map(ME, held, [7]) == [7]

    asyncio.run(main())
    assert held.done == [0, "bad", 7]


def test_errors_of_several_images_in_hand_end_no_thread(decoders: Noting) -> None:
    both = threading.Barrier(2, timeout=60)

    def fail(_: int) -> None:
        both.wait()
        raise ValueError("bad")

    async def main() -> None:
        for _ in range(20):
            with pytest.raises(ValueError, match="bad"):
                await decoders.map(ME, fail, [0, 1])
        await decoders.map(ME, lambda _: both.wait(), [0, 1])

    asyncio.run(main())


def test_closing_cancels_what_waits(one_thread: Decoders) -> None:
    held = Held()

    async def main() -> None:
        waiting = asyncio.create_task(one_thread.map(ME, held, range(5)))
        await asyncio.to_thread(held.begun.wait, 60)
        closing = asyncio.create_task(asyncio.to_thread(one_thread.close))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.go.set()
        await closing

    asyncio.run(main())
    assert held.done == [0]


def test_large_images_have_threads_of_their_own() -> None:
    lanes = DecodingLanes(small=Decoders(1), large=Decoders(1))
    assert lanes.lane([b"", bytes(SMALL_BYTES)], [1920 * 1080, SMALL_PIXELS]) is lanes.small
    assert lanes.lane([b"", bytes(SMALL_BYTES + 1)]) is lanes.large
    assert lanes.lane([b"", b""], [1, SMALL_PIXELS + 1]) is lanes.large
    held = Held()

    async def main() -> None:
        large = asyncio.create_task(lanes.large.map(ME, held, [0]))
        await asyncio.to_thread(held.begun.wait, 60)
        assert await lanes.small.map(ME, lambda item: item, [1]) == [1]
        assert not large.done()
        held.go.set()
        await large

    asyncio.run(main())
    lanes.close()


def test_images_are_decoded_at_once_only_while_their_pixels_fit() -> None:
    """Two WebP files of 100 megapixels at once take more memory than a container has."""
    decoders = Decoders(2, most_pixels=100)
    begun: list[int] = []
    go = {pixels: threading.Event() for pixels in (50, 60, 200, 40)}
    started = threading.Semaphore(0)

    def decode(pixels: int) -> int:
        begun.append(pixels)
        started.release()
        assert go[pixels].wait(60)
        return pixels

    async def decoded(pixels: int) -> asyncio.Task[list[int]]:
        task = asyncio.create_task(decoders.map(ME, decode, [pixels], [pixels]))
        await asyncio.sleep(0.1)
        return task

    async def main() -> None:
        tasks = [await decoded(pixels) for pixels in (50, 60)]
        assert begun == [50]
        go[50].set()
        assert await tasks[0] == [50]
        await asyncio.sleep(0.1)
        assert begun == [50, 60]
        tasks += [await decoded(40)]
        assert begun == [50, 60, 40], "both fit"
        go[40].set()
        tasks += [await decoded(200)]
        assert begun == [50, 60, 40], "an image that is larger than all room is decoded alone"
        for event in go.values():
            event.set()
        assert await asyncio.gather(*tasks) == [[50], [60], [40], [200]]

    asyncio.run(main())
    decoders.close()


def test_a_large_image_is_not_passed_for_ever() -> None:
    room = DecodingRoom(100)
    order: list[str] = []

    def take(name: str, pixels: int) -> None:
        with room.hold(pixels):
            order.append(name)

    with room.hold(50):
        large = threading.Thread(target=take, args=("large", 100))
        large.start()
        time.sleep(0.1)
        small = threading.Thread(target=take, args=("small", 10))
        small.start()
        time.sleep(0.1)
        assert order == []
    for thread in (large, small):
        thread.join(60)
    assert order == ["large", "small"]


def test_a_request_names_the_pixels_of_its_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Room(DecodingRoom):
        def hold(self, pixels: int) -> Any:
            held.append(pixels)
            return super().hold(pixels)

    monkeypatch.setattr("snf_app.scoring.decoders.DecodingRoom", Room)
    decoders = Decoders(1)
    batch = ImageUploads((Upload(None, png(7) + bytes(TINY)),))
    sizes = asyncio.run(source_pixels(batch, SMALL, decoders, ME))
    asyncio.run(decode_batch(batch, SMALL, decoders, ME, 1, sizes))
    decoders.close()
    assert held[-1] == sizes[0] > 0


def test_cancelling_ends_the_decoding_that_has_begun(one_thread: Decoders, monkeypatch: Any) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(data: bytes, _: Preprocessing, is_abandoned: Callable[[], bool]) -> DecodedImage:
        begun.set()
        while not is_abandoned():
            time.sleep(0.001)
        ended.set()
        raise DecodingAbandoned

    monkeypatch.setattr("snf_app.scoring.request_images.decode_image", slow)
    batch = ImageUploads((Upload(None, png(7) + bytes(TINY)),))

    async def main() -> None:
        task = asyncio.create_task(decode_batch(batch, SMALL, one_thread, ME, 1, []))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 60)
        assert await one_thread.map(ME, lambda item: item, [1]) == [1]

    asyncio.run(main())
