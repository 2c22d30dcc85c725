"""Score the images of Parquet files with Dask: ``python examples/dask_scores.py IMAGES.parquet MODEL-FOLDER OUT``.

The column ``image`` holds bytes of image files; other columns are kept. Each process of Dask loads the model once, and
keeps what it compiled in ``~/.cache/snf-density``: the next one starts in a second.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd

from models.scorer import Scorer
from models.scoring.options import EngineOptions

TEXTS = dict.fromkeys(("reason", "error", "error_detail"), "string")
SCORES = {"log_likelihood": "float64", "p_value": "float64", "is_anomaly": "boolean", **TEXTS}


@lru_cache(maxsize=1)
def load(model: str) -> Scorer:
    """Return the model, loaded at the first call of a process."""
    cache = Path.home() / ".cache" / "snf-density"
    return Scorer.load(Path(model), options=EngineOptions(cache=cache))


def score(images: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return a partition of images without the images, but with their scores."""
    return with_columns(images, load(model)({"image": images["image"]}))


def with_columns(images: pd.DataFrame, scores: dict[str, Any]) -> pd.DataFrame:
    """Return a partition of images without the images, but with columns of scores."""
    columns = {name: pd.array(scores[name], dtype=dtype) for name, dtype in SCORES.items()}
    return images.drop(columns="image").assign(**columns)


if __name__ == "__main__":
    source, model, out = sys.argv[1:]
    frame = dd.read_parquet(source)
    meta = with_columns(frame.head(0), {name: [] for name in SCORES})  # names and types of the columns
    with dask.config.set(scheduler="processes"):
        frame.map_partitions(score, model, meta=meta).to_parquet(out)
