"""Augmented batches."""

import numpy as np
import pytest
import torch

from snf_client.schemas.training import Augmentation, TrainingConfig
from snf_models.training.batches import Batches

SIDE = 32
RAMP = np.arange(SIDE, dtype=np.uint8)[None, None, None].repeat(SIDE, 2).repeat(40, 0)
"""Images whose pixels are the numbers of their columns."""


@pytest.mark.parametrize(
    ("augmentation", "flips", "shifts"),
    [
        ("none", {False}, {0}),
        ("flip", {False, True}, {0}),
        ("crop", {False}, {-1, 0, 1}),
        ("crop-flip", {False, True}, {-1, 0, 1}),
    ],
)
def test_images_are_flipped_and_shifted_by_a_pixel_at_most_as_far_as_is_asked_for(
    augmentation: Augmentation, flips: set[bool], shifts: set[int]
) -> None:
    batches = Batches(RAMP, 40, 3, augmentation)
    rows = batches.batch(5).floor()[:, 0, 10, 1:-1]
    middle = torch.arange(SIDE, dtype=torch.float64)[1:-1]
    seen = {
        (flip, shift)
        for row in rows
        for flip in (False, True)
        for shift in (-1, 0, 1)
        if torch.equal(row, (middle.flip(0) if flip else middle) + shift)
    }
    assert seen == {(flip, shift) for flip in flips for shift in shifts}
    assert RAMP[0, 0, 0, 0] == 0, "the dataset is not changed"


def test_augmented_batches_are_functions_of_seed_and_step_with_noise_of_each_pixel() -> None:
    one, again, other = (Batches(RAMP, 40, seed, "crop-flip") for seed in (3, 3, 4))
    assert torch.equal(one.batch(5), again.batch(5))
    assert not np.array_equal(one.pixels(5), other.pixels(5))
    assert not np.array_equal(one.pixels(5), one.pixels(6))
    noise = one.batch(5) - torch.from_numpy(one.pixels(5))
    assert len(noise.unique()) == noise.numel(), "also on a repeated edge"


def test_a_shift_is_a_share_of_its_own_side() -> None:
    rows, columns = np.indices((8, 64)).astype(np.uint8)
    by_row, by_column = (Batches(ramp[None, None].repeat(200, 0), 200, 0, "crop") for ramp in (rows, columns))
    assert np.array_equal(by_row.pixels(0)[:, 0, :, 0], rows[None, :, 0].repeat(200, 0)), "4 % of 8 rows is no row"
    assert set(by_column.pixels(0)[:, 0, 0, 32].tolist()) == set(range(29, 36)), "4 % of 64 columns is 3"


def test_no_image_is_augmented_unless_it_is_asked_for() -> None:
    assert TrainingConfig().augmentation == "none"
    with pytest.raises(ValueError, match="augmentation"):
        TrainingConfig.model_validate({"augmentation": "rotate"})
