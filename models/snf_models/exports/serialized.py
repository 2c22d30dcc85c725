from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from snf_models.exports.onnx_graph import onnx_model
from snf_runtime.exported.manifest import GraphFormat

GraphFiles = dict[str, bytes]
"""The content of the files of a graph by their endings."""


def serialized(model: Any, form: GraphFormat) -> GraphFiles:
    """Return an ``ov.Model`` as files by ending; raise ``EngineUnavailable`` as :func:`onnx_model`."""
    if form == "onnx":
        return {".onnx": onnx_model(model)}
    return _openvino(model)


def _openvino(model: Any) -> GraphFiles:
    """Return the files ``.xml`` of nodes and ``.bin`` of constants, uncompressed: the graph gives the same bits."""
    from snf_runtime.scoring.openvino_engine import ov  # noqa: PLC0415 - OpenVINO takes time to load

    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch:
        path = Path(scratch) / "graph.xml"
        ov.serialize(model, path)
        return {ending: path.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")}
