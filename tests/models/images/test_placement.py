"""Boxes in pixels of the file: a mark in a file is where its box says, however the file was resized."""

import numpy as np
import pytest
from PIL import Image

from snf_runtime.images.preprocessing import FilePlacement, Fit, OpenedImage, Preprocessing, conform, conform_mask


def marked(size: tuple[int, int], mark: tuple[int, int, int, int]) -> OpenedImage:
    """A black file with a white mark: its left, top, right and bottom."""
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    pixels[mark[1] : mark[3], mark[0] : mark[2]] = 255
    return OpenedImage(Image.fromarray(pixels), "PNG", "L")


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(160, 120), (120, 160), (400, 100), (130, 129), (31, 29)])
def test_a_mark_in_the_file_is_in_the_box_of_its_pixels(fit: Fit, size: tuple[int, int]) -> None:
    half = min(size) // 4  # inside the part that every fit keeps
    mark = (size[0] // 2 - half, size[1] // 2, size[0] // 2 + half // 2, size[1] // 2 + half)
    preprocessing = Preprocessing(channels=1, height=64, width=48, fit=fit)
    decoded = conform(marked(size, mark), preprocessing)
    rows, columns = np.nonzero(decoded.pixels[0] >= 128)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    placement = FilePlacement.of(preprocessing, decoded.source_size)
    found = placement.box(box)
    # One pixel of the model's image is so many of the file.
    slack = [int(np.ceil(scale)) for scale in placement.scale] * 2
    assert all(abs(one - other) <= most for one, other, most in zip(found, mark, slack, strict=True)), (found, mark)
    area = placement.area(len(rows), found)
    assert area == pytest.approx((mark[2] - mark[0]) * (mark[3] - mark[1]), rel=0.35)
    column, row = placement.place((box[0], box[1]))
    assert found[0] <= column < found[2]
    assert found[1] <= row < found[3]
    # The mask of the mark covers the same pixels of the model's image.
    mask = conform_mask(marked(size, mark), preprocessing)
    assert (mask != (decoded.pixels[0] >= 128)).sum() <= 0.35 * mask.sum() + 4


def test_boxes_stay_in_the_file_and_have_a_pixel() -> None:
    preprocessing = Preprocessing(channels=1, height=64, width=64, fit="pad")
    placement = FilePlacement.of(preprocessing, (640, 100))
    assert placement.box((0, 0, 64, 64)) == (0, 0, 640, 100)
    margin = placement.box((3, 0, 9, 2))
    assert margin == (30, 0, 90, 1)
    assert placement.area(12, margin) == 60
    assert placement.place((0, 0)) == (5, 0)


@pytest.mark.parametrize("size", [None, (28, 20)])
def test_images_that_keep_their_size_keep_their_boxes(size: tuple[int, int] | None) -> None:
    placement = FilePlacement.of(Preprocessing(channels=1, height=20, width=28), size)
    assert placement.size == (28, 20)
    assert placement.box((3, 4, 28, 20)) == (3, 4, 28, 20)
    assert (placement.area(7, (0, 0, 28, 20)), placement.place((27, 19))) == (7, (27, 19))
