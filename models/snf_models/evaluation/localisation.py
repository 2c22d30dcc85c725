"""Exact pixel AUROC, AUPRO (Bergmann et al. 2021) and AUPIMO (Bertoldo et al. 2024) of anomaly maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from snf_client.schemas.evaluations import Localisation, RegionRates
from snf_models.anomaly.reference_images import evenly_spaced
from snf_models.errors import DatasetUnfit
from snf_models.evaluation.checks import MaskPairs, MaskReader, pair_masks
from snf_models.evaluation.image_sets import ImageSet
from snf_models.scorer import Scorer
from snf_runtime.anomaly.maps import MAX_MAP_PIXELS, PixelMaps
from snf_runtime.images.batch import batch_of
from snf_runtime.images.preprocessing import DecodedImage

Array: TypeAlias = NDArray[np.float64]
Map: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

TOUCHING = np.ones((3, 3), dtype=np.int8)
"""Pixels that touch at a side or a corner are connected."""
PRO_LIMIT = 0.3
"""Largest false-positive rate of AUPRO."""
PIMO_RANGE = (1e-5, 1e-4)
"""False-positive rates of AUPIMO."""
FOUND = 0.5
"""AUPIMO from which on the defect of an image counts as found."""


@dataclass(frozen=True)
class LocalisationMetrics:
    """How well anomaly maps agree with the masks of defects."""

    pixel_auroc: float  # over the pixels of all images
    aupro: float  # mean found share of each defect, false-positive rates from 0 to 0.3
    aupimo: Array | None  # of each image, ``(images,)``; None if normal images have too few pixels


def localise(normal: Sequence[Map], maps: Sequence[Map], masks: Sequence[Mask]) -> LocalisationMetrics:
    """Return the metrics of maps ``(H, W)``, larger for anomalies; raise ``ValueError`` without defect pixels."""
    defect = np.concatenate([of_image[mask] for of_image, mask in zip(maps, masks, strict=True)])
    other = [of_image.ravel() for of_image in normal]
    other += [of_image[~mask] for of_image, mask in zip(maps, masks, strict=True)]
    sound = np.sort(np.concatenate(other))
    if not len(defect) or not len(sound):
        raise ValueError(f"expected pixels of defects and others, got {len(defect)} and {len(sound)}")
    rates = _rates(defect, sound)
    return LocalisationMetrics(
        pixel_auroc=float(_ramp_areas(*rates, 0.0, 1.0).mean()),
        aupro=float(_defect_weights(masks) @ _ramp_areas(*rates, 0.0, PRO_LIMIT)) / PRO_LIMIT,
        aupimo=aupimo(normal, maps, masks),
    )


def aupimo(
    normal: Sequence[Map],
    maps: Sequence[Map],
    masks: Sequence[Mask],
    between: tuple[float, float] = PIMO_RANGE,
) -> Array | None:
    """Return the AUPIMO of each image with a defect, or None if normal images have too few pixels."""
    pixels = sum(of_image.size for of_image in normal)
    if pixels * between[0] * (1 + 1e-9) < 1:
        return None
    sound = np.sort(np.concatenate([of_image.ravel() for of_image in normal]))
    low, high = (math.log(rate) for rate in between)
    areas = []
    for of_image, mask in zip(maps, masks, strict=True):
        if not mask.any():
            continue
        with np.errstate(divide="ignore"):
            above, reached = (np.log(rate) for rate in _rates(of_image[mask], sound))
        areas.append(float(_ramp_areas(above, reached, low, high).mean()) / (high - low))
    return np.array(areas)


def _rates(values: Map, sound: Map) -> tuple[Array, Array]:
    """Return the shares of sorted sound pixels above each value, and of those that are at least as large."""
    above = len(sound) - np.searchsorted(sound, values, side="right")
    reached = len(sound) - np.searchsorted(sound, values, side="left")
    return above / len(sound), reached / len(sound)


def _ramp_areas(first: Array, last: Array, low: float, high: float) -> Array:
    """Integrate ramps from 0 at ``first`` to 1 at ``last``. One of no width is a step."""
    after = high - np.clip(last, low, high)
    start, end = np.clip(first, low, high), np.clip(last, low, high)
    with np.errstate(invalid="ignore", divide="ignore"):
        width = last - first
        during = ((end - first) ** 2 - (start - first) ** 2) / (2 * width)
    during = np.where(np.isneginf(first), end - low, np.where(width > 0, during, 0.0))
    return after + during


def _defect_weights(masks: Sequence[Mask]) -> Array:
    """Return the weight of each defect pixel, image by image: all defects count alike, and all pixels of a defect."""
    shares, defects = [], 0
    for mask in masks:
        labels, count = ndimage.label(mask, TOUCHING)
        inside = labels[mask]
        shares.append(1 / np.bincount(inside, minlength=count + 1)[inside])
        defects += count
    return np.concatenate(shares) / defects


MAX_VALUES = 2**25
"""Most values of the maps of normal images in memory together, and of those of images with defects."""
MAX_NAMES = 20
"""Most names of images or masks without a partner that a report lists."""

Advance: TypeAlias = Callable[[int], None]
"""A function that is called with the number of further images; what it raises ends the work."""


def few(images: ImageSet) -> ImageSet:
    """Choose evenly spaced images whose maps fit into memory."""
    return images.chosen(places_in_memory(images))


def places_in_memory(images: ImageSet) -> NDArray[np.intp]:
    """Return evenly spaced indices, few enough for the maps to fit into memory."""
    largest = images.preprocessing.height * images.preprocessing.width
    if images.preprocessing.tiled and len(images):  # the maps are as large as the images, which keep their size
        largest = min(int(images.sizes.prod(1).max()), MAX_MAP_PIXELS)
    return evenly_spaced(len(images), max(1, MAX_VALUES // largest))


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
    paired = images.chosen(np.array(list(pairs.masks), dtype=np.intp))
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
