"""An artifact is whole and unchanged, or it is refused by an error that names the file."""

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

from snf_models.artifacts.files import CALIBRATION, CARD, PINNED, SAMPLES, WEIGHTS, image_digest
from snf_models.artifacts.manifest import FILE, read_manifest
from snf_models.datasets import load_dataset
from snf_models.disk import sha256_file
from snf_models.errors import ArtifactError
from snf_models.loading.trained import load_artifact
from snf_models.scorer import Scorer, load_model
from tests.models.helpers import edit_manifest, flip_a_byte, sign_again
from tests.support.compiled_cache import compiled

FILES = (WEIGHTS, CALIBRATION, PINNED, CARD, SAMPLES)


def test_what_an_artifact_holds(artifact: Path) -> None:
    assert {path.name for path in artifact.iterdir()} == {FILE, *FILES}
    manifest = read_manifest(artifact)
    assert manifest.files == {name: sha256_file(artifact / name) for name in FILES}
    assert manifest.log_dets.weights_sha256 == manifest.files[WEIGHTS]
    assert manifest.log_dets.total == pytest.approx(sum(manifest.log_dets.layers.values()))
    assert manifest.evaluation.test_images == 100
    assert (artifact / SAMPLES).read_bytes().startswith(b"\x89PNG")
    assert f"{manifest.evaluation.test_bits_per_dim:.4f} bits/dim" in (artifact / CARD).read_text()


def test_loading_gives_back_what_was_trained(artifact: Path) -> None:
    loaded = load_artifact(artifact)
    stored = load_file(artifact / WEIGHTS)
    state = loaded.flow.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    assert not loaded.flow.training
    assert image_digest(loaded.pinned[0]) == loaded.manifest.pinned.image_sha256
    again = Scorer.of(loaded).score(loaded.pinned[:1])[0].log_likelihood
    assert again == pytest.approx(loaded.manifest.pinned.log_likelihood, abs=1e-4)


def test_the_cells_of_the_card_are_whole(artifact: Path) -> None:
    rows = [line for line in (artifact / CARD).read_text().splitlines() if line.startswith("|")]
    assert any("norm of I - R W" in row for row in rows)
    assert [row for row in rows if row.count("|") != 3] == []


def test_the_card_has_the_numbers_that_scoring_gives(scorer: Scorer) -> None:
    digits = load_dataset("mnist-mini", None)
    scores = [result.log_likelihood for result in scorer.score(digits.test)]
    evaluation = scorer.manifest.evaluation
    assert evaluation.test_nats == pytest.approx(-np.mean(scores), abs=1e-3)
    bits = [result.bits_per_dim for result in scorer.score(digits.test)]
    assert evaluation.test_bits_per_dim == pytest.approx(np.mean(bits), abs=1e-5)
    held_out = [result.log_likelihood for result in scorer.score(digits.calibration)]
    assert scorer.manifest.calibration.mean_log_likelihood == pytest.approx(np.mean(held_out), abs=1e-3)
    others = [result.log_likelihood for result in scorer.score(digits.statistics)]
    np.testing.assert_allclose(scorer.calibration.log_likelihoods, sorted(held_out + others), rtol=0, atol=1e-3)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [(flip_a_byte, "does not have the SHA-256"), (cut_off, "does not have the SHA-256"), (Path.unlink, "is missing")],
)
def test_a_damaged_file_is_named(copy: Path, name: str, damage: Callable[[Path], None], said: str) -> None:
    damage(copy / name)
    with pytest.raises(ArtifactError, match=f"{name} {said}"):
        load_model(copy)


