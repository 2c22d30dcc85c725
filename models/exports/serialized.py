"""OpenVINO graphs as files of OpenVINO."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

GraphFiles = dict[str, bytes]
"""The content of the files of a graph by their endings."""


def serialized(model: Any) -> GraphFiles:
    """Return an OpenVINO graph as the content of its two files: ``.xml``, its nodes, and ``.bin``, its constants.

    Nothing is converted or compressed, so that the graph gives the same bits.
    """
    from snf_runtime.scoring.engines.openvino_library import ov  # noqa: PLC0415 - OpenVINO takes time to load

    with tempfile.TemporaryDirectory(prefix="snf-export-") as scratch:
        path = Path(scratch) / "graph.xml"
        ov.serialize(model, path)
        return {ending: path.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")}
