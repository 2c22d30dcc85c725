"""Scores and samples of a model, and q-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from pydantic import BaseModel, Field

from snf_client.schemas.base import SOURCE_PATTERN, ResponseModel


class ScoreQuery(BaseModel):
    """Query parameters of a scoring request, such as the false-alarm rate; unknown parameters are refused."""

    alpha: float | None = Field(
        None, gt=0, lt=1, description="False-alarm rate of the verdicts. Default: 0.01 where the model can."
    )
    draws: int = Field(
        1,
        ge=1,
        le=256,
        description="Dequantisation draws an image to average over. All are equal for a density of features, which "
        "has no noise.",
    )
    fdr: bool = Field(False, description="Add Benjamini-Hochberg q-values over the images of this request.")
    explain: bool = Field(False, description="Add a heat map to every result.")
    source: str | None = Field(
        None,
        pattern=SOURCE_PATTERN,
        description="Source of the images, such as a camera or a lot. Only images with a source count in the tests of "
        "drift, which are made by source and for all sources together.",
        examples=["line-1/left"],
    )


class ScoreOptions(TypedDict, total=False):
    """Keyword arguments of a client, which are the fields of ``ScoreQuery``. Q-values are over all its requests."""

    alpha: float | None
    draws: int
    explain: bool
    source: str | None


class Term(ResponseModel):
    """Contribution of one scale of the flow to a log-likelihood, in nats.

    Scale 0 is the transform of the pixels. A density of features has scale 1 alone; its scale 0 is 0.
    """

    scale: int
    log_prior: float = Field(description="Log-density of the latents that leave the flow at this scale, nats.")
    log_det: float = Field(description="Sum of the log-determinants of this scale's bijections, nats.")


class Draws(ResponseModel):
    """Mean, standard error and other statistics of a log-likelihood over several draws of dequantisation noise."""

    k: int = Field(description="Number of draws.")
    mean: float = Field(description="Mean of log p over the draws, nats.")
    standard_error: float = Field(description="Standard error of that mean, nats.")
    iw_bound: float = Field(description="Importance-weighted lower bound of the log-mass, nats.")


class Reason(ResponseModel):
    """One reason why an image is unusual, such as a deviating statistic or an unusual region."""

    feature: str = Field(
        description="A statistic of the whole image, with its scale, or `region`; of the features of a backbone "
        "`feature-place`, `feature-area`, `feature-mean` or `feature-image`."
    )
    z: float = Field(
        description="Standard deviations from the value expected at the image's complexity; for the features of a "
        "backbone the surprise -ln p in nats."
    )
    share: float = Field(description="Its share of the evidence, between 0 and 1.")
    text: str = Field(description="The same in words.")
    box: tuple[int, int, int, int] | None = Field(
        None,
        description="Left, top, right, bottom of a region or place, in pixels of the upright file. Of features: the "
        "strongest region of the anomaly map; without a region, the most unusual place where the reason has one.",
    )


class Anomaly(ResponseModel):
    """Anomaly verdict on an image, and its p-value, the rate at which normal images look at least as unusual."""

    p_value: float = Field(description="Conformal p-value: small is anomalous.")
    score: float = Field(description="-log10 of the p-value: large is anomalous.")
    is_anomaly: bool = Field(description="Whether the p-value is at most alpha.")
    alpha: float = Field(description="False-alarm rate of this verdict.")
    statistic: float = Field(description="Evidence in nats; it also orders images beyond the smallest p-value.")
    extrapolated: bool = Field(description="Whether the image is more anomalous than every calibration image.")
    smallest_p: float = Field(description="Smallest p-value that this model's calibration set can give.")
    reasons: list[Reason] | None = None


class PreprocessingNote(ResponseModel):
    """Changes made to an image before scoring, and a warning if its file is unlike the training images."""

    id: str = Field(description="Digest of the model's preprocessing.")
    resized: bool
    fit: Literal["crop", "stretch", "pad"] | None = Field(
        default=None,
        description="How it was resized, if it was. Heat maps are of the image after that, boxes are in pixels of the "
        "file.",
    )
    converted: str | None = Field(description="The colour conversion, if there was any.")
    size: tuple[int, int] | None = Field(
        default=None, description="Width and height of the upright file in pixels; all boxes are in these pixels."
    )
    warning: str | None = Field(
        description="How the file differs from the training images in format or size, if it does. A model can mistake "
        "that for an anomaly."
    )
    notes: list[str] = Field(
        default=[],
        description="What else was done to the file, in words, if anything: turned by its EXIF orientation, the first "
        "frame of a GIF, 16 bits brought to 8. Boxes and heat maps are of the upright image.",
        examples=[["turned as its EXIF orientation 6 says"]],
    )


class ItemError(ResponseModel):
    """The error of one image that could not be scored: type, title, HTTP status and detail, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class ImageRegion(ResponseModel):
    """Region of pixels that touch at sides or corners, all with anomaly values at or above a threshold."""

    box: tuple[int, int, int, int] = Field(
        description="Left, top, right, bottom in pixels of the upright file; the box covers the whole region."
    )
    area: int = Field(description="Area of the region, in pixels of the file.")
    peak: float = Field(description="Largest value of the anomaly map in the region.")
    place: tuple[int, int] = Field(description="Column and row of that value in the file.")


