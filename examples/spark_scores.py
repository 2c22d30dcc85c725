"""Score the images of Parquet files with Spark: ``python examples/spark_scores.py IMAGES.parquet MODEL-FOLDER OUT``.

The column ``image`` holds bytes of image files; other columns are kept. Each Python worker loads the model once.
"""

import sys
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

from models.scorer import Scorer

SCORES = "log_likelihood double, p_value double, is_anomaly boolean, reason string, error string, error_detail string"

source, model, out = sys.argv[1:]
spark = SparkSession.builder.appName("scores").getOrCreate()
scorer = spark.sparkContext.broadcast(Scorer.load(Path(model)))  # pickled as its place, loaded again by each worker


def score(images: pd.Series) -> pd.DataFrame:
    """Return the scores of a batch of images, one row each."""
    columns = scorer.value({"image": images})
    return pd.DataFrame({name: columns[name] for name in (field.split()[0] for field in SCORES.split(", "))})


score_udf = pandas_udf(score, SCORES)
frame = spark.read.parquet(source)
frame.withColumn("score", score_udf("image")).select(*frame.drop("image").columns, "score.*").write.parquet(out)
spark.stop()
