"""Conversion of OpenVINO graphs to the files of an export format, OpenVINO or ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from models.exports.onnx_graph import onnx_model
from snf_runtime.exported.manifest import GraphFormat

GraphFiles = dict[str, bytes]
"""The content of the files of a graph by their endings."""


def serialized(model: Any, form: GraphFormat) -> GraphFiles:
    """Convert an OpenVINO graph to export files in OpenVINO or ONNX format, as a dict of bytes.

    The graph is an ``ov.Model``. Returns the content of each file by its ending.

    Raises:
        EngineUnavailable: The format is ONNX, and its package is not installed, or has no form of an operation or type.
    """
    if form == "onnx":
        return {".onnx": onnx_model(model)}
    return _openvino(model)


def _openvino(model: Any) -> GraphFiles:
    """Return an OpenVINO graph as the content of its two files: ``.xml``, its nodes, and ``.bin``, its constants.

    Nothing is converted or compressed, so that the graph gives the same bits.
    """
    from snf_runtime.scoring.engines.openvino_library import ov  # noqa: PLC0415 - OpenVINO takes time to load

    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch:
        path = Path(scratch) / "graph.xml"
        ov.serialize(model, path)
        return {ending: path.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")}
