"""Errors of the library. The module does not import PyTorch."""

from __future__ import annotations

from snf_runtime.errors import ErrorKind, ModelsError

WHITENING_LAYERS = "an exact or self-normalizing 1x1 convolution"


class ArchitectureInvalid(
    ModelsError, slug="architecture-invalid", title="The architecture is not valid", kind=ErrorKind.INVALID
):
    """No flow can be built from the description of an architecture."""


class SettingUnsupported(ArchitectureInvalid):
    """A training setting needs a layer type that the flow does not have."""

    def __init__(self, setting: str, layers: str) -> None:
        super().__init__(f"{setting}: expected a flow with {layers}, got one without")
        self.setting = setting


class DeviceNotFound(ModelsError, slug="device-not-found", title="The device is not there", kind=ErrorKind.INVALID):
    """A device other than ``cpu``, ``cuda`` and ``cuda:N``, or one that this machine does not have."""


class RanksUnfit(ModelsError, slug="ranks-unfit", title="The processes cannot train together", kind=ErrorKind.INVALID):
    """Processes cannot train together: too few images in a batch, different starts, or an unsuitable device."""


class UninitializedModel(ModelsError, slug="uninitialized-model", title="The model has no weights yet"):
    """The normalisation layers have not got their values from a first batch or a file."""
