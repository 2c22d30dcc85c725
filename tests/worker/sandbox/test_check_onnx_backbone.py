"""Check of ONNX files in a process with limits: what is declared must come out at every size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snf_models.errors import BackboneUnfit, ModelsError
from snf_models.features.backbones import BackboneStore
from snf_worker.sandbox import uploads as module
from snf_worker.sandbox.process import ProcessLimits
from snf_worker.sandbox.uploads import add_onnx, described
from tests.support.backbones import TINY, tiny_onnx
from tests.support.onnx_files import model, node

SHA256 = "0" * 64


@pytest.fixture
def store(tmp_path: Path) -> BackboneStore:
    return BackboneStore(tmp_path / "backbones")


def add(store: BackboneStore, content: bytes, **changes: Any) -> bool:
    file = store.folder.parent / "any.onnx"
    file.write_bytes(content)
    backbone, added = add_onnx(store, "tiny", file, json.dumps({**TINY, **changes}).encode())
    assert store.find("tiny") == backbone
    assert store.verified(backbone) == content
    return added


@pytest.mark.usefixtures("new_sandboxes")
def test_a_good_file_is_added_once(store: BackboneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert add(store, tiny_onnx())
    assert store.find("tiny").model_dump(mode="json", include=TINY.keys()) == TINY
    monkeypatch.setattr(module, "run_sandboxed", None)
    assert not add(store, tiny_onnx())


def test_a_model_card_of_another_machine_describes_it(store: BackboneStore) -> None:
    add(store, tiny_onnx())
    backbone = store.find("tiny")
    assert described(backbone.model_dump_json().encode(), "tiny", backbone.sha256) == backbone


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "expected JSON"),
        ("\udcff", "expected JSON"),
        ("[]", "expected a JSON object as description, got list"),
        (json.dumps({**TINY, "name": "other"}), "expected name tiny in the description, got other"),
        (json.dumps({**TINY, "sha256": "1" * 64}), f"expected sha256 {SHA256} in the description, got 1111"),
        (json.dumps({**TINY, "format": "efficientnet-lite0"}), "expected format onnx"),
        (json.dumps({**TINY, "means": [1]}), "means: Extra inputs are not permitted"),
        (json.dumps({key: value for key, value in TINY.items() if key != "mean"}), "mean: Field required"),
        (json.dumps({**TINY, "multiple": 10}), "expected strides that divide 10, got 4 of fine"),
        (json.dumps({**TINY, "mean": [float("nan")] * 3}), "mean.0: Input should be a finite number"),
    ],
)
def test_bad_descriptions_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BackboneUnfit) as caught:
        described(text.encode(errors="surrogateescape"), "tiny", SHA256)
    assert reason in caught.value.detail


FINE, COARSE = TINY["maps"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": "x"}, "expected x as the only input, got image"),
        ({"maps": [{**FINE, "name": "logits"}]}, "expected an output logits, got coarse, deep, fine"),
        (
            {"maps": [{**FINE, "channels": 5}]},
            "expected 2x5x8x8 as output fine for images 2x3x32x32, got 2x4x8x8",
        ),
        (
            {"maps": [FINE, {**COARSE, "stride": 16}]},
            "expected 2x6x2x2 as output coarse for images 2x3x32x32, got 2x6x4x4",
        ),
    ],
)
def test_other_inputs_and_outputs_are_refused(changes: dict[str, Any], reason: str, store: BackboneStore) -> None:
    with pytest.raises(ModelsError) as caught:
        add(store, tiny_onnx(), **changes)
    assert (caught.value.slug, caught.value.detail) == ("backbone-unfit", reason)
    assert store.names() == []


def test_other_files_are_refused(store: BackboneStore) -> None:
    whole = model([node("Identity", ["image"], "fine")], {}, {"image": ("N", 3, "H", "W")}, ["fine"], kind=6)
    for content, reason in (
        (b"", "expected an ONNX file with its weights"),
        (b"no network", "expected an ONNX file with its weights"),
        (tiny_onnx()[:500], "expected an ONNX file with its weights"),
        (whole, "expected the input image to be f32, got i32"),
    ):
        with pytest.raises(ModelsError, match=reason):
            add(store, content)
    assert store.names() == []


def test_a_network_for_a_single_size_is_refused(store: BackboneStore) -> None:
    weights = {"kernel": np.ones((4, 3, 4, 4)), "positions": np.ones((1, 4, 8, 8))}
    nodes = [
        node("Conv", ["image", "kernel"], "patches", strides=[4, 4]),
        node("Add", ["patches", "positions"], "fine"),
    ]
    content = model(nodes, weights, {"image": ("N", 3, "H", "W")}, ["fine"])
    with pytest.raises(ModelsError, match="expected a network that runs on images 2x3x48x64; "):
        add(store, content, maps=[FINE], pooled=FINE)
    assert store.names() == []


@pytest.mark.usefixtures("new_sandboxes")
def test_over_a_limit_nothing_is_stored(store: BackboneStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ONNX_SECONDS", 1)
    monkeypatch.setattr(
        module, "ProcessLimits", lambda memory, cpu_s, wall_s: ProcessLimits(memory, cpu_s, wall_s / 10)
    )
    with pytest.raises(BackboneUnfit, match=r"checking the ONNX file takes more than 0\.1 s"):
        add(store, tiny_onnx())
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(BackboneUnfit, match="expected an ONNX file of at most 100 bytes, got"):
        add(store, tiny_onnx())
    assert store.names() == []
