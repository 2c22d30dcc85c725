"""Which engine runs a flow."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from models.errors import EngineUnavailable
from models.scoring.engines.base import Engine
from models.scoring.engines.torch_engine import TorchEngine
from models.scoring.frozen import FrozenFlow
from models.scoring.options import EngineOptions

log = logging.getLogger(__name__)


def open_engine(frozen: FrozenFlow, options: EngineOptions | None = None) -> Engine:
    """Return the engine that ``options`` ask for, ready to run ``frozen``. Raises ``EngineUnavailable``."""
    options = options or EngineOptions()
    frozen = frozen.with_precision(options.precision or frozen.precision)
    if options.name == "torch" or options.device != "cpu":
        if options.name == "openvino":
            raise EngineUnavailable(f"OpenVINO runs on the CPU here, not on {options.device}")
        return TorchEngine(frozen, threads=options.threads, device=options.device)
    reason = why_not_openvino(frozen)
    if reason is None:
        # The extra may be missing.
        from models.scoring.engines.openvino_engine import OpenVINOEngine  # noqa: PLC0415

        return OpenVINOEngine(frozen, options.threads, options.cache)
    if options.name == "openvino":
        raise EngineUnavailable(reason)
    log.info("torch scores: %s", reason)
    return TorchEngine(frozen, threads=options.threads)


def why_not_openvino(frozen: FrozenFlow) -> str | None:
    """Return why OpenVINO cannot run this flow on this machine; None where it can."""
    if find_spec("openvino") is None:
        return "OpenVINO is not installed (pip install 'snf-density[cpu]')"
    from models.scoring.engines.compiled_cache import core  # noqa: PLC0415 - as above
    from models.scoring.engines.openvino_graph import knows_forward  # noqa: PLC0415 - as above

    if not knows_forward(frozen):
        return "the flow has layers that OpenVINO's graphs do not have"
    if frozen.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no bfloat16 arithmetic"
    return None
