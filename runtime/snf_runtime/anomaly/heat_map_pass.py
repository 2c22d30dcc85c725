"""Heat maps of images, from the same pass through the model that scores them or from one of their own."""

from __future__ import annotations

from snf_runtime.anomaly.anomaly_map import of_pixels, of_places
from snf_runtime.anomaly.calibration import Calibration, MapReference
from snf_runtime.anomaly.pixel_contributions import PixelMaps, standardise, tile_maps
from snf_runtime.images.batch import Batch
from snf_runtime.scoring.density import DensityPass, ImageDensity
from snf_runtime.scoring.evidence import Evidence
from snf_runtime.scoring.feature_density import FeaturePass
from snf_runtime.steps import Steps


class HeatMaps:
    """Observer that computes the heat maps of one group of images at a time and keeps all of them in ``maps``."""

    def __init__(self, density: ImageDensity, calibration: Calibration, reference: MapReference) -> None:
        self._density = density
        self._calibration = calibration
        self._reference = reference
        self.maps: list[PixelMaps] = []

    def add(self, density_pass: DensityPass, evidence: Evidence | None) -> None:
        """Append the heat maps of a group; ``evidence`` may be None for a calibration without features."""
        features = None
        if self._calibration.has_features:
            assert evidence is not None
            assert evidence.features is not None
            features = self._calibration.feature_maps(evidence.features)
        if self._density.tiled:
            assert isinstance(density_pass, FeaturePass)
            assert features is not None
            self.maps += tile_maps(density_pass, self._reference, features)
            return
        nats = density_pass.compared_maps()
        z = standardise(nats, self._reference)
        size = self._density.image_shape[1:]
        anomaly = of_pixels(z) if features is None else [of_places(places, size) for places in features]
        self.maps += [PixelMaps(*of_image) for of_image in zip(nats, z, anomaly, strict=True)]


def heat_map_steps(
    density: ImageDensity, calibration: Calibration, reference: MapReference, images: Batch
) -> Steps[list[PixelMaps]]:
    """Compute heat maps in a generator that yields between groups."""
    found = HeatMaps(density, calibration, reference)
    for start, density_pass in density.passes(images):
        if density_pass is not None:
            group = images[start : start + len(density_pass)]
            found.add(density_pass, density.evidence(group, density_pass) if calibration.has_features else None)
        if len(found.maps) < len(images):
            yield
    return found.maps
