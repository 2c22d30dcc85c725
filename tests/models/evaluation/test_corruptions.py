"""Graded faults: what they do to known images, and that they do it again."""

import numpy as np
import pytest

from snf_models.evaluation.image_sets import (
    GRADES,
    Corruption,
    Kind,
    corrupt,
    corrupt_chunks,
    corruptions,
    random_rectangle,
)
from tests.models.helpers import real_images
from tests.support.tiled import mosaic


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 28), (1, 8)])
def test_shape_and_type_stay_and_every_time_is_the_same(channels: int, side: int) -> None:
    images = real_images(6, side, channels)
    before = images.copy()
    for one in corruptions(side, side):
        found = corrupt(images, one)
        assert (found.shape, found.dtype) == (images.shape, np.uint8)
        assert (corrupt(images, one) == found).all()
        pieces = np.concatenate(list(corrupt_chunks([images[:1], images[1:4], images[4:]], one)))
        assert (pieces == found).all(), "chunks give what the whole gives"
        assert (found != images).any(), one
    assert (images == before).all()


def test_there_are_forty_grades_and_larger_images_get_larger_faults() -> None:
    table = corruptions(28, 28)
    assert len(table) == sum(map(len, GRADES.values())) == 40
    assert table == corruptions(32, 40)
    holes = [one.level for one in corruptions(56, 56) if one.kind == "hole"]
    assert holes == [8, 12, 16, 24, 32]
    assert [one.level for one in corruptions(56, 56) if one.kind == "blur"] == list(GRADES["blur"])
    assert [one.level for one in corruptions(8, 8) if one.kind == "line"] == [1, 2]


def test_known_values() -> None:
    image = np.full((1, 1, 28, 28), 100, np.uint8)
    image[..., :14] = 200
    bright = corrupt(image, Corruption("brightness", 60))
    assert (bright[..., 14:] == 160).all()
    assert (bright[..., :14] == 255).all(), "clipped"
    flat = corrupt(image, Corruption("contrast", 0.5))
    assert (flat[..., :14] == 175).all()
    assert (flat[..., 14:] == 125).all()
    turned = corrupt(image, Corruption("rotation", 90))
    assert {int(turned[0, 0, 0, 14]), int(turned[0, 0, -1, 14])} == {100, 200}
    noisy = corrupt(np.full((50, 1, 28, 28), 128, np.uint8), Corruption("noise", 6))
    assert noisy.std() == pytest.approx(6, rel=0.02)


def test_a_shift_moves_by_its_length() -> None:
    rows, columns = np.mgrid[:28, :28].astype(float)
    spot = 250 * np.exp(-((rows - 14) ** 2 + (columns - 14) ** 2) / 8)
    images = np.repeat(spot[None, None], 20, 0).astype(np.uint8)
    moved = corrupt(images, Corruption("shift", 4))[:, 0].astype(float)
    mass = moved.sum((1, 2))
    centre = np.stack([(moved * axis).sum((1, 2)) / mass - 14 for axis in (rows, columns)], 1)
    assert np.linalg.norm(centre, axis=1) == pytest.approx(4, abs=0.1)
    assert len({tuple(one) for one in centre.round(1)}) > 10, "in random directions"


@pytest.mark.parametrize(("kind", "level", "zeros"), [("hole", 8, 64), ("line", 2, 56)])
def test_a_hole_is_on_the_object(kind: Kind, level: float, zeros: int) -> None:
    images = np.full((30, 1, 28, 28), 10, np.uint8)
    images[:, :, 4:16, 4:16] = 200
    found = corrupt(images, Corruption(kind, level))
    for image in found:
        gone = image[0] == 0
        assert gone.sum() == zeros
        assert images[0, 0][gone].mean() >= images[0].mean()


def test_where_no_place_is_bright_enough_the_brightest_is_taken() -> None:
    image = np.zeros((1, 28, 28))
    image[0, 0, 0] = 200.0
    image[0, -1, :] = 90.0
    assert random_rectangle(image, 26, 26, np.random.default_rng(0)) in [(2, 0), (2, 1), (2, 2)]
    assert random_rectangle(np.full((3, 9, 9), 0.1), 4, 4, np.random.default_rng(0)) is not None


def test_images_of_different_sizes_are_damaged_one_by_one() -> None:
    images = [mosaic(1, 2, 3), mosaic(2, 3, 2)]
    for one in (Corruption("noise", 6), Corruption("hole", 8), Corruption("blur", 1.2)):
        [found] = corrupt_chunks([images], one)
        rng = np.random.default_rng(0)
        for image, damaged in zip(images, found, strict=True):
            np.testing.assert_array_equal(damaged, corrupt(image[None], one, rng)[0])
            assert (damaged != image).any()


@pytest.mark.parametrize("shape", [(3, 120, 300), (1, 28, 90), (1, 28, 28)])
def test_images_smaller_than_a_tile_get_the_faults_of_a_tile(shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    image = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    for one in corruptions(256, 256):
        [found] = corrupt(image[None], one)
        assert (found.shape, found.dtype) == (shape, np.uint8)
        assert (found != image).any(), one
        side = int(one.level)
        if one.kind == "hole":
            assert (found == 0).all(0).sum() == min(side, height) * min(side, width)
        if one.kind == "line":
            assert (found == 0).all(0).sum() in {min(side, height) * width, height * min(side, width)}
