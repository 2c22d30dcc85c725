"""Engines run a frozen flow: one interface, chosen by what the machine has and the flow is made of."""

from models.engine_options import EngineOptions
from models.scoring.engines.base import Engine, Latents
from models.scoring.engines.choice import open_engine
from models.scoring.engines.torch_engine import TorchEngine

__all__ = ["Engine", "EngineOptions", "Latents", "TorchEngine", "open_engine"]
