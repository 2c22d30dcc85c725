# ruff: noqa: PLC0415 - heavy imports wait until their command runs
"""Scoring of image files in this process: files are decoded and answers written while the model works."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.common import settings

if TYPE_CHECKING:
    from app.registry.model_pool import Loaded
    from app.scoring.request_images import Item
    from models.anomaly.judged import Judgement
    from snf_client.resources.scores import Part, Question

DECODERS = min(4, os.cpu_count() or 1)
AT_ONCE = 8
"""Files that one thread decodes before it takes others: handing over costs more than a small one."""
REQUESTS = 4
"""So many of what one request to a service would hold are a batch: a verdict costs less among many."""
AHEAD = 2
"""Batches that wait, decoded or scored: the model must not."""


def score_here(files: Sequence[Path], question: Question) -> Generator[Part]:
    """The results of files in their order, in the batches that they were scored in.

    Raises `AlphaUnattainable`, `NotThorough`, `NoPlaces` and what loading a model raises.
    """
    from app.registry.model_pool import Loaded
    from models.prefetch import ahead
    from models.registry.registry import Registry
    from models.scorer import Scorer
    from models.scoring.threads import one_blas_thread

    one_blas_thread()
    found = settings()
    version = Registry(found.registry_dir).resolve(question.model)
    loaded = Loaded(version, Scorer.load(version.path, version.calibration_path, found.engine_options))
    loaded.scorer.calibration.check_alpha(question.alpha, question.detail == "full")
    if question.explain:
        loaded.scorer.require_places()
    decoded = ahead(_decoded(files, loaded, REQUESTS * question.size), AHEAD)
    with closing(ahead(_scored(decoded, loaded, question), AHEAD)) as batches:
        first = 0
        for items, outcomes in batches:
            yield _part(loaded, items, outcomes, first)
            first += len(items)


def _decoded(files: Sequence[Path], loaded: Loaded, size: int) -> Generator[list[Item]]:
    def decode(paths: Sequence[Path]) -> list[Item]:
        return [_item(path, loaded) for path in paths]

    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        for start in range(0, len(files), size):
            batch = files[start : start + size]
            pieces = [batch[at : at + AT_ONCE] for at in range(0, len(batch), AT_ONCE)]
            yield [item for piece in pool.map(decode, pieces) for item in piece]


def _item(path: Path, loaded: Loaded) -> Item:
    from app.scoring.request_images import Item, Upload, decode_upload
    from models.bulk.sources import path_text, read_file
    from models.errors import ImageError

    name = path_text(path)
    try:
        data = read_file(path)
    except ImageError as error:
        return Item(name, error)
    return decode_upload(Upload(name, data), loaded.scorer.preprocessing)


def _scored(
    batches: Generator[list[Item]], loaded: Loaded, question: Question
) -> Generator[tuple[list[Item], dict[int, Judgement]]]:
    import numpy as np

    from app.scoring.request_images import decoded

    scorer, full = loaded.scorer, question.detail == "full"
    with closing(batches):
        for items in batches:
            images = decoded(items)
            if not images:
                yield items, {}
                continue
            pixels = np.stack(list(images.values()))
            judged = scorer.judge_each(pixels, question.alpha, question.draws, thorough=full, explain=question.explain)
            yield items, dict(zip(images, judged, strict=True))


def _part(loaded: Loaded, items: list[Item], outcomes: dict[int, Judgement], first: int) -> Part:
    from app.scoring.responses import image_result
    from snf_client.resources.scores import Part

    version = loaded.version
    results = (image_result(first + place, item, outcomes.get(place), loaded) for place, item in enumerate(items))
    return Part(tuple(results), version.name, version.version, version.calibration)
