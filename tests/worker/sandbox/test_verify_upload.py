"""What is found in an uploaded model before it is registered; over HTTP, `test_artifacts` uploads some of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snf_models.errors import ArtifactRefused
from snf_worker.sandbox.uploads import find_problem, verify_upload
from tests.models.artifacts.spoilt_models import (
    a_card_in_another_encoding,
    a_file_outside,
    no_picture,
    other_weights,
    other_weights_signed,
    weights_that_are_no_numbers,
    weights_that_run,
    weights_with_a_huge_header,
)
from tests.support.trained import barely_trained


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact to spoil."""
    return Path(shutil.copytree(barely_trained(tmp_path_factory), tmp_path / "spoilt"))


def problem_of(folder: Path) -> str | None:
    return find_problem([str(folder), str(folder)], lambda _done, _total: None)


def test_a_good_one(folder: Path) -> None:
    assert problem_of(folder) is None


@pytest.mark.usefixtures("new_sandboxes")
def test_a_new_process_with_limits_finds_no_problem_of_a_good_one(folder: Path) -> None:
    verify_upload(folder, folder, lambda _done, _total: None)


def test_a_process_with_limits_says_what_it_finds(folder: Path) -> None:
    no_picture(folder)
    with pytest.raises(ArtifactRefused, match="it cannot be loaded: UnidentifiedImageError"):
        verify_upload(folder, folder, lambda _done, _total: None)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_weights, "weights.safetensors does not have the SHA-256"),
        (other_weights_signed, "the pinned image scores"),
        (weights_that_are_no_numbers, "weights.safetensors gives no score"),
        (weights_that_run, "weights.safetensors cannot be read"),
        (weights_with_a_huge_header, "weights.safetensors cannot be read"),
        (no_picture, "it cannot be loaded: UnidentifiedImageError"),
        (a_card_in_another_encoding, "card.md is not UTF-8"),
        (a_file_outside, "the manifest lists ../../../../etc/passwd"),
    ],
)
def test_a_bad_one(folder: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(folder)
    assert says in (problem_of(folder) or "")
    assert not Path("/tmp/snf-exploited").exists()
