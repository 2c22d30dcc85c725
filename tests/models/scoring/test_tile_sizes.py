"""Tile sizes: which are measured, how many images go into tiles, and groups of images that fill them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from snf_models.scoring.cache import open_program
from snf_models.scoring.openvino_graph import forward_graph
from snf_runtime.parallelism import (
    MICRO_BATCHES,
    ROUNDS,
    BatchTiming,
    assumed_timing,
    chunk_size,
    fastest_micro_batch,
    max_micro_batch,
)
from snf_runtime.scoring.openvino_engine import Program
from tests.models.helpers import frozen_glow


def test_the_smallest_of_the_fastest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {1: 1.0, 2: 1.2, 4: 2.0, 8: 3.98, 16: 40.0}
    clock, turns = [0.0], dict.fromkeys(took, 0)
    monkeypatch.setattr("snf_runtime.parallelism.time.perf_counter", lambda: clock[0])

    def run(tile: int) -> Callable[[], None]:
        def work() -> None:
            turns[tile] += 1
            # Other work on the machine holds up the best one in its first turns.
            clock[0] += took[tile] * (3 if tile == 4 and turns[tile] < 4 else 1) / 1000

        return work

    assert fastest_micro_batch(run, took) == 4
    assert turns[4] == turns[8] == 2 + ROUNDS
    assert turns[16] == 2, "hopeless from the start"


def test_a_measurement_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("snf_runtime.parallelism.time.perf_counter", lambda: clock[0])

    def run(tile: int) -> Callable[[], None]:
        return lambda: clock.__setitem__(0, clock[0] + 10.0 * tile)

    assert fastest_micro_batch(run, (1, 4)) == 1
    assert clock[0] == 2 * 50 + 50, "a single round: it took longer than there is time for"


@pytest.mark.parametrize(("images", "runs"), [(0, 0), (1, 0), (6, 0), (7, 1), (8, 1), (9, 1), (15, 2), (80, 10)])
def test_few_images_go_one_by_one(images: int, runs: int) -> None:
    assert BatchTiming(4, 2, parallel_s=6.5, single_s=1.0).parallel_runs(images) == runs


@pytest.mark.parametrize("pixels", [8 * 8, 28 * 28, 128 * 128, 224 * 224, 256 * 256, 300 * 300, 512 * 512])
@pytest.mark.parametrize("threads", [1, 2, 3, 4, 16, 64])
def test_a_group_fills_tiles_of_any_measured_size_on_all_threads(pixels: int, threads: int) -> None:
    group, largest = chunk_size(pixels, threads), max_micro_batch(pixels)
    for tile in (tile for tile in MICRO_BATCHES if tile <= largest):
        assert group % (tile * threads) == 0
    # A step takes each thread as long as its largest tile, or as long as 32 small images where there are few threads.
    assert group * pixels <= max(32 * 128 * 128, threads * 16 * 128 * 128)


def test_a_group_of_very_large_images_is_bounded_by_its_pixels() -> None:
    assert [chunk_size(1024 * 1024, threads) for threads in (1, 2, 8, 64)] == [1, 1, 2, 16]


def test_no_tile_is_measured_that_a_group_cannot_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of 16 was the fastest of images of 224x224, which came in groups of 8 and were computed alone."""
    measured = []

    def fastest(run: Callable[[int], Callable[[], object]], candidates: Iterable[int]) -> int:
        measured.append(list(candidates))
        run(1)
        return 1

    monkeypatch.setattr("snf_runtime.scoring.openvino_engine.fastest_micro_batch", fastest)
    frozen = frozen_glow(8, 1, "logit")[1]
    for pixels in (8 * 8, 224 * 224, 512 * 512):
        open_program(Program, lambda images: forward_graph(frozen, images), pixels, 2, tmp_path / str(pixels))
    assert measured == [[1, 4, 16], [1, 4], [1]]
    # What an earlier version measured for a larger tile is measured again.
    [path] = (tmp_path / str(8 * 8)).glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "micro_batch": 16}))
    open_program(Program, lambda images: forward_graph(frozen, images), 8 * 8, 2, path.parent)
    assert len(measured) == 3
    open_program(Program, lambda images: forward_graph(frozen, images), 224 * 224, 2, path.parent)
    assert measured[3:] == [[1, 4]]


def test_assumed_times() -> None:
    assert assumed_timing(2).parallel_runs(1) == 0
    assert assumed_timing(2).parallel_runs(8) == 1
