"""How many images go into micro-batches, and groups of images that fill them."""

from __future__ import annotations

from typing import Any

import pytest

from snf_runtime.parallelism import BatchPlan, chunk_size, micro_batch_of


@pytest.mark.parametrize(("images", "runs"), [(0, 0), (1, 0), (5, 0), (6, 1), (8, 1), (9, 1), (14, 2), (80, 10)])
def test_few_images_go_one_by_one(images: int, runs: int) -> None:
    assert BatchPlan(4, 2).parallel_runs(images) == runs


def test_images_whose_bits_differ_alone_go_together() -> None:
    assert [BatchPlan(4, 2, is_equal_alone=False).parallel_runs(images) for images in (0, 1, 8, 9)] == [0, 1, 1, 2]


@pytest.mark.parametrize("changed", [{"micro_batch": 2.5}, {"micro_batch": True}, {"parallel_requests": 0}])
def test_a_plan_has_whole_numbers(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a whole number, got"):
        BatchPlan(**{"micro_batch": 4, "parallel_requests": 2, **changed})


@pytest.mark.parametrize("pixels", [8 * 8, 28 * 28, 128 * 128, 224 * 224, 256 * 256, 300 * 300, 512 * 512])
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 16, 64])
def test_a_group_fills_the_micro_batches_of_all_threads(pixels: int, threads: int) -> None:
    group = chunk_size(pixels, threads)
    assert group % (micro_batch_of(pixels) * threads) == 0
    # A step takes each thread as long as its largest micro-batch, or as 32 small images where there are few threads.
    assert group * pixels <= max(32 * 128 * 128, threads * 16 * 128 * 128)


def test_a_group_of_very_large_images_is_bounded_by_its_pixels() -> None:
    assert [chunk_size(1024 * 1024, threads) for threads in (1, 2, 8, 64)] == [1, 1, 2, 16]
