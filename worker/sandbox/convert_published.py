"""Conversion of a published checkpoint in a child process with limits on memory and time.

The child process runs ``python -m worker.sandbox.convert_published``.
"""

# ruff: noqa: PLC0415 - heavy imports wait until the limits are set
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from models.published.errors import CheckpointRefused
from worker.sandbox.process import LimitExceeded, ProcessDied, ProcessLimits, run_limited
from worker.sandbox.work import do_limited

if TYPE_CHECKING:
    from models.bijections.base import Shape
    from models.flows.architecture import LayeredArchitecture
    from models.flows.flow import Flow

LIMITS = ProcessLimits(memory_bytes=8 * 2**30, cpu_s=120, wall_s=300)
MAX_BYTES = 2**31
"""Largest file: five times the largest published checkpoint, which has the state of its optimiser."""
NUMPY = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
"""What the pickle of a number of NumPy calls; the published experiments save the times of batches so."""


def convert_published(file: Path, image_shape: Shape, *, exact: bool) -> tuple[LayeredArchitecture, Flow]:
    """Convert a checkpoint from the published code of Keller et al. to a normalizing flow.

    A child process with limits on memory and time does the conversion.

    The architecture, which lists the layers of the flow, is returned as well. No other process opens the file.

    The file is a pickle. The child process loads tensors alone and runs no code of it; this process reads the
    safetensors that the child writes.

    Args:
        file: The checkpoint.
        image_shape: Channels, height and width of the images.
        exact: Whether its layers were trained by exact gradients, see
            :func:`models.published.convert_checkpoint.published_flow`.

    Raises:
        CheckpointRefused: The file is not a checkpoint of the published code, or reading it takes too much.
        OSError: The file cannot be read.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise CheckpointRefused(f"expected a checkpoint of at most {MAX_BYTES} bytes, got {size}")
    with TemporaryDirectory() as folder:
        target = Path(folder, "weights.safetensors")
        files = {"source": os.fspath(file.absolute()), "target": os.fspath(target)}
        order = files | {"image_shape": image_shape, "exact": exact}
        try:
            described = run_limited("worker.sandbox.convert_published", order, LIMITS)
        except LimitExceeded as error:
            raise CheckpointRefused(f"reading {file.name} takes {error}") from error
        except ProcessDied as error:
            raise CheckpointRefused(f"the process that read {file.name} died: {error}") from error
        return _read(described, target)


def _read(described: object, weights: Path) -> tuple[LayeredArchitecture, Flow]:
    from safetensors.torch import load_file

    from models.flows.architecture import LayeredArchitecture
    from models.flows.build import build_flow
    from models.flows.no_init import NoRandomness

    architecture = LayeredArchitecture.model_validate(described)
    with NoRandomness():
        flow = build_flow(architecture)
    flow.load_state_dict(load_file(weights))
    return architecture, flow.eval()


class _Figure:
    """Stands for a number of NumPy in the file, such as the mean time of a batch, and for its type.

    The numbers are not needed, and NumPy itself is not given what an unknown file holds.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def convert(source: Path, image_shape: Shape, *, exact: bool) -> tuple[LayeredArchitecture, Flow]:
    """Read a checkpoint that the code of Keller et al. wrote; return its architecture and normalizing flow.

    The architecture lists the layers of the flow. Call this only in a process with limits.

    Raises:
        CheckpointRefused: The file holds other objects than tensors, or no flow of the published code.
    """
    import torch

    from models.flows.build import describe_flow
    from models.flows.level_specs import sentence
    from models.published.convert_checkpoint import parameters_of, published_flow

    try:
        with torch.serialization.safe_globals([(_Figure, name) for name in NUMPY]):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        _pass_on_lack_of_memory(error)
        # A file from elsewhere may cause any error.
        raise CheckpointRefused(
            f"{source.name}: expected tensors that torch.save wrote, got a damaged file or one with other objects, "
            f"whose code is not run ({type(error).__name__})"
        ) from error
    try:
        flow = published_flow(parameters_of(loaded), image_shape, exact=exact)
        return describe_flow(flow, image_shape), flow
    except ValidationError as error:
        raise CheckpointRefused(f"{source.name}: {sentence(error, None)}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointRefused(f"{source.name}: {error}") from error
    except RuntimeError as error:
        _pass_on_lack_of_memory(error)
        raise CheckpointRefused(f"{source.name}: its tensors cannot be read: {type(error).__name__}") from error


def _pass_on_lack_of_memory(error: Exception) -> None:
    """Raise ``MemoryError`` if the error means that memory is used up."""
    from models.devices import lack_of_memory

    if lack_of_memory(error) is not None:
        raise MemoryError(str(error)) from error


def _convert(order: Any, _progress: Callable[[int, int], None]) -> Any:
    from safetensors.torch import save_file

    channels, height, width = order["image_shape"]
    architecture, flow = convert(Path(order["source"]), (channels, height, width), exact=order["exact"])
    save_file({name: value.contiguous() for name, value in flow.state_dict().items()}, order["target"])
    return architecture.model_dump(mode="json")


if __name__ == "__main__":
    do_limited(_convert)
