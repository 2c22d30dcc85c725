"""An evaluation with masks by a model of tiles: the figures are those of its maps, of every pixel or of fewer."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from snf_client.schemas.evaluations import EvaluationParameters
from snf_models.datasets import DatasetStore
from snf_models.evaluation.evaluate import Subject, evaluate
from snf_models.scorer import Scorer, load_model
from tests.support.compiled_cache import compiled
from tests.support.tiled import FAULTY, OTHERS, add_masks, mosaic, mosaic_store, tiled_artifact, with_fault


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, backbones: Path) -> Scorer:
    return load_model(tiled_artifact(tmp_path_factory)[0], options=compiled(backbones=backbones))


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> DatasetStore:
    """The datasets with the masks of the faulty mosaics."""
    folder = tmp_path_factory.mktemp("masked")
    store = mosaic_store(folder)
    add_masks(store, folder)
    return store


@pytest.fixture(scope="module")
def maps(scorer: Scorer) -> dict[int, NDArray[np.floating]]:
    """Maps of the mosaics that an evaluation takes, by seed: half of the normal ones, and all with a fault."""
    half = sorted(np.random.default_rng(0).permutation(40)[20:].tolist())
    images = {100 + number: mosaic(100 + number) for number in half}
    images |= {seed: with_fault(mosaic(seed), 20, 24) for seed in range(200, 210)}
    return {seed: scorer.heat_maps([image])[0].anomaly for seed, image in images.items()}


@pytest.mark.parametrize("map_pixels", [2**20, 2000])
def test_a_model_of_tiles_is_evaluated_with_masks(
    scorer: Scorer,
    masked: DatasetStore,
    maps: dict[int, NDArray[np.floating]],
    map_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normal, faulty = [], []
    for seed, whole in maps.items():
        scale = math.ceil(math.sqrt(whole.size / map_pixels))
        rows, columns = (side // scale * scale for side in whole.shape)
        seen = whole[:rows:scale, :columns:scale].astype(np.float32)
        inside = np.zeros(seen.shape, dtype=bool)
        if seed >= 200:
            inside[20 // scale : 35 // scale + 1, 24 // scale : 39 // scale + 1] = True
            faulty.append(seen[inside])
        normal.append(seen[~inside])
    sound, defect = np.sort(np.concatenate(normal)), np.concatenate(faulty)
    normal = normal[:20]

    monkeypatch.setattr("snf_runtime.anomaly.maps.MAX_MAP_PIXELS", map_pixels)
    parameters = EvaluationParameters(against=[FAULTY], masks={FAULTY: "masks"}, corruptions=False, alpha=0.1)
    report = evaluate(Subject(scorer, "tiles:1", OTHERS, parameters, None, masked))
    found = report.sets[0].localisation
    assert (found.images, found.normal_images, found.unpaired, found.empty_masks) == (10, 20, 0, 0)
    area = mannwhitneyu(defect, sound).statistic / (len(defect) * len(sound))
    assert found.pixel_auroc == pytest.approx(area, abs=1e-9)
    assert found.pixel_auroc > 0.8
    limits = np.unique(np.concatenate([sound, defect]))[::-1]
    false = np.array([0, *(1 - np.searchsorted(sound, limits) / len(sound))])
    overlap = np.array([0, *(np.mean([(values >= limit).mean() for values in faulty]) for limit in limits)])
    end = int(np.searchsorted(false, 0.3))
    last = np.interp(0.3, false[end - 1 : end + 1], overlap[end - 1 : end + 1])
    under = np.trapezoid([*overlap[:end], last], [*false[:end], 0.3])
    assert found.aupro == pytest.approx(under / 0.3, abs=1e-9)
    values = np.concatenate(normal)
    if map_pixels == 2000:
        assert len(values) < 100_000
        assert found.aupimo is None
    else:  # no rate of the range is below that of the largest normal value, which all pixels of a place share
        assert (values == values.max()).mean() > 1e-4
        assert found.aupimo == pytest.approx(np.mean([(inside >= values.max()).mean() for inside in faulty]), abs=1e-9)
    for rates in found.regions:
        threshold = scorer.calibration.map_threshold(rates.alpha)
        if threshold is not None:
            assert rates.hit == np.mean([(inside >= threshold).any() for inside in faulty])
            assert rates.false_alarms == np.mean([(of_image >= threshold).any() for of_image in normal])
    assert found.regions[-1].hit == 1
