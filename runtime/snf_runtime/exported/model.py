"""An exported model that scores images and gives anomaly verdicts: the public API of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from snf_runtime.anomaly.calibration import DIGITS, Calibration, threshold
from snf_runtime.anomaly.detection import Detection, Detector, FileVerdict, NotJudged
from snf_runtime.errors import ArtifactError, HeatMapUnsupported, ImageError, ScoreNotFinite
from snf_runtime.exported.content import check_files, open_calibration, open_exported, pinned_of, read_export_arrays
from snf_runtime.exported.manifest import ExportManifest, check_layout, read_export_manifest
from snf_runtime.images.batch import NamedImage, batch_of, batches_of
from snf_runtime.images.codec import decode_image
from snf_runtime.images.files import path_text, read_file
from snf_runtime.images.preprocessing import DecodedImage, FilePlacement, conform_pixels
from snf_runtime.parallelism import thread_count
from snf_runtime.scoring.density import ImageDensity

Source: TypeAlias = "Path | str | bytes | NDArray[np.uint8]"
"""An image: the path of a file, the content of one, or pixels, uint8 ``(H, W)`` or ``(H, W, C)``."""


class Model:
    """An exported model, loaded from its folder and verified, which scores and judges images.

    It gives the scores and verdicts of the service that it was exported from. It is not thread-safe.

    Args:
        manifest: The manifest of its folder.
        density: Its density.
        calibration: Its calibration.
    """

    def __init__(self, manifest: ExportManifest, density: ImageDensity, calibration: Calibration) -> None:
        self.manifest = manifest
        self.preprocessing = manifest.preprocessing
        self.density = density
        self.calibration = calibration
        self._detector = Detector(density, calibration)

    @classmethod
    def load(cls, folder: Path | str, threads: int | None = None) -> Model:
        """Load and verify a model from the folder that the command ``snf export`` wrote.

        All files are compared with the manifest, and the stored image is scored and judged again.

        Args:
            folder: The folder.
            threads: Threads on the CPU; None for ``OMP_NUM_THREADS``, or all cores that this process may use.

        Raises:
            ArtifactError: A file is missing, unknown, damaged or does not fit the others, or the stored image has
                another score or statistic than when the model was exported.
            EngineUnavailable: This CPU cannot compute in the precision of the model, or ``OMP_NUM_THREADS`` is wrong.
            ValueError: ``threads`` is not from 1 to 1024.
        """
        folder, threads = Path(folder), thread_count(threads)
        manifest = read_export_manifest(folder)
        check_layout(manifest)
        check_files(folder, manifest)
        arrays = read_export_arrays(folder)
        density = open_exported(folder, manifest, arrays, threads)
        model = cls(manifest, density, open_calibration(manifest, density, arrays))
        model._check_pinned(pinned_of(arrays, manifest))
        return model

    def judge(
        self, images: Iterable[Source], alpha: float | None = None, *, draws: int = 1, regions: bool = False
    ) -> Iterator[FileVerdict | NotJudged]:
        """Yield the anomaly verdict on each image, in order.

        An image that cannot be judged gives a :class:`NotJudged`, which says why.

        Args:
            images: Paths, contents of files, or pixels.
            alpha: The false-alarm rate; None for the default of the calibration.
            draws: Dequantisation draws that a log-likelihood is averaged over.
            regions: Whether to add regions of the anomaly map.

        Raises:
            AlphaUnattainable: The calibration has too few images for ``alpha``.
            HeatMapUnsupported: ``regions`` are asked of a flow that mixes all pixels at once.
            ValueError: ``alpha`` is not between 0 and 1, or ``draws`` is less than 1.
        """
        if alpha is not None and not 0 < alpha < 1:
            raise ValueError(f"expected a false-alarm rate above 0 and below 1, got {alpha}")
        if draws < 1:
            raise ValueError(f"expected at least 1 draw, got {draws}")
        self.calibration.check_alpha(alpha)
        if regions and self.calibration.pixels is None:
            raise HeatMapUnsupported("its layers mix all pixels of the image at once: it has no regions")
        named = (self._decoded(source, number) for number, source in enumerate(images))
        return self._judged(batches_of(named), alpha, draws, regions)

    def _judged(
        self, batches: Iterable[list[NamedImage]], alpha: float | None, draws: int, regions: bool
    ) -> Iterator[FileVerdict | NotJudged]:
        for batch in batches:
            good = [image.pixels for _, image in batch if isinstance(image, DecodedImage)]
            images = batch_of(good, self.preprocessing) if good else []
            results = iter(self._detector.detect(images, alpha, draws, explain=regions) if good else [])
            for name, image in batch:
                result = image if isinstance(image, ImageError) else next(results)
                if isinstance(result, ImageError):
                    yield NotJudged(name, result.slug, result.detail)
                else:
                    assert isinstance(image, DecodedImage)
                    yield self._verdict(name, image, result)

    def _verdict(self, name: str, image: DecodedImage, detection: Detection) -> FileVerdict:
        judged = detection.in_file(FilePlacement.of(self.preprocessing, image.file_size))
        likelihood, verdict = judged.likelihood, judged.verdict
        converted = () if image.converted is None else (f"converted {image.converted}",)
        return FileVerdict(
            name,
            likelihood.log_likelihood,
            likelihood.bits_per_dim,
            verdict.p_value,
            verdict.score,
            # The last digits depend on the images that were judged at once.
            round(verdict.statistic, DIGITS),
            verdict.is_anomaly,
            verdict.alpha,
            self.threshold(verdict.alpha),
            verdict.reasons,
            judged.regions,
            (*image.notes, *converted),
        )

    def threshold(self, alpha: float) -> float | None:
        """Return the smallest anomaly statistic at which an image is flagged, for a given false-alarm rate.

        It is in nats. None for a calibration of several folds. Raises ``ValueError`` for a rate at which no image or
        every image would be flagged.
        """
        ordered = self.calibration.ordered()
        return threshold(ordered[0], alpha) if len(ordered) == 1 else None

    def _decoded(self, source: Source, number: int) -> NamedImage:
        name = path_text(source) if isinstance(source, Path | str) else f"image {number}"
        try:
            if isinstance(source, np.ndarray):
                return name, conform_pixels(_channels_first(source), self.preprocessing)
            data = source if isinstance(source, bytes) else read_file(Path(source))
            return name, decode_image(data, self.preprocessing)
        except ImageError as error:
            return name, error

    def _check_pinned(self, image: NDArray[np.uint8]) -> None:
        expected = self.manifest.pinned
        try:
            score = self._detector.score(image)[0]
            statistic = self._detector.verdicts([score])[0].statistic
        # The parts do not fit each other.
        except (ScoreNotFinite, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ArtifactError(f"the files of the model do not fit each other: {error}") from error
        for what, found, stored, tolerance in (
            ("log-likelihood", score.log_likelihood, expected.log_likelihood, expected.tolerance),
            ("statistic", statistic, expected.statistic, expected.statistic_tolerance),
        ):
            if not abs(found - stored) <= tolerance:
                raise ArtifactError(f"expected the stored image to have a {what} of {stored:.6f} nats, got {found:.6f}")


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise ImageError("unsupported-image", "The array is not 8-bit", f"expected uint8, got {pixels.dtype}")
    if pixels.ndim == 2 and pixels.size:
        return pixels[None]
    if pixels.ndim != 3 or not pixels.size or pixels.shape[2] not in (1, 3, 4):
        detail = f"expected (H, W), or (H, W, C) with 1, 3 or 4 channels, got {pixels.shape}"
        raise ImageError("wrong-image-shape", "The array has the wrong shape", detail)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
