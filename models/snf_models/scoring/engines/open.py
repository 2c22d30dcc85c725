"""Choice of the backend, OpenVINO or PyTorch, that runs a flow."""

from __future__ import annotations

import logging

from snf_models.errors import EngineUnavailable
from snf_models.scoring.engines.flow_engine import FlowEngine
from snf_models.scoring.engines.torch_engine import TorchEngine
from snf_models.scoring.frozen import FrozenFlow
from snf_models.scoring.options import EngineOptions

log = logging.getLogger(__name__)


def open_engine(frozen: FrozenFlow, options: EngineOptions | None = None) -> FlowEngine:
    """Return OpenVINO on a CPU if it supports the flow, else torch, or what the options name."""
    options = options or EngineOptions()
    frozen = frozen.with_precision(options.precision or frozen.precision)
    if options.name == "torch" or options.device != "cpu":
        if options.name == "openvino":
            raise EngineUnavailable(
                f"expected device cpu with the engine openvino, got {options.device}: use the engine torch"
            )
        return TorchEngine(frozen, threads=options.threads, device=options.device)
    reason = openvino_obstacle(frozen)
    if reason is None:
        from snf_models.scoring.engines.openvino_engine import OpenVINOEngine  # noqa: PLC0415 - OpenVINO takes time to load

        return OpenVINOEngine(frozen, options.threads, options.cache)
    if options.name == "openvino":
        raise EngineUnavailable(reason)
    log.info("using the engine torch: %s", reason)
    return TorchEngine(frozen, threads=options.threads)


def openvino_obstacle(frozen: FrozenFlow) -> str | None:
    """Return why OpenVINO cannot run a flow here, or None."""
    from snf_models.scoring.engines.openvino_graph import supports_forward  # noqa: PLC0415 - as above
    from snf_runtime.scoring.engines.openvino_program import core  # noqa: PLC0415 - as above

    if not supports_forward(frozen):
        return "the flow has layers that the engine openvino does not support"
    if frozen.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no bfloat16 arithmetic"
    return None
