"""Engines that run flows by OpenVINO, and the interface of all engines."""
