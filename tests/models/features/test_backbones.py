"""EfficientNet-Lite0: the converted weights are those of the original network, whatever the strides of its kernels."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save
from safetensors.torch import save as save_tensors

from snf_models.errors import BackboneMissing, BackboneUnfit, StorageFull
from snf_models.features.backbones import (
    BLOCKS,
    DESCRIPTION,
    LITE0,
    Arrays,
    Backbone,
    BackboneStore,
    fold_normalisations,
    weight_shapes,
)
from snf_models.features.extractor import (
    Lite0Network,
    TorchExtractor,
    normalised,
    on_one_grid,
)
from snf_worker.sandbox.uploads import package_file
from tests.support.backbones import TINY
from tests.support.disks import MIB, Disk

SIDE = 224
LOGITS = {0: 1.354786, 417: 7.091344, 500: -1.307129, 506: 7.669801, 616: 6.878141, 999: -1.078888}
"""Logits of the test image by ImageNet class, from the original network in float64 without folded normalisations."""


def example_image() -> np.ndarray:
    """Return a synthetic image, uint8 ``(1, 3, 224, 224)``, computed from integers alone."""
    row, column = np.mgrid[:SIDE, :SIDE]
    rings = ((row - 90) ** 2 + (column - 130) ** 2) // 24
    stripes = 3 * row + 5 * column
    waves = np.stack([rings, stripes, rings + 2 * stripes])
    return (255 - abs(waves % 510 - 255)).astype(np.uint8)[None]


@pytest.fixture(scope="module")
def weights(backbones: Path) -> Arrays:
    return BackboneStore(backbones).arrays(LITE0)


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(package_file(), weights_only=True)
    return state


def logits(weights: Arrays, dtype: torch.dtype) -> torch.Tensor:
    """Return the logits of the test image, by the last layers of the original network."""
    network = Lite0Network(weights, dtype)
    with torch.inference_mode():
        _, deepest = network(normalised(example_image(), LITE0, (SIDE, SIDE), dtype))
        pooled = network._convolve("head", deepest).clamp(0, 6).mean((2, 3))
        last = (torch.from_numpy(weights[f"classes.{part}"]).to(dtype) for part in ("weight", "bias"))
        return torch.nn.functional.linear(pooled, *last)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stored_weights_give_the_pinned_logits(weights: Arrays, dtype: torch.dtype) -> None:
    found = logits(weights, dtype)
    for number, logit in LOGITS.items():
        assert float(found[number]) == pytest.approx(logit, abs=1e-3)
    for name, array in weights.items():
        assert array.dtype == np.float32, name
        assert array.flags.c_contiguous, name


def test_strides_of_kernels_do_not_matter(original: dict[str, torch.Tensor]) -> None:
    once = fold_normalisations({name: tensor.contiguous().numpy() for name, tensor in original.items()})
    turned = {name: tensor.numpy().T.copy().T for name, tensor in original.items()}
    assert not turned["_conv_stem.weight"].flags.c_contiguous
    again = fold_normalisations(turned)
    assert once.keys() == again.keys()
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
        assert again[name].flags.c_contiguous


def test_the_shapes_of_the_outputs(weights: Arrays) -> None:
    assert sum(block.stride == 2 for block in BLOCKS) == 4
    assert sum(int(np.prod(shape)) for shape in weight_shapes().values()) == pytest.approx(4.65e6, rel=0.01)
    size = (64, 96)
    x = normalised(np.zeros((2, 1, *size), np.uint8), LITE0, size, torch.float32)
    with torch.inference_mode():
        maps, deepest = Lite0Network(weights)(x)
    for output, values in zip((*LITE0.maps, LITE0.pooled), (*maps, deepest), strict=True):
        assert values.shape == (2, output.channels, size[0] // output.stride, size[1] // output.stride)
    assert tuple(on_one_grid(maps, LITE0).shape[1:]) == LITE0.feature_shape(size)


def test_features_in_float32_and_float64_agree(weights: Arrays) -> None:
    images = example_image()[:, :, :96, :64]
    narrow = TorchExtractor(LITE0, weights, (96, 64))(images)
    wide = TorchExtractor(LITE0, weights, (96, 64), torch.float64)(images)
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3 * float(np.std(other)))


def tiny(name: str, content: bytes, **changes: Any) -> Backbone:
    digest = hashlib.sha256(content).hexdigest()
    return Backbone.model_validate({**TINY, "name": name, "format": "onnx", "sha256": digest, **changes})


@pytest.fixture
def store(tmp_path: Path) -> BackboneStore:
    return BackboneStore(tmp_path / "backbones")


@pytest.fixture
def first(store: BackboneStore) -> Backbone:
    backbone = tiny("first", b"weights")
    store.add(backbone, b"weights")
    return backbone


def description(store: BackboneStore, backbone: Backbone) -> Path:
    return store.folder / backbone.name / DESCRIPTION


def test_an_empty_store(store: BackboneStore) -> None:
    assert store.names() == []
    assert not store.has(LITE0)
    with pytest.raises(BackboneMissing, match="snf backbones add efficientnet-lite0"):
        store.find(LITE0.name)
    with pytest.raises(BackboneMissing, match=f"needs the backbone {LITE0.name} of digest {LITE0.digest[:16]}"):
        store.by_digest(LITE0.name, LITE0.digest)
    assert not store.folder.exists()


@pytest.mark.parametrize("name", ["../outside", "/etc", "", ".", "UPPER", "a/b"])
def test_names_are_no_paths(store: BackboneStore, name: str) -> None:
    with pytest.raises(BackboneMissing):
        store.find(name)


def test_a_backbone_is_found_by_name_and_digest(store: BackboneStore, first: Backbone) -> None:
    second = tiny("second", b"more")
    store.add(second, b"more")
    assert store.names() == ["first", "second"]
    assert store.find("second") == second
    assert store.by_digest("a name elsewhere", first.digest) == first
    assert store.verified(second) == b"more"
    assert store.has(first)
    assert store.path(first).name == "model.onnx"


def test_the_same_weights_used_otherwise_are_another_backbone(store: BackboneStore, first: Backbone) -> None:
    other = tiny("a-first-name", b"weights", mean=[0, 0, 0])
    store.add(other, b"weights")
    assert other.sha256 == first.sha256
    assert store.by_digest("first", first.digest) == first
    assert store.by_digest("first", other.digest) == other
    # The size of the input is a matter of each model.
    same = first.model_copy(update={"name": "x", "license": "x", "origin": "x", "multiple": 32, "smallest_side": 64})
    assert same.digest == first.digest
    for change in ({"input": "x"}, {"pooled": first.maps[0]}, {"maps": first.maps[::-1]}):
        assert first.model_copy(update=change).digest != first.digest


def test_a_name_stays_with_its_backbone(store: BackboneStore, first: Backbone) -> None:
    for other, content in (
        (tiny("first", b"others"), b"others"),
        (tiny("first", b"weights", deviation=[1, 1, 1]), b"weights"),
    ):
        assert not store.has(other)
        with pytest.raises(BackboneUnfit, match="has another backbone first: choose another name"):
            store.add(other, content)
    assert store.find("first") == first
    assert store.verified(first) == b"weights"


def test_weights_of_another_digest_are_not_added(store: BackboneStore) -> None:
    with pytest.raises(BackboneUnfit, match="expected weights of SHA-256"):
        store.add(tiny("first", b"weights"), b"other weights")
    assert store.names() == []


def test_damaged_weights_are_refused_until_they_are_added_again(store: BackboneStore, first: Backbone) -> None:
    store.path(first).write_bytes(b"weightt")
    with pytest.raises(BackboneUnfit, match="replaced by `snf backbones add`"):
        store.verified(first)
    assert not store.has(first)
    store.add(first, b"weights")
    assert store.verified(first) == b"weights"
    store.path(first).unlink()
    with pytest.raises(BackboneUnfit, match="cannot be read: No such file"):
        store.verified(first)
    store.add(first, b"weights")
    assert store.has(first)


def test_texts_of_a_description_are_brought_up_to_date(store: BackboneStore, first: Backbone) -> None:
    described = first.model_copy(update={"origin": "found out later"})
    assert not store.has(described)
    store.add(described, b"weights")
    assert store.find("first").origin == "found out later"


def test_a_damaged_description_hides_no_other_backbone(
    store: BackboneStore, first: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tiny("damaged", b"more")
    store.add(damaged, b"more")
    file = description(store, damaged)
    content = json.loads(file.read_text())
    for wrong in (
        b"{",
        json.dumps(content | {"format": "pickle"}).encode(),
        json.dumps(content | {"more": 1}).encode(),
    ):
        file.write_bytes(wrong)
        with pytest.raises(BackboneUnfit, match=r"damaged/backbone\.json is not a valid description"):
            store.find("damaged")
        assert store.by_digest("first", first.digest) == first
        with pytest.raises(BackboneMissing):
            store.by_digest("damaged", damaged.digest)
    assert "backbone damaged is ignored" in caplog.text
    with pytest.raises(BackboneUnfit, match="not a valid description"):
        store.add(damaged, b"more")
    file.unlink()
    store.add(damaged, b"more")
    assert store.has(damaged)


def test_a_description_in_the_folder_of_another_is_refused(store: BackboneStore, first: Backbone) -> None:
    description(store, first).parent.rename(store.folder / "moved")
    with pytest.raises(BackboneUnfit, match=r"of moved in moved/backbone\.json, got one of first"):
        store.find("moved")


def test_what_a_killed_process_left_over_is_no_backbone(store: BackboneStore, first: Backbone) -> None:
    leftover = store.folder / f".second.{'0' * 32}"
    leftover.mkdir()
    (leftover / DESCRIPTION).write_bytes(description(store, first).read_bytes())
    assert store.names() == ["first"]
    store.add(tiny("third", b"more"), b"more")
    assert not leftover.exists()


def test_a_full_disk_takes_away_no_backbone(
    store: BackboneStore, first: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, total=100 * MIB, free=0)
    with pytest.raises(StorageFull):
        store.add(first, b"weights")
    assert store.has(first)
    assert store.names() == ["first"]


def test_wrong_arrays_of_the_network_are_refused(store: BackboneStore, backbones: Path) -> None:
    arrays = load_file(BackboneStore(backbones).path(LITE0))
    renamed = {f"{name}x": array for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    bfloat16, integers = (
        save_tensors({name: tensor.to(kind) for name, tensor in tensors.items()})
        for kind in (torch.bfloat16, torch.int32)
    )
    for content, reason in (
        (save(renamed), "not those of its network"),
        (b"no safetensors", "cannot be read"),
        (bfloat16, "in float32, got numbers of type BF16: store them as float32"),
        (integers, "in float32, got numbers of type int32: store them as float32"),
    ):
        name = hashlib.sha256(content).hexdigest()
        backbone = LITE0.model_copy(update={"name": f"n{name[:8]}", "sha256": name})
        store.add(backbone, content)
        with pytest.raises(BackboneUnfit, match=reason):
            store.arrays(backbone)


def test_loading_opens_no_pickle(backbones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a pickle is opened")

    for module, names in ((pickle, ("load", "loads", "Unpickler")), (torch, ("load",)), (np, ("load",))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    store = BackboneStore(backbones)
    backbone = store.by_digest(LITE0.name, LITE0.digest)
    places, pooled = TorchExtractor(backbone, store.arrays(backbone), (64, 64))(example_image()[..., :64, :64])
    assert np.isfinite(places).all()
    assert pooled.shape == (1, 472)
