"""A calibration on disk comes back to the bit, and a damaged or foreign one is refused with the file's name."""

from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from snf_models.anomaly.calibrate import fit_cross, fit_split
from snf_models.artifacts.files import CALIBRATION
from snf_models.errors import ArtifactError
from snf_models.registry.calibrations import from_arrays, load_calibration, save_calibration, to_arrays
from snf_models.scorer import Scorer, load_model
from snf_models.scoring import EngineOptions
from snf_runtime.anomaly.calibration import Calibration
from tests.models.anomaly.evidences import GRID, IMAGE, NAMES, evidence, reference
from tests.models.helpers import sign_again
from tests.support.compiled_cache import compiled

TORCH = EngineOptions("torch")
"""An engine that opens a changed model in a tenth of the time of one that compiles."""


@cache
def kinds() -> dict[str, Calibration]:
    """Calibrations of all kinds. Never change their arrays."""
    folds = (np.arange(60) % 5).astype(np.int8)
    return {
        "split": fit_split(reference(260, 1), reference(50, 2), NAMES, GRID),
        "cross": fit_cross(reference(60, 1), folds, NAMES, GRID),
        "without places": replace(fit_split(reference(60, 1), reference(50, 2), NAMES, None), pixels=None),
    }


def same(left: object, right: object, name: str = "") -> int:
    """Check that two parts are of equal types and bits; return the number of arrays compared."""
    assert type(left) is type(right), name
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        assert left.tobytes() == right.tobytes(), name
        return 1
    if isinstance(left, tuple) and isinstance(right, tuple):
        return sum(same(a, b, f"{name}.{i}") for i, (a, b) in enumerate(zip(left, right, strict=True)))
    if is_dataclass(left):
        return sum(same(getattr(left, f.name), getattr(right, f.name), f"{name}.{f.name}") for f in fields(left))
    assert left is right is None, name
    return 0


@pytest.mark.parametrize("kind", ["split", "cross", "without places"])
def test_round_trip_is_bit_identical(kind: str, tmp_path: Path) -> None:
    calibration = kinds()[kind]
    path = tmp_path / CALIBRATION
    save_calibration(calibration, path)
    back = load_calibration(path)
    assert same(calibration, back) == len(load_file(path)) > 20
    some = evidence(20, 5)
    assert np.array_equal(back.p_values(some), calibration.p_values(some))
    assert back.judge(some, NAMES, IMAGE) == calibration.judge(some, NAMES, IMAGE)
    save_calibration(back, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_trained_calibration_comes_back_too(scorer: Scorer, artifact: Path, tmp_path: Path) -> None:
    save_calibration(scorer.calibration, tmp_path / CALIBRATION)
    assert (tmp_path / CALIBRATION).read_bytes() == (artifact / CALIBRATION).read_bytes()


def test_every_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    save_calibration(kinds()["split"], path)
    arrays = load_file(path)
    assert any(name.startswith("folds.0.statistic.local.tails.5") for name in arrays)
    for name in sorted(arrays):
        save_file({other: value for other, value in arrays.items() if other != name}, path)
        with pytest.raises(ArtifactError, match=f"lacks {name}$") as caught:
            load_calibration(path)
        assert CALIBRATION in caught.value.detail
        assert str(tmp_path) not in caught.value.detail


def test_a_calibration_that_lacks_a_density_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    save_calibration(kinds()["split"], path)
    last = "folds.0.statistic.whole.views.2."
    kept = {name: array for name, array in load_file(path).items() if not name.startswith(last)}
    save_file(kept, path)
    with pytest.raises(ArtifactError, match="expected 3 densities of the whole image, or 4 with 4 shares, got 2"):
        load_calibration(path)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_numbers_of_other_types_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    save_calibration(kinds()["split"], path)
    tensors = {name: torch.from_numpy(array) for name, array in load_file(path).items()}
    save_tensors(tensors | {"log_likelihoods": tensors["log_likelihoods"].to(kind)}, path)
    with pytest.raises(ArtifactError, match=f"{CALIBRATION} cannot be read: "):
        load_calibration(path)


def test_only_arrays_are_stored() -> None:
    calibration = kinds()["cross"]
    arrays = to_arrays(calibration)
    assert all(isinstance(value, np.ndarray) and value.dtype.kind in "fi" for value in arrays.values())
    assert same(from_arrays(Calibration, arrays), calibration) == len(arrays)
    with pytest.raises(TypeError, match="neither an array nor a dataclass: str"):
        to_arrays({"a": 1}.__class__.__name__)


def rewrite(copy: Path, calibration: Calibration) -> None:
    save_calibration(calibration, copy / CALIBRATION)
    sign_again(copy)


def test_a_calibration_of_another_model_is_refused(copy: Path) -> None:
    misfit = r"calibration\.safetensors( does not fit the model|: the statistic of the pinned image is)"
    for calibration in kinds().values():
        rewrite(copy, calibration)
        with pytest.raises(ArtifactError, match=misfit):
            load_model(copy, options=TORCH)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a mean over no folds
def test_parts_that_do_not_fit_each_other_are_refused(copy: Path, scorer: Scorer) -> None:
    whole = scorer.calibration
    fold = whole.folds[0]
    local = fold.statistic.local
    short_tails = replace(local, tails=local.tails[:-1])
    few_weights = replace(local, weights=local.weights[:, :-1])
    few_columns = replace(fold.statistic.whole, used=fold.statistic.whole.used + 50)
    for name, damaged in {
        "tails": replace(whole, folds=(replace(fold, statistic=replace(fold.statistic, local=short_tails)),)),
        "weights": replace(whole, folds=(replace(fold, statistic=replace(fold.statistic, local=few_weights)),)),
        "columns": replace(whole, folds=(replace(fold, statistic=replace(fold.statistic, whole=few_columns)),)),
        "no folds": replace(whole, folds=()),
    }.items():
        rewrite(copy, damaged)
        try:
            load_model(copy, options=TORCH)
        except ArtifactError as error:
            assert CALIBRATION in error.detail, name  # noqa: PT017
        else:
            pytest.fail(f"{name}: it was loaded")


def test_a_calibration_for_another_precision_is_refused(copy: Path) -> None:
    with pytest.raises(ArtifactError, match="is for float32, the engine computes in bfloat16"):
        load_model(copy, options=compiled(precision="bfloat16"))
