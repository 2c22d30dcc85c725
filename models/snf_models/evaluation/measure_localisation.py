"""Measurement of how well anomaly maps locate defects, by masks and by normal images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_client.schemas.evaluations import Localisation, RegionRates
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.image_sets import ImageSet, evenly
from snf_models.evaluation.localisation_metrics import FOUND, Map, Mask, localise
from snf_models.evaluation.masks import MaskPairs, MaskReader, pair_masks
from snf_models.scorer import Scorer
from snf_runtime.anomaly.maps import MAX_MAP_PIXELS, PixelMaps
from snf_runtime.images.batch import batch_of
from snf_runtime.images.preprocessing import DecodedImage

MAX_VALUES = 2**25
"""Most values of the maps of normal images in memory together, and of those of images with defects."""
MAX_NAMES = 20
"""Most names of images or masks without a partner that a report lists."""

Advance: TypeAlias = Callable[[int], None]
"""A function that is called with the number of further images; what it raises ends the work."""


def few(images: ImageSet) -> ImageSet:
    """Choose evenly spaced images whose maps fit into memory."""
    return images.chosen(places_in_memory(images))


def places_in_memory(images: ImageSet) -> NDArray[np.int64]:
    """Return evenly spaced indices, few enough for the maps to fit into memory."""
    largest = images.preprocessing.height * images.preprocessing.width
    if images.preprocessing.tiled and len(images):  # the maps are as large as the images, which keep their size
        largest = min(int(images.sizes.prod(1).max()), MAX_MAP_PIXELS)
    return evenly(len(images), max(1, MAX_VALUES // largest))


def pairs_of(images: ImageSet, masks: MaskReader, name: str) -> MaskPairs:
    """Pair images and masks; raise ``DatasetUnfit`` if no image has a mask."""
    pairs = pair_masks(images.names, masks.paths)
    if not pairs.masks:
        raise DatasetUnfit(
            f"no image of {images.dataset} has a mask in {name}: expected equal file names without ending and without "
            f"_mask, got images such as {images.names[0]} and masks such as {masks.paths[0]}"
        )
    return pairs


def normal_maps(scorer: Scorer, images: ImageSet, advance: Advance) -> list[Map]:
    """Return the finite maps of normal images; raise ``DatasetUnfit`` if there is none."""
    maps = [_values(heat_map) for batch in images.decoded() for _, heat_map in _maps(scorer, batch, advance)]
    if not maps:
        raise DatasetUnfit(f"no image of {images.dataset} has a finite anomaly map")
    return maps


def measure_localisation(
    scorer: Scorer,
    normal: Sequence[Map],
    images: ImageSet,
    masks: MaskReader,
    name: str,
    advance: Advance,
    alphas: Sequence[float],
) -> Localisation:
    """Measure images with a defect in their mask and a finite map; raise ``DatasetUnfit``."""
    pairs = pairs_of(images, masks, name)
    paths = list(pairs.masks.values())
    paired = images.chosen(np.array(list(pairs.masks), dtype=np.int64))
    places = places_in_memory(paired)
    chosen, paths = paired.chosen(places), [paths[place] for place in places]
    advance(len(images) - len(chosen))
    maps: list[Map] = []
    defects: list[Mask] = []
    empty = start = 0
    for batch in chosen.decoded():
        read = [masks.read(path, image.source_size) for path, image in zip(paths[start:], batch, strict=False)]
        start += len(batch)
        for place, heat_map in _maps(scorer, batch, advance):
            if read[place].any():
                maps.append(_values(heat_map))
                defects.append(reduced(read[place], heat_map.scale))
            else:
                empty += 1
    if not maps:
        raise DatasetUnfit(
            f"{name}: expected masks with defects, values of at least 128, for images of {images.dataset}; "
            f"{len(pairs.masks)} of {len(images)} images have a mask, {empty} masks are empty"
        )
    metrics = localise(normal, maps, defects)
    return Localisation(
        masks=name,
        images=len(maps),
        empty_masks=empty,
        unpaired=len(pairs.unpaired),
        unpaired_names=list(pairs.unpaired[:MAX_NAMES]),
        unused_masks=len(pairs.unused),
        unused_names=list(pairs.unused[:MAX_NAMES]),
        normal_images=len(normal),
        pixel_auroc=metrics.pixel_auroc,
        aupro=metrics.aupro,
        aupimo=None if metrics.aupimo is None else float(metrics.aupimo.mean()),
        aupimo_found=None if metrics.aupimo is None else float((metrics.aupimo >= FOUND).mean()),
        regions=[_region_rates(scorer, alpha, normal, maps, defects) for alpha in alphas],
    )


def reduced(mask: Mask, scale: int) -> Mask:
    """Shrink a mask by ``scale``: a pixel is true where any of its pixels is, with edges in the last one."""
    for axis, side in enumerate(mask.shape):
        mask = np.logical_or.reduceat(mask, np.arange(max(1, side // scale)) * scale, axis=axis)
    return mask


def _maps(scorer: Scorer, batch: Sequence[DecodedImage], advance: Advance) -> Iterator[tuple[int, PixelMaps]]:
    """Yield the index and the heat map of each image of a batch whose anomaly map is finite."""
    images = batch_of([image.pixels for image in batch], scorer.preprocessing)
    for place, heat_map in enumerate(scorer.heat_maps(images)):
        if np.isfinite(heat_map.anomaly).all():
            yield place, heat_map
    advance(len(batch))


def _values(heat_map: PixelMaps) -> Map:
    return heat_map.anomaly.astype(np.float32)


def _region_rates(
    scorer: Scorer, alpha: float, normal: Sequence[Map], maps: Sequence[Map], defects: Sequence[NDArray[np.bool_]]
) -> RegionRates:
    limit = scorer.calibration.map_threshold(alpha)
    if limit is None:
        return RegionRates(alpha=alpha, hit=None, false_alarms=None)
    hits = [bool((of_image[mask] >= limit).any()) for of_image, mask in zip(maps, defects, strict=True)]
    alarms = [bool((of_image >= limit).any()) for of_image in normal]
    return RegionRates(alpha=alpha, hit=float(np.mean(hits)), false_alarms=float(np.mean(alarms)))
