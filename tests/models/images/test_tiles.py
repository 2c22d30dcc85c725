"""Tiles of images of any size: they cover the image, lie on one grid, and are as few as possible."""

import io
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snf_models.errors import ImageError
from snf_runtime.images.batch import check_batch, in_batches, tile_plan
from snf_runtime.images.codec import decode_image, decode_npy, encode_png
from snf_runtime.images.preprocessing import Preprocessing
from tests.support.tiled import mosaic

SIZES = [(64, 64), (65, 300), (1, 1), (63, 1000), (16, 240), (500, 47), (239, 241)]
TILED = Preprocessing(channels=1, height=64, width=64, fit="tiles")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiles_cover_an_image_and_are_few(height: int, width: int) -> None:
    plan = tile_plan(height, width, 64, 16)
    for origins, length in ((plan.tops, height), (plan.lefts, width)):
        assert all(origin % 16 == 0 for origin in origins)
        assert origins[0] == 0
        assert origins[-1] + 64 >= length
        moves = np.diff(origins)
        assert (moves > 0).all()
        assert (moves <= 48).all()  # neighbours share a place
        assert len(origins) == 1 or origins[-1] < length
        assert len(origins) == max(1, 1 + math.ceil((math.ceil(length / 16) - 4) / 3))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_place_is_that_of_the_tile_whose_centre_is_nearest(height: int, width: int) -> None:
    plan = tile_plan(height, width, 64, 16)
    values = np.random.default_rng(0).normal(size=(len(plan), 4, 4))
    merged, summed = plan.merged(values), plan.summed(values)
    assert merged.shape == summed.shape == (math.ceil(height / 16), math.ceil(width / 16))
    origins = [(top, left) for top in plan.tops for left in plan.lefts]
    for row, column in np.ndindex(merged.shape):
        y, x = 16 * row + 8, 16 * column + 8
        inside = [tile for tile, (top, left) in enumerate(origins) if top < y < top + 64 and left < x < left + 64]
        at = {tile: values[tile, row - origins[tile][0] // 16, column - origins[tile][1] // 16] for tile in inside}
        nearest = min(inside, key=lambda tile: (abs(origins[tile][0] + 32 - y), abs(origins[tile][1] + 32 - x)))
        assert merged[row, column] == at[nearest]
        assert summed[row, column] == pytest.approx(sum(at.values()))


def test_a_tile_is_a_part_of_the_image_and_mirrored_beyond_its_edges() -> None:
    image = mosaic(0, 3, 4)
    plan = tile_plan(*image.shape[1:], 64, 16)
    np.testing.assert_array_equal(plan.cut(image, 0), image[:, :64, :64])
    assert (plan.tops, plan.lefts) == ((0, 32), (0, 48))
    np.testing.assert_array_equal(plan.cut(image, 3)[:, :52], image[:, 32:, 48:112])
    np.testing.assert_array_equal(plan.cut(image, 3)[:, 52:], image[:, :-13:-1, 48:112])
    small = tile_plan(28, 28, 64, 16).cut(image[:, :28, :28], 0)
    np.testing.assert_array_equal(small[:, :56, :28], np.concatenate([image[:, :28, :28], image[:, 27::-1, :28]], 1))


def test_images_of_tiles_keep_their_size() -> None:
    image = mosaic(0, 3, 4)
    decoded = decode_image(encode_png(image), TILED)
    np.testing.assert_array_equal(decoded.pixels, image)
    assert (decoded.resized, decoded.notes) == (False, ())
    small = decode_image(encode_png(image[:, :50, :100]), TILED)
    assert small.pixels.shape == (1, 50, 100)
    assert small.notes == ("smaller than a tile of 64 pixels: extended by mirroring",)
    with pytest.raises(ImageError, match="expected 1 channel"):
        decode_image(encode_png(np.random.default_rng(0).integers(0, 256, (3, 70, 70), dtype=np.uint8)), TILED)


def test_a_large_image_is_copied_strip_by_strip_without_a_change() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1300, 3), dtype=np.uint8)
    colour = Preprocessing(channels=3, height=64, width=64, fit="tiles")
    np.testing.assert_array_equal(decode_image(bmp(pixels), colour).pixels, pixels.transpose(2, 0, 1))
    pixels[..., 1:] = pixels[..., :1]
    np.testing.assert_array_equal(decode_image(bmp(pixels), TILED).pixels[0], pixels[..., 0])
    pixels[-1, -1, 2] ^= 1
    with pytest.raises(ImageError, match="expected 1 channel"):
        decode_image(bmp(pixels), TILED)


def bmp(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="BMP")
    return file.getvalue()


def test_an_array_for_tiles_may_have_any_size() -> None:
    file = io.BytesIO()
    images = np.stack([mosaic(seed, 3, 4)[0] for seed in range(2)])
    np.save(file, images)
    np.testing.assert_array_equal(decode_npy(file.getvalue(), TILED, 2), images[:, None])


def test_a_batch_is_checked() -> None:
    images = [mosaic(0, 2, 2), mosaic(0, 3, 2)]
    check_batch(images, (1, 64, 64), tiled=True)
    with pytest.raises(ValueError, match=r"expected uint8 images \(1, H, W\)"):
        check_batch([images[0].astype(np.float32)], (1, 64, 64), tiled=True)
    with pytest.raises(ValueError, match=r"expected uint8 images \(3, H, W\)"):
        check_batch(images, (3, 64, 64), tiled=True)


def test_batches_are_bounded_by_bytes() -> None:
    assert list(in_batches([5, 5, 20, 1, 1, 1, 1], 3, 10, lambda item: item)) == [[5, 5], [20], [1, 1, 1], [1]]
