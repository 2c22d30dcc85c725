"""A scorer on a dict of arrays, and pickles of scorers that cannot be used."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.datasets import load_dataset
from snf_models.errors import AlphaUnattainable, ArtifactError, ImageError
from snf_models.loading.trained import load_artifact
from snf_models.score_rows import SCORE_COLUMNS
from snf_models.scorer import Scorer, load_model
from tests.support.paths import DIGITS


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """More than one batch, so that scores do not depend on the batches."""
    return np.asarray(load_dataset("mnist-mini", None).train[:70])


def test_scores_of_pixels_are_those_of_the_scorer_to_the_bit(scorer: Scorer, digits: NDArray[np.uint8]) -> None:
    names = np.array([f"{index}" for index in range(len(digits))])
    columns = scorer({"image": digits, "path": names})
    assert tuple(columns) == ("path", *SCORE_COLUMNS)
    assert columns["path"] is names
    alone = [likelihood for likelihood in scorer.score_each(digits) if not isinstance(likelihood, ImageError)]
    assert columns["log_likelihood"].dtype == np.float64
    assert columns["log_likelihood"].tolist() == [likelihood.log_likelihood for likelihood in alone]
    verdicts = scorer.verdicts(alone)
    assert columns["p_value"].tolist() == [verdict.p_value for verdict in verdicts]
    assert columns["is_anomaly"].tolist() == [verdict.is_anomaly for verdict in verdicts]
    assert columns["error"].tolist() == [None] * len(digits)


def test_files_and_arrays_of_any_kind_are_rows_and_unusable_ones_have_their_errors(
    scorer: Scorer,
    digits: NDArray[np.uint8],
) -> None:
    file, good = DIGITS[0].read_bytes(), digits[0]
    images = [
        file, good, {"bytes": file, "path": "a.png"}, memoryview(file),
        b"no image", b"", file[:200], None, {"path": "a.png"}, "a.png", good[0], good.astype(np.float32),
        np.zeros((2, 28, 28), np.uint8), np.zeros((1, 27, 28), np.uint8), np.zeros((1, 0, 28), np.uint8),
    ]  # fmt: skip
    columns = scorer({"image": images})
    assert columns["error"].tolist() == [
        None, None, None, None,
        "undecodable-image", "empty-image", "truncated-image", *["unsupported-image"] * 6,
        "wrong-image-shape", "unsupported-image",
    ]  # fmt: skip
    assert columns["error_detail"][7] == "expected bytes or an array, got null"
    assert columns["error_detail"][11] == "expected uint8 (C, H, W) with 1, 3 or 4 channels, got float32 (1, 28, 28)"
    scored = columns["log_likelihood"]
    assert len({scored[0], scored[2], scored[3]}) == 1
    assert scored[1] == scorer({"image": digits[:1]})["log_likelihood"][0]
    assert np.isnan(scored[4:]).all()
    assert columns["is_anomaly"][4:].tolist() == columns["reasons"][4:].tolist() == [None] * 11


def test_no_images_are_no_rows(scorer: Scorer) -> None:
    assert {name: values.shape for name, values in scorer({"image": []}).items()} == dict.fromkeys(SCORE_COLUMNS, (0,))


def test_batches_of_other_columns_are_refused(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="expected a column 'image', got 'images', 'path'"):
        scorer({"images": [], "path": []})
    with pytest.raises(ValueError, match="expected columns without the names of scores, got 'score'"):
        scorer({"image": [], "score": []})
    with pytest.raises(AlphaUnattainable):
        scorer({"image": [DIGITS[0].read_bytes()]}, alpha=1e-9)


def test_a_pickled_scorer_of_a_changed_model_is_refused(copy: Path) -> None:
    data = pickle.dumps(load_model(copy))
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ArtifactError, match=r"has changed: expected SHA-256 [0-9a-f]{64}"):
        pickle.loads(data)
    manifest.unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read: No such file"):
        pickle.loads(data)


def test_a_scorer_of_no_file_cannot_be_pickled(artifact: Path) -> None:
    with pytest.raises(pickle.PicklingError, match="made from an artifact in memory"):
        pickle.dumps(Scorer.of(load_artifact(artifact)))
