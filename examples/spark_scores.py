"""Score the images of Parquet files with Spark: ``spark-submit examples/spark_scores.py IMAGES.parquet MODEL-FOLDER OUT``.

The column ``image`` holds bytes of image files; other columns are kept. Each Python process of Spark loads the model once.
"""

import sys
from functools import lru_cache
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

from models.scorer import Scorer

load = lru_cache(maxsize=1)(Scorer.load)
TYPE = "log_likelihood double, p_value double, is_anomaly boolean, reason string, error string, error_detail string"
source, model, out = sys.argv[1:]


@pandas_udf(TYPE)
def score(images: pd.Series) -> pd.DataFrame:
    """Return the scores of a batch of images, one row each."""
    columns = load(Path(model))({"image": images})
    return pd.DataFrame({field.split()[0]: columns[field.split()[0]] for field in TYPE.split(", ")})


spark = SparkSession.builder.appName("scores").getOrCreate()
frame = spark.read.parquet(source)
frame.withColumn("score", score("image")).select(*frame.drop("image").columns, "score.*").write.parquet(out)
