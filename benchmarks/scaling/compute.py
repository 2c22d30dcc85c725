"""The plain scoring loop in processes of their own: what several processes give at once."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.speed.ours import COMPILED
from snf_models.registry.registry import Registry
from snf_models.scorer import Scorer
from snf_models.scoring.options import EngineOptions
from snf_models.threads import one_blas_thread

Images: TypeAlias = NDArray[np.uint8]


@cache
def scorer_of(model: str) -> Scorer:
    """Return a shipped model that scores in one thread, as a service with ``SNF_THREADS=1`` does."""
    torch.set_num_threads(1)
    one_blas_thread()
    return Scorer.load(Registry(Path("none")).resolve(model).path, options=EngineOptions(threads=1, cache=COMPILED))


def noise(scorer: Scorer, count: int) -> Images:
    """Return images of a model's size, with random pixels."""
    preprocessing = scorer.preprocessing
    shape = (count, preprocessing.channels, preprocessing.height, preprocessing.width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def images_per_second(model: str, seconds: float, batch: int, images: Images | None, start: Barrier) -> float:
    """Return the rate of this process in batches of this size, from the moment when all processes are ready."""
    scorer = scorer_of(model)
    pixels = noise(scorer, batch) if images is None else images
    batches = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
    scorer.judge_each(batches[0])
    start.wait()
    began, done = time.perf_counter(), 0
    for part in itertools.cycle(batches):
        scorer.judge_each(part)
        done += len(part)
        if time.perf_counter() >= began + seconds:
            break
    return done / (time.perf_counter() - began)


def together(model: str, processes: int, seconds: float, batch: int = 32, images: Images | None = None) -> list[float]:
    """Return images a second of so many independent processes of one thread each, at the same time.

    Args:
        model: A shipped model.
        processes: Number of processes.
        seconds: Seconds of scoring.
        batch: Images in a batch.
        images: Images to score in turn, uint8 ``(N, C, H, W)``; None for a batch of noise.
    """
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(processes) as pool:
        start = manager.Barrier(processes)
        return pool.starmap(images_per_second, [(model, seconds, batch, images, start)] * processes)


def limit(
    model: str, processes: int, seconds: float, rounds: int = 3, batch: int = 32, images: Images | None = None
) -> tuple[float, Sequence[float]]:
    """Return how many times the rate of one process several give here, and the rates of one process alone."""
    alone, ratios = [], []
    for _ in range(rounds):  # in turns, because machines change their pace
        alone.append(together(model, 1, seconds, batch, images)[0])
        ratios.append(sum(together(model, processes, seconds, batch, images)) / alone[-1])
    return statistics.median(ratios), alone
