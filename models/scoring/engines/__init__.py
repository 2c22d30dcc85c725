"""Engines that run frozen flows: torch on CPUs and CUDA, and OpenVINO on CPUs."""

from models.scoring.engines.flow_engine import FlowEngine
from models.scoring.engines.open import open_engine
from models.scoring.engines.torch_engine import TorchEngine
from models.scoring.options import EngineOptions
from snf_runtime.scoring.engines.base import Latents

__all__ = ["EngineOptions", "FlowEngine", "Latents", "TorchEngine", "open_engine"]