def test_every_byte_of_the_manifest_counts_or_is_harmless(copy: Path) -> None:
    """A flipped bit in the manifest is a typed error, or changes nothing of any score."""
    original = (copy / FILE).read_bytes()
    expected = load_model(copy, options=compiled())
    images = expected.pinned
    scores = [result.log_likelihood for result in expected.score(images)]
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(0, len(original), 40):
        content = bytearray(original)
        content[position] ^= 1 << int(generator.integers(0, 7))
        (copy / FILE).write_bytes(content)
        try:
            scorer = load_model(copy, options=compiled())
        except ArtifactError:
            refused += 1
        else:
            got = [result.log_likelihood for result in scorer.score(images)]
            np.testing.assert_allclose(got, scores, rtol=0, atol=1e-2)
    assert refused > 10


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a valid manifest"),
        (b"\xff\xfe\x00", "not a valid manifest"),
        (b"[]", "not a valid manifest"),
        (b'{"format_version": 2}', "not a valid manifest: created"),
        (b'{"format_version": 1}', "not a valid manifest: format_version"),
        (json.dumps({"modelspec": "v2", "weights": "model.bin"}).encode(), "not a valid manifest"),
        (pickle.dumps({"format_version": 1}), "not a valid manifest"),
    ],
    ids=["empty", "binary", "list", "bare", "earlier", "foreign", "pickle"],
)
def test_a_foreign_manifest(copy: Path, content: bytes, text: str) -> None:
    (copy / FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{FILE} is {text}"):
        load_model(copy)


def test_no_manifest_and_no_folder(copy: Path, tmp_path: Path) -> None:
    (copy / FILE).unlink()
    for folder in (copy, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match=f"{FILE} cannot be read"):
            load_model(folder)


Change = Callable[[dict[str, Any]], None]


def _set(*path: str, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_set("format_version", value=3), "format_version"),
        (_set("surprise", value=1), "surprise"),
        (_set("architecture", "family", value="maf"), "architecture: Input tag 'maf'"),
        (_set("architecture", "linear", value="imaginary"), "expected a linear layer of exact.*, got 'imaginary'"),
        (_set("architecture", "steps", value=3), "which the architecture does not have"),
        (_set("architecture", "steps", value=5), "lacks levels"),
        (_set("architecture", "hidden", value=48), r"has shape .*, expected"),
        (_set("architecture", "pixel_transform", value="logit"), "pixels.masses, which the architecture does not"),
        (_set("log_dets", "weights_sha256", value="0" * 64), "log-dets belong to other weights"),
        (_set("log_dets", "layers", value={}), "levels.0.steps.0"),
        (_set("pinned", "log_likelihood", value=-1.0), "the pinned image scores .* stored are -1.0"),
        (_set("pinned", "image_sha256", value="0" * 64), "pinned image is not the one"),
        (_set("files", value={}), "does not list weights.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_does_not_fit_its_files(copy: Path, change: Change, text: str) -> None:
    edit_manifest(copy, change)
    with pytest.raises(ArtifactError, match=text):
        load_model(copy)


def test_names_in_the_manifest_never_leave_the_folder(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    edit_manifest(copy, lambda document: document["files"].update({"../outside.txt": sha256_file(outside)}))
    with pytest.raises(ArtifactError, match=r"copy.outside\.txt is missing"):
        load_model(copy)


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION])
@pytest.mark.parametrize(
    "content", [b"", b"no tensors", pickle.dumps({"weight": [1.0]})], ids=["empty", "text", "pickle"]
)
def test_signed_rubbish(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    sign_again(copy)
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        load_model(copy)


def test_a_pickle_is_never_executed(copy: Path, tmp_path: Path) -> None:
    """A torch.save file that would create a file on loading."""
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
            return open, (str(marker), "w")

    torch.save({"levels.0.steps.1.weight": Payload()}, copy / WEIGHTS)
    sign_again(copy)
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} cannot be read"):
        load_model(copy)
    assert not marker.exists()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e5m2])
def test_pinned_images_of_a_type_that_numpy_lacks(copy: Path, kind: torch.dtype) -> None:
    images = torch.from_numpy(load_arrays(copy / PINNED)["images"])
    save_file({"images": images.to(kind)}, copy / PINNED)
    sign_again(copy)
    with pytest.raises(ArtifactError, match=f"{PINNED} cannot be read: "):
        load_model(copy)


def test_a_moved_artifact_is_the_same_model(copy: Path, tmp_path: Path, scorer: Scorer) -> None:
    moved = Path(shutil.move(copy, tmp_path / "elsewhere"))
    images = scorer.pinned
    assert load_model(moved).score(images) == scorer.score(images)


@pytest.mark.parametrize(
    ("tensor", "value", "said"),
    [("levels.0.steps.0.initialized", False, ": ActNorm is not initialised"), ("levels.0.steps.1.bias", math.nan, "")],
)
def test_weights_that_give_no_score_are_refused(copy: Path, tensor: str, value: float, said: str) -> None:
    tensors = load_file(copy / WEIGHTS)
    tensors[tensor] = torch.full_like(tensors[tensor], value)
    save_file(tensors, copy / WEIGHTS)
    sign_again(copy)
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} gives no score{said}"):
        load_model(copy)
