"""Score the images of Parquet files with Dask: ``python examples/dask_scores.py IMAGES.parquet MODEL-FOLDER OUT``.

The column ``image`` holds bytes of image files; other columns are kept. Each process of Dask loads the model once.
"""

import sys
from functools import lru_cache
from pathlib import Path

import dask
import dask.dataframe as dd
import pandas as pd

from models.scorer import Scorer

load = lru_cache(maxsize=1)(Scorer.load)


def score(images: pd.DataFrame, model: Path) -> pd.DataFrame:
    """Return the scores of a partition of images, one row each."""
    columns = {str(name): images[name].to_numpy() for name in images}
    return pd.DataFrame(load(model)(columns), index=images.index)


if __name__ == "__main__":
    source, model, out = sys.argv[1:]
    frame = dd.read_parquet(source)
    meta = score(frame._meta, Path(model))  # names and types of the columns, from no images
    with dask.config.set(scheduler="processes"):
        frame.map_partitions(score, Path(model), meta=meta).to_parquet(out)
