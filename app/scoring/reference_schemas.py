"""What the service answers about the images that verdicts are ranks among."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from app.http.schemas import Answer


class Quantile(Answer):
    """Where a verdict turns."""

    alpha: float = Field(description="False-alarm rate.")
    statistic: float = Field(
        description="Smallest T, nats, with p <= `alpha`; approximate for a calibration of several folds."
    )


class Reference(Answer):
    """How strange the calibration images of a model are."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "line-1",
                    "version": 3,
                    "calibration": 1,
                    "count": 400,
                    "smallest_p": 0.0024937655860349127,
                    "edges": [-1.5, 1.0, 3.5, 19.0],
                    "counts": [310, 89, 1],
                    "quantiles": [{"alpha": 0.1, "statistic": 1.402117}, {"alpha": 0.01, "statistic": 3.118302}],
                }
            ]
        },
    )

    model: str
    version: int
    calibration: int = Field(description="The calibration in use; 0 is the one that the model came with.")
    count: int = Field(description="Calibration images.")
    smallest_p: float = Field(description="Smallest p-value that so many images can give.")
    edges: list[float] = Field(
        description="Edges of the bins, nats, one more than there are bins. All bins but the last are equally wide and "
        "end at the 99.9 % quantile; the last goes on to the largest T."
    )
    counts: list[int] = Field(description="Calibration images in each bin.")
    quantiles: list[Quantile] = Field(description="For every usual `alpha` that so many images can attain.")
