"""Check of an ONNX backbone file in a child process, ``python -m worker.sandbox.check_onnx_backbone``."""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from models.errors import BackboneUnfit
from models.features.backbone import Backbone
from models.features.store import BackboneStore
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

MAX_BYTES = 2**31 - 1
"""Largest file: protobuf, the format of ONNX, allows no more."""
SECONDS = 600
BASE_BYTES, FACTOR = 4 * 2**30, 8
"""Limit of memory: a base in bytes, plus a multiple of the size of the file."""
BATCH = 2


def add_onnx(store: BackboneStore, name: str, file: Path, description: bytes) -> tuple[Backbone, bool]:
    """Check an ONNX file and store it as a backbone; return also whether it is new; raise ``BackboneUnfit``."""
    if (size := file.stat().st_size) > MAX_BYTES:
        raise BackboneUnfit(f"expected an ONNX file of at most {MAX_BYTES} bytes, got {size}")
    content = file.read_bytes()
    backbone = described(description, name, hashlib.sha256(content).hexdigest())
    if store.has(backbone):
        return backbone, False
    check_onnx(content, backbone)
    store.add(backbone, content)
    return backbone, True


def described(description: bytes, name: str, sha256: str) -> Backbone:
    """Return the backbone of a JSON description; raise ``BackboneUnfit`` if it is invalid or of another file."""
    try:
        given = json.loads(description)
        known = {"name": name, "format": "onnx", "sha256": sha256}
        if not isinstance(given, dict):
            raise BackboneUnfit(f"expected a JSON object as description, got {type(given).__name__}")
        for field, value in known.items():
            if given.get(field, value) != value:
                raise BackboneUnfit(f"expected {field} {value} in the description, got {given[field]}")
        return Backbone.model_validate(given | known)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, item['loc'])) or 'outputs'}: {item['msg']}" for item in error.errors()]
        raise BackboneUnfit(f"the description is not valid: {'; '.join(reasons)}") from error
    except ValueError as error:
        raise BackboneUnfit(f"expected JSON as description: {error}") from error


def check_onnx(content: bytes, backbone: Backbone) -> None:
    """Raise ``BackboneUnfit`` unless OpenVINO runs the file and its outputs fit at two sizes of images."""
    limits = ProcessLimits(BASE_BYTES + FACTOR * len(content), SECONDS, SECONDS)
    # Alone in a folder, so that it cannot name other files as parts of itself.
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(content)
        order = {"file": os.fspath(file), "backbone": backbone.model_dump(mode="json")}
        try:
            run_limited("worker.sandbox.check_onnx_backbone", order, limits)
        except LimitExceeded as error:
            raise BackboneUnfit(f"checking the ONNX file takes {error}") from error
        except ProcessDied as error:
            raise BackboneUnfit(f"the process that checks the ONNX file died: {error}") from error


def _check(order: Any, _progress: Callable[[int, int], None]) -> None:
    from snf_runtime.scoring.engines.openvino_library import ov

    backbone = Backbone.model_validate(order["backbone"])
    side = backbone.smallest_side
    least, step = backbone.input_size(side, side)[0], backbone.multiple
    core = ov.Core()
    for size in ((least, least), (least + step, least + 2 * step)):
        _check_at(core, order["file"], backbone, size)


def _check_at(core: Any, file: str, backbone: Backbone, size: tuple[int, int]) -> None:
    import numpy as np

    shape = BATCH, 3, *size
    try:
        model = core.read_model(file)
    except RuntimeError as error:
        raise BackboneUnfit(f"expected an ONNX file with its weights that OpenVINO reads; {_reason(error)}") from error
    inputs = [name for port in model.inputs for name in sorted(port.names)]
    if len(model.inputs) != 1 or backbone.input not in inputs:
        raise BackboneUnfit(f"expected {backbone.input} as the only input, got {', '.join(inputs) or 'none'}")
    if (kind := model.inputs[0].element_type.to_string()) != "f32":
        raise BackboneUnfit(f"expected the input {backbone.input} to be f32, got {kind}")
    ports = {name: port for port in model.outputs for name in port.names}
    for output in (*backbone.maps, backbone.pooled):
        if output.name not in ports:
            raise BackboneUnfit(f"expected an output {output.name}, got {', '.join(sorted(ports)) or 'none'}")
    try:
        model.reshape(list(shape))
        results = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})(np.zeros(shape, np.float32))
    except RuntimeError as error:
        raise BackboneUnfit(f"expected a network that runs on images {_sides(shape)}; {_reason(error)}") from error
    for output in (*backbone.maps, backbone.pooled):
        expected = BATCH, output.channels, size[0] // output.stride, size[1] // output.stride
        given = results[output.name]
        if given.shape != expected:
            raise BackboneUnfit(
                f"expected {_sides(expected)} as output {output.name} for images {_sides(shape)}, "
                f"got {_sides(given.shape)}"
            )
        if not np.isfinite(given).all():
            raise BackboneUnfit(f"expected finite values as output {output.name}, got others")


def _reason(error: RuntimeError) -> str:
    """Return the last line of an error of OpenVINO, which names the cause after lines on where it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _sides(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    do_limited(_check)
