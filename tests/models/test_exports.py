"""Graphs in files against the graphs that they were written from: the same outputs."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from snf_models.errors import EngineUnavailable
from snf_models.exports import pixel_part, serialized
from snf_models.scoring.frozen import FrozenFlow, freeze
from snf_runtime.exported.manifest import ENDINGS, GraphFormat
from snf_runtime.scoring.openvino_engine import CompiledGraph, core, op, ov
from tests.models.anomaly.flows import convolutional, off_inverse
from tests.models.helpers import glow

FORMS: tuple[GraphFormat, ...] = ("openvino", "onnx")
FLOWS: dict[str, Callable[[], FrozenFlow]] = {
    "glow": lambda: freeze(off_inverse(glow(16, 3, pixels="marginal")), (3, 16, 16)),
    "bfloat16": lambda: freeze(glow(16, 3, pixels="logit"), (3, 16, 16)).with_precision("bfloat16"),
    "splines": lambda: freeze(convolutional(8), (1, 8, 8)),
}


def outputs(model: ov.Model, images: int = 5) -> list[NDArray[np.float32]]:
    settings = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    run, results = CompiledGraph(core().compile_model(model, "CPU", settings), 1).on_noise(images)
    run()
    return results


@pytest.mark.parametrize("flow", FLOWS)
def test_a_graph_in_a_file_gives_the_same_bits(flow: str, tmp_path: Path) -> None:
    graph, described = pixel_part(FLOWS[flow]())
    expected = outputs(graph)
    for form in FORMS:
        for ending, content in serialized(graph, form).items():
            (tmp_path / f"graph{ending}").write_bytes(content)
        found = outputs(core().read_model(tmp_path / f"graph{ENDINGS[form][0]}"))
        assert len(found) == len(expected) == len(described.outputs) > 1
        for got, want, (part, _) in zip(found, expected, described.outputs, strict=True):
            assert np.ptp(want) > 0
            if form == "onnx" and part == "reconstruction-errors":
                # A squeeze is a transposition in ONNX, after which OpenVINO adds up in another order.
                np.testing.assert_allclose(got, want, rtol=3e-7)
            else:
                np.testing.assert_array_equal(got, want, form)


def test_an_operation_without_a_form_in_onnx_is_named() -> None:
    """The graph of a user's backbone may have any operation."""
    x = op.parameter([1, 3, 4, 4], np.float32)
    model = ov.Model([op.result(op.erf(x))], [x], "erf")
    with pytest.raises(EngineUnavailable, match="operation Erf has no form in ONNX here"):
        serialized(model, "onnx")


def test_a_type_without_a_form_in_onnx_is_named() -> None:
    x = op.parameter([1, 3, 4, 4], np.float32)
    model = ov.Model([op.result(op.convert(x, "f16"))], [x], "half")
    with pytest.raises(EngineUnavailable, match="type f16 have no form in ONNX here: expected one of bf16, boolean"):
        serialized(model, "onnx")


def test_onnx_without_its_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "snf_models.exports")
    monkeypatch.setitem(sys.modules, "onnx", None)
    importlib.import_module("snf_models.exports")
    with pytest.raises(EngineUnavailable, match=r"snf-density\[onnx\]"):
        serialized(None, "onnx")