class HeatMap(ResponseModel):
    """Contribution of each pixel to the log-likelihood of an image, and where its anomaly map passes the threshold."""

    png: str = Field(
        description="The image in grey under its colours, PNG, base64. Amber is at the threshold, red at three times "
        "that or more. Blue is more likely than usual by as much. Regions are outlined in yellow."
    )
    layer: str = Field("", description="The colours alone, on a transparent ground: RGBA, PNG, base64.")
    npy: str = Field(description="float64 array (channels, H, W) as `.npy`, base64.")
    channels: list[str] = Field(
        description="`nats`: the exact map, whose sum is the log-likelihood at the first draw. `z`: the same in "
        "standard deviations from the reference images at that pixel. `anomaly`: the map whose regions are listed, "
        "larger where the image is more anomalous."
    )
    scale: int = Field(
        1,
        description="Pixels of the image along each side of a pixel of picture and array: more than 1 for an image of "
        "over 1,048,576 pixels that a model scored tile by tile. Boxes are in pixels of the image all the same.",
    )
    lowest_z: float
    highest_z: float
    threshold: float | None = Field(
        None,
        description="Value of the channel `anomaly` that the maps of at most the share `alpha` of images like the "
        "calibration images reach anywhere; null for a calibration of an earlier version: calibrate again for regions.",
    )
    regions: list[ImageRegion] | None = Field(
        None,
        description="Regions at or above the threshold, the strongest first, at most 20; null without a threshold.",
    )
    region_count: int | None = Field(None, description="Number of all regions.")


class ScoredImage(ResponseModel):
    """The anomaly verdict on one image, and its log-likelihood: a log-density in nats, not a probability.

    `kind` says over what: the pixels in [0, 256), or the features that a frozen network sees in the image. Densities of
    features compare only under one model.
    """

    index: int = Field(description="Place of the image in the request.")
    filename: str | None
    status: Literal["ok"]
    log_likelihood: float
    bits_per_dim: float | None = Field(description="Bits for each value of the image; null for a density of features.")
    kind: str = Field(
        description="`density` of the pixels, `lower_bound` for a model whose number is a bound of it, or "
        "`feature_density` of features at places that are taken as independent."
    )
    draws: Draws | None = None
    terms: list[Term] | None = None
    anomaly: Anomaly
    preprocessing: PreprocessingNote | None = None
    heat_map: HeatMap | None = Field(None, description="With `explain=true`.")


class FailedImage(ResponseModel):
    """An image of a request that could not be scored: its index, its file name and the error."""

    index: int
    filename: str | None
    status: Literal["error"]
    error: ItemError


class Fdr(ResponseModel):
    """Benjamini-Hochberg q-values of a request's images, for control of the false-discovery rate (FDR).

    Flag all images whose q-value is at most q: then the expected share of false alarms among them is at most q.
    """

    q_values: list[float | None] = Field(
        description="Benjamini-Hochberg q-value of each result; null where there is no score."
    )


class Scores(ResponseModel):
    """The answer to a scoring request: the model version that was used, and a score or an error for each image."""

    model: str
    version: int
    calibration: int = Field(description="Number of the calibration of the verdicts.")
    count: int = Field(description="Number of results.")
    results: list[Annotated[ScoredImage | FailedImage, Field(discriminator="status")]]
    fdr: Fdr | None = None
    warning: str | None = Field(
        None, description="`gradient-evidence-ignored`, in words, for a calibration of an earlier version; else absent."
    )


class Quantile(ResponseModel):
    """Smallest anomaly statistic, in nats, that flags an image as an anomaly at a given false-alarm rate."""

    alpha: float = Field(description="False-alarm rate.")
    statistic: float = Field(
        description="Smallest statistic T, nats, with p <= `alpha`; approximate for a calibration of several folds."
    )


class Reference(ResponseModel):
    """Histogram of the anomaly statistic, in nats, over a model's calibration images."""

    model: str
    version: int
    calibration: int = Field(description="The active calibration; 0 is the model's own.")
    count: int = Field(description="Calibration images.")
    smallest_p: float = Field(description="Smallest p-value that this number of images can give.")
    edges: list[float] = Field(
        description="Edges of the bins, nats, one more than bins. All bins but the last are equally wide and end at "
        "the 99.9 % quantile; the last bin extends to the largest T."
    )
    counts: list[int] = Field(description="Calibration images in each bin.")
    quantiles: list[Quantile] = Field(description="For every common `alpha` that this number of images can attain.")


class Sample(ResponseModel):
    """An image drawn from a model, as base64 PNG, with the log-likelihood of its 8-bit pixels in nats."""

    index: int
    png: str = Field(description="The image as PNG, base64.")
    log_likelihood: float
    bits_per_dim: float
    kind: str


class Samples(ResponseModel):
    """Images drawn from a model, each with its log-likelihood, and the seed that draws the same images again."""

    model: str
    version: int
    seed: int
    temperature: float
    inverse: Literal["exact", "learned"]
    count: int
    samples: list[Sample]


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return the least false-discovery rate at which each p-value is flagged (Benjamini and Hochberg 1995).

    >>> q_values([0.01, 0.04, 0.03, 0.005])
    [0.02, 0.04, 0.04, 0.02]
    """
    n = len(p_values)
    order = sorted(range(n), key=p_values.__getitem__)
    values = [1.0] * n
    smallest = 1.0
    for rank in range(n, 0, -1):
        index = order[rank - 1]
        smallest = min(smallest, p_values[index] * n / rank)
        values[index] = smallest
    return values
