"""Scoring of image files in this process; files are decoded and results written while the model computes."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from snf_app.cli.common import read_settings
from snf_app.cli.score_output import registry
from snf_app.registry.model_pool import ServedModel
from snf_app.scoring.request_images import Item, Upload, decode_upload, decoded
from snf_app.scoring.responses import image_results
from snf_client.schemas.scores import ScoreQuery
from snf_client.scores import ScorePart, images_per_request
from snf_models.errors import ImageError
from snf_models.scorer import load_model
from snf_models.threads import one_blas_thread, prefetch
from snf_runtime.anomaly.detection import Detection
from snf_runtime.images.batch import batch_of, in_batches
from snf_runtime.images.files import path_text, read_file
from snf_runtime.images.preprocessing import DecodedImage

DECODERS = min(4, os.cpu_count() or 1)
FILES_PER_TASK = 8
"""Files that a thread decodes at a time: handing over a single small file costs more than decoding it."""
REQUESTS_PER_BATCH = 4  # images of a batch as a multiple of those of a request: a verdict costs less in a large batch
LARGE_BATCH_BYTES = 64 * 2**20  # most bytes of a batch of several images that keep their size
PREFETCHED = 2  # batches that are decoded or scored ahead, so that the model never waits


def score_local(files: Sequence[Path], ref: str, query: ScoreQuery) -> Generator[ScorePart]:
    """Score image files, and yield the results in batches, in their order; raise ``ModelsError``."""
    one_blas_thread()
    settings = read_settings()
    version = registry().resolve(ref)
    loaded = ServedModel(version, load_model(version.path, version.calibration_path, settings.engine_options))
    loaded.scorer.calibration.check_alpha(query.alpha)
    if query.explain:
        loaded.scorer.require_spatial()
    batches = _decoded(files, loaded, REQUESTS_PER_BATCH * images_per_request(query.draws, explain=query.explain))
    if loaded.scorer.preprocessing.tiled:
        # Large images are not kept ahead: the memory is that of one batch.
        scored = _scored(batches, loaded, query)
    else:
        scored = prefetch(_scored(prefetch(batches, PREFETCHED), loaded, query), PREFETCHED)
    with closing(scored) as parts:
        first = 0
        for items, judged in parts:
            results = image_results(loaded, items, judged, query, first)
            yield ScorePart(tuple(results), version.name, version.version, version.calibration)
            first += len(items)


def _decoded(files: Sequence[Path], loaded: ServedModel, size: int) -> Generator[list[Item]]:
    if loaded.scorer.preprocessing.tiled:
        yield from in_batches((_item(path, loaded) for path in files), size, LARGE_BATCH_BYTES, _bytes)
        return

    def decode(paths: Sequence[Path]) -> list[Item]:
        return [_item(path, loaded) for path in paths]

    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
        for start in range(0, len(files), size):
            batch = files[start : start + size]
            pieces = [batch[at : at + FILES_PER_TASK] for at in range(0, len(batch), FILES_PER_TASK)]
            yield [item for items in pool.map(decode, pieces) for item in items]


def _bytes(item: Item) -> int:
    return item.image.pixels.nbytes if isinstance(item.image, DecodedImage) else 0


def _item(path: Path, loaded: ServedModel) -> Item:
    name = path_text(path)
    try:
        data = read_file(path)
    except ImageError as error:
        return Item(name, error)
    return decode_upload(Upload(name, data), loaded.scorer.preprocessing)


def _scored(
    batches: Generator[list[Item]], loaded: ServedModel, query: ScoreQuery
) -> Generator[tuple[list[Item], dict[int, Detection | ImageError]]]:
    scorer = loaded.scorer
    with closing(batches):
        for items in batches:
            images = decoded(items)
            if not images:
                yield items, {}
                continue
            pixels = batch_of(list(images.values()), scorer.preprocessing)
            judged = scorer.detect(pixels, query.alpha, query.draws, explain=query.explain)
            yield items, dict(zip(images, judged, strict=True))
