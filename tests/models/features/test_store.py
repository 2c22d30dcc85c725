"""The store of backbones: what was added is found, what is damaged or of another backbone is not used."""

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
from snf_models.features.backbones import DESCRIPTION, LITE0, Backbone, BackboneStore
from snf_models.features.extractor import TorchExtractor, check_image
from tests.support.backbones import TINY
from tests.support.disks import MIB, Disk


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
    places, pooled = TorchExtractor(backbone, store.arrays(backbone), (64, 64))(check_image()[..., :64, :64])
    assert np.isfinite(places).all()
    assert pooled.shape == (1, 472)
