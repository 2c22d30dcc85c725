"""Engines that run frozen flows: torch on CPUs and CUDA, and OpenVINO on CPUs."""
