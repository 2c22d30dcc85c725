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
    """Collection that computes heat maps for one group of images at a time and keeps all of them.

    Args:
        density: The density of the model.
        calibration: Its calibration.
        reference: Mean and deviation of the log-likelihood at each pixel, of ``calibration``.

    Attributes:
        maps: The heat maps of all images so far.
    """

    def __init__(self, density: ImageDensity, calibration: Calibration, reference: MapReference) -> None:
        self._density = density
        self._calibration = calibration
        self._reference = reference
        self.maps: list[PixelMaps] = []

    def add(self, density_pass: DensityPass, evidence: Evidence | None) -> None:
        """Compute the heat maps of a group of scored images, and append them to ``maps``.

        Args:
            density_pass: The result of the density, of one draw of each image.
            evidence: The statistics of the images; None for a calibration that does not use features.
        """
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
    """Compute heat maps of images in a generator, so that the caller can do other work between groups.

    It yields None between groups, and returns all maps at the end. The arguments are those of :class:`HeatMaps`, and
    the images.
    """
    found = HeatMaps(density, calibration, reference)
    for start, density_pass in density.passes(images):
        if density_pass is not None:
            group = images[start : start + len(density_pass)]
            found.add(density_pass, density.evidence(group, density_pass) if calibration.has_features else None)
        if len(found.maps) < len(images):
            yield
    return found.maps
